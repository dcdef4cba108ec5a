"""AWD: the redundant vector where it is known, against a dense search, and what it must not see."""

import itertools
from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest
import torch
from checkpoints import read, rewrite
from mergekit.merge_methods import merge_state_dicts
from refusals import raises
from rounding import same_bits
from scipy.optimize import minimize

import mergekit_fair
from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.dry_run import check_merge
from mergekit_fair.merging.grid import lambda_points
from mergekit_fair.merging.methods import measured_products
from mergekit_fair.merging.methods.redundant_vector import redundant_vector
from mergekit_fair.merging.plan import MergePlan
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_grid, merge_to_folder
from mergekit_fair.progress import Silent


def shares(v, alpha):
    """d of vectors that are the columns of (D, T)."""
    gram = v.T @ v
    return np.array(redundant_vector(tuple(map(tuple, gram.tolist())), alpha))


def drawn(count=3, size=12, shared=1.0, seed=0):
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.5, 2, count)
    return rng.normal(size=(size, count)) * spread + shared * rng.normal(size=(size, 1))


def dense_objective(delta, v, alpha):
    """As the docstring says it, over all D numbers."""
    rest = torch.from_numpy(v) - delta[:, None]
    unit = rest / rest.norm(dim=0)
    pairs = list(itertools.combinations(range(v.shape[1]), 2))
    cosines = torch.stack([unit[:, g] @ unit[:, h] for g, h in pairs])
    return (cosines**2).mean() + alpha * delta.norm() / np.linalg.norm(v, axis=0).mean()


def with_gradient(delta, v, alpha):
    point = torch.from_numpy(delta.copy()).requires_grad_()
    value = dense_objective(point, v, alpha)
    value.backward()
    return value.item(), point.grad.numpy()


@pytest.mark.parametrize(
    ("count", "alpha", "seed"), [(2, 0.1, 0), (3, 0.01, 1), (3, 0.3, 2), (5, 0.1, 3)]
)
def test_it_is_the_optimum_over_all_weights(count, alpha, seed):
    """A dense search that begins in the span of the vectors ends where the Gram matrix says."""
    v = drawn(count, seed=seed)
    delta = v @ shares(v, alpha)
    found = dense_objective(torch.from_numpy(delta), v, alpha).item()
    rng = np.random.default_rng(7)
    ends = []
    for start in [v.mean(axis=1), *(v @ rng.uniform(0, 1, count) / count for _ in range(20))]:
        ended = minimize(with_gradient, start, (v, alpha), jac=True, options={"gtol": 1e-10})
        ends.append((ended.fun, ended.x))
    lowest, best = min(ends, key=lambda end: end[0])
    assert found == pytest.approx(lowest, abs=1e-9)
    np.testing.assert_allclose(delta, best, atol=1e-4)
    assert found < dense_objective(torch.zeros(len(v)).double(), v, alpha).item()
    slope = with_gradient(v @ rng.normal(size=count), v, alpha)[1]  # in the span at every point
    np.testing.assert_allclose(v @ np.linalg.lstsq(v, slope, rcond=None)[0], slope, atol=1e-12)


@pytest.mark.parametrize("cosine", [0.05, 0.5, 0.9, 0.999])
def test_two_vectors(cosine):
    """They see each other at a right angle from the circle over the line between them: Thales."""
    v = np.array([[1.0, cosine], [0.0, np.sqrt(1 - cosine**2)]])
    mean, radius = v.mean(axis=1), np.linalg.norm(v[:, 0] - v[:, 1]) / 2
    shortest = mean * (1 - radius / np.linalg.norm(mean))
    np.testing.assert_allclose(v @ shares(v, 1e-9), shortest, atol=1e-5)


def test_two_equal_vectors():
    v = np.array([[3.0, 3.0], [4.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(v @ shares(v, 0.9), v[:, 0], atol=1e-7)
    np.testing.assert_array_equal(shares(v, 1.1), 0)  # shorter, and dearer to take out


@pytest.mark.parametrize("alpha", [1e-6, 0.1, 10.0])
def test_orthogonal_vectors_share_nothing(alpha):
    np.testing.assert_array_equal(shares(np.diag([1.0, 2.0, 3.0]), alpha), 0)


@pytest.mark.parametrize("lengths", [(1.0, 1.0, 1.0, 1.0), (0.5, 1.0, 2.0, 3.0)])
@pytest.mark.parametrize("shared", [0.5, 2.0])
def test_a_shared_vector_is_found(lengths, shared):
    """Orthogonal vectors and one more in each: what is left of them is orthogonal again."""
    v = np.vstack([np.diag(lengths), np.full(4, shared)])
    rest = v - (v @ shares(v, 1e-7))[:, None]
    unit = rest / np.linalg.norm(rest, axis=0)
    np.testing.assert_allclose(unit.T @ unit, np.eye(4), atol=1e-4)
    before = v / np.linalg.norm(v, axis=0)
    assert (before.T @ before - np.eye(4)).max() > 0.1
    # The shortest such δ: κ (Σ_g e_g / l_g + σ h n), h = Σ_g 1 / l_g².
    inverse = 1 / np.array(lengths)
    h = (inverse**2).sum()
    kappa = (1 - 1 / np.sqrt(1 + shared**2 * h)) / h
    shortest = kappa * np.append(inverse, shared * h)
    np.testing.assert_allclose(v @ shares(v, 1e-7), shortest, atol=1e-3)


def test_alpha_shortens_it_and_has_no_unit():
    v = drawn(4)
    lengths = [np.linalg.norm(v @ shares(v, alpha)) for alpha in (0.001, 0.01, 0.1, 0.3, 1, 10)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 0 == lengths[-1]
    np.testing.assert_array_equal(shares(v * 2.0**-40, 0.1), shares(v, 0.1))
    np.testing.assert_allclose(shares(v * 1e-7, 0.1), shares(v, 0.1), rtol=1e-5)


def test_vectors_that_depend_on_each_other():
    """K has no full rank: δ is right, of all d the shortest; zero vectors take no part."""
    v = drawn(3)
    twice = np.column_stack([v, v[:, 0], np.zeros(len(v))])
    d = shares(twice, 0.1)
    assert d[0] == pytest.approx(d[3], abs=1e-7)
    assert d[4] == 0
    assert not shares(np.column_stack([v[:, 0], np.zeros(len(v))]), 0.1).any()
    assert redundant_vector(((4.0,),), 0.1) == (0.0,)
    assert redundant_vector((), 0.1) == ()
    with raises(ValueError, "not finite"):
        redundant_vector(((1.0, np.nan), (np.nan, 1.0)), 0.1)


def states(v):
    """One tensor of four numbers on a base, and each column of (D, T) added to it."""
    base = torch.linspace(-1, 1, len(v), dtype=torch.float64).float()
    named = zip("abcdefgh", torch.from_numpy(v).T, strict=False)
    return base, {name: (base + vector).float() for name, vector in named}


def merged(method, base, members, **parameters):
    mergekit_fair.register()
    models = {name: {"w": tensor} for name, tensor in {"base": base, **members}.items()}
    parameters = {"lambda": 0.7, "group": {name: name for name in members}} | parameters
    return merge_state_dicts(models, method, base="base", parameters=parameters)["w"]


def test_the_merge_is_its_formula():
    base, members = states(drawn(3))
    weights = {"a": 1.0, "b": -0.5, "c": 2.0}
    v = np.column_stack([(tensor.double() - base.double()).numpy() for tensor in members.values()])
    left = v - (v @ shares(v, 0.05))[:, None]
    exact = base.double().numpy() + 0.7 * left @ np.array([*weights.values()])
    found = merged("awd", base, members, alpha=0.05, weight=weights)
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-6, atol=1e-6)


def test_the_order_of_groups_changes_no_bit():
    base, members = states(drawn(4))
    first = merged("awd", base, members)
    for order in itertools.permutations(members):
        assert same_bits(merged("awd", base, {name: members[name] for name in order}), first)


def test_where_it_is_task_addition():
    """α without end, one group, groups that are the base."""
    base, members = states(drawn(3))
    alone, idle = {"a": members["a"]}, {"a": members["a"], "z": base.clone()}
    for group, parameters in ((members, {"alpha": 1e9}), (alone, {}), (idle, {})):
        sum_ = merged("subgroup_task_addition", base, group)
        assert same_bits(merged("awd", base, group, **parameters), sum_)
    assert same_bits(merged("awd", base, {"y": base.clone(), "z": base.clone()}), base)
    assert not same_bits(merged("awd", base, members), merged("awd", base, members, alpha=1e9))


def test_a_member_that_is_not_finite():
    base, members = states(drawn(2))
    members["b"][1] = torch.inf
    with raises(ValueError, "not finite"):
        merged("awd", base, members)


def awd(family, **parameters):
    models = [
        {"model": str(path), "parameters": {"group": name}} for name, path in family.groups.items()
    ]
    raw = {"merge_method": "awd", "base_model": str(family.base), "models": models}
    return Recipe.from_mapping(
        raw | {"parameters": {"lambda": 0.5} | parameters, "dtype": "float32"}, "r.yml"
    )


@pytest.fixture
def passes(monkeypatch, tmp_path):
    """How many models each pass over the weights reads; the cache is empty."""
    monkeypatch.setenv("MERGEKIT_FAIR_CACHE", str(tmp_path / "cache"))
    passes, measure = [], measured_products.task_vector_products

    def counted(base, models, *others):
        passes.append(len(models))
        return measure(base, models, *others)

    monkeypatch.setattr(measured_products, "task_vector_products", counted)
    return passes


def test_one_pass_for_all_points_and_runs(tiny, passes, tmp_path, options):
    made = awd(tiny("bert"))
    report = check_merge(made, options, MergeSettings(), Silent())
    with MergePlan.open(made, options) as plan:
        assert report["norms"] == plan.norms
        for alpha in (0.001, 0.1, 1e9):
            lambdas = plan.at({"alpha": alpha}).coefficients.lambdas
            gram = plan.whole.gram(list(plan.norms))
            expected = 0.5 * (1 - 3 * np.array(redundant_vector(gram, alpha)))
            np.testing.assert_allclose([*lambdas.values()], expected, rtol=1e-12)
        assert [*lambdas.values()] == [0.5, 0.5, 0.5]
    merge_grid(lambda_points(made, (0.0, 0.5)), tmp_path / "grid", options)
    assert passes == [3]
    # The norms that another method asks for are on the diagonal of what is known.
    raw = {**made.raw, "merge_method": "cclip", "parameters": {"lambda": 0.5, "rho": 1.0}}
    check_merge(Recipe.from_mapping(raw, "r.yml"), options, MergeSettings(), Silent())
    assert passes == [3]


def test_a_head_that_is_copied_is_no_part_of_it(tiny, tmp_path, options):
    """Heads that are much longer change no other tensor."""
    family = tiny("bert")
    family = replace(
        family, groups={n: copytree(p, tmp_path / n) for n, p in family.groups.items()}
    )
    merge_to_folder(awd(family, head="base"), tmp_path / "first", options)
    for path in family.groups.values():
        rewrite(path, lambda tensors: tensors["classifier.weight"].mul_(30.0))
    merge_to_folder(awd(family, head="base"), tmp_path / "second", options)
    merge_to_folder(awd(family), tmp_path / "whole", options)
    before, after, whole = (read(tmp_path / name) for name in ("first", "second", "whole"))
    assert all(same_bits(before[name], after[name]) for name in before)
    assert not same_bits(whole["classifier.bias"], before["classifier.bias"])
    rewrite(family.groups["Male"], lambda tensors: tensors["classifier.bias"].fill_(torch.nan))
    with raises(CheckpointError, "not finite", where=str(family.groups["Male"])):
        merge_to_folder(awd(family), tmp_path / "nan", options)
