"""Photos that were read and encoded lately, so that several clips of one need each step once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from kinora.media import Photo, fit, load_photo

__all__ = ["PhotoCache"]

Tensor = TypeVar("Tensor")
"""torch's; the command line reads photos before it imports torch."""


class PhotoCache:
    """What the latest clips needed of their photos; the next clips take from it what they can.

    Of use to one pipeline, as long as its networks stay what they are. It holds the photos and
    encodings of the latest batch only. Files go by their path, other sources by identity, and
    pictures to encode by their values, so that the noise of a seed is never another seed's.
    """

    def __init__(self, load: Callable[[Photo], Image.Image] = load_photo) -> None:
        """load: opens a photo."""
        self._load = load
        self._photos: list[tuple[Photo, Image.Image]] = []
        self._fitted: list[tuple[Image.Image, tuple[int, int], str, np.ndarray]] = []
        self._encodings: dict[str, list[tuple[Any, Any]]] = {}

    def read(self, sources: Sequence[Photo]) -> list[Image.Image]:
        """The photos as `load` returns them; equal sources share one picture.

        Raises MediaError.
        """
        before, self._photos = self._photos, []
        for source in sources:
            if self._photo(source, self._photos) is None:
                known = self._photo(source, before)
                self._photos.append((source, known or self._load(source)))
        return [photo for source in sources if (photo := self._photo(source, self._photos))]

    def fitted(
        self, photos: Sequence[Image.Image], size: tuple[int, int], how: str
    ) -> list[UInt8[np.ndarray, "h w 3"]]:
        """Photos that `read` returned, as `kinora.media.fit` returns them."""
        before, self._fitted = self._fitted, []
        result: list[np.ndarray] = []
        for photo in photos:
            known = [f for f in (*before, *self._fitted) if f[0] is photo and f[1:3] == (size, how)]
            entry = known[0] if known else (photo, size, how, fit(photo, size, how))
            self._fitted.append(entry)
            result.append(entry[3])
        return result

    def encode(
        self,
        encoder: str,
        pictures: Sequence[Tensor],
        compute: Callable[[list[Tensor]], Sequence[Tensor]],
    ) -> list[Tensor]:
        """The encodings of pictures; of equal ones only the first is computed.

        encoder: a name, whose encodings are kept apart from others'.
        compute: returns the encodings of the pictures that are new; not called if none is.
        """
        before, latest = self._encodings.get(encoder, []), list[tuple[Tensor, Tensor]]()
        missing: list[Tensor] = []
        for picture in pictures:
            if _find(picture, latest) is None:
                encoding = _find(picture, before)
                if encoding is not None:
                    latest.append((picture, encoding))
                elif not any(_equal(picture, other) for other in missing):
                    missing.append(picture)
        if missing:
            latest += zip(missing, compute(missing), strict=True)
        self._encodings[encoder] = latest
        found = (_find(picture, latest) for picture in pictures)
        return [encoding for encoding in found if encoding is not None]

    @staticmethod
    def _photo(source: Photo, known: Sequence[tuple[Photo, Image.Image]]) -> Image.Image | None:
        for other, photo in known:
            if source is other or (_path(source) is not None and _path(source) == _path(other)):
                return photo
        return None


def _path(source: Photo) -> Path | None:
    return Path(source) if isinstance(source, str | Path) else None


def _equal(a: Any, b: Any) -> bool:  # noqa: ANN401
    same = (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
    return a is b or (same and a.equal(b))


def _find(picture: Tensor, known: Sequence[tuple[Tensor, Tensor]]) -> Tensor | None:
    return next((encoding for other, encoding in known if _equal(picture, other)), None)
