"""Subgroup task addition is θ₀ + λ Σ w_g (θ_g − θ₀), rounded once, in any order of the models."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mergekit.merge_methods import merge_state_dicts
from pydantic import ValidationError
from rounding import rounded, same_bits, ulps

import mergekit_fair

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
UNIT = 2.0**-24  # of float32: half a unit in the last place of 1


def drawn(seed, shape=(64, 48), groups=("a", "b", "c"), dtype=torch.float32, spread=0.01):
    """A base and fine-tunes of it, as far apart as real ones."""
    generator = torch.Generator().manual_seed(seed)
    base = 0.05 * torch.randn(shape, generator=generator)
    members = {
        name: (base + spread * torch.randn(shape, generator=generator)).to(dtype) for name in groups
    }
    return base.to(dtype), members


def dense(base, members, scale, weights=None):
    """The definition, in float64."""
    start = base.double()
    vectors = [
        (1.0 if weights is None else weights[name]) * (tensor.double() - start)
        for name, tensor in members.items()
    ]
    return start + scale * sum(vectors)


def reach(base, members, scale, weights=None):
    """abs(λ) Σ abs(w_g Δ_g): what rounding errors of the sum are relative to."""
    start = base.double()
    vectors = [
        abs(1.0 if weights is None else weights[name]) * (tensor.double() - start).abs()
        for name, tensor in members.items()
    ]
    return abs(scale) * sum(vectors)


@pytest.mark.parametrize("scale", [-0.7, 0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("weights", [None, {"a": 0.3, "b": -1.5, "c": 2.0}])
@pytest.mark.parametrize("shape", [(64, 48), (7,), (), (0, 4)])
def test_equals_dense_float64_arithmetic(add, scale, weights, shape):
    base, members = drawn(0, shape)
    merged = add(base, members, weights, lambda_=scale)
    exact = dense(base, members, scale, weights)
    # One rounding of the result, and for each vector: subtract, weight, weigh, add, λ, scale.
    bound = UNIT * (exact.abs() + 9 * reach(base, members, scale, weights))
    assert merged.dtype == torch.float32
    assert merged.shape == torch.Size(shape)
    assert bool(((merged.double() - exact).abs() <= bound).all())


def test_float64_stays_float64(add):
    base, members = drawn(1, dtype=torch.float64)
    merged = add(base, members, lambda_=0.3)
    assert merged.dtype == torch.float64
    torch.testing.assert_close(merged, dense(base, members, 0.3), rtol=0, atol=1e-16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.1, 0.3, 0.7, 0.701])
def test_half_precision_is_rounded_once(add, dtype, scale):
    base, members = drawn(3, (400, 500), dtype=dtype)
    weights = {"a": 0.9, "b": -0.35, "c": 1.0}
    merged = add(base, members, weights, lambda_=scale)
    exact = dense(base, members, scale, weights)
    apart = ulps(merged, rounded(exact, dtype))
    assert merged.dtype == dtype
    assert int(apart.max()) <= 1
    assert float((apart != 0).double().mean()) <= 0.0005


def test_lambda_and_weights_are_not_rounded_to_the_dtype(add):
    """In bfloat16, 0.700 and 0.701 are one number."""
    base, members = drawn(2, (400,), dtype=torch.bfloat16, spread=1.0)
    assert not torch.equal(add(base, members, lambda_=0.700), add(base, members, lambda_=0.701))
    near = [add(base, members, dict.fromkeys("abc", weight)) for weight in (0.700, 0.701)]
    assert not torch.equal(*near)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.0, -0.0])
def test_lambda_zero_is_the_base_bit_for_bit(add, dtype, scale):
    base = torch.tensor([0.0, -0.0, 1.5, -3e-5, 6e-8, float("inf")], dtype=dtype)
    members = {"a": torch.full((6,), float("nan"), dtype=dtype), "b": base * 2 + 1}
    assert same_bits(add(base, members, lambda_=scale), base)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_of_weight_zero_is_left_out(add, dtype):
    base, members = drawn(3, (9, 5), dtype=dtype)
    broken = members | {"b": torch.full((9, 5), float("nan"), dtype=dtype)}
    without = {name: members[name] for name in "ac"}
    merged = add(base, broken, {"a": 1.0, "b": 0.0, "c": -0.5}, lambda_=0.4)
    assert same_bits(merged, add(base, without, {"a": 1.0, "c": -0.5}, lambda_=0.4))
    base[0, 0] = -0.0
    assert same_bits(add(base, broken, dict.fromkeys("abc", 0.0)), base)


def test_nan_of_a_model_in_use_is_not_hidden(add):
    base, members = drawn(4, (3,))
    members["b"][1] = float("nan")
    assert torch.isnan(add(base, members, lambda_=0.5)).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_group_at_one_is_its_model_within_rounding(add, dtype):
    base, members = drawn(5, groups=("a",), dtype=dtype)
    merged = add(base, members, lambda_=1.0)
    unit = 2.0**-53 if dtype == torch.float64 else UNIT
    apart = (merged.double() - members["a"].double()).abs()
    if dtype in (torch.float16, torch.bfloat16):
        assert same_bits(merged, members["a"])
    else:
        assert bool((apart <= 2 * unit * (base.abs() + 2 * members["a"].abs()).double()).all())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(1, 6), scale=st.floats(0.01, 2))
def test_sum_equals_mean_of_g_times_lambda(add, seed, count, scale):
    base, members = drawn(seed, (40,), groups=[f"g{index}" for index in range(count)])
    by_sum = add(base, members, lambda_=scale, normalize="sum")
    by_mean = add(base, members, lambda_=scale * count, normalize="mean")
    torch.testing.assert_close(by_sum, by_mean, rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_order_of_the_models_gives_the_same_bits(add, dtype):
    names = ("women", "men", "Zoe", "other")
    base, members = drawn(6, (33, 7), groups=names, dtype=dtype)
    weights = dict(zip(names, (1.0, -0.7, 0.31, 2.0), strict=True))
    expected = add(base, members, weights, lambda_=0.37)
    for order in itertools.permutations(names):
        shuffled = {name: members[name] for name in order}
        assert same_bits(add(base, shuffled, weights, lambda_=0.37), expected)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(
        st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=4), min_size=2, max_size=5
    ),
    scale=st.floats(-2, 2),
    data=st.data(),
)
def test_order_never_matters(add, values, scale, data):
    base, *models = (torch.tensor(row) for row in values)
    members = {f"g{index}": tensor for index, tensor in enumerate(models)}
    order = data.draw(st.permutations(list(members)))
    shuffled = {name: members[name] for name in order}
    assert same_bits(add(base, members, lambda_=scale), add(base, shuffled, lambda_=scale))


def test_a_slice_of_the_tensor_gives_a_slice_of_the_result(add):
    """Each element is computed alone: streaming in blocks may not change a bit."""
    base, members = drawn(7, (1000,))
    part = {name: tensor[13:577] for name, tensor in members.items()}
    whole = add(base, members, lambda_=0.3)
    assert same_bits(add(base[13:577], part, lambda_=0.3), whole[13:577])


def test_equals_task_arithmetic_of_mergekit(add):
    base, members = drawn(8)
    weights = {"a": 1.0, "b": -0.5, "c": 0.25}
    stock = merge_state_dicts(
        {"base": {"w": base}, **{name: {"w": tensor} for name, tensor in members.items()}},
        "task_arithmetic",
        base="base",
        parameters={"weight": weights, "lambda": 0.6},
    )["w"]
    ours = add(base, members, weights, lambda_=0.6)
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-6)


def test_inputs_are_borrowed(add):
    base, members = drawn(9)
    before = base.clone(), {name: tensor.clone() for name, tensor in members.items()}
    add(base, members, {"a": 0.5, "b": 2.0, "c": 1.0}, lambda_=0.5)
    assert same_bits(base, before[0])
    assert all(same_bits(members[name], before[1][name]) for name in members)


@pytest.mark.parametrize(
    ("name", "is_head"),
    [
        ("classifier.weight", True),
        ("classifier.out_proj.bias", True),
        ("pre_classifier.weight", True),
        ("score.weight", True),
        ("bert.pooler.dense.weight", False),
        ("model.layers.0.classifier.weight", False),
        ("classifiers.weight", False),
    ],
)
def test_head_policies(add, name, is_head):
    base, members = drawn(10, (6,))
    merged = add(base, members, name=name, lambda_=0.5)
    kept = add(base, members, name=name, lambda_=0.5, head="base")
    first = add(base, members, name=name, lambda_=0.5, head="first")
    assert same_bits(add(base, members, name=name, lambda_=0.5, head="merge"), merged)
    assert same_bits(kept, base if is_head else merged)
    assert same_bits(first, members["a"] if is_head else merged)


def test_integer_buffers_are_copied():
    mergekit_fair.register()
    base, members = drawn(11, (4,))
    models = {
        name: {"w": tensor, "position_ids": torch.arange(5)}
        for name, tensor in {"base": base, **members}.items()
    }
    parameters = {"group": {name: name for name in members}, "lambda": 0.5}
    merged = merge_state_dicts(models, "subgroup_task_addition", base="base", parameters=parameters)
    assert merged["position_ids"].dtype == torch.int64
    assert merged["position_ids"].tolist() == [0, 1, 2, 3, 4]


def failing(parameters, error, base="base"):
    mergekit_fair.register()
    models = {name: {"w": torch.zeros(2)} for name in ("base", "a", "b")}
    with pytest.raises(error) as caught:
        merge_state_dicts(models, "subgroup_task_addition", base=base, parameters=parameters)
    return str(caught.value)


def test_errors_name_the_cause():
    groups = {"a": "men", "b": "women"}
    assert failing({"group": {"a": "men", "b": "men"}}, ValueError) == (
        "group 'men' is given by two models; every group needs one"
    )
    assert failing({"group": {"a": "men"}}, ValueError) == "Missing group for input(s): ['b']"
    assert "Missing required parameter group" in failing({}, TypeError)
    assert "requires a base input" in failing({"group": groups}, ValueError, base=None)
    for value in (float("nan"), float("inf")):
        for key in ("lambda", "weight"):
            assert "finite number" in failing({"group": groups, key: value}, ValidationError)
    assert "'sum', 'mean' or 'norm'" in failing(
        {"group": groups, "normalize": "total"}, ValidationError
    )
    assert "'merge', 'base' or 'first'" in failing({"group": groups, "head": 1}, ValidationError)
    assert "Unknown parameter(s)" in failing({"group": groups, "lamda": 1}, TypeError)
