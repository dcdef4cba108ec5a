"""A merge of LoRA adapters that stays an adapter.

With the base as θ₀, θ = θ₀ + Σ_i c_i s_i B_i A_i is an adapter of rank Σ r_i again, exactly:
A = [A_1; A_2; …] above each other, B = [c_1 s_1 B_1, c_2 s_2 B_2, …] side by side, s = 1. The
coefficients may differ from tensor to tensor, so that layer gradients and filters keep working.
Ranks and modules may differ, too: an adapter adds nothing to a module that it leaves alone.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from mergekit_fair.checkpoints.adapter_config import CONFIG, WEIGHTS
from mergekit_fair.checkpoints.adapter_tensors import PREFIX
from mergekit_fair.checkpoints.adapter_updates import Factors
from mergekit_fair.checkpoints.headers import COPY_AGAIN
from mergekit_fair.checkpoints.lora import AdapterReader
from mergekit_fair.checkpoints.reader import DTYPES
from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.files import staged_folder
from mergekit_fair.merging.carried_files import carried_files
from mergekit_fair.merging.configuration import ModelReference
from mergekit_fair.merging.manifest import recorded
from mergekit_fair.merging.methods.registry import is_own
from mergekit_fair.merging.model_checks import OpenModels
from mergekit_fair.merging.model_files import (
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

# Which modules an adapter is put on.
_TARGETS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


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
            that are not adapters over the recipe's base, adapters that are more than LoRA.
        ConfigError, CheckpointError, OSError: as `merge_to_folder`.
    """
    if not is_own(recipe.method):
        raise _refused("methods of mergekit-fair, tensor by tensor", recipe, recipe.method)
    with (
        staged_folder(out, overwrite=settings.overwrite, known=recorded) as folder,
        MergePlan.open(
            recipe, options, allow_pickle=settings.allow_pickle, progress=progress
        ) as plan,
    ):
        program = plan.at()
        adapters, stacked = _parts(plan, program)
        inputs = describe_models(plan.models, plan.recipe, with_hash=settings.hash_inputs)
        tensors = {key: tensor for factors in stacked for key, tensor in _named(factors).items()}
        tensors |= _whole(plan, program, adapters, folder, options, progress)
        # By a plain write: a full disk is then an OSError like any other.
        (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
        _write_config(plan.models, adapters, stacked, folder)
        _complete(plan, folder, out.name, options, inputs, progress)
        require_unchanged(plan.models, inputs)


def fits_adapter(recipe: Recipe, options: Any) -> bool:
    """Whether a recipe's merge is an adapter of the base as it is: in the base's own dtype.

    Args:
        recipe: of any method.
        options: mergekit's `MergeOptions`.

    Raises:
        CheckpointError, RecipeError: as `MergePlan.open`.
    """
    if not is_own(recipe.method) or recipe.is_sliced:
        return False
    with MergePlan.open(recipe, options) as plan:
        program, stored = plan.at(), plan.infos[plan.models.base]
        try:
            _parts(plan, program)
        except RecipeError:
            return False
        return all(tensor.dtype == DTYPES[stored[tensor.name].dtype] for tensor in program.tensors)


def _parts(
    plan: MergePlan, program: MergeProgram
) -> tuple[dict[str, AdapterReader], list[Factors]]:
    """The adapters that the result is made of, and A and B that they become.

    Raises:
        RecipeError: it is no adapter.
    """
    recipe = plan.recipe
    if not plan.streams:
        raise _refused("methods of mergekit-fair, tensor by tensor", recipe, recipe.method)
    adapters = _entering(plan, program)
    stacked = _stacked(recipe, program, adapters)
    _require_alike_parts(recipe, adapters, stacked)
    return adapters, stacked


def _entering(plan: MergePlan, program: MergeProgram) -> dict[str, AdapterReader]:
    """The adapters that the result is made of, in recipe order."""
    recipe, models, base = plan.recipe, plan.models, plan.models.base
    folder, is_plain = models.folders[base], not isinstance(models.readers[base], AdapterReader)
    used = {str(model) for tensor in program.tensors for model in tensor.formulas.models}
    adapters: dict[str, AdapterReader] = {}
    for model, reader in models.readers.items():
        if model == base or model not in used:
            continue
        is_over_base = is_plain and models.folders[model].samefile(folder)
        if not (isinstance(reader, AdapterReader) and is_over_base):
            raise _refused(f"adapters over base_model ({base})", recipe, model)
        if more := _more_than_lora(reader):
            raise _refused("adapters of plain LoRA", recipe, {model: more})
        adapters[model] = reader
    if not adapters:
        raise _refused("a recipe that adds something to base_model", recipe)
    return adapters


def _more_than_lora(adapter: AdapterReader) -> str | None:
    """The option that makes more of an adapter than A, B and `modules_to_save`."""
    raw = adapter.config.raw
    if raw.get("bias", "none") != "none":
        return "bias"
    names = ("use_dora", "lora_bias", "trainable_token_indices", "ensure_weight_tying")
    return next((name for name in names if raw.get(name)), None)


def _saved(adapters: Adapters) -> dict[str, str]:
    """Tensor → its name in the merged adapter, of all that any adapter holds whole."""
    return {tensor: key for adapter in adapters.values() for tensor, key in adapter.saved.items()}


def _stacked(recipe: Recipe, program: MergeProgram, adapters: Adapters) -> list[Factors]:
    """A and B of every tensor that an adapter adapts and none holds whole, with s = 1."""
    whole, stacked = _saved(adapters), []
    for tensor in program.tensors:
        parts = {
            model: adapter.factors[tensor.name]
            for model, adapter in adapters.items()
            if tensor.name in adapter.factors and tensor.name not in whole
        }
        if not parts:
            continue
        weights = _coefficients(recipe, tensor)
        a = torch.cat([factors.a.float() for factors in parts.values()])
        b = torch.cat(
            [
                (factors.b.double() * (weights.get(model, 0.0) * factors.scale)).float()
                for model, factors in parts.items()
            ],
            dim=1,
        )
        if not bool(torch.isfinite(b).all()):
            raise _refused("numbers that float32 holds", recipe, tensor.name)
        first = next(iter(parts.values()))
        stacked.append(replace(first, a=a.contiguous(), b=b.contiguous(), scale=1.0))
    return stacked


def _require_alike_parts(recipe: Recipe, adapters: Adapters, stacked: Sequence[Factors]) -> None:
    """Of experts that are one tensor in memory, peft takes A and B of one rank for all or none."""
    readers = list(adapters.values())
    parts = [name for reader in readers for name in reader.factors if reader.is_part(name)]
    is_alike = _targets(adapters, stacked) is not None
    if parts and not (is_alike and len({factors.rank for factors in stacked}) == 1):
        raise _refused("adapters of one rank and the same modules", recipe, parts[0])


def _named(factors: Factors) -> dict[str, torch.Tensor]:
    """A and B under peft's names."""
    stem = f"{PREFIX}{factors.module}.lora_"
    if factors.is_embedding:
        return {f"{stem}embedding_A": factors.a, f"{stem}embedding_B": factors.b}
    return {f"{stem}A.weight": factors.a, f"{stem}B.weight": factors.b}


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
    names = _saved(adapters)
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


def _write_config(
    models: OpenModels, adapters: Adapters, stacked: Sequence[Factors], folder: Path
) -> None:
    from peft import LoraConfig

    reference = ModelReference.parse(models.base).model
    is_local = Path(reference.path).is_dir()
    path = str(models.folders[models.base].resolve()) if is_local else reference.path
    raws = [adapter.config.raw for adapter in adapters.values()]
    tasks = {raw.get("task_type") for raw in raws} - {None}
    saved = dict.fromkeys(name for adapter in adapters.values() for name in adapter.config.saved)
    modules = {"target_modules": [factors.module for factors in stacked]}
    try:
        config = LoraConfig(
            **(_targets(adapters, stacked) or modules),
            **_ranks(stacked),
            modules_to_save=list(saved) or None,
            fan_in_fan_out=any(raw.get("fan_in_fan_out") for raw in raws),
            task_type=tasks.pop() if len(tasks) == 1 else None,
            base_model_name_or_path=path,
            revision=reference.revision,
            inference_mode=True,
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"its {CONFIG} has values that peft would not take ({error})",
            where=next(iter(adapters.values())).name,
            fix=COPY_AGAIN,
        ) from error
    config.save_pretrained(str(folder))


def _targets(adapters: Adapters, stacked: Sequence[Factors]) -> dict[str, Any] | None:
    """As the adapters say, where all say the same."""
    first, *others = adapters.values()
    said = {key: first.config.raw.get(key) for key in _TARGETS}
    is_same = all(
        other.factors.keys() == first.factors.keys()
        and {key: other.config.raw.get(key) for key in _TARGETS} == said
        for other in others
    )
    return said if is_same and len(stacked) == len(first.factors) else None


def _ranks(stacked: Sequence[Factors]) -> dict[str, Any]:
    """r of most modules, and a pattern for each of the others; alpha is r, so that s = 1."""
    counts = Counter(factors.rank for factors in stacked)
    rank = counts.most_common(1)[0][0] if counts else 1
    others = {each.module: each.rank for each in stacked if each.rank != rank}
    # peft takes the first pattern that is the end of a name.
    patterns = dict(sorted(others.items(), key=lambda item: -len(item[0])))
    return {"r": rank, "lora_alpha": rank, "rank_pattern": patterns, "alpha_pattern": patterns}


def _complete(
    plan: MergePlan,
    folder: Path,
    name: str,
    options: Any,
    inputs: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Put everything beside the adapter."""
    recipe = plan.recipe
    carried = carried_files(recipe.configuration(), options)
    for note in carried.notes:
        progress.say(note)
    carried.write(folder)
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
        norms=plan.norms,
        notes=[*recipe.remarks, *carried.notes],
    )


def _refused(allowed: str, recipe: Recipe, got: object = None) -> RecipeError:
    return RecipeError(
        "cannot be merged to an adapter", where=recipe.where, got=got, allowed=allowed, fix=WHOLE
    )
