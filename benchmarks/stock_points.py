"""The seconds of one point of mergekit's methods: composed in place, and by a mergekit graph.

    python benchmarks/stock_points.py              # all-MiniLM-L6-v2 (22.7 M parameters), 2 vectors
    python benchmarks/stock_points.py --rounds 2   # does it run?

For every method two ways take turns at the same points, each until the weights are in a model:

    in place   parameters put into mergekit's plan, its kernels, tensors written into the model
    graph      mergekit's `run_merge` to a folder in this process, then `from_pretrained`

Medians of seconds, and of seconds of a processor, which a busy machine does not lengthen. `first`
is the first point in place, which plans and reads the checkpoints. The start of a `mergekit-yaml`
process for every point, about 5 s, is not counted. Both ways must give the same bits, random
methods from one seed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from point import written
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from mergekit_fair.checkpoints.assign import WeightSlots
from mergekit_fair.merging.in_memory import Composer
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.stock_plan import is_random

SEED = 0
# Method → what its models and the recipe say, and the number that points set.
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "linear": ({"weight": 0.5}, {}, "weight.a"),
    "slerp": ({}, {"t": 0.5}, "t"),
    "slerp, gradient": ({}, {"t": [0, 0.5, 1]}, "t[1]"),
    "nuslerp": ({"weight": 0.5}, {}, "weight.a"),
    "task_arithmetic": ({"weight": 0.5}, {}, "lambda"),
    "ties": ({"weight": 0.5, "density": 0.5}, {}, "density"),
    "dare_linear": ({"weight": 0.5, "density": 0.5}, {}, "density"),
    "dare_ties": ({"weight": 0.5, "density": 0.5}, {}, "density"),
    "breadcrumbs": ({"weight": 0.5, "density": 0.5}, {}, "gamma"),
    "della": ({"weight": 0.5, "density": 0.5, "epsilon": 0.1}, {}, "density"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        family = written(Path(folder)).raw
        print(f"{'seconds (processor)':20}{'first':>17}{'in place':>17}{'graph':>17}{'ratio':>8}")
        for method in METHODS:
            report(method, recipe_of(method, family), Path(folder) / "out", rounds)


def recipe_of(method: str, family: dict[str, Any]) -> Recipe:
    own, shared, _ = METHODS[method]
    name = method.partition(",")[0]
    models = [item["model"] for item in family["models"]][: 1 if name == "slerp" else 2]
    raw: dict[str, Any] = {"merge_method": name, "dtype": "float32", "parameters": shared}
    raw["models"] = [{"model": model, "parameters": dict(own)} for model in models]
    if name != "linear":
        raw["base_model"] = family["base_model"]
    recipe = Recipe.from_mapping(raw, "recipe")
    return recipe.with_random_seed(SEED) if is_random(name) else recipe


def report(method: str, recipe: Recipe, out: Path, rounds: int) -> None:
    base = recipe.raw.get("base_model") or recipe.raw["models"][0]["model"]
    model: Any = AutoModelForSequenceClassification.from_pretrained(base).eval()
    composer = Composer(base=base)
    slots = WeightSlots(model)
    options = MergeOptions(quiet=True, random_seed=SEED if is_random(recipe.method) else None)

    def at(value: float) -> Recipe:
        return recipe.with_settings({METHODS[method][2]: value})

    def composed(value: float) -> None:
        slots.assign(composer.compose(at(value)))

    def merged(value: float) -> None:
        run_merge(at(value).for_mergekit(), str(out), options)
        AutoModelForSequenceClassification.from_pretrained(out).eval()

    values = [0.3 + 0.02 * number for number in range(rounds)]
    first = [timed(composed, 0.29)]
    pairs = [(timed(composed, value), timed(merged, value)) for value in values]
    ways = [first, *(list(way) for way in zip(*pairs, strict=True))]
    medians = [[statistics.median(part) for part in zip(*way, strict=True)] for way in ways]
    shown = "".join(f"{f'{wall:.3f} ({cpu:.3f})':>17}" for wall, cpu in medians)
    print(f"{method:20}{shown}{medians[2][1] / medians[1][1]:7.1f}×", flush=True)
    file, made = load_file(out / "model.safetensors"), dict(composer.compose(at(values[-1])))
    if any(not torch.equal(made[name], tensor) for name, tensor in file.items()):
        raise SystemExit(f"{method}: the two ways differ")


def timed(way: Callable[[float], object], value: float) -> tuple[float, float]:
    """Seconds, and seconds of a processor."""
    start = time.perf_counter(), time.process_time()
    way(value)
    return time.perf_counter() - start[0], time.process_time() - start[1]


if __name__ == "__main__":
    main()
