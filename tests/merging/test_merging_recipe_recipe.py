"""Recipes keep their text, their order and their original when a grid sets a parameter."""

import copy
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from checkpoints import GROUPS, Family
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_fair.errors import ConfigError, RecipeError
from mergekit_fair.merging.methods.worst_group_injection import injection_recipe
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.recipe_coefficients import recipe_coefficients
from mergekit_fair.merging.references import local_path
from mergekit_fair.resources import recipes_folder
from mergekit_fair.schema import dump_yaml, parse_yaml
from mergekit_fair.training.family import family_recipe

FAMILY = Family(
    Path("/run/base"), Path("/run/fft"), {name: Path(f"/run/{name}") for name in GROUPS}
)


def addition(**parameters):
    return Recipe.from_mapping(FAMILY.addition(**parameters), "r.yml")


def test_load_keeps_the_text(tmp_path):
    path = tmp_path / "r.yml"
    text = "# λ of the paper\n" + dump_yaml(FAMILY.addition(lambda_=0.5))
    path.write_text(text, encoding="utf-8")
    recipe = Recipe.load(path)
    assert recipe.source == text
    assert recipe.where == str(path)
    assert recipe.method == "subgroup_task_addition"
    assert recipe.groups() == {name: f"/run/{name}" for name in GROUPS}
    assert Recipe.from_text(text, "inline").source == text


def test_files_that_are_no_recipe(tmp_path):
    path = tmp_path / "r.yml"
    with pytest.raises(ConfigError, match=r"r\.yml: cannot be read \(No such file or directory\)"):
        Recipe.load(path)
    path.write_text("- a\n")
    with pytest.raises(ConfigError, match="the top level must be a mapping; got 'list'"):
        Recipe.load(path)
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        Recipe.load(path)
    path.write_text("lamda: 1\nmerge_method: cclip\n")
    with pytest.raises(RecipeError, match=r"r\.yml: unknown key 'lamda'"):
        Recipe.load(path)


def test_with_settings_changes_a_copy():
    recipe = addition(lambda_=0.5, normalize="mean")
    before = copy.deepcopy(recipe.raw)
    made = recipe.with_settings({"lambda": 0.2, "weight.Male": -0.5})
    assert recipe.raw == before
    assert recipe.source == dump_yaml(before)
    assert made.raw["parameters"] == {"lambda": 0.2, "normalize": "mean"}
    assert [item["parameters"] for item in made.raw["models"]] == [
        {"group": "Female"},
        {"group": "Male", "weight": -0.5},
        {"group": "Other"},
    ]
    assert parse_yaml(made.source, "made") == made.raw
    assert list(made.raw) == list(recipe.raw)


def test_with_settings_needs_no_parameters_block():
    raw = FAMILY.addition()
    del raw["parameters"]
    made = Recipe.from_mapping(raw, "r.yml").with_settings({"lambda": 0.0})
    assert made.raw["parameters"] == {"lambda": 0.0}
    assert "parameters" not in raw


def test_with_settings_of_an_injection():
    recipe = Recipe.from_mapping(FAMILY.injection(worst="Male", lambda_=0.2), "r.yml")
    made = recipe.with_settings({"worst": "Other", "lambda": 0.4})
    assert made.raw["parameters"] == {"worst": "Other", "lambda": 0.4}
    with pytest.raises(RecipeError, match=r"worst must be a candidate's group, or .*; got 'all'"):
        recipe.with_settings({"worst": "all"})


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"weight.Femal": 1.0},
            "r.yml: names no model of the recipe that has a weight; did you mean 'Female'?; "
            "got 'Femal'; allowed: Female, Male, Other.",
        ),
        (
            {"lambda.Female": 1.0},
            "r.yml: holds for the whole recipe and has no value of one model; got 'lambda.Female'. "
            "Write lambda.",
        ),
        (
            {"lamda": 1.0},
            "r.yml: subgroup_task_addition has no parameter 'lamda'; did you mean 'lambda'?; ",
        ),
        ({"lambda": math.nan}, "r.yml: parameters.lambda: Input should be a finite number"),
    ],
)
def test_settings_that_a_recipe_does_not_have(settings, text):
    with pytest.raises(RecipeError) as caught:
        addition(lambda_=0.5).with_settings(settings)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("setting", "inside"),
    [
        ([0, 1], "[0]"),
        ({"filter": "x", "value": 1}, "[FILTER]"),
        ([{"value": 1}], "[FILTER]"),
    ],
)
def test_a_gradient_or_filter_is_not_erased(setting, inside):
    with pytest.raises(RecipeError) as caught:
        addition(lambda_=setting).with_settings({"lambda": 0.5})
    assert str(caught.value) == (
        f"r.yml: lambda is a gradient or filter; a number in its place would erase it; got "
        f"{setting!r}. Name what is to change of it, such as lambda{inside}, or give a number in "
        "the recipe."
    )
    raw = FAMILY.addition(lambda_=0.5)
    raw["models"][0]["parameters"]["weight"] = setting
    recipe = Recipe.from_mapping(raw, "r.yml")
    with pytest.raises(RecipeError, match=r"^r\.yml: weight\.Female is a gradient or filter; "):
        recipe.with_settings({"weight.Female": 0.5})
    assert (
        recipe.with_settings({"lambda": 0.1, "weight.Male": 0.5}).raw["models"][0]
        == raw["models"][0]
    )


def lambda_eff(raw):
    return recipe_coefficients(Recipe.from_mapping(raw, "r.yml")).lambda_eff


def test_lambda_eff():
    raw = FAMILY.addition(lambda_=0.3)
    assert lambda_eff(raw) == pytest.approx(0.9)
    assert lambda_eff(FAMILY.addition()) == 3.0
    raw["models"][0]["parameters"]["weight"] = -0.5
    assert lambda_eff(raw) == pytest.approx(0.45)
    raw["parameters"]["weight"] = 2.0
    assert lambda_eff(raw) == pytest.approx(0.3 * 3.5)
    raw["parameters"]["normalize"] = "mean"
    assert lambda_eff(raw) == pytest.approx(0.3 * 3.5 / 3)
    raw["models"].insert(0, {"model": "/run/base"})
    assert lambda_eff(raw) == pytest.approx(0.3 * 3.5 / 3)
    assert lambda_eff(FAMILY.injection(worst="Male", lambda_=0.2)) == 0.2


def test_lambda_eff_is_unknown_rather_than_a_number():
    assert lambda_eff(FAMILY.addition(lambda_=[0, 1])) is None
    assert lambda_eff(FAMILY.addition(lambda_={"filter": "x", "value": 1})) is None
    assert lambda_eff(FAMILY.addition(weight=[{"value": 1}])) is None
    stock = {"base_model": "b", "models": [{"model": "a", "parameters": {"weight": 1}}]}
    for method in ("linear", "ties", "della"):
        assert lambda_eff({"merge_method": method, **stock}) is None


def test_models_stay_in_recipe_order_with_the_base_first():
    names = [str(model) for model in addition().configuration().referenced_models()]
    assert names == ["/run/base", "/run/Female", "/run/Male", "/run/Other"]
    raw = FAMILY.addition()
    raw["models"] = [{"model": "/run/base"}, *reversed(raw["models"])]
    names = Recipe.from_mapping(raw, "r.yml").configuration().referenced_models()
    assert [str(model) for model in names] == [
        "/run/base",
        "/run/Other",
        "/run/Male",
        "/run/Female",
    ]
    slices = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": model, "layer_range": [0, 2]}]} for model in ("z", "a", "z", "m")
        ],
    }
    names = Recipe.from_mapping(slices, "r.yml").configuration().referenced_models()
    assert [str(model) for model in names] == ["z", "a", "m"]
    sources = slices.pop("slices")
    modules = slices | {
        "modules": {"text": {"slices": sources}, "image": {"models": [{"model": "b"}]}}
    }
    names = Recipe.from_mapping(modules, "r.yml").configuration().referenced_models()
    assert [str(model) for model in names] == ["z", "a", "m", "b"]


def test_local_relative_paths_begin_with_a_dot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run/base", "run/Female", "adapter"):
        (tmp_path / name).mkdir(parents=True)
    assert local_path("run/base") == "./run/base"
    assert local_path("./run/base") == "./run/base"
    assert local_path("run/base+adapter") == "./run/base+./adapter"
    assert local_path("org/model+adapter") == "org/model+./adapter"
    assert local_path("/run/base") == "/run/base"
    raw = {
        "merge_method": "subgroup_task_addition",
        "base_model": "run/base",
        "models": [{"model": "run/Female", "parameters": {"group": "run/base"}}],
    }
    recipe = Recipe.from_mapping(raw, "r.yml")
    names = [str(model) for model in recipe.configuration().referenced_models()]
    assert names == ["./run/base", "./run/Female"]
    assert recipe.groups() == {"run/base": "run/Female"}
    assert raw["base_model"] == "run/base"
    slices = [{"sources": [{"model": "run/base", "layer_range": [0, 1]}]}]
    recipe = Recipe.from_mapping({"merge_method": "passthrough", "slices": slices}, "r.yml")
    assert str(recipe.configuration().referenced_models()[0]) == "./run/base"


def test_a_recipe_without_models():
    raw = {"merge_method": "linear", "modules": {"text": {"slices": [{"sources": []}]}}}
    with pytest.raises(RecipeError, match=r"^r\.yml: names no model\.$"):
        Recipe.from_mapping(raw, "r.yml").configuration()


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")))
)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text("abcλ_.", min_size=1),
        st.recursive(
            SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text("abλ"), inner)
        ),
    )
)
def test_dumped_yaml_reads_back_the_same(value):
    text = dump_yaml(value)
    assert yaml.safe_load(text) == value
    assert list(parse_yaml(text, "x")) == list(value)


@pytest.mark.parametrize(
    ("scale", "weights", "expected"),
    [
        (0, (1, 1), True),
        (0.5, (0, 0.0), True),
        (0.5, (1, -1), False),  # the weights sum to 0, the merge is not the base
        (0.5, (0, 1), False),
        ([0, 1], (1, 1), False),
        (0.5, ([0, 1], 0), False),
    ],
)
def test_what_is_the_base_itself(scale, weights, expected):
    raw = family_recipe(["Female", "Male"])
    raw["parameters"]["lambda"] = scale
    for item, weight in zip(raw["models"], weights, strict=True):
        item["parameters"]["weight"] = weight
    assert recipe_coefficients(Recipe.from_mapping(raw, "r.yml")).is_identity is expected


def test_dumped_yaml_is_plain():
    shared = {"weight": 1.0}
    text = dump_yaml({"z": shared, "a": shared, "λ": "naïve", "small": 1e-05})
    assert text == "z: {weight: 1.0}\na: {weight: 1.0}\nλ: naïve\nsmall: 1.0e-05\n"


def test_templates_are_good_recipes():
    raw = family_recipe(["Female", "Male"])
    recipe = Recipe.from_text(dump_yaml(raw), "r.yml")
    # "groups/Female" alone would be a Hub id to stock mergekit.
    assert recipe.groups() == {"Female": "./groups/Female", "Male": "./groups/Male"}
    assert recipe.raw["base_model"] == "./base"
    assert lambda_eff(recipe.raw) == pytest.approx(0.4)
    groups = {"Female": "f", "Male": "m"}
    raw = injection_recipe("b", "t", groups, "Male", "float32")
    recipe = Recipe.from_text(dump_yaml(raw), "r.yml")
    assert recipe.groups() == groups
    assert recipe.raw["models"][0] == {"model": "t", "parameters": {"role": "target"}}
    assert recipe.raw["parameters"] == {"lambda": 0.2, "worst": "Male"}
    assert recipe.raw["dtype"] == "float32"
    assert "dtype" not in injection_recipe("b", "t", groups, "Male", None)
    with pytest.raises(RecipeError, match="worst must be a candidate's group"):
        Recipe.from_mapping(injection_recipe("b", "t", groups, "all", None), "r.yml")


def test_packaged_recipes():
    recipes = sorted(recipes_folder("adult_sex").parent.glob("*/addition.yml"))
    assert len(recipes) >= 3
    for path in recipes:
        assert Recipe.load(path).groups()
    with pytest.raises(ConfigError, match=r"no recipes of this name; got 'adult'; allowed: adult_"):
        recipes_folder("adult")


UNPICKLED = """
import pickle, sys
from mergekit_fair.merging.plan import MergePlan
from mergekit.options import MergeOptions
recipe = pickle.loads(sys.stdin.buffer.read())
recipe.raw_with({"lambda": 0.5})
with MergePlan.open(recipe, MergeOptions(quiet=True)) as plan:
    print(len(plan.tensors))
"""


def test_a_worker_that_gets_a_recipe_knows_its_method(tiny):
    """Nothing has registered the methods of this package there."""
    recipe = Recipe.from_mapping(tiny("bert").addition(lambda_=0.5), "r.yml")
    result = subprocess.run(
        [sys.executable, "-c", UNPICKLED],
        input=pickle.dumps(recipe),
        capture_output=True,
        check=False,
    )
    assert (result.returncode, result.stdout.strip()) == (0, b"41"), result.stderr.decode()
