"""Key tables are bijections, and they match the published files to the letter."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kinora.config import (
    NANO,
    SVD_XT,
    TINY,
    ImageEncoderConfig,
    ModelConfig,
    UNetConfig,
    VAEConfig,
)
from kinora.errors import CheckpointError
from kinora.weights import from_diffusers, from_sgm, to_diffusers, to_sgm
from kinora.weights.diffusers import COMPONENTS, diffusers_table
from kinora.weights.keymap import (
    IDENTITY,
    SPLIT3,
    SQUEEZE,
    SQUEEZE2,
    TRANSPOSE,
    KeyMap,
    Op,
    Rule,
)
from kinora.weights.names import living_shapes, shapes, unused_shapes
from kinora.weights.sgm import sgm_table
from tests.checkpoints import SMALL, keys, random_tensors

FRAME_WISE = replace(SVD_XT, vae=replace(SVD_XT.vae, temporal_decoder=False))


WIDTHS = st.lists(st.sampled_from([8, 16, 24]), min_size=1, max_size=3)
BLOCKS = st.integers(1, 2)


@settings(max_examples=10, deadline=None)
@given(WIDTHS, st.tuples(*[st.booleans()] * 3), BLOCKS, WIDTHS, st.booleans(), BLOCKS)
def test_every_tensor_of_any_model_has_one_name_in_each_format(
    channels: list[int],
    attention: tuple[bool, ...],
    blocks: int,
    vae_channels: list[int],
    temporal_decoder: bool,
    layers: int,
) -> None:
    config = ModelConfig(
        name="any",
        frames=2,
        unet=UNetConfig(
            channels=tuple(channels),
            attention=attention[: len(channels)],
            heads=(2,) * len(channels),
            blocks=blocks,
            context_dim=8,
            vector_dim=4,
            norm_groups=4,
        ),
        vae=VAEConfig(
            channels=tuple(vae_channels),
            blocks=blocks,
            norm_groups=4,
            temporal_decoder=temporal_decoder,
        ),
        image_encoder=ImageEncoderConfig(
            patch_size=112, width=8, layers=layers, heads=2, mlp_width=8, output_dim=8
        ),
    )
    sgm, diffusers = sgm_table(config), diffusers_table(config)
    assert set(sgm.names) == set(shapes(config))
    assert set(living_shapes(config)) <= set(diffusers.names) <= set(sgm.names)


@pytest.mark.parametrize(
    ("config", "manifest"),
    [(SVD_XT, "sgm_svd_xt.json"), (FRAME_WISE, "sgm_image_decoder.json")],
    ids=["temporal decoder", "frame-wise decoder"],
)
def test_the_original_table_gives_every_published_key_and_shape(
    config: ModelConfig, manifest: str
) -> None:
    table, ours = sgm_table(config), shapes(config)
    made = {key: list(table.theirs_shape(key, ours)) for key in table.rules}
    assert made == keys(manifest)


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_diffusers_table_gives_every_published_key_and_shape(component: str) -> None:
    table, ours = diffusers_table(SVD_XT), shapes(SVD_XT)
    made = {
        key.partition("/")[2]: list(table.theirs_shape(key, ours))
        for key in table.rules
        if key.startswith(f"{component}/")
    }
    assert made == keys(f"diffusers_{component}.json")


@pytest.mark.parametrize("manifest", ["sgm_svd_xt.json", "sgm_image_decoder.json"])
def test_published_shapes_become_those_of_our_modules(manifest: str) -> None:
    config = SVD_XT if manifest == "sgm_svd_xt.json" else FRAME_WISE
    tensors = {key: torch.empty(shape, device="meta") for key, shape in keys(manifest).items()}
    ours = from_sgm(tensors, config)
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == shapes(config)


def test_the_two_tables_composed_are_the_published_map() -> None:
    sgm, diffusers, ours = sgm_table(SVD_XT), diffusers_table(SVD_XT), shapes(SVD_XT)
    for key, target in keys("sgm_to_diffusers.json").items():
        rule = sgm.rule(key)
        if target is None:
            assert not any(name in diffusers for name in rule.ours), key
            assert all(name in unused_shapes(SVD_XT) for name in rule.ours), key
            continue
        steps = [diffusers.source(name) for name in rule.ours]
        assert [step.theirs for step in steps] == [
            f"{target['component']}/{name}" for name in target["keys"]
        ]
        theirs = torch.empty(sgm.theirs_shape(key, ours), device="meta")
        made = [
            tuple(step.op.to_theirs((part,)).shape)
            for step, part in zip(steps, rule.op.to_ours(theirs), strict=True)
        ]
        assert _composed(rule.op, steps) == target["op"], key
        assert made == [tuple(diffusers.theirs_shape(step.theirs, ours)) for step in steps]


def _composed(first: Op, steps: list[Rule]) -> str:
    if {step.op for step in steps} == {first}:
        return "identity"
    assert all(step.op is IDENTITY for step in steps)
    return "squeeze" if first is SQUEEZE2 else first.name


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (IDENTITY, (2, 3)),
        (SQUEEZE, (2, 3, 3, 1, 1)),
        (SQUEEZE2, (2, 3, 1, 1)),
        (TRANSPOSE, (2, 3)),
        (SPLIT3, (6, 3)),
        (SPLIT3, (6,)),
    ],
    ids=lambda value: value.name if isinstance(value, Op) else str(value),
)
def test_every_operation_has_its_inverse(op: Op, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape)
    assert torch.equal(op.to_theirs(op.to_ours(tensor)), tensor)


def test_split3_gives_queries_keys_and_values_in_this_order() -> None:
    q, k, v = SPLIT3.to_ours(torch.arange(6.0))
    assert (q.tolist(), k.tolist(), v.tolist()) == ([0, 1], [2, 3], [4, 5])


@pytest.mark.parametrize("config", [TINY, NANO, SMALL], ids=lambda config: config.name)
def test_renaming_there_and_back_returns_every_tensor(config: ModelConfig) -> None:
    ours = random_tensors(config, unused=True)
    back = from_sgm(to_sgm(ours, config), config)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], ours[name]) for name in ours)
    known = {name: ours[name] for name in diffusers_table(config).names}
    components = to_diffusers(known, config)
    back = {
        name: tensor
        for component in COMPONENTS
        for name, tensor in from_diffusers(component, components[component], config).items()
    }
    assert back.keys() == known.keys()
    assert all(torch.equal(back[name], known[name]) for name in known)


def test_a_key_that_no_rule_matches_raises() -> None:
    key = "model.diffusion_model.input_blocks.99.0.in_layers.0.weight"
    with pytest.raises(CheckpointError, match=r"no rule matches .*input_blocks\.99"):
        from_sgm({key: torch.zeros(1)}, TINY)
    with pytest.raises(CheckpointError, match="no rule gives"):
        to_sgm({"unet.nothing": torch.zeros(1)}, TINY)
    with pytest.raises(CheckpointError, match="no rule matches"):
        from_diffusers("unet", {"conv_in.wait": torch.zeros(1)}, TINY)


def test_a_key_that_two_rules_match_cannot_enter_a_table() -> None:
    with pytest.raises(ValueError, match="two rules match"):
        KeyMap([Rule("a", ("x",)), Rule("a", ("y",))])
    with pytest.raises(ValueError, match="two rules give"):
        KeyMap([Rule("a", ("x",)), Rule("b", ("x",))])


def test_half_of_a_joined_tensor_is_refused_on_the_way_back() -> None:
    name = "image_encoder.layers.0.attention.to_q.bias"
    with pytest.raises(CheckpointError, match=r"can't be made: .*to_k\.bias is missing"):
        to_sgm({name: torch.zeros(32)}, TINY)


@pytest.mark.parametrize(
    ("op", "shape"), [(SQUEEZE, (2, 3, 3)), (SQUEEZE2, (2, 3, 3, 3)), (SPLIT3, (4, 2))]
)
def test_a_shape_that_an_operation_cannot_take_is_refused(op: Op, shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match="shape"):
        op.to_ours(torch.zeros(shape))
