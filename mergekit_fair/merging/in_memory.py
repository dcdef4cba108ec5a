"""A recipe's tensors in memory, from checkpoints that are opened once.

The program is that of a merge to disk, executed on tensors that stay loaded: filters, gradients,
dtypes and the kernel are the same, so a composed tensor equals the merged file's bit for bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import torch
from mergekit.common import dtype_from_name
from mergekit.io.tasks import GatherTensors
from mergekit.options import MergeOptions

from mergekit_fair.checkpoints.cache import Shelf, Streamed, Tensors, lookup, size_of
from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.mergekit_plan import checked_models, explained, tensor_tasks
from mergekit_fair.merging.methods.arithmetic import (
    ACCUMULATOR,
    add_direction,
    merge_tensor,
    whole_direction,
)
from mergekit_fair.merging.methods.registry import is_own
from mergekit_fair.merging.open_models import is_tensorwise
from mergekit_fair.merging.prepare import Settings, prepared
from mergekit_fair.merging.program import OutputTensor, Program, unequal
from mergekit_fair.merging.recipe import Recipe, local_path
from mergekit_fair.progress import Silent


def load_tensors(folder: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint folder, on the CPU, in their own dtype."""
    return dict(Streamed(folder))


class Composer:
    """Holds the checkpoints of a family of recipes and composes any of them.

    Memory: every checkpoint once, in its own dtype, as far as there is room, plus one tensor. For
    recipes that differ in λ alone, the sum that λ is multiplied with is computed once and held in
    float64, if there is room for it: then a point reads two tensors instead of G + 1.

    Args:
        device: where tensors are composed, if it knows float64.
        room: bytes that may be held, see `Shelf`.
    """

    def __init__(self, device: str = "cpu", room: int | None = None) -> None:
        known = torch.device(device)
        self.device = torch.device("cpu") if known.type == "mps" else known
        self._shelf = Shelf(self.device, room)
        self._family: tuple[str, torch.device, dict[str, torch.Tensor]] | None = None

    def tensors(self, model: str) -> Tensors:
        """The tensors of one model folder, opened at the first call; borrowed."""
        return self._shelf[local_path(str(model))]

    def replace(self, model: str, tensors: Tensors, *, shared: bool = False) -> None:
        """Let `model` stand for other tensors, as the random control does.

        Args:
            model: whose place they take.
            tensors: as many bytes as the model's; held if there is room, unless `shared`.
        """
        path = local_path(str(model))
        self._shelf.put(path, tensors, None if shared else size_of(path))

    def compose(self, recipe: Recipe, *, again: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) for every tensor of the merged model.

        Args:
            recipe: what to compose.
            again: recipes that differ from it in λ alone will follow; the bits are the same.

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
            return self._own(recipe, options, again=again)
        return self._stock(recipe, options)

    def _own(
        self, recipe: Recipe, options: Any, *, again: bool
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """By the program that a merge to disk streams."""
        with prepared(recipe, options, Settings(), Silent()) as merge:
            program = merge.program
        sums = self._sums(recipe, program) if again else None
        for tensor in program.tensors:
            yield tensor.name, _as(self._merged(tensor, sums), tensor.dtype)

    def _merged(self, tensor: OutputTensor, sums: dict[str, torch.Tensor] | None) -> torch.Tensor:
        formula, name = tensor.formula, tensor.name
        is_summed = sums is not None and formula.moves
        models = (formula.start,) if is_summed and name in (sums or {}) else tensor.models
        inputs: dict[Hashable, torch.Tensor] = {
            model: _as(self._tensor(str(model), name), tensor.inner) for model in models
        }
        for model in tensor.equal:
            if not torch.equal(inputs[model], inputs[tensor.equal[0]]):
                raise unequal(model, name)
        if sums is None or not formula.moves:
            return merge_tensor(formula, inputs, name)
        if name not in sums:
            sums[name] = whole_direction(formula, inputs, name)
        return add_direction(formula, inputs[formula.start], sums[name])

    def _sums(self, recipe: Recipe, program: Program) -> dict[str, torch.Tensor] | None:
        """What λ is multiplied with, by tensor, of the recipes that differ in λ alone."""
        parameters = {k: v for k, v in recipe.raw["parameters"].items() if k != "lambda"}
        family = json.dumps({**recipe.raw, "parameters": parameters}, sort_keys=True, default=str)
        size = sum(math.prod(t.shape) * ACCUMULATOR.itemsize for t in program.tensors)
        if self._family is not None:
            if self._family[0] == family:
                return self._family[2]
            self._shelf.give(self._family[1], size)
            self._family = None
        place = self._shelf.take(size)
        if place is None:
            return None
        self._family = (family, place, {})
        return self._family[2]

    def _stock(self, recipe: Recipe, options: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """By the tasks that mergekit's planner makes for a merge to disk."""
        with checked_models(recipe.configuration(), options):
            tasks = tensor_tasks(recipe, options)
        for task in tasks:
            merge = task.tensor_task
            gather: GatherTensors = merge.gather_tensors
            inputs = {
                model: _as(
                    self._tensor(str(model), weight.name).cpu(),
                    dtype_from_name(weight.force_dtype or gather.dtype),
                )
                for model, weight in gather.weight_info.items()
            }
            with explained(recipe.where):
                merged = merge.execute(tensors=inputs)
            yield task.tensor_name, _as(merged, dtype_from_name(task.dtype))

    def _tensor(self, model: str, name: str) -> torch.Tensor:
        return lookup(self.tensors(model), model, name).to(self.device)


def _as(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor if dtype is None else tensor.to(dtype)
