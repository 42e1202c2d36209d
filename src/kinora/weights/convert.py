"""Convert a checkpoint from one format to another, file to file, one tensor at a time."""

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from kinora.arguments import as_choice, as_path
from kinora.config import ModelConfig
from kinora.device import as_dtype
from kinora.errors import CheckpointError, KinoraWarning
from kinora.weights.assumptions import forgotten_defaults, wrongly_assumed
from kinora.weights.checkpoint import Checkpoint, Format
from kinora.weights.diffusers import COMPONENTS, diffusers_table
from kinora.weights.folder import weight_names
from kinora.weights.folder_export import folder_configs
from kinora.weights.keymap import KeyMap, Rule, own_rules
from kinora.weights.names import living_shapes, shapes
from kinora.weights.open import open_checkpoint
from kinora.weights.read import bad_values
from kinora.weights.rebuild import Rebuilt, Supply
from kinora.weights.save import own_metadata
from kinora.weights.sgm import sgm_table
from kinora.weights.variants import config_to_metadata
from kinora.weights.write import Planned, new_file, new_folder, write_tensors

__all__ = ["Progress", "convert", "inexpressible", "sgm_metadata"]

Progress = Callable[[int, int], None]
"""Told how many bytes of how many are written."""


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: Format,
    dtype: str | torch.dtype | None = None,
    variant: str | None = None,
    template: str | Path | None = None,
    unknown_settings: Literal["refuse", "note"] = "refuse",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Write a checkpoint in another format, and return what the user should hear about it.

    source, target: a file, or a folder where the format is diffusers'.
    dtype: number format of all tensors; None keeps each one's own.
    variant: the published model that `source` is, where it doesn't tell.
    template: an original single file from which tensors are taken that the source doesn't have
        and the target wants; without it they are rebuilt where they can be, and zeros elsewhere.
    unknown_settings: what to do about settings that the target has no place for, such as another
        number of norm groups: "refuse", or "note" them beside the others under `_kinora`, for
        those who set them by hand on the networks that they build.

    No network is built and memory holds one tensor at a time. Values are moved, not computed with,
    unless `dtype` asks for it, so a round trip returns every byte.
    What other programs would take to be as published though it isn't, such as another latent scale
    in sgm's format, is stored in the metadata, and a KinoraWarning says so.
    Raises CheckpointError for a source that isn't sound or a target that can't express it, and
    OutputError when the target exists or can't be written.
    """
    as_choice("to", to, get_args(Format))
    as_choice("unknown_settings", unknown_settings, ("refuse", "note"))
    target = as_path("target", target)
    template = None if template is None else as_path("template", template)
    dtype = None if dtype is None else as_dtype(dtype)
    checkpoint = open_checkpoint(source, variant=variant, half=dtype == torch.float16)
    checkpoint.check()
    noted = _refuse_inexpressible(checkpoint, to, unknown_settings)
    notes = _convert(
        checkpoint, target, to, dtype, template, overwrite=overwrite, progress=progress
    )
    wrong = wrongly_assumed(checkpoint.config, to, noted)
    if wrong is not None:
        warnings.warn(wrong, KinoraWarning, stacklevel=2)
    forgotten = forgotten_defaults(checkpoint.config, to)
    return notes if forgotten is None else (*notes, forgotten)


def _convert(
    checkpoint: Checkpoint,
    target: Path,
    to: Format,
    dtype: torch.dtype | None,
    template: Path | None,
    *,
    overwrite: bool,
    progress: Progress | None,
) -> tuple[str, ...]:
    supplies = _supplies(checkpoint, to, dtype, template)
    config = checkpoint.config
    if to == "diffusers":
        plans = _folder_plans(config, supplies, dtype)
        with new_folder(target, overwrite=overwrite) as folder:
            _write_folder(folder, config, plans, _reporter(plans.values(), progress))
        return checkpoint.notes
    table = sgm_table(config) if to == "sgm" else KeyMap(own_rules(shapes(config)))
    plan = _plan(config, table, supplies, dtype)
    metadata = sgm_metadata(config) if to == "sgm" else own_metadata(config)
    with new_file(target, overwrite=overwrite) as temporary:
        write_tensors(temporary, plan, metadata, _reporter([plan], progress))
    return checkpoint.notes


def inexpressible(config: ModelConfig, to: Format) -> tuple[list[str], list[str]]:
    """What a format can't say of a model: settings that a note can carry, and structure that
    nothing can."""
    settings: list[str] = []
    structure: list[str] = []
    if to == "kinora":
        return settings, structure
    places = [("unet", config.unet.norm_groups)]
    if to == "sgm" or config.vae.temporal_decoder:
        places.append(("vae", config.vae.norm_groups))
    settings += [
        f"the {name} has {groups} norm groups; {to} always builds 32"
        for name, groups in places
        if groups != 32
    ]
    if to == "diffusers" and config.rho != 7:
        settings.append(f"its noise schedule has ρ = {config.rho}; diffusers' always has 7")
    if to == "diffusers" and config.vae.temporal_decoder and config.vae.blocks != 2:
        structure.append(
            f"the vae has {config.vae.blocks} blocks a level; diffusers' temporal decoder then has "
            "as many in its middle, where this model has 2"
        )
    return settings, structure


def sgm_metadata(config: ModelConfig) -> dict[str, str]:
    """What the header says besides tensors; other programs ignore it, published files lack it."""
    return {"format": "pt", "kinora": config_to_metadata(config)}


def _refuse_inexpressible(
    checkpoint: Checkpoint, to: Format, unknown_settings: Literal["refuse", "note"]
) -> list[str]:
    """The settings that are to be noted. Raises CheckpointError for what can't be expressed."""
    settings, structure = inexpressible(checkpoint.config, to)
    reasons = structure + (settings if unknown_settings == "refuse" else [])
    if reasons:
        raise CheckpointError(
            f"{checkpoint.path} ({checkpoint.config.name}) can't be converted to {to}: "
            + "; ".join(reasons)
            + ("" if structure else ". With --unknown-settings note they are noted for later")
        )
    return settings


def _supplies(
    source: Checkpoint, to: Format, dtype: torch.dtype | None, template: Path | None
) -> list[Supply]:
    """Where tensors come from, the first that has one gives it."""
    if template is not None and to != "sgm":
        raise CheckpointError(f"a template ({template}) is of use for sgm only, not for {to}")
    supplies: list[Supply] = [source]
    if template is not None:
        spare = open_checkpoint(template)
        spare.check()
        if spare.format != "sgm" or shapes(source.config) != shapes(spare.config):
            raise CheckpointError(
                f"{template} can't be the template: it must be an original single file with the "
                f"same networks as {source.path}"
            )
        supplies.append(spare)
    if to != "kinora":
        kinds = Counter(source.dtype(name) for name in living_shapes(source.config))
        supplies.append(Rebuilt(source, dtype or kinds.most_common(1)[0][0]))
    return supplies


def _plan(
    config: ModelConfig, table: KeyMap, supplies: Sequence[Supply], dtype: torch.dtype | None
) -> list[Planned]:
    """One entry for each tensor of the target that some supply can give."""
    known = shapes(config)
    plan: list[Planned] = []
    for key, rule in table.rules.items():
        supply = next((s for s in supplies if s.names.issuperset(rule.ours)), None)
        if supply is not None:
            kind = dtype or supply.dtype(rule.ours[0])
            shape = table.theirs_shape(key, known)
            make = partial(_make, rule, supply, kind)
            plan.append(Planned(key, kind, shape, make, partial(_release, rule, supply)))
    return plan


def _make(rule: Rule, supply: Supply, dtype: torch.dtype) -> Tensor:
    """A tensor of the target; one that the networks need must be sound."""
    stored = tuple(map(supply.tensor, rule.ours))
    made = rule.op.to_theirs(stored).to(dtype)
    bad = None if rule.ours[0].startswith("unused.") else bad_values(made)
    if bad is None:
        return made
    if any(map(bad_values, stored)):
        raise CheckpointError(f"the source is damaged: tensor {rule.ours[0]} holds {bad}")
    raise CheckpointError(f"tensor {rule.ours[0]} has values that {dtype} can't hold")


def _release(rule: Rule, supply: Supply) -> None:
    for name in rule.ours:
        supply.forget(name)


def _folder_plans(
    config: ModelConfig, supplies: Sequence[Supply], dtype: torch.dtype | None
) -> dict[str, list[Planned]]:
    """For each component, the tensors of its file."""
    plans: dict[str, list[Planned]] = {component: [] for component in COMPONENTS}
    for item in _plan(config, diffusers_table(config), supplies, dtype):
        component, _, key = item.key.partition("/")
        plans[component].append(item._replace(key=key))
    return plans


def _write_folder(
    folder: Path,
    config: ModelConfig,
    plans: Mapping[str, Sequence[Planned]],
    wrote: Callable[[int], None],
) -> None:
    kinds = Counter(item.dtype for item in plans["image_encoder"])
    for name, values in folder_configs(config, kinds.most_common(1)[0][0]).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    for component, plan in plans.items():
        file = folder / weight_names(component, half=False)[0]
        write_tensors(file, plan, {"format": "pt"}, wrote)


def _reporter(
    plans: Iterable[Sequence[Planned]], progress: Progress | None
) -> Callable[[int], None]:
    """Add up what is written and tell it."""
    total = sum(item.size for plan in plans for item in plan)
    done = 0

    def wrote(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total)

    return wrote
