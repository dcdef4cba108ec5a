"""Sparse vectors and sign election are TIES and DARE, and do not depend on order or luck."""

import itertools

import pytest
import torch
from mergekit.merge_methods import merge_state_dicts
from rounding import same_bits


def drawn(seed=0, shape=(40, 25), groups=("a", "b", "c")):
    generator = torch.Generator().manual_seed(seed)
    base = 0.05 * torch.randn(shape, generator=generator)
    return base, {name: base + 0.01 * torch.randn(shape, generator=generator) for name in groups}


def stock(base, members, method, **parameters):
    models = {"base": {"w": base}, **{name: {"w": tensor} for name, tensor in members.items()}}
    return merge_state_dicts(models, method, base="base", parameters=parameters)["w"]


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 0.5, 2.5), (1.0, -0.5, 0.0)])
def test_ties_is_mergekits_ties(add, density, normalize, weights):
    base, members = drawn()
    weights = dict(zip(members, weights, strict=True))
    ours = add(
        base,
        members,
        weights,
        lambda_=0.7,
        density=density,
        sign_election="sum",
        normalize="mean" if normalize else "sum",
    )
    theirs = stock(
        base,
        members,
        "ties",
        density=density,
        weight=weights,
        normalize=normalize,
        **{"lambda": 0.7},
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-7)


def test_count_elects_the_sign_of_most(add):
    base = torch.zeros(3)
    members = {
        "a": torch.tensor([1.0, 1.0, 0.0]),
        "b": torch.tensor([1.0, -1.0, 0.0]),
        "c": torch.tensor([-5.0, -1.0, 2.0]),
    }
    assert add(base, members, sign_election="count").tolist() == [2.0, -2.0, 2.0]
    assert add(base, members, sign_election="sum").tolist() == [-5.0, -2.0, 2.0]
    mean = add(base, members, sign_election="count", normalize="mean")
    assert mean.tolist() == [1.0, -1.0, 2.0]


def test_random_masks_keep_the_density_and_the_norm(add):
    base, members = drawn(1, (200, 200), groups=("a",))
    options = {"sparsify": "random", "density": 0.3}
    vector = add(base, members, **options) - base
    full = members["a"] - base
    kept = vector != 0
    assert abs(kept.float().mean().item() - 0.3) < 0.01
    scale = full.abs().sum() / full[kept].abs().sum()
    torch.testing.assert_close(vector[kept], full[kept] * scale, rtol=1e-4, atol=1e-7)
    bare = add(base, members, rescale="none", **options) - base
    torch.testing.assert_close(bare[kept], full[kept], rtol=0, atol=1e-7)
    # The magnitude mask is not rescaled unless asked for.
    large = add(base, members, density=0.3) - base
    scaled = add(base, members, density=0.3, rescale="l1") - base
    assert scaled.abs().sum().item() == pytest.approx(full.abs().sum().item(), rel=1e-3)
    assert large.abs().sum() < full.abs().sum()


def test_random_masks_depend_on_seed_group_and_tensor_only(add):
    base, members = drawn(2)
    options = {"sparsify": "random", "density": 0.5, "lambda_": 0.4}
    expected = add(base, members, **options)
    torch.manual_seed(123)
    for order in itertools.permutations(members):
        shuffled = {name: members[name] for name in order}
        assert same_bits(add(base, shuffled, **options), expected)
    assert not torch.equal(add(base, members, seed=1, **options), expected)
    assert not torch.equal(add(base, members, name="v", **options), expected)
    before = torch.get_rng_state()
    add(base, members, **options)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_density_of_one_group_leaves_the_others_whole(add):
    base, members = drawn(3)
    mixed = add(base, members, lambda_=0.5, density={"a": 0.1, "b": 1.0, "c": 1.0})
    only = add(base, {"a": members["a"]}, lambda_=0.5, density=0.1) - base
    rest = add(base, {name: members[name] for name in "bc"}, lambda_=0.5) - base
    torch.testing.assert_close(mixed, base + only + rest, rtol=0, atol=1e-7)


def test_a_density_of_zero_is_a_vector_of_zeros(add):
    base, members = drawn(4)
    assert same_bits(add(base, members, density=0.0, lambda_=3.0), base)
