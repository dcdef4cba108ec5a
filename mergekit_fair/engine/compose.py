"""A recipe's tensors in memory, from checkpoints that are loaded once.

The program is that of a merge to disk, executed on tensors that stay loaded: filters, gradients,
dtypes and the kernel are the same, so a composed tensor equals the merged file's bit for bit.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import torch
from mergekit.common import dtype_from_name
from mergekit.io.tasks import GatherTensors
from mergekit.options import MergeOptions
from safetensors import safe_open

from mergekit_fair.engine.models import is_tensorwise
from mergekit_fair.engine.plan import checked_models, explained, tensor_tasks
from mergekit_fair.engine.prepare import Settings, prepared
from mergekit_fair.engine.program import unequal
from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.methods.arithmetic import merge_tensor, seeded
from mergekit_fair.methods.registry import is_own
from mergekit_fair.progress import Silent
from mergekit_fair.recipe.recipe import Recipe, local_path
from mergekit_fair.weights.folder import weight_files

Tensors = dict[str, torch.Tensor]


def load_tensors(folder: str | Path) -> Tensors:
    """All tensors of a checkpoint folder, on the CPU, in their own dtype."""
    tensors: Tensors = {}
    for file in weight_files(folder):
        with safe_open(str(file), framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118 (no mapping)
                tensors[name] = stream.get_tensor(name)
    return tensors


class Composer:
    """Holds the checkpoints of a family of recipes and composes any of them.

    Memory: every checkpoint once, in its own dtype, plus one tensor.
    """

    def __init__(self) -> None:
        self._models: dict[str, Tensors] = {}

    def tensors(self, model: str) -> Tensors:
        """The tensors of one model folder, loaded at the first call; borrowed."""
        path = local_path(str(model))
        if path not in self._models:
            self._models[path] = load_tensors(path)
        return self._models[path]

    def replace(self, model: str, tensors: Tensors) -> None:
        """Let `model` stand for other tensors, as the random control does."""
        self._models[local_path(str(model))] = tensors

    def compose(self, recipe: Recipe) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) for every tensor of the merged model.

        Raises:
            RecipeError: slices, adapters or whatever else mergekit refuses.
            CheckpointError: models that do not fit each other.
        """
        config, options = recipe.configuration(), MergeOptions()
        if not is_tensorwise(config, options):
            raise RecipeError(
                "only local models, without slices and tokenizer changes, are composed in memory",
                where=recipe.where,
                fix="merge it to a folder instead",
            )
        adapted = [str(model) for model in config.referenced_models() if model.lora is not None]
        if adapted:
            raise RecipeError(
                "LoRA adapters are not composed in memory",
                where=recipe.where,
                got=adapted,
                fix="merge each into its base first, or merge the recipe to a folder",
            )
        if is_own(recipe.method):
            return self._own(recipe, options)
        return self._stock(recipe, options)

    def _own(self, recipe: Recipe, options: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """By the program that a merge to disk streams."""
        with prepared(recipe, options, Settings(), Silent()) as merge:
            program = merge.program
        for tensor in program.tensors:
            inputs: dict[Hashable, torch.Tensor] = {
                model: _as(self._tensor(model, tensor.name), tensor.inner)
                for model in tensor.models
            }
            for model in tensor.equal:
                if not torch.equal(inputs[model], inputs[tensor.equal[0]]):
                    raise unequal(model, tensor.name)
            merged = merge_tensor(tensor.formula, inputs, tensor.name)
            yield tensor.name, _as(merged, tensor.dtype)

    def _stock(self, recipe: Recipe, options: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """By the tasks that mergekit's planner makes for a merge to disk."""
        with checked_models(recipe.configuration(), options):
            tasks = tensor_tasks(recipe, options)
        for task in tasks:
            merge = task.tensor_task
            gather: GatherTensors = merge.gather_tensors
            inputs = {
                model: _as(
                    self._tensor(str(model), weight.name),
                    dtype_from_name(weight.force_dtype or gather.dtype),
                )
                for model, weight in gather.weight_info.items()
            }
            with explained(recipe.where):
                merged = merge.execute(tensors=inputs)
            yield task.tensor_name, _as(merged, dtype_from_name(task.dtype))

    def _tensor(self, model: str, name: str) -> torch.Tensor:
        tensors = self.tensors(model)
        if name not in tensors:
            raise CheckpointError(f"has no tensor {name}", where=model)
        return tensors[name]


def random_control(base: Tensors, model: Tensors, *, seed: int, name: str) -> Tensors:
    """θ₀ plus, in every tensor, a Gaussian vector of the norm of θ − θ₀.

    What a merge of such vectors still does to a metric is no effect of the subgroup.
    Source: the norm-matched random control of arXiv 2212.04089.

    Args:
        base: θ₀.
        model: θ, same names and shapes.
        seed: of the random numbers; each tensor's stream depends on it, `name` and the tensor's
            name only.
        name: the subgroup.
    """
    control: Tensors = {}
    for key, start in base.items():
        if not start.is_floating_point():
            control[key] = model[key]
            continue
        vector = model[key].float() - start.float()
        noise = torch.randn(vector.shape, generator=seeded(seed, name, key))
        scale = vector.norm() / noise.norm() if vector.numel() else 0.0
        control[key] = (start.float() + noise * scale).to(start.dtype)
    return control


def _as(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor if dtype is None else tensor.to(dtype)
