"""Negation and analogy are θ₀ − λτ and θ₀ + λ(τ_C + τ_B − τ_A)."""

import pytest
import torch
from mergekit.merge_methods import merge_state_dicts
from rounding import rounded, same_bits, ulps

import mergekit_fair


def drawn(names, dtype=torch.float32, shape=(60, 40)):
    generator = torch.Generator().manual_seed(0)
    base = 0.05 * torch.randn(shape, generator=generator)
    return base.to(dtype), {
        name: (base + 0.01 * torch.randn(shape, generator=generator)).to(dtype) for name in names
    }


def merged(method, base, members, name="w", **parameters):
    mergekit_fair.register()
    models = {"base": {name: base}, **{key: {name: value} for key, value in members.items()}}
    named = {"lambda" if key == "lambda_" else key: value for key, value in parameters.items()}
    return merge_state_dicts(models, method, base="base", parameters=named)[name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.3, 1.0, -0.5])
def test_negation(dtype, scale):
    base, members = drawn("t", dtype)
    found = merged("task_negation", base, members, lambda_=scale)
    exact = base.double() - scale * (members["t"].double() - base.double())
    expected = exact.float() if dtype == torch.float32 else rounded(exact, dtype)
    apart = ulps(found, expected)
    assert int(apart.max()) <= 1
    assert float((apart != 0).double().mean()) <= 0.0005
    assert same_bits(merged("task_negation", base, members, lambda_=0.0), base)


def test_negation_takes_one_model():
    base, members = drawn("ab")
    with pytest.raises(ValueError, match="exactly 1 non-base inputs"):
        merged("task_negation", base, members)


ROLES = {"x": "b", "y": "a", "z": "c"}


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_analogy(scale):
    base, members = drawn("xyz")
    found = merged("task_analogy", base, members, role=ROLES, lambda_=scale)
    tau = {ROLES[key]: tensor.double() - base.double() for key, tensor in members.items()}
    exact = base.double() + scale * (tau["c"] + tau["b"] - tau["a"])
    assert int(ulps(found, exact.float()).max()) <= 1
    assert same_bits(merged("task_analogy", base, members, role=ROLES, lambda_=0.0), base)


def test_an_analogy_of_equals_is_its_third_part():
    """A = B: what is left is θ_C."""
    base, members = drawn("xyz", torch.bfloat16)
    members["x"] = members["y"]
    found = merged("task_analogy", base, members, role=ROLES, lambda_=1.0)
    assert same_bits(found, members["z"])


def test_the_head_of_an_analogy():
    base, members = drawn("xyz")
    options = {"role": ROLES, "name": "score.weight"}
    assert same_bits(merged("task_analogy", base, members, head="base", **options), base)
    assert same_bits(merged("task_analogy", base, members, head="first", **options), members["z"])


def test_roles_of_an_analogy():
    base, members = drawn("xyz")
    with pytest.raises(ValueError, match="one model each needs role: a, b and c; got a, b, b"):
        merged("task_analogy", base, members, role={"x": "b", "y": "a", "z": "b"})
