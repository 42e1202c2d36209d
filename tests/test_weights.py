"""Loading gives exactly what was saved, or one clear error, and never a half-loaded model."""

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from kinora.config import SVD, SVD_XT, SVD_XT_1_1, TINY
from kinora.errors import CheckpointError, OutputError
from kinora.weights import describe, from_sgm, load_networks, save_networks, verify
from kinora.weights.names import living_shapes
from kinora.weights.open import open_checkpoint
from kinora.weights.read import Entry, TensorFile, bad_values
from kinora.weights.sgm import sgm_table
from kinora.weights.variants import named_variant, sgm_config
from kinora.weights.write import Planned, write_tensors
from tests.checkpoints import keys, modules, parts, random_tensors, write_own

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own(tmp_path_factory.mktemp("own") / "tiny.safetensors")


def load(path: Path, dtype: torch.dtype = torch.float32) -> None:
    load_networks(path, device=CPU, dtype=dtype)


def rewrite(source: Path, target: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """A copy of a file with other tensors and the same metadata."""
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(source)
    change(tensors)
    save_file(tensors, target, metadata)
    return target


def without(*names: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in names:
            del tensors[name]

    return change


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_was_saved_is_loaded_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    networks = modules(TINY)
    path = save_networks(tmp_path / "a.safetensors", TINY, networks, dtype=dtype)
    loaded = load_networks(path, device=CPU, dtype=dtype)
    assert loaded.config == TINY
    for name, module in networks.items():
        for key, tensor in getattr(loaded, name).state_dict().items():
            assert torch.equal(tensor.to(dtype), module.state_dict()[key].to(dtype)), key


def test_the_image_branch_is_loaded_in_fp32_and_all_else_as_asked(own: Path) -> None:
    loaded = load_networks(own, device=CPU, dtype=torch.float16)
    exact = [*loaded.vae.encoder.parameters(), *loaded.vae.quant_conv.parameters()]
    assert {p.dtype for p in exact} == {torch.float32}
    rest = [*loaded.vae.decoder.parameters(), *loaded.unet.parameters()]
    assert {p.dtype for p in [*rest, *loaded.image_encoder.parameters()]} == {torch.float16}


def test_loaded_networks_evaluate_and_ask_for_no_gradients(own: Path) -> None:
    loaded = load_networks(own, device=CPU, dtype=torch.float32)
    for module in (loaded.unet, loaded.vae, loaded.image_encoder):
        assert not module.training
        assert not any(p.requires_grad or p.is_meta for p in module.parameters())


def test_writing_to_a_loaded_parameter_leaves_the_file_alone(own: Path) -> None:
    before = own.read_bytes()
    loaded = load_networks(own, device=CPU, dtype=torch.float32)
    loaded.unet.conv_in.weight.fill_(3)
    assert loaded.unet.conv_in.weight.eq(3).all()
    assert own.read_bytes() == before


def test_saving_refuses_incomplete_and_foreign_tensors(tmp_path: Path) -> None:
    tensors = random_tensors(TINY, unused=False)
    networks = {name: parts(tensors, name) for name in ("unet", "vae", "image_encoder")}
    path = tmp_path / "a.safetensors"
    with pytest.raises(CheckpointError, match="network vae is missing"):
        save_networks(path, TINY, {"unet": networks["unet"]})
    with pytest.raises(CheckpointError, match=r"unet\.extra is not a tensor"):
        save_networks(
            path,
            TINY,
            {**networks, "unet": {**networks["unet"], "extra": tensors["unet.conv_in.bias"]}},
        )
    short = {**networks["unet"], "conv_in.bias": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"shape \[1\] instead of \[32\]"):
        save_networks(path, TINY, {**networks, "unet": short})
    large = {**networks["unet"], "conv_in.bias": torch.full((32,), 1e6)}
    with pytest.raises(CheckpointError, match=r"float16: it would hold infinity"):
        save_networks(path, TINY, {**networks, "unet": large}, dtype=torch.float16)
    assert not list(tmp_path.iterdir())


def test_saving_never_overwrites_unless_asked(tmp_path: Path, own: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_own(path)
    assert path.read_text() == "mine"
    save_networks(path, TINY, modules(TINY), overwrite=True)
    load(path)


def test_other_programs_read_our_files(own: Path) -> None:
    with safe_open(own, "pt") as file:
        assert set(file.keys()) == set(living_shapes(TINY))
        assert file.metadata()["format"] == "kinora"


BAD_FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", r"is empty \(0 bytes\)"),
    "nearly empty": (lambda data: data[:5], "too few"),
    "cut in its header": (lambda data: data[:3000], "cut short: its header alone"),
    "cut in its tensors": (lambda data: data[:-1000], "cut short: it should have"),
    "longer than said": (lambda data: data + b"more", "4 bytes at its end belong to no tensor"),
    "not a header": (lambda data: b"\xff" * 100, "doesn't start with a header"),
    "a broken header": (lambda data: data[:8] + b"#" + data[9:], "header is not readable"),
    "a web page": (lambda data: b"<!DOCTYPE html><html>Sign in</html>", "is a web page"),
    "an LFS pointer": (
        lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "Git LFS pointer .*git lfs pull",
    ),
    "a pickle": (lambda data: pickle.dumps({"state_dict": {}}), "is a pickle"),
    "GGUF": (lambda data: b"GGUF" + data, "GGUF"),
    "JSON": (lambda data: b'{"error": "not found"}', "JSON text"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_is_no_checkpoint_is_refused_by_name(
    tmp_path: Path, own: Path, kind: str
) -> None:
    change, message = BAD_FILES[kind]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(change(own.read_bytes()))
    with pytest.raises(CheckpointError, match=rf"(?s)bad\.safetensors.*{message}"):
        load(path)


@pytest.mark.parametrize("name", ["svd.ckpt", "model.bin", "model.pt"])
def test_pickles_are_refused_with_the_way_to_convert_them(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'echo owned'\ntR.")
    with pytest.raises(CheckpointError, match=r"(?s)is a pickle.*safetensors\.torch\.save_file"):
        load(path)


@pytest.mark.parametrize("where", ["beyond the end", "negative", "wrong size", "no offsets"])
def test_a_header_that_lies_about_places_is_refused(tmp_path: Path, where: str) -> None:
    places = {
        "beyond the end": [0, 400],
        "negative": [-8, 0],
        "wrong size": [0, 6],
        "no offsets": None,
    }
    entry = {"dtype": "F32", "shape": [100 if "end" in where else 2], "data_offsets": places[where]}
    header = json.dumps({"x": entry}).encode()
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        TensorFile(path)


def test_quantised_weights_are_refused_by_their_number_format(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2, dtype=torch.int8)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="tensor x is stored as I8"):
        load(tmp_path / "a.safetensors")


def test_missing_paths_and_plain_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load(tmp_path / "nowhere.safetensors")
    with pytest.raises(CheckpointError, match=r"no model_index\.json and no \.safetensors"):
        load(tmp_path)
    (tmp_path / "svd.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"Name one of the files .*svd\.safetensors"):
        load(tmp_path)


def test_incomplete_files_tell_how_much_is_missing_and_what_first(
    tmp_path: Path, own: Path
) -> None:
    change = without("unet.conv_in.bias", "unet.conv_in.weight")
    path = rewrite(own, tmp_path / "a.safetensors", change)
    with pytest.raises(
        CheckpointError,
        match=r"a\.safetensors is incomplete: 2 of \d+ tensors of the unet .*conv_in",
    ):
        load(path)


def test_leftover_and_misshapen_tensors_are_named(tmp_path: Path, own: Path) -> None:
    extra = rewrite(
        own, tmp_path / "a.safetensors", lambda t: t.update({"unet.more": torch.zeros(1)})
    )
    with pytest.raises(CheckpointError, match=r"1 tensors have no place in tiny: unet\.more"):
        load(extra)
    wide = rewrite(
        own, tmp_path / "b.safetensors", lambda t: t.update({"unet.conv_in.bias": torch.zeros(3)})
    )
    with pytest.raises(
        CheckpointError, match=r"conv_in\.bias has the shape \[3\] instead of \[32\]"
    ):
        load(wide)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_single_bad_value_is_found(
    tmp_path: Path, own: Path, value: float, dtype: torch.dtype
) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["vae.decoder.conv_out.weight"][1, 2, 0, 1] = value

    path = rewrite(own, tmp_path / "a.safetensors", change)
    with pytest.raises(CheckpointError, match=r"decoder\.conv_out\.weight holds (NaN|infinity)"):
        load(path, dtype)
    with pytest.raises(CheckpointError, match="holds"):
        verify(path)


def test_large_sound_values_are_not_mistaken_for_infinity() -> None:
    assert bad_values(torch.full((100,), 3e38)) is None
    assert bad_values(torch.tensor([float("inf"), float("-inf")])) == "infinity"
    assert bad_values(torch.zeros(0)) is None


def test_values_too_large_for_the_number_format_are_told_apart(tmp_path: Path, own: Path) -> None:
    path = rewrite(
        own,
        tmp_path / "a.safetensors",
        lambda t: t.update({"unet.conv_in.bias": torch.full((32,), 1e6)}),
    )
    load(path)
    with pytest.raises(CheckpointError, match=r"values that torch\.float16 can't hold"):
        load(path, torch.float16)


FOREIGN: dict[str, tuple[str, str]] = {
    "image model": ("model.diffusion_model.input_blocks.0.0.weight", "checkpoint for images"),
    "LoRA": ("lora_unet_down_blocks_0.lora_down.weight", "is a LoRA"),
    "ExVideo": ("blocks.7.positional_embedding.embeddings", "is an ExVideo patch"),
    "component": ("down_blocks.0.resnets.0.conv1.weight", "one network of a diffusers folder"),
    "anything": ("encoder.layer.0.weight", "no Stable Video Diffusion checkpoint"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_models_are_told_by_their_keys(tmp_path: Path, kind: str) -> None:
    key, message = FOREIGN[kind]
    path = tmp_path / "a.safetensors"
    save_file({key: torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=rf"a\.safetensors.*{message}"):
        load(path)


def test_a_single_file_of_other_widths_is_refused_by_them(tmp_path: Path) -> None:
    path = tmp_path / "svd.safetensors"
    tensors = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 8, 3, 3),
        "model.diffusion_model.input_blocks.1.0.time_stack.in_layers.0.weight": torch.zeros(32),
    }
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"shape \[32, 8, 3, 3\] where .* \[320, 8, 3, 3\]"):
        load(path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("svd", SVD),
        ("svd_xt", SVD_XT),
        ("svd_xt_image_decoder", SVD_XT),
        ("svd_xt_1_1", SVD_XT_1_1),
        ("stable-video-diffusion-img2vid-xt-1-1", SVD_XT_1_1),
        ("SVD-XT.1.1-fp16", SVD_XT_1_1),
        ("stable-video-diffusion-img2vid", SVD),
        ("next_model", None),
        ("model", None),
    ],
)
def test_names_tell_variants(name: str, expected: object) -> None:
    assert named_variant(name) == expected


class FakeFile(TensorFile):
    """A file of published shapes without their bytes."""

    def __init__(self, path: Path, shapes: dict[str, list[int]]) -> None:
        self.path, self.metadata = path, {}
        self.entries = {
            key: Entry(torch.float32, tuple(shape), 0, 0) for key, shape in shapes.items()
        }


@pytest.mark.parametrize("manifest", ["sgm_svd_xt.json", "sgm_image_decoder.json"])
def test_a_published_file_is_recognised_and_its_variant_said_aloud(manifest: str) -> None:
    shapes = keys(manifest)

    def seen(name: str, variant: str | None = None) -> tuple[str, bool, str]:
        config, notes = sgm_config(FakeFile(Path(name), shapes), variant)
        assert config.vae.temporal_decoder == (manifest == "sgm_svd_xt.json")
        return config.name, config.frames == 14, " ".join(notes)

    assert seen("model.safetensors")[:2] == ("svd-xt", False)
    assert "taken for svd-xt (25 frames)" in seen("model.safetensors")[2]
    assert "--variant" in seen("model.safetensors")[2]
    assert seen("svd.safetensors")[:2] == ("svd", True)
    assert "by its name" in seen("svd.safetensors")[2]
    assert seen("svd.safetensors", "svd_xt") == ("svd-xt", False, "")
    with pytest.raises(CheckpointError, match="unknown variant 'svd-xl'"):
        seen("model.safetensors", "svd-xl")


def test_a_variant_that_our_own_file_contradicts_is_refused(own: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds tiny \(4 frames\), not svd-xt"):
        load_networks(own, device=CPU, dtype=torch.float32, variant="svd-xt")


def test_damaged_metadata_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for text in ("", "{", "[]", '{"name": "x"}', '{"unet": {"colour": 1}}'):
        save_file({"x": torch.zeros(1)}, path, {"format": "kinora", "config": text})
        with pytest.raises(CheckpointError, match=r"a\.safetensors"):
            load(path)


def test_a_fingerprint_names_the_weights_and_not_the_file(tmp_path: Path, own: Path) -> None:
    first = describe(own).fingerprint
    assert first == load_networks(own, device=CPU, dtype=torch.float16).fingerprint
    copy = rewrite(own, tmp_path / "other.safetensors", lambda tensors: None)
    assert describe(copy).fingerprint == first
    for name in ("unet.conv_in.bias", "vae.quant_conv.bias", "image_encoder.projection.weight"):

        def change(tensors: dict[str, Tensor], name: str = name) -> None:
            tensors[name].reshape(-1)[0] += 1

        changed = rewrite(own, tmp_path / "b.safetensors", change)
        assert describe(changed).fingerprint != first
        assert verify(changed) != verify(own)


def test_the_same_weights_under_another_schedule_are_another_model(
    tmp_path: Path, own: Path
) -> None:
    other = write_own(tmp_path / "a.safetensors", replace(TINY, sigma_max=80.0))
    renamed = write_own(tmp_path / "b.safetensors", replace(TINY, name="x", licence="mine"))
    assert describe(other).fingerprint != describe(own).fingerprint
    assert describe(renamed).fingerprint == describe(own).fingerprint


def test_description_counts_without_loading(own: Path) -> None:
    seen = describe(own)
    networks = modules(TINY)
    assert seen.parameters == {
        name: sum(p.numel() for p in module.parameters()) for name, module in networks.items()
    }
    assert (seen.format, seen.config, seen.unused, seen.problems) == ("kinora", TINY, 0, ())
    assert seen.dtypes == {"float32": sum(seen.parameters.values())}
    assert seen.bytes == own.stat().st_size


def test_description_tells_what_is_missing(tmp_path: Path, own: Path) -> None:
    path = rewrite(own, tmp_path / "a.safetensors", without("unet.conv_in.bias"))
    seen = describe(path)
    assert seen.fingerprint is None
    assert "1 of" in seen.problems[0]
    assert "conv_in.bias" in seen.problems[0]


def test_memory_given_back_is_read_again(own: Path) -> None:
    checkpoint = open_checkpoint(own)
    name = max(living_shapes(TINY), key=lambda n: checkpoint.tensor(n).numel())
    tensor = checkpoint.tensor(name)
    before = tensor.clone()
    checkpoint.forget(name)
    assert torch.equal(tensor, before)


def test_an_unaligned_file_is_loaded_all_the_same(tmp_path: Path, own: Path) -> None:
    data = own.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    path = tmp_path / "a.safetensors"
    path.write_bytes(
        struct.pack("<Q", length + 1) + data[8 : 8 + length] + b" " + data[8 + length :]
    )
    loaded = load_networks(path, device=CPU, dtype=torch.float32)
    assert loaded.unet.conv_in.weight.data_ptr() % 4 == 0
    assert loaded.fingerprint == describe(own).fingerprint


def test_files_have_the_size_of_the_published_ones(tmp_path: Path) -> None:
    shapes = keys("diffusers_vae.json")
    plan = [
        Planned(key, torch.float16, tuple(shape), lambda s=shape: torch.zeros(s))
        for key, shape in shapes.items()
    ]
    write_tensors(tmp_path / "vae.safetensors", plan, {"format": "pt"})
    published = keys("diffusers_configs.json")["files"]
    name = "vae/diffusion_pytorch_model.fp16.safetensors"
    assert (tmp_path / "vae.safetensors").stat().st_size == published[name]["size"]


def test_golden_names_of_a_narrow_network_are_known() -> None:
    table = sgm_table(TINY)
    key = "model.diffusion_model.output_blocks.1.1.conv.weight"
    assert table.rule(key).ours == ("unet.up.0.upsample.weight",)
    made = from_sgm({key: torch.zeros(64, 64, 3, 3)}, TINY)
    assert list(made) == ["unet.up.0.upsample.weight"]
