"""The one-shot federated rules equal their definitions in float64, and each other at their ends."""

import itertools
import math
import statistics

import pytest
import torch
from mergekit.merge_methods import merge_state_dicts
from rounding import rounded, same_bits, ulps

import mergekit_fair

NAMES = ("a", "b", "c", "d")


def drawn(seed=0, shape=(60, 50), dtype=torch.float32, groups=NAMES):
    generator = torch.Generator().manual_seed(seed)
    base = 0.05 * torch.randn(shape, generator=generator)
    spread = {name: 0.01 * (1 + index) for index, name in enumerate(groups)}
    return base.to(dtype), {
        name: (base + spread[name] * torch.randn(shape, generator=generator)).to(dtype)
        for name in groups
    }


def merged(method, base, members, **parameters):
    """One tensor, or a state dictionary where `base` is one."""
    mergekit_fair.register()
    is_state = isinstance(base, dict)
    models = {"base": base, **members} if is_state else {"base": {"w": base}}
    if not is_state:
        models |= {name: {"w": tensor} for name, tensor in members.items()}
    parameters["group"] = {name: name for name in members}
    named = {"lambda" if key == "lambda_" else key: value for key, value in parameters.items()}
    result = merge_state_dicts(models, method, base="base", parameters=named)
    return result if is_state else result["w"]


def vectors(base, members):
    return {name: tensor.double() - base.double() for name, tensor in members.items()}


def close(found, exact):
    """Float32 results are the float64 ones, rounded."""
    assert int(ulps(found, exact.float()).max()) <= 1


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.6, 1.0])
def test_fedgma(rho):
    base, members = drawn()
    stack = torch.stack(list(vectors(base, members).values()))
    agreement = stack.sign().sum(0).abs() / len(members)
    mask = torch.where(agreement >= rho, 1.0, agreement)
    close(merged("fedgma", base, members, rho=rho, lambda_=0.3), base + 0.3 * mask * stack.sum(0))


def test_fedgma_without_a_threshold_is_task_addition(add):
    base, members = drawn(1)
    assert same_bits(
        merged("fedgma", base, members, rho=0.0, lambda_=0.3),
        add(base, members, lambda_=0.3),
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_task_median(count):
    base, members = drawn(2, groups=NAMES[:count])
    stack = torch.stack(list(vectors(base, members).values())).numpy()
    import numpy as np

    exact = base.double() + 0.8 * torch.from_numpy(np.median(stack, axis=0))
    close(merged("task_median", base, members, lambda_=0.8), exact)


def norms(base, members):
    return {name: vector.norm().item() for name, vector in vectors(base, members).items()}


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_cclip(share, add):
    base, members = drawn(3)
    found = norms(base, members)
    radius = share * max(found.values())
    exact = base.double() + 0.4 * sum(
        vector * min(1.0, radius / found[name]) for name, vector in vectors(base, members).items()
    )
    result = merged("cclip", base, members, rho=radius, lambda_=0.4)
    close(result, exact)
    if share == 1.0:
        wide = merged("cclip", base, members, rho=radius * 1.0001, lambda_=0.4)
        assert same_bits(wide, add(base, members, lambda_=0.4))
    assert same_bits(merged("cclip", base, members, rho=0.0, lambda_=0.4), base)


def test_fednova(add):
    base, members = drawn(4)
    steps = {"a": 100, "b": 50, "c": 200, "d": 10}
    mean = statistics.fmean(steps.values())
    exact = base.double() + 0.9 * sum(
        vector * mean / (steps[name] * 4) for name, vector in vectors(base, members).items()
    )
    close(merged("fednova", base, members, steps=steps, lambda_=0.9), exact)
    equal = merged("fednova", base, members, steps=dict.fromkeys(members, 70), lambda_=0.9)
    mean_of_all = add(base, members, lambda_=0.9, normalize="mean")
    assert int(ulps(equal, mean_of_all).max()) <= 1


def test_norms_are_taken_over_the_whole_state_dictionary():
    """`normalize: norm` and CClip scale a vector by one number, not tensor by tensor."""
    base, members = drawn(5)
    other, others = drawn(6, (7, 9))
    state = {"w": base, "v": other, "steps": torch.arange(3)}
    states = {
        name: {"w": members[name], "v": others[name], "steps": torch.arange(3)} for name in NAMES
    }
    whole = {
        name: math.hypot(norms(base, members)[name], norms(other, others)[name]) for name in NAMES
    }
    median = statistics.median(whole.values())
    found = merged("subgroup_task_addition", state, states, normalize="norm", lambda_=0.5)
    for key, start, models in (("w", base, members), ("v", other, others)):
        exact = start.double() + 0.5 * sum(
            vector * median / whole[name] for name, vector in vectors(start, models).items()
        )
        close(found[key], exact)
    assert found["steps"].tolist() == [0, 1, 2]


def test_a_head_that_is_not_merged_does_not_count_for_the_norm():
    base, members = drawn(7)
    head, heads = drawn(8, (2, 50))
    state = {"w": base, "classifier.weight": head}
    states = {name: {"w": members[name], "classifier.weight": heads[name]} for name in NAMES}
    radius = max(norms(base, members).values()) / 2
    kept = merged("cclip", state, states, rho=radius, head="base")
    assert same_bits(kept["classifier.weight"], head)
    assert same_bits(kept["w"], merged("cclip", base, members, rho=radius))
    both = merged("cclip", state, states, rho=radius)
    assert not torch.equal(both["w"], kept["w"])


OPTIONS = {"fedgma": {"rho": 0.6}, "task_median": {}, "cclip": {"rho": 0.5}}
OPTIONS["fednova"] = {"steps": {"a": 3, "b": 5, "c": 7, "d": 11}}


@pytest.mark.parametrize("method", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_order_changes_no_bit_and_lambda_zero_is_the_base(method, dtype):
    base, members = drawn(9, (8, 9), dtype)
    weights = {"a": 1.0, "b": -0.5, "c": 0.0, "d": 2.0}
    options = OPTIONS[method] | {"weight": weights, "lambda_": 0.3}
    expected = merged(method, base, members, **options)
    assert not torch.equal(expected, base)
    for order in itertools.permutations(members):
        shuffled = {name: members[name] for name in order}
        assert same_bits(merged(method, base, shuffled, **options), expected)
    assert same_bits(merged(method, base, members, **(options | {"lambda_": 0.0})), base)


@pytest.mark.parametrize("method", OPTIONS)
def test_bfloat16_is_rounded_once(method):
    base, members = drawn(10, (200, 300), torch.bfloat16)
    found = merged(method, base, members, lambda_=0.37, **OPTIONS[method])
    wide = {name: tensor.double() for name, tensor in members.items()}
    exact = merged(method, base.double(), wide, lambda_=0.37, **OPTIONS[method])
    apart = ulps(found, rounded(exact, torch.bfloat16))
    assert int(apart.max()) <= 1
    assert float((apart != 0).double().mean()) <= 0.0005
