"""λ_g of a recipe, read off it without its models."""

from __future__ import annotations

from mergekit_fair.merging.methods.formula import Coefficients, coefficients_of
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.methods.registry import is_own, own_method, spec_of
from mergekit_fair.merging.methods.task_vector_method import TensorInputs
from mergekit_fair.merging.methods.whole_vectors import WholeVectors
from mergekit_fair.merging.parameters import constant_parameters, models_of
from mergekit_fair.merging.recipe import Recipe

_NO_SUM = 1e-8  # of weights, below which mergekit does not divide by it


def recipe_coefficients(recipe: Recipe) -> Coefficients:
    """λ_g of a resolved recipe, without its models.

    Returns:
        `lambdas` is None where layers or tensors differ in them, where the method reads whole
        vectors, and for methods of other packages.
    """
    config = recipe.configuration()
    if not is_own(recipe.method):
        return _stock_coefficients(recipe)
    base, *others = models_of(config)
    method = own_method(recipe.method)
    parameters = constant_parameters(recipe, method.spec)
    if parameters is None:
        return Coefficients(base, None, is_identity=False)
    measured = method.measures(parameters)
    pairs = measured.pairs(len(others))
    whole = WholeVectors.of(others, pairs, (float(one == other) for one, other in pairs))
    formula = method.vectors(TensorInputs("", base, tuple(others), whole), parameters)
    if measured:
        return Coefficients(str(formula.start), None, is_identity=not formula.moves)
    return coefficients_of([formula], (base, *others))


def _stock_coefficients(recipe: Recipe) -> Coefficients:
    """Of mergekit's methods that add task vectors with weights; of these `task_arithmetic` alone is
    a sum with one λ_g each."""
    config, spec = recipe.configuration(), spec_of(recipe.method)
    base, *others = models_of(config) if config.base_model else config.referenced_models()
    names = {parameter.name for parameter in spec.parameters}
    if not {"lambda", "weight"} <= names:
        return Coefficients(str(base), None, is_identity=False)
    parameters = constant_parameters(recipe, spec)
    if parameters is None:
        is_identity = parameters_of(recipe.raw).get("lambda") == 0
        return Coefficients(str(base), None, is_identity)
    weights = {str(model): float(parameters["weight"][model]) for model in others}
    scale = float(parameters["lambda"])
    if not scale or not any(weights.values()):
        return Coefficients(str(base), dict.fromkeys(weights, 0.0), is_identity=True)
    if recipe.method != "task_arithmetic":
        return Coefficients(str(base), None, is_identity=False)
    total = sum(weights.values()) if parameters["normalize"] else 1.0
    share = scale / total if abs(total) >= _NO_SUM else scale
    return Coefficients(str(base), {m: share * w for m, w in weights.items()}, is_identity=False)
