"""A merge of LoRA adapters that stays an adapter.

With the base as θ₀, θ = θ₀ + Σ_i c_i s_i B_i A_i is an adapter of rank Σ r_i again, exactly:
A = [A_1; A_2; …] above each other, B = [c_1 s_1 B_1, c_2 s_2 B_2, …] side by side, s = 1. The
coefficients may differ from tensor to tensor, so that layer gradients and filters keep working.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mergekit.common import ModelReference
from safetensors.torch import load_file, save

from mergekit_fair.checkpoints.adapter_config import CONFIG, WEIGHTS
from mergekit_fair.checkpoints.headers import COPY_AGAIN
from mergekit_fair.checkpoints.lora import PREFIX, AdapterReader
from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.files import staged_folder
from mergekit_fair.merging.methods.registry import is_own
from mergekit_fair.merging.model_checks import OpenModels
from mergekit_fair.merging.model_files import (
    copy_model_files,
    describe_models,
    require_unchanged,
    write_card,
    write_manifest,
)
from mergekit_fair.merging.plan import MergePlan
from mergekit_fair.merging.program import MergeProgram, MergeSettings, OutputTensor
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.shards import shards
from mergekit_fair.merging.stream import write_weights
from mergekit_fair.progress import Progress, bar

WHOLE = "merge it to a whole model, without --adapter"

Adapters = Mapping[str, AdapterReader]

# Of the first adapter's configuration: which modules it is put on.
_KEPT = (
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("modules_to_save", "fan_in_fan_out", "task_type"),
)


def merge_adapters(
    recipe: Recipe, out: Path, options: Any, settings: MergeSettings, progress: Progress
) -> None:
    """Merge a recipe's adapters to one adapter at `out`, which peft loads over the base.

    A and B are float32. What the adapters hold whole (`modules_to_save`) is merged like any
    tensor of a model, in the recipe's dtype; the recipe's dtype says nothing about A and B.

    Args:
        recipe: resolved, of one of this package's methods.
        out: the folder to make.
        options: mergekit's `MergeOptions`.
        settings: what else it may do.
        progress: told what is done.

    Raises:
        RecipeError: what cannot be an adapter: another method or one that is not linear, models
            that are not adapters over the recipe's base, adapters of unlike ranks or targets.
        ConfigError, CheckpointError, OSError: as `merge_to_folder`.
    """
    if not is_own(recipe.method):
        raise _refused("methods of mergekit-fair, tensor by tensor", recipe, recipe.method)
    if settings.lambdas is not None:
        raise _refused("one λ, that of the recipe", recipe, list(settings.lambdas))
    with (
        staged_folder(out, overwrite=settings.overwrite) as folder,
        MergePlan.open(
            recipe, options, allow_pickle=settings.allow_pickle, progress=progress
        ) as plan,
    ):
        if not plan.streams:
            raise _refused("methods of mergekit-fair, tensor by tensor", recipe, recipe.method)
        program = plan.at()
        adapters = _entering(plan, program)
        inputs = describe_models(plan.models, with_hash=settings.hash_inputs)
        tensors = _stacked(recipe, program, adapters)
        tensors |= _whole(plan, program, adapters, folder, options, progress)
        # By a plain write: a full disk is then an OSError like any other.
        (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
        _write_config(plan.models, adapters, folder)
        _complete(plan, folder, out.name, options, inputs)
        require_unchanged(plan.models, inputs)


def _entering(plan: MergePlan, program: MergeProgram) -> dict[str, AdapterReader]:
    """The adapters that the result is made of, in recipe order; all put on the same tensors."""
    recipe, models, base = plan.recipe, plan.models, plan.models.base
    folder, is_plain = models.folders[base], not isinstance(models.readers[base], AdapterReader)
    used = {str(model) for tensor in program.tensors for model in tensor.active_formula.models}
    adapters: dict[str, AdapterReader] = {}
    for model, reader in models.readers.items():
        if model == base or model not in used:
            continue
        is_over_base = is_plain and models.folders[model].samefile(folder)
        if not (isinstance(reader, AdapterReader) and is_over_base):
            raise _refused(f"adapters over base_model ({base})", recipe, model)
        adapters[model] = reader
    if not adapters:
        raise _refused("a recipe that adds something to base_model", recipe)
    _require_alike(recipe, adapters)
    return adapters


def _require_alike(recipe: Recipe, adapters: Adapters) -> None:
    (first, expected), *others = adapters.items()
    ranks = {factors.rank for factors in expected.factors.values()}
    if len(ranks) != 1:
        raise _refused("adapters of one rank", recipe, {first: sorted(ranks)})
    for model, reader in others:
        its = {factors.rank for factors in reader.factors.values()}
        if its != ranks:
            raise _refused(
                f"adapters of rank {ranks.pop()}, as {first}", recipe, {model: sorted(its)}
            )
        differing = (expected.factors.keys() ^ reader.factors.keys()) | (
            expected.saved.keys() ^ reader.saved.keys()
        )
        if differing:
            got = {model: sorted(differing)[:3]}
            raise _refused(f"adapters of the tensors that {first} adapts", recipe, got)


def _stacked(recipe: Recipe, program: MergeProgram, adapters: Adapters) -> dict[str, torch.Tensor]:
    """A and B of every adapted tensor, under peft's names."""
    first = next(iter(adapters.values()))
    stacked: dict[str, torch.Tensor] = {}
    for tensor in program.tensors:
        if tensor.name not in first.factors:
            continue
        weights = _coefficients(recipe, tensor)
        parts = [(model, reader.factors[tensor.name]) for model, reader in adapters.items()]
        a = torch.cat([factors.a.float() for _, factors in parts])
        b = torch.cat(
            [
                (factors.b.double() * (weights.get(model, 0.0) * factors.scale)).float()
                for model, factors in parts
            ],
            dim=1,
        )
        if not bool(torch.isfinite(b).all()):
            raise _refused("numbers that float32 holds", recipe, tensor.name)
        factors = parts[0][1]
        stem = f"{PREFIX}{factors.module}.lora_"
        for letter, value in (("A", a), ("B", b)):
            key = f"{stem}embedding_{letter}" if factors.is_embedding else f"{stem}{letter}.weight"
            stacked[key] = value.contiguous()
    return stacked


def _coefficients(recipe: Recipe, tensor: OutputTensor) -> dict[str, float]:
    """Model → what its s·B·A is multiplied with."""
    formula = tensor.formula
    sums = formula.coefficients
    if sums is None:
        got = {recipe.method: tensor.name}
        raise _refused("weighted sums of whole task vectors", recipe, got)
    coefficients = {str(formula.start): 1.0} if formula.start != formula.base else {}
    for model, value in sums.items():
        coefficients[str(model)] = coefficients.get(str(model), 0.0) + value
    return coefficients


def _whole(
    plan: MergePlan,
    program: MergeProgram,
    adapters: Adapters,
    folder: Path,
    options: Any,
    progress: Progress,
) -> dict[str, torch.Tensor]:
    """What the adapters hold whole, streamed like the tensors of a model."""
    names = next(iter(adapters.values())).saved
    if not names:
        return {}
    files = shards([tensor for tensor in program.tensors if tensor.name in names], 0)
    whole = folder / "whole"
    whole.mkdir()
    with bar(progress, "merge", sum(file.size for file in files)) as advance:
        write_weights(
            files,
            plan.models.readers,
            [whole],
            device=options.device or "cpu",
            advance=advance,
        )
    tensors = load_file(whole / files[0].name)
    shutil.rmtree(whole)
    return {names[name]: tensor for name, tensor in tensors.items()}


def _write_config(models: OpenModels, adapters: Adapters, folder: Path) -> None:
    from peft import LoraConfig

    reference = ModelReference.parse(models.base).model
    is_local = Path(reference.path).is_dir()
    first = next(iter(adapters.values()))
    rank = sum(next(iter(reader.factors.values())).rank for reader in adapters.values())
    as_first = {key: first.config.raw[key] for key in _KEPT if key in first.config.raw}
    path = str(models.folders[models.base].resolve()) if is_local else reference.path
    try:
        config = LoraConfig(
            **as_first,
            r=rank,
            lora_alpha=rank,
            base_model_name_or_path=path,
            revision=reference.revision,
            inference_mode=True,
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"its {CONFIG} has values that peft would not take ({error})",
            where=first.name,
            fix=COPY_AGAIN,
        ) from error
    config.save_pretrained(str(folder))


def _complete(
    plan: MergePlan, folder: Path, name: str, options: Any, inputs: Mapping[str, Any]
) -> None:
    """Put everything beside the adapter."""
    recipe, base = plan.recipe, plan.models.base
    copy_model_files(recipe.configuration(), plan.models.folders[base], options, folder)
    if options.write_model_card:
        write_card(recipe, folder, name)
        card = folder / "README.md"
        text = card.read_text(encoding="utf-8")
        kind = "library_name: transformers", "library_name: peft"
        card.write_text(text.replace(*kind, 1), encoding="utf-8")
    write_manifest(
        folder,
        inputs,
        {},
        method=recipe.method,
        output="adapter",
        arithmetic={"accumulator": "float64", "device": options.device or "cpu"},
        norms=None if plan.norms is None else dict(plan.norms),
        notes=list(recipe.notes),
    )


def _refused(allowed: str, recipe: Recipe, got: object = None) -> RecipeError:
    return RecipeError(
        "cannot be merged to an adapter", where=recipe.where, got=got, allowed=allowed, fix=WHOLE
    )
