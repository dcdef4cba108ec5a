"""Worst-group injection is θ_target + λ (θ_worst − θ₀); other candidates do not enter."""

import itertools

import pytest
import torch
from mergekit.merge_methods import merge_state_dicts
from rounding import rounded, same_bits, ulps

import mergekit_fair

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def drawn(seed, shape=(40, 30), dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def near(start):
        return start + 0.01 * torch.randn(shape, generator=generator)

    base = 0.05 * torch.randn(shape, generator=generator)
    target = near(base)
    candidates = {name: near(base).to(dtype) for name in ("a", "b", "c")}
    return base.to(dtype), target.to(dtype), candidates


@pytest.mark.parametrize("scale", [-0.5, 0.2, 1.0])
def test_equals_dense_float64_arithmetic(inject, scale):
    base, target, candidates = drawn(0)
    merged = inject(base, target, candidates, worst="b", lambda_=scale)
    vector = candidates["b"].double() - base.double()
    exact = target.double() + scale * vector
    bound = 2.0**-24 * (exact.abs() + 4 * abs(scale) * vector.abs())
    assert bool(((merged.double() - exact).abs() <= bound).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(inject, dtype):
    base, target, candidates = drawn(1, (400, 500), dtype)
    merged = inject(base, target, candidates, worst="b", lambda_=0.37)
    exact = target.double() + 0.37 * (candidates["b"].double() - base.double())
    apart = ulps(merged, rounded(exact, dtype))
    assert int(apart.max()) <= 1
    assert float((apart != 0).double().mean()) <= 0.0005


@pytest.mark.parametrize("dtype", DTYPES)
def test_lambda_zero_is_the_target_bit_for_bit(inject, dtype):
    base, _, _ = drawn(2, (5,), dtype)
    target = torch.tensor([0.0, -0.0, 1.5, 6e-8, float("inf")], dtype=dtype)
    broken = dict.fromkeys("abc", torch.full((5,), float("nan"), dtype=dtype))
    assert same_bits(inject(base, target, broken, worst="a", lambda_=0.0), target)


def test_only_the_worst_group_enters(inject):
    base, target, candidates = drawn(3)
    broken = candidates | {"a": torch.full_like(base, float("nan"))}
    expected = inject(base, target, candidates, worst="c", lambda_=0.6)
    assert same_bits(inject(base, target, broken, worst="c", lambda_=0.6), expected)
    only = {"c": candidates["c"]}
    assert same_bits(inject(base, target, only, worst="c", lambda_=0.6), expected)


def test_every_order_of_the_candidates_gives_the_same_bits(inject):
    base, target, candidates = drawn(4)
    expected = inject(base, target, candidates, worst="b", lambda_=0.6)
    for order in itertools.permutations(candidates):
        shuffled = {name: candidates[name] for name in order}
        assert same_bits(inject(base, target, shuffled, worst="b", lambda_=0.6), expected)


def test_equals_task_arithmetic_of_mergekit(inject):
    base, target, candidates = drawn(5)
    stock = merge_state_dicts(
        {"base": {"w": base}, "target": {"w": target}, "worst": {"w": candidates["a"]}},
        "task_arithmetic",
        base="base",
        parameters={"weight": {"target": 1.0, "worst": 0.4}},
    )["w"]
    ours = inject(base, target, candidates, worst="a", lambda_=0.4)
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-6)


def test_head_policies(inject):
    base, target, candidates = drawn(6, (6,))
    options = {"worst": "a", "lambda_": 0.5, "name": "classifier.weight"}
    assert same_bits(inject(base, target, candidates, head="base", **options), base)
    assert same_bits(inject(base, target, candidates, head="first", **options), target)
    merged = inject(base, target, candidates, head="merge", **options)
    assert same_bits(merged, inject(base, target, candidates, **options))
    assert not torch.equal(merged, target)
    options["name"] = "bert.pooler.dense.weight"
    assert same_bits(inject(base, target, candidates, head="base", **options), merged)


def failing(roles, groups, worst, error=ValueError):
    mergekit_fair.register()
    models = {name: {"w": torch.zeros(2)} for name in ("base", *roles)}
    parameters = {"role": roles, "group": groups, "worst": worst, "lambda": 0.0}
    with pytest.raises(error) as caught:
        merge_state_dicts(models, "worst_group_injection", base="base", parameters=parameters)
    return str(caught.value)


def test_errors_name_the_cause():
    roles = {"t": "target", "a": "candidate", "b": "candidate"}
    groups = {"t": "", "a": "men", "b": "women"}
    assert failing(roles, groups, "Women") == (
        "worst: 'Women' is not a candidate's group; allowed: men, women"
    )
    assert failing(roles | {"a": "target"}, groups, "women") == (
        "exactly one model needs role: target; got 2"
    )
    assert failing(roles | {"t": "candidate"}, groups, "women") == (
        "exactly one model needs role: target; got 0"
    )
    assert failing(roles, groups | {"b": "men"}, "men") == (
        "group 'men' is given by two models; every group needs one"
    )
    assert failing(roles, {"a": "men", "t": ""}, "men") == "Missing group for input(s): ['b']"
    assert "'target' or 'candidate'" in failing(roles | {"a": "worst"}, groups, "men")
    assert "at least 1 character" in failing(roles, groups, "")
    assert "at least 2 non-base inputs" in failing({"t": "target"}, {"t": ""}, "men")
