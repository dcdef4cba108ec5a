"""λ_g, λ_eff and Σ|λ_g| follow from the formula that is computed: they cannot disagree with it."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from checkpoints import GROUPS, read
from hypothesis import given
from hypothesis import strategies as st

from mergekit_fair.merging.in_memory import Composer
from mergekit_fair.merging.methods.arithmetic import merge_tensor
from mergekit_fair.merging.methods.formula import (
    Election,
    Formula,
    Reduction,
    Term,
    coefficients_of,
)
from mergekit_fair.merging.methods.registry import own_method
from mergekit_fair.merging.methods.task_vector_method import TensorInputs
from mergekit_fair.merging.methods.whole_vectors import WholeVectors
from mergekit_fair.merging.parameters import constant_parameters
from mergekit_fair.merging.plan import MergePlan
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.recipe_coefficients import recipe_coefficients

STEPS = {"Female": 10, "Male": 25, "Other": 3}
# Method → its parameters, parameters of each group; whether the merge is Σ λ_g Δ_g.
METHODS = {
    "sum": ("subgroup_task_addition", {}, {}, True),
    "mean": ("subgroup_task_addition", {"normalize": "mean"}, {}, True),
    "norm": ("subgroup_task_addition", {"normalize": "norm"}, {}, True),
    "fednova": ("fednova", {}, {"steps": STEPS}, True),
    "cclip": ("cclip", {"rho": 1.0}, {}, True),
    "no mask": ("fedgma", {"rho": 0.0}, {}, True),
    "mask": ("fedgma", {"rho": 0.7}, {}, False),
    "median": ("task_median", {}, {}, False),
    "ties": ("subgroup_task_addition", {"sign_election": "sum"}, {}, False),
    "sparse": ("subgroup_task_addition", {"density": 0.5}, {}, False),
}


def recipe(family, case, groups=GROUPS, scale=0.4):
    method, shared, own, _ = METHODS[case]
    models = [
        {
            "model": str(family.groups[name]),
            "parameters": {"group": name, "weight": 1.0 + index / 2}
            | {key: values[name] for key, values in own.items()},
        }
        for index, name in enumerate(groups)
    ]
    raw = {"merge_method": method, "base_model": str(family.base), "models": models}
    return Recipe.from_mapping(
        raw | {"parameters": {**shared, "lambda": scale}, "dtype": "float64"}, "r.yml"
    )


def coefficients(made, options):
    with MergePlan.open(made, options) as plan:
        return plan.coefficients()


@pytest.mark.parametrize("case", METHODS)
def test_the_merge_is_the_sum_that_the_coefficients_say(tiny, options, case):
    family, made = tiny("bert"), recipe(tiny("bert"), case)
    found = coefficients(made, options)
    if not METHODS[case][3]:
        assert found.lambdas is found.lambda_eff is found.lambda_l1 is None
        return
    assert found.lambdas.keys() == {str(path) for path in family.groups.values()}
    assert found.lambda_eff == math.fsum(found.lambdas.values())
    base = read(family.base)
    models = {model: read(family.base.parent / model) for model in found.lambdas}
    for name, tensor in Composer().compose(made):
        start = base[name].double()
        moved = [v * (models[m][name].double() - start) for m, v in found.lambdas.items()]
        torch.testing.assert_close(tensor, start + sum(moved), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("case", "expected"), [("fednova", 0.4), ("cclip", None), ("median", 0.4)])
def test_two_groups_at_the_same_weight(tiny, options, case, expected):
    """Of two vectors the median is the mean, as is FedNova's sum at equal steps."""
    made = recipe(tiny("bert"), case, groups=("Female", "Male"))
    raw = made.raw
    for item in raw["models"]:
        item["parameters"]["weight"] = 1.0
        item["parameters"] |= {"steps": 10} if case == "fednova" else {}
    found = coefficients(Recipe.from_mapping(raw, "r.yml"), options)
    assert 0 < found.lambda_eff < 0.8
    if expected is not None:
        assert found.lambda_eff == pytest.approx(expected)


def test_negation_moves_against_the_vector(tiny, options):
    raw = {"merge_method": "task_negation", "base_model": str(tiny("bert").base)}
    raw |= {"models": [{"model": str(tiny("bert").fft)}], "parameters": {"lambda": 0.5}}
    found = coefficients(Recipe.from_mapping(raw, "r.yml"), options)
    assert (found.lambda_eff, found.lambda_l1) == (-0.5, 0.5)


STOCK = {
    "sum": ("task_arithmetic", {"lambda": 0.5}, [0.5, -1.0], {"x": 0.25, "y": -0.5}),
    "mean": (
        "task_arithmetic",
        {"lambda": 0.5, "normalize": True},
        [1.0, 3.0],
        {"x": 0.125, "y": 0.375},
    ),
    "no sum": ("task_arithmetic", {"normalize": True}, [1.0, -1.0], {"x": 1.0, "y": -1.0}),
    "gradient": ("task_arithmetic", {"lambda": [0, 1]}, [1.0, 1.0], None),
    "ties": ("ties", {}, [1.0, 1.0], None),
    "λ = 0": ("ties", {"lambda": 0}, [1.0, 1.0], {"x": 0.0, "y": 0.0}),
    "nothing": ("della", {}, [0.0, 0.0], {"x": 0.0, "y": 0.0}),
    "slerp": ("slerp", {"t": 0}, [None], None),
    "linear": ("linear", {"lambda": 0}, [1.0, 0.0], None),
}


@pytest.mark.parametrize("case", STOCK)
def test_of_mergekits_methods(case):
    """A λ that a method does not have is no λ of it; what is no sum has no λ_g."""
    method, parameters, weights, expected = STOCK[case]
    models = [
        {"model": name, "parameters": {} if weight is None else {"weight": weight}}
        for name, weight in zip("xy", weights, strict=False)
    ]
    raw = {"merge_method": method, "base_model": "b", "models": models, "parameters": parameters}
    found = recipe_coefficients(Recipe.from_mapping(raw, "r.yml"))
    assert found.lambdas == expected
    assert found.is_identity == (expected is not None and not any(expected.values()))


def test_mergekits_sum_is_the_sum_that_the_coefficients_say(tiny):
    family = tiny("bert")
    models = [
        {"model": str(path), "parameters": {"weight": 0.5 + index}}
        for index, path in enumerate(family.groups.values())
    ]
    raw = {"merge_method": "task_arithmetic", "base_model": str(family.base), "models": models}
    raw |= {"parameters": {"lambda": 0.3, "normalize": True}, "dtype": "float64"}
    made, base = Recipe.from_mapping(raw, "r.yml"), read(family.base)
    lambdas = recipe_coefficients(made).lambdas
    tensors = {model: read(Path(model)) for model in lambdas}
    for name, tensor in Composer().compose(made):
        start = base[name].double()
        moved = [v * (tensors[m][name].double() - start) for m, v in lambdas.items()]
        torch.testing.assert_close(tensor, start + sum(moved), rtol=0, atol=1e-9)


def test_without_models_norms_are_unknown():
    raw = {"merge_method": "cclip", "base_model": "b", "parameters": {"rho": 1.0, "lambda": 0.5}}
    raw["models"] = [{"model": name, "parameters": {"group": name}} for name in "xy"]
    made = Recipe.from_mapping(raw, "r.yml")
    assert recipe_coefficients(made).lambda_eff is None
    method, whole = own_method("cclip"), WholeVectors({("x", "x"): 0.25, ("y", "y"): 4.0})
    parameters = constant_parameters(made, method.spec)
    formula = method.vectors(TensorInputs("", "b", ("x", "y"), whole), parameters)
    assert coefficients_of([formula], "bxy").lambdas == {"x": 0.5, "y": 0.25}
    assert recipe_coefficients(made.with_settings({"lambda": 0.0})).is_identity


REDUCTIONS = st.sampled_from(list(Reduction))


@given(
    st.lists(st.floats(-3, 3).filter(bool), min_size=1, max_size=4),
    st.floats(-2, 2),
    REDUCTIONS,
    st.sampled_from(list(Election)),
    st.sampled_from([0.0, 0.6]),
)
def test_a_formula_with_coefficients_computes_their_sum(weights, scale, reduction, election, rho):
    names = [f"m{index}" for index in range(len(weights))]
    terms = tuple(
        Term(weight, name, label=name) for weight, name in zip(weights, names, strict=True)
    )
    election = election if reduction == Reduction.SUM else Election.NONE
    formula = Formula(
        "base", "base", terms, scale, reduction=reduction, threshold=rho, election=election
    )
    generator = torch.Generator().manual_seed(3)
    tensors = {
        name: torch.randn(50, generator=generator, dtype=torch.float64) for name in ["base", *names]
    }
    found = formula.coefficients
    if found is None:
        assert len(terms) > 1
        return
    moved = tensors["base"].clone()
    for name, value in found.items():
        moved += value * (tensors[name] - tensors["base"])
    torch.testing.assert_close(merge_tensor(formula, tensors), moved, rtol=0, atol=1e-12)


def test_tensors_that_differ_have_no_common_coefficients():
    one, two = (Formula("b", "b", (Term(1.0, "x"),), scale=scale) for scale in (1.0, 2.0))
    assert coefficients_of([one, one], ("b", "x", "y")).lambdas == {"x": 1.0, "y": 0.0}
    for formulas in itertools.permutations([one, two]):
        found = coefficients_of(formulas, ("b", "x"))
        assert (found.lambdas, found.is_identity) == (None, False)
    assert coefficients_of([one.scaled(0.0)], ("b", "x")).is_identity
