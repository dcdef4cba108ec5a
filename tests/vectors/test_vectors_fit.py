"""Bases in coefficients: against dense arithmetic on real vectors, and their bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_fair.errors import ConfigError
from mergekit_fair.vectors.basis_fit import (
    Fit,
    Method,
    best_weights,
    error,
    fit,
    spectral_bound,
    task_errors,
)

D = 40
FAST = [method for method in Method if method != Method.AUTOENCODER]


def vectors(seed: int, tasks: int, shared: float = 1.0) -> np.ndarray:
    """V, (D, T): vectors of unlike lengths with something in common, as subgroups' have."""
    random = np.random.default_rng(seed)
    common = shared * random.normal(size=(D, 1))
    return (random.normal(size=(D, tasks)) + common) * random.uniform(0.3, 3, tasks)


def dense(v: np.ndarray, found: Fit) -> np.ndarray:
    """V̂ from whole vectors: what is kept, multiplied with what a task's coefficients are."""
    kept = v @ found.stored_mixing
    return kept @ np.stack([found.coefficients(row) for row in np.eye(v.shape[1])], axis=1)


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_error_from_the_gram_matrix_is_that_of_whole_vectors(method: Method, size: int) -> None:
    v = vectors(0, 5)
    gram = v.T @ v
    found = fit(gram, size, method)
    gap = v - dense(v, found)
    assert task_errors(gram, found) == pytest.approx((gap**2).sum(axis=0), rel=1e-9, abs=1e-9)
    assert error(gram, found) == pytest.approx((gap**2).sum(), rel=1e-9, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8), st.data(), st.sampled_from(FAST))
def test_no_basis_is_better_than_the_spectrum(
    seed: int, tasks: int, data: st.DataObject, method: Method
) -> None:
    v = vectors(seed, tasks)
    gram = v.T @ v
    found = fit(gram, data.draw(st.integers(1, tasks)), method, seed=seed)
    assert error(gram, found) >= spectral_bound(gram, found.stored) * (1 - 1e-9) - 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_the_autoencoder_mixes_convexly_and_lies_between_the_bound_and_the_controls(
    seed: int,
) -> None:
    v = vectors(seed, 8)
    gram = v.T @ v
    found = fit(gram, 4, Method.AUTOENCODER, seed=seed)
    assert (found.mixing > 0).all()
    assert found.mixing.sum(axis=0) == pytest.approx(np.ones(4))
    ours = error(gram, found)
    assert ours >= spectral_bound(gram, 4) * (1 - 1e-9)
    controls = [
        error(gram, fit(gram, 4, method, seed=other))
        for method in (Method.RANDOM, Method.SAMPLE)
        for other in range(10)
    ]
    assert ours < np.mean(controls)
    assert fit(gram, 4, seed=seed).mixing.tobytes() == found.mixing.tobytes()


@pytest.mark.parametrize("method", Method)
def test_as_many_as_there_are_tasks_reconstruct(method: Method) -> None:
    v = vectors(1, 6)
    found = fit(v.T @ v, 6, method)
    assert dense(v, found) == pytest.approx(v, rel=1e-6, abs=1e-6)
    assert found.stored == 6  # of centred vectors, five and the mean


def test_uncentred_pca_reaches_the_bound() -> None:
    v = vectors(2, 7)
    gram = v.T @ v
    for size in range(1, 8):
        found = fit(gram, size, Method.UNCENTRED)
        assert error(gram, found) == pytest.approx(spectral_bound(gram, size), rel=1e-9, abs=1e-7)


@pytest.mark.parametrize("method", [Method.PCA, Method.UNCENTRED])
def test_the_sign_of_an_axis_changes_nothing(method: Method) -> None:
    v = vectors(3, 6)
    found = fit(v.T @ v, 3, method)
    flips = np.array([-1, 1, -1])
    turned = replace(found, mixing=found.mixing * flips, weights=found.weights * flips[:, None])
    assert dense(v, turned) == pytest.approx(dense(v, found), abs=1e-12)


def test_arithmetic_in_coefficients_is_arithmetic_on_vectors() -> None:
    """Σ_t a_t v̂_t = S (W a) + μ Σ_t a_t; the sum of centred axes alone would drop the mean."""
    v = vectors(4, 6)
    amounts = np.array([0.5, -1, 0, 2, 0.1, 0.4])
    for method in Method:
        found = fit(v.T @ v, 3, method)
        kept = v @ found.stored_mixing
        assert kept @ found.coefficients(amounts) == pytest.approx(dense(v, found) @ amounts)
    centred = fit(v.T @ v, 3, Method.PCA)
    assert centred.coefficients(amounts)[-1] == pytest.approx(2.0)
    mean = v @ centred.stored_mixing[:, -1]
    assert mean == pytest.approx(v.mean(axis=1))


@pytest.mark.parametrize("method", Method)
def test_scale_and_equal_vectors_do_no_harm(method: Method) -> None:
    """K of bf16 fine-tunes is tiny; two groups may have the same vector."""
    v = vectors(5, 4)
    gram = v.T @ v
    one, other = fit(gram, 2, method), fit(gram * 1e-18, 2, method)
    # Adam ends a hair elsewhere when K is rounded otherwise.
    near = 1e-2 if method == Method.AUTOENCODER else 1e-6
    assert other.mixing == pytest.approx(one.mixing, rel=near, abs=1e-9)
    assert error(gram, other) == pytest.approx(error(gram, one), rel=near)
    same = v[:, [0, 0, 1, 1]]
    found = fit(same.T @ same, 3 if method != Method.PCA else 1, method, seed=1)
    assert np.isfinite(found.weights).all()
    assert np.isfinite(found.mixing).all()


def test_best_weights_are_the_best() -> None:
    v = vectors(6, 5)
    gram = v.T @ v
    found = fit(gram, 2, Method.RANDOM)
    assert found.weights == pytest.approx(best_weights(gram, found.mixing), rel=1e-6)
    random = np.random.default_rng(0)
    for _ in range(20):
        moved = replace(found, weights=found.weights + 0.01 * random.normal(size=(2, 5)))
        assert error(gram, moved) > error(gram, found)


@pytest.mark.parametrize(
    ("gram", "size", "text"),
    [
        (np.eye(1), 1, "of two task vectors at least; got 1"),
        (np.eye(3), 4, "no such number of basis vectors; got 4; allowed: 1 … 3"),
        (np.eye(3), 0, "got 0"),
        (np.zeros((3, 3)), 1, "are all zero"),
    ],
)
def test_what_no_basis_can_be_made_of(gram: np.ndarray, size: int, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        fit(gram, size)


def test_threads_change_no_bit() -> None:
    """Products of a few numbers: more than one thread only waited for the others."""
    vectors = np.random.default_rng(0).normal(size=(200, 16))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(fit(vectors.T @ vectors, 8).mixing)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*found)
