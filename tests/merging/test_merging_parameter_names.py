"""How a number of a recipe is named: what each name changes, and what is refused."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mergekit import merge_methods
from refusals import raises

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.grid import require_settings
from mergekit_fair.merging.methods.registry import register_methods, spec_of
from mergekit_fair.merging.parameter_names import (
    find_parameter,
    is_whole,
    name_of,
    numeric_names,
    require_distinct_places,
    require_numeric,
)
from mergekit_fair.merging.recipe import Recipe

DOCS = Path(__file__).parents[2] / "docs"
FILTERS = [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"filter": "mlp", "value": 0.3}]


def ties(**top: Any) -> dict[str, Any]:
    models: list[dict[str, Any]] = [
        {"model": "runs/a", "parameters": {"weight": 1.0, "density": 0.5}},
        {"model": "runs/b.v1", "parameters": {"weight": [0.0, 0.5, 1.0], "density": 0.25}},
        {"model": "runs/c", "parameters": {"group": "C [old]", "weight": FILTERS}},
    ]
    return {"merge_method": "ties", "base_model": "base", "models": models, "parameters": top}


def slerp(t: Any) -> dict[str, Any]:
    return {
        "merge_method": "slerp",
        "base_model": "a",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"t": t},
    }


def changed(raw: dict[str, Any], key: str, value: float) -> dict[str, Any]:
    before = copy.deepcopy(raw)
    found = find_parameter(raw, spec_of(raw["merge_method"]), key, "r.yml").set(raw, value)
    assert raw == before
    return found


def of_model(raw: dict[str, Any], index: int) -> dict[str, Any]:
    return dict(raw["models"][index]["parameters"])


@pytest.mark.parametrize("method", [m.spec.name for m in merge_methods.registered_methods()])
def test_every_numeric_parameter_of_every_method_can_be_named(method: str) -> None:
    spec = spec_of(method)
    raw: dict[str, Any] = {"merge_method": method, "base_model": "a", "models": [{"model": "b"}]}
    names = numeric_names(spec)
    assert {p.name for p in spec.parameters if p.value_type in (float, int)} <= set(names)
    for name in names:
        key = name.replace("<model>", "b")
        found = find_parameter(raw, spec, key, "r.yml")
        require_numeric(found, spec, "r.yml")
        assert found.set(raw, 0.5) != raw
    for parameter in spec.parameters:
        if parameter.name not in names:
            found = find_parameter(raw, spec, parameter.name, "r.yml")
            with raises(RecipeError, "no numbers", got=parameter.name):
                require_numeric(found, spec, "r.yml")


def test_our_methods_are_among_them() -> None:
    register_methods()
    assert {"lambda", "rho", "weight", "weight.<model>"} == set(numeric_names(spec_of("fedgma")))
    assert "seed" in numeric_names(spec_of("subgroup_task_addition"))


def test_a_shared_parameter() -> None:
    assert changed(ties(), "lambda", 0.5)["parameters"] == {"lambda": 0.5}
    assert changed(slerp(0.1), "t", 0.5)["parameters"] == {"t": 0.5}


def test_a_parameter_of_all_models_replaces_their_own() -> None:
    made = changed(ties(density=0.1), "density", 0.75)
    assert made["parameters"] == {"density": 0.75}
    assert all("density" not in of_model(made, index) for index in range(3))
    assert of_model(made, 0) == {"weight": 1.0}


@pytest.mark.parametrize(
    ("name", "index"), [("runs/a", 0), ("a", 0), ("runs/b.v1", 1), ("b.v1", 1), ("C [old]", 2)]
)
def test_a_parameter_of_one_model(name: str, index: int) -> None:
    made = changed(ties(), f"density.{name}", 0.75)
    assert of_model(made, index)["density"] == 0.75
    others = [at for at in range(3) if at != index]
    assert [made["models"][at] for at in others] == [ties()["models"][at] for at in others]


@pytest.mark.parametrize(
    ("key", "index", "weight"),
    [
        ("weight.b.v1[0]", 1, [0.75, 0.5, 1.0]),
        ("weight.b.v1[2]", 1, [0.0, 0.5, 0.75]),
        ("weight.C [old][mlp]", 2, [FILTERS[0], {"filter": "mlp", "value": 0.75}]),
        (
            "weight.c[self_attn][1]",
            2,
            [{"filter": "self_attn", "value": [0, 0.75, 1]}, FILTERS[1]],
        ),
    ],
)
def test_elements_and_filters_of_one_model(key: str, index: int, weight: Any) -> None:
    assert of_model(changed(ties(), key, 0.75), index)["weight"] == weight


@pytest.mark.parametrize(
    ("setting", "key", "expected"),
    [
        ([0, 0.5, 1], "t[1]", [0, 0.75, 1]),
        ([{"filter": "mlp", "value": 1}, {"value": 0}], "t[*]", 0.75),
        ([{"filter": "mlp", "value": 1}, {"filter": "*", "value": 0}], "t[*]", 0.75),
        ({"filter": "mlp", "value": 1}, "t[mlp]", {"filter": "mlp", "value": 0.75}),
        ({"value": [0, 1]}, "t[*][1]", {"value": [0, 0.75]}),
    ],
)
def test_elements_and_filters_of_the_recipe(setting: Any, key: str, expected: Any) -> None:
    made = changed(slerp(setting), key, 0.75)["parameters"]["t"]
    assert (made if expected != 0.75 else made[1]["value"]) == expected


def test_an_element_of_every_models_gradient() -> None:
    raw = ties(density=[0.1, 0.2])
    for item in raw["models"]:
        item["parameters"] = {"weight": [1, 2], "density": [0.5, 0.5]}
    made = changed(raw, "density[1]", 0.75)
    assert made["parameters"]["density"] == [0.1, 0.75]
    assert [of_model(made, at)["density"] for at in range(3)] == [[0.5, 0.75]] * 3


def test_whole_numbers_stay_whole() -> None:
    raw = {"merge_method": "karcher", "models": [{"model": "a"}, {"model": "b"}]}
    found = find_parameter(raw, spec_of("karcher"), "max_iter", "r.yml")
    assert is_whole(found)
    value = found.set(raw, 20.0)["parameters"]["max_iter"]
    assert (value, type(value)) == (20, int)


@pytest.mark.parametrize(
    ("raw", "key", "shows", "fields"),
    [
        (ties(), "densty", "did you mean 'density'", {"got": "densty", "allowed": "density"}),
        (slerp(0.5), "lambda", "slerp has no parameter 'lambda'", {"allowed": "t"}),
        (ties(), "weight.runs/bv1", "did you mean 'runs/b.v1'", {"got": "runs/bv1"}),
        (ties(), "weight.", "not the name of a parameter", {"got": "weight."}),
        (ties(), "2t", "not the name of a parameter", {"got": "2t"}),
        (ties(), "weight.base", "names no model", {"got": "base"}),
        (ties(), "lambda.a", "holds for the whole recipe", {"got": "lambda.a"}),
        (ties(), "weight", "would erase it", {}),
        (ties(), "weight.b.v1", "would erase it", {"got": "[0.0, 0.5, 1.0]"}),
        (ties(weight=[0, 1]), "density[0]", "has brackets", {"got": "density[0]"}),
        (ties(), "lambda[0]", "has brackets", {"got": "lambda[0]"}),
        (slerp([0, 1]), "t[2]", "no element", {"got": "t[2]", "allowed": "0 to 1"}),
        (slerp([0, 1]), "t[-1]", "no element", {"got": "t[-1]"}),
        (slerp([0, 1]), "t[0][0]", "has brackets", {"got": "t[0][0]"}),
        (slerp(FILTERS), "t[mpl]", "did you mean 'mlp'", {"allowed": "self_attn"}),
        (slerp(FILTERS), "t[self_attn]", "would erase it", {}),
        (slerp(FILTERS), "t[self_attn][3]", "no element", {"allowed": "0 to 2"}),
        (slerp(FILTERS), "t", "such as t[FILTER]", {}),
    ],
)
def test_refused(raw: dict[str, Any], key: str, shows: str, fields: dict[str, Any]) -> None:
    with raises(RecipeError, shows, where="r.yml", **fields):
        find_parameter(raw, spec_of(raw["merge_method"]), key, "r.yml")


def test_what_slices_have_is_not_reached_and_not_passed_over() -> None:
    sources = [{"model": name, "layer_range": [0, 2]} for name in "ab"]
    raw = {"merge_method": "slerp", "base_model": "a", "slices": [{"sources": sources}]}
    raw["parameters"] = {"t": 0.5}
    assert changed(raw, "t", 0.75)["parameters"] == {"t": 0.75}
    raw["slices"][0]["parameters"] = {"t": 0.1}
    with raises(RecipeError, "slices", got="t"):
        find_parameter(raw, spec_of("slerp"), "t", "r.yml")


def test_the_last_part_of_two_models_names_neither() -> None:
    raw = ties()
    raw["models"][0]["model"] = "other/c"
    raw["models"][2]["parameters"].pop("group")
    with raises(RecipeError, got="c", allowed="other/c"):
        find_parameter(raw, spec_of("ties"), "density.c", "r.yml")


@pytest.mark.parametrize(
    "keys",
    [
        ("density", "density.a"),
        ("density.a", "density.runs/a"),
        ("weight.b.v1[0]", "weight.runs/b.v1[0]"),
    ],
)
def test_a_number_has_one_name(keys: tuple[str, str]) -> None:
    found = [find_parameter(ties(), spec_of("ties"), key, "r.yml") for key in keys]
    with raises(RecipeError, keys[0], got=keys[1]):
        require_distinct_places(found, "r.yml")
    apart = ("density.a", "density.c", "weight.a", "weight.b.v1[0]", "weight.b.v1[1]", "lambda")
    found = [find_parameter(ties(), spec_of("ties"), key, "r.yml") for key in apart]
    require_distinct_places(found, "r.yml")


@given(st.text(alphabet="weight.a[]12b-v *tmlp", max_size=14))
def test_any_text_is_a_name_or_a_recipe_error(key: str) -> None:
    raw = ties()
    try:
        found = find_parameter(raw, spec_of("ties"), key, "r.yml")
    except RecipeError:
        return
    made = found.set(raw, 0.125)
    assert made != raw
    assert name_of(key) == found.parameter.name


def test_the_names_that_the_documents_show() -> None:
    """Each stands for something else in the recipe above them; what is refused is refused."""
    text = (DOCS / "sweeps.md").read_text(encoding="utf-8").partition("<!-- names -->")[2]
    _, block, rest = text.split("```", 2)
    raw = yaml.safe_load(block.removeprefix("yaml"))
    recipe = Recipe.from_mapping(raw, "docs")
    rows = [line for line in rest.partition("\n\nRefused")[0].splitlines() if line[:3] == "| `"]
    found = [re.findall("`([^`]+)`", line.split("|")[1]) for line in rows]
    assert len(found) == 8
    spec, made = spec_of("della"), []
    for keys in found:
        same = [find_parameter(raw, spec, key, "docs").set(raw, 0.25) for key in keys]
        assert all(one == same[0] for one in same)
        made.append(same[0])
        assert recipe.with_settings({keys[0]: 0.25}).raw == same[0]
    assert len({json.dumps(one) for one in [raw, *made]}) == 9
    require_settings(recipe, {"density": (0.25,), "weight.code[1]": (0.25, 0.75)}, "docs")
    for grid in (
        *({key: (0.5,)} for key in ("weight", "weight.code", "lambda.chat", "normalize")),
        *({key: (0.5,)} for key in ("weight.code[3]", "weight.Women[attn]", "densty")),
        {"density": (0.5,), "density.chat": (0.5,)},
        {"density": (1.5,)},
    ):
        with raises(RecipeError):
            require_settings(recipe, grid, "docs")


def test_settings_of_recipes_take_the_whole_grammar() -> None:
    recipe = Recipe.from_mapping(slerp([0, 0.5, 1]), "r.yml")
    assert recipe.with_settings({"t[1]": 0.25}).raw["parameters"]["t"] == [0, 0.25, 1]
