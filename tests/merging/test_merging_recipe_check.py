"""Every mistake that mergekit passes over in silence is an error that names it."""

import copy
from pathlib import Path

import pytest
from checkpoints import GROUPS, Family

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.recipe_check import check_recipe

FAMILY = Family(
    Path("/run/base"), Path("/run/fft"), {name: Path(f"/run/{name}") for name in GROUPS}
)
TOP = (
    "modules, slices, models, merge_method, base_model, dtype, tokenizer_source, tokenizer, "
    "chat_template, out_dtype, parameters, fairness"
)
OF_ADDITION = (
    "group, weight, lambda, normalize, head, density, sparsify, rescale, seed, sign_election, "
    "(method subgroup_task_addition)"
)


ONE_OF = "Exactly one of 'models', 'slices', or 'modules' must be present."
NO_WORST = "parameters.worst must be a candidate's group, or auto with fairness.report"
NO_GROUP = "needs parameters.group, the subgroup it was fine-tuned on."


def addition(**changes):
    return changed(FAMILY.addition(lambda_=0.5), **changes)


def injection(**changes):
    return changed(FAMILY.injection(worst="Male", lambda_=0.2), **changes)


def changed(raw, *, model=None, parameters=None, drop=None, **top):
    """`model`: changes of the first model's parameters; None as a value removes a key."""
    raw = copy.deepcopy(raw) | top
    for key, value in (parameters or {}).items():
        raw["parameters"][key] = value
    for key, value in (model or {}).items():
        raw["models"][0]["parameters"][key] = value
    for key in drop or ():
        place = raw
        *path, last = key.split(".")
        for part in path:
            place = place[int(part) if part.isdigit() else part]
        del place[last]
    return raw


def problem(raw):
    with pytest.raises(RecipeError) as caught:
        check_recipe(raw, "r.yml")
    return str(caught.value)


def test_good_recipes_pass_and_are_left_alone():
    for raw in (
        addition(),
        addition(parameters={"lambda": [0, 0.5, 1]}),
        addition(parameters={"lambda": "1e-3"}),
        addition(model={"weight": {"filter": "attention", "value": [0, 1]}}),
        addition(model={"weight": [{"filter": "attention", "value": -1}, {"value": 0.5}]}),
        addition(parameters={"normalize": "mean", "head": "base"}),
        addition(fairness={"report": "runs/eval.json"}),
        addition(models=[{"model": "/run/base"}, *addition()["models"]]),
        injection(),
        injection(models=[{"model": "/run/base"}, *injection()["models"]]),
    ):
        before = copy.deepcopy(raw)
        check_recipe(raw, "r.yml")
        assert raw == before


@pytest.mark.parametrize(
    ("top", "key", "near"),
    [
        ({"dytpe": "float16"}, "dytpe", "dtype"),
        ({"base_modell": "a"}, "base_modell", "base_model"),
        ({"lamda": 0.3}, "lamda", "parameters.lambda"),
        ({"lambda": 0.3}, "lambda", "parameters.lambda"),
        ({"normalise": "mean"}, "normalise", "parameters.normalize"),
        ({"qqq": 1}, "qqq", None),
    ],
)
def test_unknown_top_level_key(top, key, near):
    near = f"; did you mean '{near}'?" if near else ""
    assert problem(addition(**top)) == f"r.yml: unknown key '{key}'{near}; allowed: {TOP}."


def test_unknown_method():
    text = problem(addition(merge_method="subgroup_task_adition"))
    assert text.startswith(
        "r.yml: unknown merge_method; did you mean 'subgroup_task_addition'?; "
        "got 'subgroup_task_adition'; allowed: arcee_fusion, "
    )
    assert "task_analogy, task_arithmetic, task_median, task_negation, ties" in text
    assert "did you mean 'ties'?; got ['ties'];" in problem(addition(merge_method=["ties"]))
    assert "r.yml: unknown merge_method; allowed" in problem(addition(drop=["merge_method"]))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (
            addition(parameters={"lamda": 0.3}),
            "r.yml: parameters: unknown key 'lamda'; did you mean 'lambda'?; allowed: "
            f"{OF_ADDITION}.",
        ),
        (
            addition(model={"wieght": 0.3}),
            "r.yml: models[0] (/run/Female): parameters: unknown key 'wieght'; did you mean "
            f"'weight'?; allowed: {OF_ADDITION}.",
        ),
        (
            addition(models=[{"model": "/run/a", "weight": 1, "parameters": {"group": "a"}}]),
            "r.yml: models[0]: unknown key 'weight'; did you mean 'parameters.weight'?; "
            "allowed: model, parameters.",
        ),
        (
            addition(model={"lambda": 0.3}),
            "r.yml: models[0] (/run/Female): parameters.lambda: holds for the whole recipe; "
            "mergekit would ignore it here. Move it to the recipe's own parameters.",
        ),
        (
            addition(parameters={"lambda": "half"}),
            "r.yml: parameters.lambda: Input should be a valid number, unable to parse string as "
            "a number; got 'half'.",
        ),
        (
            addition(parameters={"lambda": float("nan")}),
            "r.yml: parameters.lambda: Input should be a finite number; got nan.",
        ),
        (
            addition(model={"weight": float("inf")}),
            "r.yml: models[0] (/run/Female): parameters.weight: Input should be a finite number; "
            "got inf.",
        ),
        (
            addition(parameters={"lambda": [0, {"filter": "x", "value": 1}]}),
            "r.yml: parameters.lambda: is not a parameter setting; got [0, {'filter': 'x', "
            "'value': 1}]; allowed: a scalar, a list (layer gradient), or a list of {filter, "
            "value}.",
        ),
        (
            addition(parameters={"lambda": [0, float("nan")]}),
            "r.yml: parameters.lambda: Input should be a finite number; got nan.",
        ),
        (
            addition(parameters={"lambda": {"filter": "x", "value": "half"}}),
            "r.yml: parameters.lambda: Input should be a valid number, unable to parse string as "
            "a number; got 'half'.",
        ),
        (
            addition(parameters={"lambda": True}),
            "r.yml: parameters.lambda: must be a number; got True.",
        ),
        (addition(parameters={"lambda": None}), "r.yml: parameters.lambda: has no value."),
        (addition(parameters={"lambda": []}), "r.yml: parameters.lambda: has no value."),
        (
            addition(parameters={"lambda": [{"filter": "x", "value": []}, {"value": 1}]}),
            "r.yml: parameters.lambda: has no value.",
        ),
        (
            addition(parameters={"normalize": "norms"}),
            "r.yml: parameters.normalize: Input should be 'sum', 'mean' or 'norm'; got 'norms'.",
        ),
        (
            addition(parameters={"head": "none"}),
            "r.yml: parameters.head: Input should be 'merge', 'base' or 'first'; got 'none'.",
        ),
        (
            changed(addition(), parameters=None) | {"parameters": [1]},
            "r.yml: parameters: must be a mapping; got [1].",
        ),
        (
            addition(dtype="float33"),
            "r.yml: dtype: is not a dtype to merge in; got 'float33'; allowed: float32, "
            "bfloat16, float16, float64.",
        ),
        (
            addition(out_dtype="int64"),
            "r.yml: out_dtype: is not a dtype to merge in; got 'int64'; allowed: float32, "
            "bfloat16, float16, float64.",
        ),
    ],
)
def test_parameters(raw, text):
    assert problem(raw) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (
            addition(models=["/run/Female"]),
            "r.yml: models[0]: needs a mapping with `model`; got '/run/Female'.",
        ),
        (
            addition(models=[{"parameters": {"group": "a"}}]),
            "r.yml: models[0]: needs a mapping with `model`; got {'parameters': {'group': 'a'}}.",
        ),
        (
            addition(models="/run/Female"),
            "r.yml: models: must be a list of models; got '/run/Female'.",
        ),
        (addition(models=5), "r.yml: models: must be a list of models; got 5."),
        (addition(models=[]), f"r.yml: {ONE_OF}"),
        (addition(drop=["models"]), f"r.yml: {ONE_OF}"),
        (
            addition(models=[{"model": None, "parameters": {"group": "a"}}]),
            "r.yml: models.0.model: Input should be a valid dictionary or instance of "
            "ModelReference.",
        ),
        (
            addition(
                models=[*addition()["models"], {"model": "/run/Male", "parameters": {"group": "x"}}]
            ),
            "r.yml: model /run/Male: is listed twice.",
        ),
        (addition(drop=["base_model"]), "r.yml: needs base_model, the θ₀ of the task vectors."),
        (
            addition(models=[{"model": "/run/base"}]),
            "r.yml: needs at least one subgroup model beside base_model.",
        ),
        (
            addition(
                models=[*addition()["models"], {"model": "/run/base", "parameters": {"group": "x"}}]
            ),
            "r.yml: model /run/base: is base_model and cannot have a group.",
        ),
        (addition(drop=["models.0.parameters"]), f"r.yml: model /run/Female: {NO_GROUP}"),
        (
            addition(model={"group": 0}),
            "r.yml: models[0] (/run/Female): parameters.group: Input should be a valid "
            "string; got 0.",
        ),
        (
            addition(model={"group": ""}),
            "r.yml: models[0] (/run/Female): parameters.group: String should have at least 1 "
            "character; got ''.",
        ),
        (addition(model={"group": ["a", "b"]}), f"r.yml: model /run/Female: {NO_GROUP}"),
        (
            addition(model={"group": "Male"}),
            "r.yml: group 'Male' is given by two models; got ['/run/Female', '/run/Male']. "
            "Give every model a group of its own.",
        ),
        (
            addition(tokenizer_source="base", tokenizer={"source": "base"}),
            "r.yml: Cannot specify both tokenizer_source and tokenizer.",
        ),
    ],
)
def test_models_and_groups(raw, text):
    assert problem(raw) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (injection(drop=["base_model"]), "r.yml: needs base_model, the θ₀ of the task vectors."),
        (
            injection(drop=["models.0.parameters.role"]),
            "r.yml: model /run/fft: needs parameters.role; allowed: target, candidate.",
        ),
        (
            injection(model={"role": "sft"}),
            "r.yml: models[0] (/run/fft): parameters.role: Input should be 'target' or "
            "'candidate'; got 'sft'.",
        ),
        (
            injection(model={"role": ["target"]}),
            "r.yml: model /run/fft: needs parameters.role; got ['target']; allowed: target, "
            "candidate.",
        ),
        (
            injection(model={"role": "candidate", "group": "all"}),
            "r.yml: needs exactly one model with role: target; got 0.",
        ),
        (
            injection(
                models=[
                    *injection()["models"],
                    {"model": "/run/b", "parameters": {"role": "target"}},
                ]
            ),
            "r.yml: needs exactly one model with role: target; got 2.",
        ),
        (
            injection(models=injection()["models"][:1]),
            "r.yml: needs at least one model with role: candidate.",
        ),
        (
            injection(models=[{"model": "/run/base", "parameters": {"role": "target"}}]),
            "r.yml: model /run/base: is base_model and cannot have a role.",
        ),
        (injection(drop=["models.1.parameters.group"]), f"r.yml: model /run/Female: {NO_GROUP}"),
        (
            injection(parameters={"worst": "male"}),
            f"r.yml: {NO_WORST}; got 'male'; allowed: Female, Male, Other.",
        ),
        (
            injection(drop=["parameters.worst"]),
            f"r.yml: {NO_WORST}; allowed: Female, Male, Other.",
        ),
        (
            injection(parameters={"worst": ["Male", "Female"]}),
            f"r.yml: {NO_WORST}; got ['Male', 'Female']; allowed: Female, Male, Other.",
        ),
    ],
)
def test_roles(raw, text):
    assert problem(raw) == text


def test_candidates_of_one_group():
    raw = injection()
    raw["models"][1]["parameters"]["group"] = "Male"
    assert problem(raw).startswith(
        "r.yml: group 'Male' is given by two models; got ['/run/Female', "
    )


STOCK = {
    "task_arithmetic": """
        models:
          - {model: a, parameters: {weight: 0.5}}
          - {model: b, parameters: {weight: [0, 1]}}
        base_model: base
        parameters: {lambda: 0.8, normalize: false}
        dtype: bfloat16
    """,
    "ties": """
        models:
          - {model: base}
          - {model: a, parameters: {density: 0.5, weight: 0.5}}
          - model: b
            parameters: {density: [1, 0.7, 0.1], weight: [{filter: mlp, value: 0.5}, {value: 1}]}
        base_model: base
        parameters: {normalize: true, int8_mask: true}
        dtype: float16
    """,
    "dare_linear": """
        models:
          - {model: a, parameters: {weight: 0.6, density: 0.53}}
          - {model: b, parameters: {weight: 0.4, density: 0.53}}
        base_model: base
        tokenizer_source: union
        parameters: {rescale: true}
    """,
    "slerp": """
        slices:
          - sources:
              - {model: a, layer_range: [0, 2]}
              - {model: b, layer_range: [0, 2]}
        base_model: a
        parameters:
          t:
            - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
            - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
            - {value: 0.5}
        dtype: torch.bfloat16
    """,
    "linear": """
        models:
          - {model: a, parameters: {weight: 1.0}}
          - {model: b+adapter, parameters: {weight: 0.3}}
        parameters: {normalize: false}
        dtype: float16
        out_dtype: bfloat16
    """,
    "passthrough": """
        slices:
          - sources: [{model: a, layer_range: [0, 24]}]
          - sources:
              - model: a
                layer_range: [8, 32]
                parameters: {scale: [{filter: o_proj, value: 0.0}, {value: 1.0}]}
    """,
}


@pytest.mark.parametrize("method", STOCK)
def test_stock_recipes_pass_unchanged(method, tmp_path):
    text = f"merge_method: {method}\n" + "\n".join(
        line.removeprefix("        ") for line in STOCK[method].splitlines()
    )
    path = tmp_path / "stock.yml"
    path.write_text(text)
    recipe = Recipe.load(path)
    assert recipe.method == method
    assert recipe.source == text
    assert recipe.configuration().merge_method == method
