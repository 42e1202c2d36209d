"""Conversion moves every tensor, rebuilds what a format wants, and refuses what it can't say."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from kinora.config import SVD, SVD_XT, SVD_XT_1_1, TINY, ModelConfig
from kinora.errors import CheckpointError, KinoraWarning, OutputError
from kinora.models import VideoAutoencoder
from kinora.weights import convert, describe, load_networks, to_diffusers, to_sgm, verify
from kinora.weights.assumptions import forgotten_defaults, wrongly_assumed
from kinora.weights.checkpoint import Format
from kinora.weights.diffusers import COMPONENTS, diffusers_table
from kinora.weights.folder import weight_names
from kinora.weights.folder_config import read_config
from kinora.weights.folder_export import folder_configs
from kinora.weights.names import living_shapes, unused_shapes
from kinora.weights.variants import config_to_metadata
from tests.checkpoints import SMALL, keys, parts, random_tensors, write_own

FRAME_WISE = replace(SMALL, vae=replace(SMALL.vae, temporal_decoder=False))
CPU = torch.device("cpu")

# Small models are not as published; the tests of the warning itself expect it.
pytestmark = pytest.mark.filterwarnings("ignore:.*other programs will make wrong clips")


def write_sgm(
    path: Path, config: ModelConfig = SMALL, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """An original single file of random numbers, leftovers and all; its tensors."""
    theirs = to_sgm(random_tensors(config, unused=True, seed=seed), config)
    theirs = {key: tensor.to(dtype).contiguous() for key, tensor in theirs.items()}
    save_file(theirs, path, {"kinora": config_to_metadata(config)})
    return theirs


def write_diffusers(
    path: Path, config: ModelConfig = SMALL, *, ending: str = "", shards: int = 1
) -> dict[str, dict[str, Tensor]]:
    """A diffusers folder of random numbers; its tensors."""
    ours = random_tensors(config, unused=True)
    known = {name: ours[name] for name in diffusers_table(config).names}
    components = to_diffusers(known, config)
    for name, values in folder_configs(config, torch.float32).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(values))
    for component, tensors in components.items():
        plain = Path(weight_names(component, half=False)[0])
        stem = plain.name.removesuffix(".safetensors")
        files: dict[str, dict[str, Tensor]] = {}
        for i, (key, tensor) in enumerate(tensors.items()):
            part = f"-{i % shards + 1:05}-of-{shards:05}" if shards > 1 else ""
            files.setdefault(f"{stem}{part}{ending}.safetensors", {})[key] = tensor.contiguous()
        for name, file in files.items():
            save_file(file, path / component / name, {"format": "pt"})
        if shards > 1:
            index = {"weight_map": {key: name for name, file in files.items() for key in file}}
            (path / component / f"{plain.name}.index{ending}.json").write_text(json.dumps(index))
    return components


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]) for key in one
    )


@pytest.mark.parametrize("config", [SMALL, FRAME_WISE], ids=["temporal", "frame-wise"])
def test_sgm_to_ours_to_sgm_returns_every_byte(tmp_path: Path, config: ModelConfig) -> None:
    theirs = write_sgm(tmp_path / "a.safetensors", config)
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to="kinora")
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", to="sgm")
    assert same(load_file(tmp_path / "c.safetensors"), theirs)


@pytest.mark.parametrize("config", [SMALL, FRAME_WISE], ids=["temporal", "frame-wise"])
def test_diffusers_to_ours_to_diffusers_returns_every_byte(
    tmp_path: Path, config: ModelConfig
) -> None:
    components = write_diffusers(tmp_path / "a", config)
    convert(tmp_path / "a", tmp_path / "b.safetensors", to="kinora")
    convert(tmp_path / "b.safetensors", tmp_path / "c", to="diffusers")
    for component in COMPONENTS:
        file = tmp_path / "c" / weight_names(component, half=False)[0]
        assert same(load_file(file), components[component])


def test_sgm_to_diffusers_to_sgm_returns_what_diffusers_knows_and_rebuilds_the_rest(
    tmp_path: Path,
) -> None:
    theirs = write_sgm(tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b", to="diffusers")
    convert(tmp_path / "b", tmp_path / "c.safetensors", to="sgm")
    back = load_file(tmp_path / "c.safetensors")
    assert {k: t.shape for k, t in back.items()} == {k: t.shape for k, t in theirs.items()}
    foreign = ("first_stage_model.encoder.", "conditioner.embedders.0.open_clip.model.")
    condition, visual = "conditioner.embedders.3.encoder.", f"{foreign[1]}visual."
    rebuilt = {
        key
        for key in theirs
        if (key.startswith(foreign) and not key.startswith(visual))
        or key.startswith((f"{condition}decoder.", f"{condition}post_quant_conv."))
    }
    assert same(*({k: t for k, t in x.items() if k not in rebuilt} for x in (theirs, back)))
    for key in rebuilt:
        if not key.startswith("first_stage_model."):
            assert not back[key].any(), key
        elif "conv_out" not in key:
            twin = key.replace("first_stage_model.", condition)
            assert torch.equal(back[key], theirs[twin]), key


def test_the_rebuilt_first_stage_encodes_like_the_conditioner(tmp_path: Path) -> None:
    write_diffusers(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b.safetensors", to="sgm")
    back = load_file(tmp_path / "b.safetensors")
    condition, first = "conditioner.embedders.3.encoder.", "first_stage_model.encoder.conv_out."
    x = torch.randn(1, SMALL.vae.channels[-1], 5, 6)
    conv, quant = (
        (back[f"{condition}{name}.weight"], back[f"{condition}{name}.bias"])
        for name in ("encoder.conv_out", "quant_conv")
    )
    folded = F.conv2d(x, back[f"{first}weight"], back[f"{first}bias"], padding=1)
    torch.testing.assert_close(folded, F.conv2d(F.conv2d(x, *conv, padding=1), *quant))


def test_a_template_gives_what_diffusers_does_not_know(tmp_path: Path) -> None:
    theirs = write_sgm(tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b", to="diffusers")
    convert(
        tmp_path / "b",
        tmp_path / "c.safetensors",
        to="sgm",
        template=tmp_path / "a.safetensors",
    )
    assert same(load_file(tmp_path / "c.safetensors"), theirs)


def test_a_template_of_another_model_is_refused(tmp_path: Path) -> None:
    write_sgm(tmp_path / "a.safetensors", FRAME_WISE)
    write_own(tmp_path / "b.safetensors", SMALL)
    with pytest.raises(CheckpointError, match="can't be the template"):
        convert(
            tmp_path / "b.safetensors",
            tmp_path / "c.safetensors",
            to="sgm",
            template=tmp_path / "a.safetensors",
        )
    with pytest.raises(CheckpointError, match="of use for sgm only"):
        convert(
            tmp_path / "b.safetensors",
            tmp_path / "c",
            to="diffusers",
            template=tmp_path / "a.safetensors",
        )
    assert not (tmp_path / "c").exists()


def test_a_model_trained_without_unused_tensors_gets_zeros_for_them(tmp_path: Path) -> None:
    write_own(tmp_path / "a.safetensors", SMALL)
    convert(tmp_path / "a.safetensors", tmp_path / "b", to="diffusers")
    unet = load_file(tmp_path / "b" / weight_names("unet", half=False)[0])
    block = "mid_block.attentions.0.transformer_blocks.0."
    assert not any(unet[f"{block}{name}.weight"].any() for name in ("norm2", "attn2.to_q"))
    assert verify(tmp_path / "b") == verify(tmp_path / "a.safetensors")


def test_a_model_keeps_configuration_and_fingerprint_in_every_format(tmp_path: Path) -> None:
    write_own(tmp_path / "a.safetensors", SMALL)
    convert(tmp_path / "a.safetensors", tmp_path / "b", to="diffusers")
    convert(tmp_path / "b", tmp_path / "c.safetensors", to="sgm")
    convert(tmp_path / "c.safetensors", tmp_path / "d.safetensors", to="kinora")
    seen = [describe(tmp_path / name) for name in ("a.safetensors", "b", "c.safetensors")]
    assert [d.format for d in seen] == ["kinora", "diffusers", "sgm"]
    assert {d.config for d in seen} == {SMALL}
    assert len({d.fingerprint for d in seen}) == 1
    assert not any(d.problems for d in seen)
    assert (
        load_file(tmp_path / "d.safetensors").keys() > load_file(tmp_path / "a.safetensors").keys()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_conversion_can_change_the_number_format(tmp_path: Path, dtype: torch.dtype) -> None:
    theirs = write_sgm(tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to="sgm", dtype=dtype)
    back = load_file(tmp_path / "b.safetensors")
    assert same(back, {key: tensor.to(dtype) for key, tensor in theirs.items()})


def test_a_value_that_the_number_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    theirs = write_sgm(tmp_path / "a.safetensors")
    theirs["model.diffusion_model.out.2.weight"][0, 0] = 1e6
    save_file(theirs, tmp_path / "a.safetensors", {"kinora": config_to_metadata(SMALL)})
    with pytest.raises(CheckpointError, match=r"out\.2\.weight|conv_out.*can't hold"):
        convert(
            tmp_path / "a.safetensors",
            tmp_path / "b.safetensors",
            to="kinora",
            dtype=torch.float16,
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors"]


@pytest.mark.parametrize(("ending", "shards"), [("", 3), (".fp16", 1), (".fp16", 2)])
def test_sharded_and_fp16_folders_are_read(tmp_path: Path, ending: str, shards: int) -> None:
    write_diffusers(tmp_path / "a", ending=ending, shards=shards)
    write_own(tmp_path / "b.safetensors", SMALL, unused=True)
    assert verify(tmp_path / "a") == verify(tmp_path / "b.safetensors")


def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    write_diffusers(tmp_path / "a", shards=2)
    index = tmp_path / "a/unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../../x.safetensors"}}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        describe(tmp_path / "a")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_diffusers(tmp_path / "a", shards=2)
    name = "diffusion_pytorch_model-00002-of-00002.safetensors"
    (tmp_path / "a/unet" / name).unlink()
    with pytest.raises(CheckpointError, match=rf"1 of the 2 files .* missing, first {name}"):
        describe(tmp_path / "a")


@pytest.mark.parametrize("to", ["sgm", "diffusers"])
def test_other_norm_groups_are_refused_with_the_reason(tmp_path: Path, to: Format) -> None:
    config = replace(SMALL, unet=replace(SMALL.unet, norm_groups=8))
    write_own(tmp_path / "a.safetensors", config)
    with pytest.raises(CheckpointError, match=f"unet has 8 norm groups; {to} always builds 32"):
        convert(tmp_path / "a.safetensors", tmp_path / "b", to=to)
    assert not (tmp_path / "b").exists()


def test_other_norm_groups_can_be_noted_on_request(tmp_path: Path) -> None:
    groups = (replace(part, norm_groups=8) for part in (SMALL.unet, SMALL.vae))
    unet, vae = groups
    config = replace(SMALL, unet=unet, vae=vae)
    write_own(tmp_path / "a.safetensors", config)
    convert(tmp_path / "a.safetensors", tmp_path / "b", to="diffusers", unknown_settings="note")
    for network in ("unet", "vae"):
        noted = json.loads((tmp_path / "b" / network / "config.json").read_text())
        assert noted["_kinora"] == {"norm_groups": 8}
    assert describe(tmp_path / "b").config == config


def test_what_no_note_can_carry_stays_refused(tmp_path: Path) -> None:
    write_own(tmp_path / "a.safetensors", TINY)
    with pytest.raises(CheckpointError, match="1 blocks a level; diffusers' temporal decoder"):
        convert(tmp_path / "a.safetensors", tmp_path / "b", to="diffusers", unknown_settings="note")


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    write_own(tmp_path / "a.safetensors", SMALL)
    (tmp_path / "b.safetensors").write_text("mine")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("mine")
    source = tmp_path / "a.safetensors"
    with pytest.raises(OutputError, match="exists already"):
        convert(source, tmp_path / "b.safetensors", to="sgm")
    with pytest.raises(OutputError, match="exists already"):
        convert(source, tmp_path / "c", to="diffusers")
    with pytest.raises(OutputError, match="not a diffusers folder"):
        convert(source, tmp_path / "c", to="diffusers", overwrite=True)
    with pytest.raises(OutputError, match="is a folder"):
        convert(source, tmp_path / "c", to="sgm", overwrite=True)
    assert (tmp_path / "c" / "mine.txt").read_text() == "mine"
    convert(source, tmp_path / "b.safetensors", to="sgm", overwrite=True)
    convert(source, tmp_path / "d", to="diffusers")
    convert(source, tmp_path / "d", to="diffusers", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.safetensors",
        "b.safetensors",
        "c",
        "d",
    ]


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path) -> None:
    write_own(tmp_path / "a.safetensors", SMALL)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for to in ("sgm", "diffusers"):
        with pytest.raises(KeyboardInterrupt):
            convert(tmp_path / "a.safetensors", tmp_path / "b", to=to, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    write_own(tmp_path / "a.safetensors", SMALL)
    told: list[tuple[int, int]] = []
    convert(
        tmp_path / "a.safetensors",
        tmp_path / "b",
        to="diffusers",
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1][0] == told[-1][1]
    assert sorted(told) == told


def test_the_config_files_of_the_published_model_are_written_as_published() -> None:
    assert folder_configs(SVD_XT, torch.float16) == {
        name: {k: v for k, v in values.items() if k != "_name_or_path"}
        for name, values in keys("diffusers_configs.json")["configs"].items()
    }


@pytest.mark.parametrize(
    ("config", "folder"),
    [
        (SVD, "anything"),
        (SVD_XT, "anything"),
        (SVD_XT_1_1, "stable-video-diffusion-img2vid-xt-1-1"),
        (replace(SVD_XT, name="mine", fps=12, sigma_max=500.0, frames=30), "anything"),
        (SMALL, "anything"),
        (FRAME_WISE, "anything"),
    ],
    ids=["svd", "svd-xt", "svd-xt-1.1", "fine-tuned", "small", "frame-wise"],
)
def test_config_files_are_read_back(config: ModelConfig, folder: str) -> None:
    configs = folder_configs(config, torch.float16)
    assert read_config(Path(folder), configs, None) == (config, [])


def test_settings_changed_in_the_files_are_heard() -> None:
    configs = folder_configs(SVD_XT, torch.float16)
    configs["scheduler/scheduler_config.json"]["sigma_max"] = 80.0
    configs["unet/config.json"]["num_frames"] = 16
    configs["vae/config.json"]["scaling_factor"] = 0.2
    config, _ = read_config(Path("x"), configs, None)
    assert (config.sigma_max, config.frames, config.vae.scale) == (80.0, 16, 0.2)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("model_index.json", "_class_name", "StableDiffusionPipeline"),
        ("unet/config.json", "_class_name", "UNet2DConditionModel"),
        ("unet/config.json", "transformer_layers_per_block", 2),
        ("unet/config.json", "in_channels", 9),
        ("unet/config.json", "layers_per_block", [1, 2, 2, 2]),
        ("vae/config.json", "_class_name", "AutoencoderTiny"),
        ("vae/config.json", "layers_per_block", 1),
        ("image_encoder/config.json", "hidden_act", "quick_gelu"),
        ("image_encoder/config.json", "layer_norm_eps", 1e-6),
        ("scheduler/scheduler_config.json", "prediction_type", "epsilon"),
    ],
)
def test_classes_and_settings_that_we_do_not_have_are_refused(
    file: str, key: str, value: object
) -> None:
    configs = folder_configs(SVD_XT, torch.float16)
    configs[file][key] = value
    with pytest.raises(CheckpointError, match=key):
        read_config(Path("x"), configs, None)


def test_a_setting_that_is_missing_is_named() -> None:
    configs = folder_configs(SVD_XT, torch.float16)
    del configs["unet/config.json"]["num_frames"]
    with pytest.raises(CheckpointError, match="num_frames"):
        read_config(Path("x"), configs, None)


def test_another_scheduler_is_said_aloud() -> None:
    configs = folder_configs(SVD_XT, torch.float16)
    configs["scheduler/scheduler_config.json"]["_class_name"] = "EulerAncestralDiscreteScheduler"
    config, notes = read_config(Path("x"), configs, None)
    assert config == SVD_XT
    assert "EulerAncestralDiscreteScheduler" in notes[0]


def test_a_variant_that_the_folder_contradicts_is_refused() -> None:
    configs = folder_configs(SVD_XT, torch.float16)
    assert read_config(Path("x"), configs, "svd-xt-1.1")[0] == SVD_XT_1_1
    with pytest.raises(CheckpointError, match=r"holds svd-xt \(25 frames\), not svd"):
        read_config(Path("x"), configs, "svd")


@pytest.mark.parametrize("config", [SMALL, FRAME_WISE], ids=["temporal", "frame-wise"])
def test_diffusers_loads_what_we_export(tmp_path: Path, config: ModelConfig) -> None:
    from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder
    from diffusers import UNetSpatioTemporalConditionModel as UNet
    from transformers import CLIPVisionModelWithProjection

    write_own(tmp_path / "a.safetensors", config)
    convert(tmp_path / "a.safetensors", tmp_path / "b", to="diffusers")
    classes: dict[str, Any] = {
        "unet": UNet,
        "vae": AutoencoderKLTemporalDecoder if config.vae.temporal_decoder else AutoencoderKL,
        "image_encoder": CLIPVisionModelWithProjection,
    }
    for component, loader in classes.items():
        theirs = loader.from_pretrained(tmp_path / "b" / component).state_dict()
        stored = load_file(tmp_path / "b" / weight_names(component, half=False)[0])
        assert sum(t.numel() for t in stored.values()) == sum(t.numel() for t in theirs.values())
        if component != "image_encoder":  # transformers renames in memory
            assert same(dict(theirs), stored)


def test_an_encoder_survives_the_way_through_diffusers(tmp_path: Path) -> None:
    write_own(tmp_path / "a.safetensors", SMALL)
    convert(tmp_path / "a.safetensors", tmp_path / "b", to="diffusers")
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    moments = [
        load_networks(path, device=CPU, dtype=torch.float32).vae.encode(images)
        for path in (tmp_path / "a.safetensors", tmp_path / "b")
    ]
    assert torch.equal(*moments)


def test_every_unused_tensor_has_the_shape_of_its_twin() -> None:
    living = living_shapes(SMALL)
    for name, shape in unused_shapes(SMALL).items():
        twin = name.removeprefix("unused.")
        assert living.get(twin, shape) == shape
    assert "decoder.conv_in.weight" in parts(dict.fromkeys(living, torch.zeros(0)), "vae")
    assert (
        VideoAutoencoder(SMALL.vae).state_dict().keys()
        == parts(dict.fromkeys(living, torch.zeros(0)), "vae").keys()
    )


PUBLISHED_HEADS = replace(
    SMALL,
    unet=replace(SMALL.unet, channels=(64, 128), heads=(1, 2)),
    image_encoder=replace(SMALL.image_encoder, width=80, heads=1),
)
AS_PUBLISHED = replace(PUBLISHED_HEADS, sigma_max=700.0, vae=replace(SMALL.vae, scale=0.18215))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vae": replace(SMALL.vae, scale=0.9)}, "latents are scaled by 0.9; they assume 0.18215"),
        ({"sigma_max": 20.0}, "sigma_max is 20.0; they assume 700.0"),
        ({"sigma_min": 0.01}, "sigma_min is 0.01; they assume 0.002"),
        ({"rho": 5.0}, "rho is 5.0; they assume 7.0"),
        (
            {"unet": replace(AS_PUBLISHED.unet, heads=(2, 2))},
            "the unet's attention heads are 32 and 64 wide; they assume 64",
        ),
        (
            {"image_encoder": replace(AS_PUBLISHED.image_encoder, heads=2)},
            "the image encoder's attention heads are 40 wide; they assume 80",
        ),
    ],
)
def test_what_other_readers_of_a_single_file_would_assume_wrongly_is_said(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    """And Kinora reads it back: the metadata keeps it."""
    config = replace(AS_PUBLISHED, **change)
    write_own(tmp_path / "a.safetensors", config)
    with pytest.warns(KinoraWarning, match="wrong clips") as caught:
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to="sgm")
    (warning,) = caught
    assert str(warning.message).endswith(f"set by hand: {said}")
    assert describe(tmp_path / "b.safetensors").config == config


@pytest.mark.filterwarnings("error")
def test_nothing_is_said_where_the_others_are_right(tmp_path: Path) -> None:
    """A single file as published, and a diffusers folder, whose settings tell what differs."""
    write_own(tmp_path / "a.safetensors", AS_PUBLISHED)
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to="sgm")
    write_own(tmp_path / "c.safetensors", SMALL)
    convert(tmp_path / "c.safetensors", tmp_path / "d", to="diffusers")
    scale = json.loads((tmp_path / "d/vae/config.json").read_text())["scaling_factor"]
    scheduler = json.loads((tmp_path / "d/scheduler/scheduler_config.json").read_text())
    assert (scale, scheduler["sigma_max"]) == (SMALL.vae.scale, SMALL.sigma_max)
    convert(tmp_path / "c.safetensors", tmp_path / "e.safetensors", to="kinora")


def test_settings_that_are_only_noted_are_said(tmp_path: Path) -> None:
    config = replace(SMALL, rho=5.0)
    write_own(tmp_path / "a.safetensors", config)
    with pytest.warns(KinoraWarning, match=r"set by hand: its noise schedule has ρ = 5\.0"):
        convert(tmp_path / "a.safetensors", tmp_path / "b", to="diffusers", unknown_settings="note")


@pytest.mark.parametrize("to", ["sgm", "diffusers"])
def test_defaults_that_no_published_model_has_are_told(tmp_path: Path, to: Format) -> None:
    write_own(tmp_path / "a.safetensors", SMALL)
    *_, note = convert(tmp_path / "a.safetensors", tmp_path / "b", to=to)
    assert "this model's are: width 64, height 64, frames 3" in note


@pytest.mark.parametrize("config", [SVD, SVD_XT, SVD_XT_1_1])
@pytest.mark.parametrize("to", ["sgm", "diffusers", "kinora"])
def test_nothing_is_said_of_the_published_models(config: ModelConfig, to: Format) -> None:
    assert wrongly_assumed(config, to) is None
    assert forgotten_defaults(config, to) is None
