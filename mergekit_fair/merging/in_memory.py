"""A recipe's tensors in memory, from checkpoints that are opened once.

The program is that of a merge to disk, executed on tensors that stay loaded: filters, gradients,
dtypes and the kernel are the same, so a composed tensor equals the merged file's bit for bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from mergekit_fair.checkpoints.adapted import AdaptedCheckpoint, SlicedTensor
from mergekit_fair.checkpoints.cache import (
    CheckpointCache,
    LazyCheckpoint,
    Tensors,
    are_same,
    lookup,
)
from mergekit_fair.checkpoints.reader import read_whole
from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.adapters_by_peft import adapter_merged
from mergekit_fair.merging.merge_options import MergeOptions
from mergekit_fair.merging.methods.arithmetic import (
    ACCUMULATOR,
    KeptDirection,
    merge_tensor,
    seeded,
)
from mergekit_fair.merging.methods.formula import unequal
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.methods.registry import is_own
from mergekit_fair.merging.parameters import explained
from mergekit_fair.merging.plan_cache import PlanCache
from mergekit_fair.merging.program import OutputTensor
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.references import base_and_adapter, local_path
from mergekit_fair.merging.stock_plan import RandomStream, is_random

Directions = dict[str, KeptDirection]


class Rooms(Protocol):
    """Memory for tensors by name, such as a dictionary or a model's `WeightSlots`."""

    def get(self, name: str, /) -> torch.Tensor | None: ...


def load_tensors(folder: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint folder, on the CPU, in their own dtype."""
    return dict(LazyCheckpoint(folder))


class Composer:
    """Holds the checkpoints of recipes and composes any of them.

        composer = Composer()
        for name, tensor in composer.compose(recipe): ...

    Memory: every checkpoint once, in its own dtype, as far as there is room, plus one tensor. Each
    family of recipes (same but for numbers) is opened and checked once.

    Args:
        device: where tensors are composed, if it knows float64.
        room: bytes that may be held, see `CheckpointCache`.
        plans: shared with other composers of the same recipes; None for its own.
        base: whose names for tensors all models are read under; None for the recipe's base.
    """

    def __init__(
        self,
        device: str = "cpu",
        room: int | None = None,
        plans: PlanCache | None = None,
        base: str | None = None,
    ) -> None:
        known = torch.device(device)
        self.device = torch.device("cpu") if known.type == "mps" else known
        self.plans = plans or PlanCache(MergeOptions())
        self._checkpoints = CheckpointCache(self.device, room)
        self._checkpoints.base = None if base is None else local_path(base)
        self._merged_by_peft: dict[str, Tensors] = {}
        self._parts_of: dict[tuple[str, str], tuple[str, str | None]] = {}
        # The recipe without its λ, the device, the bytes, and the directions themselves.
        self._kept: tuple[str, torch.device, int, Directions] | None = None

    def tensors(self, model: str) -> Tensors:
        """The tensors of one model, opened at the first call; borrowed.

        Args:
            model: a folder, or `base+adapter`; the folder of an adapter is put on the base.
        """
        base, adapter = self._parts(model)
        return (
            self._checkpoints[base] if adapter is None else self._checkpoints.adapted(base, adapter)
        )

    def share(self, model: str, tensors: Tensors) -> None:
        """Hold a model's own tensors by what somebody has of them, see `CheckpointCache.share`."""
        self._checkpoints.share(local_path(model), tensors)

    def replace(self, model: str, tensors: Tensors, size: int | None = None) -> None:
        """Let `model` stand for other tensors, as the random control does.

        Args:
            model: whose place they take.
            tensors: for it.
            size: their bytes, which are held if there is room; None leaves them where they are.
        """
        self._checkpoints.add("+".join(filter(None, self._parts(model))), tensors, size)

    def _parts(self, model: str) -> tuple[str, str | None]:
        """Looked up once: the disk is asked whether a folder is an adapter's."""
        key = (str(model), self._checkpoints.base or str(model))
        if key not in self._parts_of:
            self._parts_of[key] = base_and_adapter(*key)
        return self._parts_of[key]

    def compose(
        self,
        recipe: Recipe,
        *,
        reuse_direction: bool = False,
        into: Rooms | None = None,
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) for every tensor of the merged model.

        Args:
            recipe: what to compose.
            reuse_direction: recipes that differ from it in λ alone will follow. What λ is
                multiplied with is then kept in float64 (8 bytes an element), if there is room for
                it, and the next point reads two tensors instead of G + 1. The bits are the same.
                Without it, what was kept is given up.
            into: gives where a tensor may be written to, and is asked only if it is others than
                the start's; used where shape, dtype and device fit, and then what is yielded is
                that tensor itself.

        Raises:
            RecipeError: slices, an adapter as base_model, or whatever else mergekit refuses.
            CheckpointError: models that do not fit each other.
        """
        _require_whole(recipe)
        if is_own(recipe.method):
            return self._own(recipe, into, reuse_direction=reuse_direction)
        return self._stock(recipe)

    def _own(
        self, recipe: Recipe, into: Rooms | None, *, reuse_direction: bool
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """By the program that a merge to disk streams."""
        tensors = self.plans.program(recipe).tensors
        if self._checkpoints.base is None:
            self._checkpoints.base = local_path(str(recipe.raw["base_model"]))
        directions = self._directions(recipe, tensors) if reuse_direction else None
        if not reuse_direction:
            self._give_up()
        for tensor in tensors:
            out = into.get(tensor.name) if into is not None and tensor.formula.moves else None
            out = out if out is not None and self._fits(tensor, out) else None
            yield tensor.name, _as(self._merged(tensor, directions, out), tensor.dtype)

    def _merged(
        self, tensor: OutputTensor, directions: Directions | None, out: torch.Tensor | None
    ) -> torch.Tensor:
        formula, name = tensor.formula, tensor.name
        kept = None
        if directions is not None and formula.moves:
            kept = directions.get(name)
            if kept is None:
                kept = directions[name] = KeptDirection(math.prod(tensor.shape), self._place)
        models = (str(formula.start),) if kept and kept.is_known else tensor.models
        for model in tensor.must_match:
            if not torch.equal(self._tensor(model, name), self._tensor(tensor.must_match[0], name)):
                raise unequal(model, name)
        inputs: dict[Hashable, torch.Tensor | SlicedTensor] = {
            model: self._input(model, tensor) for model in models
        }
        dtype = tensor.compute_dtype
        merged = merge_tensor(formula, inputs, name, kept=kept, out=out, dtype=dtype)
        return _as(merged, dtype)

    def _input(self, model: str, tensor: OutputTensor) -> torch.Tensor | SlicedTensor:
        """One model's tensor, as the engine that streams files reads it."""
        tensors, rounds = self.tensors(model), model in tensor.cast
        if isinstance(tensors, AdaptedCheckpoint) and tensor.name in tensors.changed:
            return tensors.sliced(
                tensor.name, tensor.compute_dtype, rounds=rounds, device=self.device
            )
        return _as(self._tensor(model, tensor.name), tensor.compute_dtype if rounds else None)

    def _fits(self, tensor: OutputTensor, out: torch.Tensor) -> bool:
        is_as_computed = out.dtype == tensor.dtype == tensor.compute_dtype
        is_here = out.device.type == self.device.type and out.is_contiguous()
        return is_as_computed and is_here and tuple(out.shape) == tensor.shape

    @property
    def _place(self) -> torch.device:
        return self.device if self._kept is None else self._kept[1]

    def _directions(self, recipe: Recipe, tensors: tuple[OutputTensor, ...]) -> Directions | None:
        """Those of the recipes that differ from this one in λ alone; None without room."""
        parameters = {k: v for k, v in parameters_of(recipe.raw).items() if k != "lambda"}
        alike = json.dumps({**recipe.raw, "parameters": parameters}, sort_keys=True, default=str)
        if self._kept is not None and self._kept[0] == alike:
            return self._kept[3]
        self._give_up()
        moved = (tensor for tensor in tensors if tensor.formula.terms)
        size = sum(math.prod(tensor.shape) * ACCUMULATOR.itemsize for tensor in moved)
        device = self._checkpoints.reserve(size)
        if device is None:
            return None
        self._kept = (alike, device, size, {})
        return self._kept[3]

    def _give_up(self) -> None:
        if self._kept is not None:
            self._checkpoints.release(*self._kept[1:3])
            self._kept = None

    def _stock(self, recipe: Recipe) -> Iterator[tuple[str, torch.Tensor]]:
        """By mergekit's own tasks, which are planned once for all parameters."""
        draws = RandomStream(recipe.random_seed if is_random(recipe.method) else None)
        for tensor in self.plans.stock(recipe).at(recipe):
            inputs = {
                model: _as(found.cpu(), tensor.input_dtype(model))
                for model, weight in tensor.inputs.items()
                if (found := self._stored(model, weight)) is not None
            }
            with explained(recipe.where), draws:
                merged = tensor.merge.execute(tensors=inputs)
            if merged is not None:  # mergekit leaves out what too few models have
                yield tensor.name, _as(merged, tensor.dtype)

    def _stored(self, model: Any, weight: Any) -> torch.Tensor | None:
        """A tensor by one of the names that mergekit knows for it; None if it may be missing."""
        tensors = self.tensors(str(model))
        if isinstance(tensors, AdaptedCheckpoint):
            tensors = self._by_peft(model)
        names = (weight.name, *(weight.aliases or ()), *(weight.tied_names or ()))
        name = next((name for name in names if name in tensors), None)
        if name is None and weight.optional:
            return None
        return lookup(tensors, str(model), name or weight.name).to(self.device)

    def _by_peft(self, model: Any) -> Tensors:
        """An adapter as mergekit gets it: the base's tensors, and those that peft has changed."""
        if str(model) not in self._merged_by_peft:
            base = self.tensors(str(model.model))
            found = {}
            with adapter_merged(model, self.plans.stock_options) as reader:
                for name in reader.tensors:
                    tensor, start = read_whole(reader, name), base.get(name)
                    tensor = tensor if start is None else tensor.to(start.device)
                    is_same = start is not None and are_same(start, tensor)
                    found[name] = start if start is not None and is_same else tensor
            self._merged_by_peft[str(model)] = found
        return self._merged_by_peft[str(model)]

    def _tensor(self, model: str, name: str) -> torch.Tensor:
        return lookup(self.tensors(model), model, name).to(self.device)


class RandomControl(Tensors):
    """θ₀ plus, in every tensor, a Gaussian vector of the norm of θ − θ₀; made when asked for.

    What a merge of such vectors still does to a metric is not an effect of the subgroup.
    Source: the norm-matched random control of arXiv 2212.04089.

    Args:
        base: θ₀; None where the model is a stored task vector, θ − θ₀ itself.
        model: θ, same names and shapes.
        seed: of the random numbers; each tensor's stream depends on it, `name` and the tensor's
            name only.
        name: the subgroup.
    """

    def __init__(self, base: Tensors | None, model: Tensors, *, seed: int, name: str) -> None:
        self._base, self._model, self._seed, self._name = base, model, seed, name

    def __getitem__(self, name: str) -> torch.Tensor:
        end = self._model[name]
        start = torch.zeros_like(end) if self._base is None else self._base[name]
        if end is start or not start.is_floating_point():
            return end
        # Norms and numbers on the CPU: the control is then the same on every device.
        begin = start.cpu().float()
        vector = end.cpu().float() - begin
        noise = torch.randn(vector.shape, generator=seeded(self._seed, self._name, name))
        scale = vector.norm() / noise.norm() if vector.numel() else 0.0
        return (begin + noise * scale).to(end.dtype).to(start.device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._model)

    def __len__(self) -> int:
        return len(self._model)


def _require_whole(recipe: Recipe) -> None:
    config: Any = recipe.configuration()
    if config.slices or config.modules or config.tokenizer_source or config.tokenizer:
        raise RecipeError(
            "only local models, without slices and tokenizer changes, are composed in memory",
            where=recipe.where,
            fix="merge it to a folder instead",
        )
    base = config.base_model
    if base is not None and base.lora is not None:
        raise RecipeError(
            "its base_model is an adapter, and models in memory are composed from a whole one",
            where=recipe.where,
            got=str(base),
            fix="merge it into its base first, or merge the recipe to a folder",
        )


def _as(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor if dtype is None else tensor.to(dtype)
