// The photo on the page: taken by drop, paste or choice, cut in the browser, sent when needed.
const $ = selector => element.querySelector(selector);
const OUT = 2048;  // pixels of a cut photo's longer side, at most: no clip is larger
let photo = null;  // the file, as it was given
let shape = 'own';
let fit = 'crop';

window.kinora?.stop();  // of an earlier copy of this page
const stop = new AbortController();
const listen = (target, kind, handle, capture = false) =>
  target.addEventListener(kind, handle, {signal: stop.signal, capture});

function say(text) {
  $('[role=alert]').textContent = text;
}

function take(file) {
  const most = Number($('.k-photo').dataset.most);  // bytes
  if (file?.size > most) {
    say(`${file.name || 'The photo'} has ${Math.ceil(file.size / 2 ** 20)} MiB; at most ` +
        `${most / 2 ** 20} MiB are taken. Scale it down first.`);
    return;
  }
  if (photo) URL.revokeObjectURL($('img').src);
  photo = file;
  say('');
  $('.k-drop').hidden = Boolean(file);
  $('figure').hidden = !file;
  $('input[type=range]').value = 50;
  if (file) $('img').src = URL.createObjectURL(file);
}

// Width by height of the clip; that of the photo where nothing else is known.
function ratio() {
  const own = $('img').naturalWidth / $('img').naturalHeight || 1;
  const sizes = (shape === 'own' ? $('.k-photo').dataset.own : shape).split(' ').filter(Boolean);
  const off = r => Math.abs(Math.log(r / own));
  const ratios = sizes.map(size => size.split('x')).map(([w, h]) => w / h);
  return ratios.sort((a, b) => off(a) - off(b))[0] ?? own;
}

function draw() {
  const image = $('img');
  const here = ratio();
  const own = image.naturalWidth / image.naturalHeight || here;
  const cut = fit === 'crop' && Math.abs(own / here - 1) > 0.01;
  const at = $('input[type=range]').value + '%';
  $('.k-frame').style.aspectRatio = here;
  $('.k-frame').style.maxWidth = `calc(20rem * ${here})`;
  image.style.objectFit = {crop: 'cover', pad: 'contain', stretch: 'fill'}[fit];
  image.style.objectPosition = own > here ? `${at} 50%` : `50% ${at}`;
  $('.k-cut').hidden = !cut;
  return cut;
}

// The part that stays, where it isn't the middle, which the service would take by itself.
async function cutting() {
  const at = $('input[type=range]').value / 100;
  const image = $('img');
  if (!draw() || at === 0.5 || !image.naturalWidth) return photo;
  const [w, h, here] = [image.naturalWidth, image.naturalHeight, ratio()];
  const [width, height] = w / h > here ? [h * here, h] : [w, w / here];
  const scale = Math.min(1, OUT / Math.max(width, height));
  const canvas = document.createElement('canvas');
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const place = [(w - width) * at, (h - height) * at, width, height];
  canvas.getContext('2d').drawImage(image, ...place, 0, 0, canvas.width, canvas.height);
  return await new Promise(done => canvas.toBlob(done, 'image/png')) ?? photo;
}

listen($('input[type=file]'), 'change', event => {
  if (event.target.files[0]) take(event.target.files[0]);
  event.target.value = '';
});
listen($('button'), 'click', () => {
  take(null);
  $('input[type=file]').focus();
});
listen($('input[type=range]'), 'input', draw);
listen($('img'), 'load', () => { $('.k-frame').hidden = false; draw(); });
listen($('img'), 'error', () => {
  if (!photo) return;
  $('.k-frame').hidden = $('.k-cut').hidden = true;
  say(`${photo.name || 'This'} can't be shown here. If it is a photo, it can be used all the same.`);
});
for (const kind of ['dragenter', 'dragover', 'dragleave', 'drop']) {
  listen(document, kind, event => {
    if (!event.dataTransfer?.types.includes('Files')) return;
    event.preventDefault();
    $('.k-drop').classList.toggle('k-over', kind === 'dragenter' || kind === 'dragover');
    if (kind === 'drop' && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}
listen(document, 'paste', event => {
  const file = [...event.clipboardData.files][0];
  if (file) take(file);
});
if (matchMedia('(prefers-reduced-motion: reduce)').matches) {
  listen(document, 'play', event => {
    if (event.target.autoplay) { event.target.autoplay = false; event.target.pause(); }
  }, true);
}

// One choice of several is one stop of the Tab key, and arrows go from one to the next. Gradio gives
// each a name of its own, and a new one whenever it changes.
function group() {
  for (const radio of document.querySelectorAll('#making fieldset[id] input[type=radio]')) {
    const name = radio.closest('fieldset').id;
    if (radio.name !== name) radio.name = name;
  }
}
const grouping = new MutationObserver(group);
const names = {attributes: true, attributeFilter: ['name']};
grouping.observe(document.body, {childList: true, subtree: true, ...names});
group();

listen(document, 'click', event => {
  if (!event.target.closest('#delete')) return;
  if (!confirm('Delete this clip, with its photo and its recipe, for good?')) event.stopPropagation();
}, true);

// A service that was away has forgotten this page: it has to be opened anew.
let missed = 0;
const watching = setInterval(async () => {
  const there = await fetch('/healthz').then(answer => answer.ok, () => false);
  if (there && missed > 1) location.reload();
  missed = there ? 0 : missed + 1;
  document.body.classList.toggle('k-gone', missed > 1);
}, 2000);

window.kinora = {
  stop() {
    stop.abort();
    grouping.disconnect();
    clearInterval(watching);
  },
  // Send the photo; a name to ask for a clip of it by, '' without one, '-' when it couldn't be sent.
  async photo() {
    if (!photo) return '';
    try {
      const answer = await fetch('/page/photos', {method: 'POST', body: await cutting()});
      const said = await answer.json();
      if (!answer.ok) throw new Error(said.error?.message ?? answer.statusText);
      kinora.look();
      return said.photo;
    } catch (error) {
      say(`The photo couldn't be sent: ${error.message}`);
      return '-';
    }
  },
  // Show how the photo is fitted.
  frame(newShape, newFit) {
    [shape, fit] = [newShape, newFit];
    draw();
  },
  // Take the photo of the job that is on the stage.
  async again() {
    const id = document.querySelector('#stage .k-card')?.dataset.job;
    const answer = await fetch(`/page/jobs/${id}/photo`);
    if (answer.ok) take(await answer.blob());
    element.scrollIntoView({behavior: 'smooth', block: 'nearest'});
  },
  look() {
    document.querySelector('#stage').scrollIntoView({behavior: 'smooth', block: 'nearest'});
  },
};
