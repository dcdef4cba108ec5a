"""PAVE's arithmetic on small matrices, beside the formulas as they are published."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mergekit_fair.purify.low_rank import (
    RIDGE,
    directions,
    even_ranks,
    kept_energy,
    output_norm,
    purified,
    spectral_ranks,
)


@pytest.fixture(params=[(7, 5), (5, 7), (6, 6)], ids=str)
def layer(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """M, X and C = XᵀX/N of inputs that are far from white."""
    outputs, width = request.param
    generator = torch.Generator().manual_seed(outputs)
    rows = torch.randn(40, width, generator=generator, dtype=torch.float64)
    rows = rows * torch.logspace(0, -2, width, dtype=torch.float64) + 0.3
    matrix = torch.randn(outputs, width, generator=generator, dtype=torch.float64)
    return matrix, rows, rows.T @ rows / len(rows)


def truncated(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    u, sigma, v = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * sigma[:rank]) @ v[:rank]


def regular(covariance: torch.Tensor, ridge: float = RIDGE) -> torch.Tensor:
    size = covariance.diagonal().mean() * ridge
    return covariance + size * torch.eye(len(covariance), dtype=torch.float64)


@pytest.mark.parametrize("rank", [1, 3])
def test_it_is_the_truncation_of_mc_with_c_undone(
    layer: tuple[torch.Tensor, ...], rank: int
) -> None:
    matrix, _, covariance = layer
    u, sigma = directions(matrix, covariance)
    c = regular(covariance)
    expected = truncated(matrix @ c, rank) @ torch.linalg.inv(c)
    assert torch.allclose(purified(matrix, u, rank), expected, rtol=0, atol=1e-10)
    assert np.allclose(sigma, torch.linalg.svdvals(matrix @ c).numpy(), atol=1e-12)


@pytest.mark.parametrize("rank", [1, 3])
def test_no_matrix_of_that_rank_is_nearer_by_c(layer: tuple[torch.Tensor, ...], rank: int) -> None:
    """Among random ones and small changes of it; the energy that is left says how near it is."""
    matrix, _, covariance = layer
    u, sigma = directions(matrix, covariance)
    c, found = regular(covariance), purified(matrix, u, rank)
    error = float(((matrix - found) @ c).norm())
    assert torch.linalg.matrix_rank(found) == rank
    left = 1 - (kept_energy(sigma, rank) or 0.0)
    assert error**2 == pytest.approx(left * float(sigma @ sigma), rel=1e-9)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(50):
            noise = torch.randn(matrix.shape, generator=generator, dtype=torch.float64) * size
            other = truncated(found + noise, rank)
            assert ((matrix - other) @ c).norm() > error


def test_it_is_not_what_moves_outputs_least(layer: tuple[torch.Tensor, ...]) -> None:
    """As its documentation says: with C^½ in the place of C, the outputs on X move less."""
    matrix, rows, covariance = layer
    lost = matrix - purified(matrix, directions(matrix, covariance, 0.0)[0], 2)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T
    best = matrix - truncated(matrix @ root, 2) @ torch.linalg.inv(root)
    assert (rows @ best.T).norm() < (rows @ lost.T).norm()
    assert output_norm(lost, covariance) * len(rows) ** 0.5 == pytest.approx(
        float((rows @ lost.T).norm()), rel=1e-9
    )


def test_white_inputs_and_a_large_ridge_give_the_plain_truncation(
    layer: tuple[torch.Tensor, ...],
) -> None:
    matrix, _, covariance = layer
    for c, ridge in ((torch.eye(len(covariance), dtype=torch.float64), RIDGE), (covariance, 1e9)):
        u, _ = directions(matrix, c, ridge)
        assert torch.allclose(purified(matrix, u, 2), truncated(matrix, 2), rtol=0, atol=1e-7)


def test_full_rank_is_the_matrix_itself(layer: tuple[torch.Tensor, ...]) -> None:
    matrix, _, covariance = layer
    u, _ = directions(matrix, covariance)
    assert purified(matrix, u, min(matrix.shape)) is matrix


def test_units_of_the_inputs_do_not_matter(layer: tuple[torch.Tensor, ...]) -> None:
    matrix, _, covariance = layer
    one, other = (purified(matrix, directions(matrix, covariance * s)[0], 2) for s in (1, 1e6))
    assert torch.allclose(one, other, rtol=0, atol=1e-10)


def test_a_vector_of_zeros_has_no_energy() -> None:
    assert kept_energy(np.zeros(3), 1) is None


def lost(spectra: list[np.ndarray], ranks: list[int]) -> float:
    shares = [s**2 / (s @ s) for s in spectra]
    return float(sum(share[rank:].sum() for share, rank in zip(shares, ranks, strict=True)))


@pytest.mark.parametrize("seed", range(4))
def test_no_allocation_of_as_many_ranks_loses_less(seed: int) -> None:
    """Of all that prune no spectrum by more than 1.5 times the even share."""
    random = np.random.default_rng(seed)
    spectra = [np.sort(random.exponential(size=n) ** 2)[::-1] for n in (6, 4, 8)]
    even = even_ranks([len(s) for s in spectra], 0.5, None)
    found = spectral_ranks(spectra, even)
    allowed = [
        range(max(1, len(s) - round(1.5 * (len(s) - e))), len(s) + 1)
        for s, e in zip(spectra, even, strict=True)
    ]
    assert sum(found) == sum(even)
    assert all(rank in few for rank, few in zip(found, allowed, strict=True))
    others = [list(r) for r in itertools.product(*allowed) if sum(r) == sum(even)]
    assert lost(spectra, found) == pytest.approx(min(lost(spectra, each) for each in others))


def test_equal_spectra_share_evenly_and_zeros_go_first() -> None:
    same = np.array([3.0, 2.0, 1.0, 0.5])
    assert spectral_ranks([same, same, same], [2, 2, 2]) == [2, 2, 2]
    assert spectral_ranks([same, np.zeros(4)], [2, 2]) == [3, 1]
