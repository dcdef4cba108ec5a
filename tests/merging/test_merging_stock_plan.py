"""Recipes of mergekit's methods, composed in memory from one plan, equal its merges to the bit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import Family, read
from mergekit import merge_methods
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from refusals import raises
from rounding import same_bits

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.in_memory import Composer
from mergekit_fair.merging.methods.registry import is_own
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.stock_plan import RandomStream, StockPlan, is_random, skeleton
from mergekit_fair.merging.to_disk import merge_to_folder

SEED = 7
OPTIONS = MergeOptions(quiet=True)
GRADIENT = [0.2, 0.9]
FILTERS = [
    {"filter": "self_attn", "value": GRADIENT},
    {"filter": "mlp", "value": 1},
    {"value": 0.3},
]

# Method → parameters of each model, those of the recipe, and what one point after the other sets.
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any], list[dict[str, float]]]] = {
    "linear": ({"weight": 0.5}, {}, [{"weight.Female": 0.25}, {"weight.Male": 2}]),
    "slerp": ({}, {"t": FILTERS}, [{"t[*]": 0.5}, {"t[self_attn][1]": 0.1}, {"t[mlp]": 0}]),
    "nuslerp": ({"weight": 0.5}, {}, [{"weight.Male": 0.1}]),
    "task_arithmetic": ({"weight": GRADIENT}, {}, [{"lambda": 0.3}, {"weight.Male[1]": 0}]),
    "ties": ({"weight": 0.5, "density": 0.7}, {}, [{"density": 0.3}, {"density.Male": 1}]),
    "dare_ties": ({"weight": 0.5, "density": 0.7}, {}, [{"density": 0.3}, {"lambda": 0.5}]),
    "dare_linear": ({"weight": 0.5, "density": GRADIENT}, {}, [{"density[1]": 0.5}]),
    "breadcrumbs": ({"weight": 0.5, "density": 0.7}, {}, [{"gamma": 0.1}]),
    "breadcrumbs_ties": ({"weight": 0.5, "density": 0.7}, {}, [{"gamma": 0.1}]),
    "della": ({"weight": 0.5, "density": 0.5}, {}, [{"epsilon": 0.1}, {"density": 0.4}]),
    "della_linear": ({"weight": 0.5, "density": 0.5}, {}, [{"epsilon": 0.1}]),
    "sce": ({}, {"select_topk": 0.8}, [{"select_topk": 0.3}]),
    "model_stock": ({}, {}, []),
    "karcher": ({}, {}, []),
    "multislerp": ({"weight": 0.5}, {}, [{"weight.Male": 0.1}]),
    "nearswap": ({}, {"t": 0.01}, [{"t": 0.05}]),
}
TWO = ("slerp", "nuslerp", "nearswap")  # methods that take a base and one model, or two models
ALONE = ("linear", "karcher")  # without a base


def recipe_of(family: Family, method: str, dtype: str | None = "float32") -> Recipe:
    own, shared, _ = METHODS[method]
    paths = list(family.groups.values())[: 1 if method in ("slerp", "nearswap") else 2]
    raw: dict[str, Any] = {
        "merge_method": method,
        "models": [{"model": str(path), "parameters": dict(own)} for path in paths],
        "parameters": shared,
    }
    if method not in ALONE:
        raw["base_model"] = str(family.base)
    if dtype is not None:
        raw["dtype"] = dtype
    recipe = Recipe.from_mapping(raw, "r.yml")
    return recipe.with_random_seed(SEED) if is_random(method) else recipe


@pytest.mark.parametrize("method", METHODS)
def test_every_point_equals_its_merges_to_disk(tiny: Any, tmp_path: Path, method: str) -> None:
    """One composer, one plan: both our route to disk and mergekit's own give the same bits."""
    composer, made = Composer(), recipe_of(tiny("llama"), method)
    points = [made, *(made.with_settings(settings) for settings in METHODS[method][2]), made]
    found = [dict(composer.compose(point)) for point in points]
    options = OPTIONS.model_copy(update={"random_seed": SEED if is_random(method) else None})
    for number, (point, composed) in enumerate(zip(points[:-1], found, strict=False)):
        merge_to_folder(point, tmp_path / f"ours{number}", OPTIONS)
        run_merge(point.for_mergekit(), str(tmp_path / f"stock{number}"), options)
        for folder in ("ours", "stock"):
            file = read(tmp_path / f"{folder}{number}")
            assert composed.keys() == file.keys()
            assert all(same_bits(composed[name], file[name]) for name in file), (folder, number)
    assert all(same_bits(found[0][name], found[-1][name]) for name in found[0])
    for first, second in itertools.pairwise(found):
        assert len(found) == 2 or not all(same_bits(first[n], second[n]) for n in first)


@pytest.mark.parametrize("architecture", ["bert", "vit", "distilbert"])
@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_other_architectures_and_dtypes(
    tiny: Any, tmp_path: Path, architecture: str, method: str
) -> None:
    made = recipe_of(tiny(architecture), method, "bfloat16")
    merge_to_folder(made, tmp_path / "out", OPTIONS)
    file, composed = read(tmp_path / "out"), dict(Composer().compose(made))
    assert composed.keys() == file.keys()
    assert all(same_bits(composed[name], file[name]) for name in file)


def test_nothing_is_opened_or_planned_again(tiny: Any, monkeypatch: Any) -> None:
    opened = []
    real = StockPlan.open
    monkeypatch.setattr(StockPlan, "open", lambda *args: opened.append(args) or real(*args))
    composer, made = Composer(), recipe_of(tiny("llama"), "slerp")
    for value in (0.1, 0.2, 0.3):
        list(composer.compose(made.with_settings({"t[*]": value})))
    assert len(opened) == 1


def test_methods_that_draw_numbers_are_known() -> None:
    """The list is of those that draw none: what mergekit adds counts as random."""
    for method in merge_methods.registered_methods():
        kind = getattr(getattr(method, "sparsification_method", None), "value", None)
        draws = kind in ("random", "della_magprune") or method.spec.name == "arcee_fusion"
        assert is_random(method.spec.name) == (draws and not is_own(method.spec.name))


def test_a_stream_of_numbers_goes_on_where_it_was_left() -> None:
    torch.manual_seed(3)
    outer = torch.get_rng_state()
    stream, drawn = RandomStream(5), []
    for _ in range(2):
        with stream:
            drawn.append(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), outer)
    assert torch.equal(torch.cat(drawn), torch.rand(6, generator=torch.Generator().manual_seed(5)))
    with RandomStream(None):
        torch.rand(1)
    assert not torch.equal(torch.get_rng_state(), outer)


def test_another_seed_gives_other_weights(tiny: Any) -> None:
    made = recipe_of(tiny("llama"), "dare_linear")
    one, other = (dict(Composer().compose(made.with_random_seed(seed))) for seed in (0, 1))
    assert not all(same_bits(one[name], other[name]) for name in one)


@pytest.mark.parametrize("seed", [-1, 0.5, "0", True, 2**32])
def test_what_is_no_seed(tiny: Any, seed: Any) -> None:
    raw = recipe_of(tiny("llama"), "dare_ties").raw | {"fairness": {"random_seed": seed}}
    with raises(RecipeError, where="fairness.random_seed", got=str(seed)):
        Recipe.from_mapping(raw, "r.yml")


@pytest.mark.parametrize(
    ("method", "settings"),
    [("della", {"epsilon": 0.6}), ("della", {"density": 0.05})],
)
def test_a_method_refuses_its_parameters_before_anything_is_merged(
    tiny: Any, method: str, settings: dict[str, float]
) -> None:
    made = recipe_of(tiny("llama"), method)
    plan = StockPlan.open(made, OPTIONS)
    plan.try_kernel(made)
    with raises(RecipeError, "Epsilon", where="r.yml"):
        plan.try_kernel(made.with_settings(settings))


@pytest.mark.parametrize("method", METHODS)
def test_what_is_merged_passes_the_trial(tiny: Any, method: str) -> None:
    made = recipe_of(tiny("llama"), method)
    plan, state = StockPlan.open(made, OPTIONS), torch.get_rng_state()
    for settings in METHODS[method][2]:
        plan.try_kernel(made.with_settings(settings))
    assert torch.equal(torch.get_rng_state(), state)


def test_recipes_share_a_plan_if_parameters_alone_differ(tiny: Any) -> None:
    made = recipe_of(tiny("llama"), "ties")
    assert skeleton(made) == skeleton(made.with_settings({"density": 0.1, "lambda": 2}))
    assert skeleton(made) != skeleton(recipe_of(tiny("llama"), "ties", "bfloat16"))
