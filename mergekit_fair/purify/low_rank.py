"""What a matrix keeps at rank r where its inputs decide what counts, and which layer gets which r.

Source: PAVE, arXiv 2510.14697.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]

# ε as a share of the mean of C's diagonal. The authors' code takes a number that does not know the
# inputs' scale (0.01, or 0.1) and doubles it until C can be inverted; here nothing is inverted.
RIDGE = 0.01
# No spectrum loses more than this many times what an even share would take from it, as published.
MOST_PRUNED = 1.5


def directions(
    matrix: torch.Tensor, covariance: torch.Tensor, ridge: float = RIDGE
) -> tuple[torch.Tensor, Array]:
    """U and σ of the singular value decomposition M (C + εI) = U diag(σ) Vᵀ.

    Args:
        matrix: M (outputs, inputs), float64.
        covariance: C = XᵀX/N (inputs, inputs), float64, not zero.
        ridge: ε as a share of the mean of C's diagonal.

    Returns:
        U (outputs, k) and σ (k,), descending, k = min(outputs, inputs).

    >>> u, sigma = directions(torch.diag(torch.tensor([3.0, 2.0]).double()), torch.eye(2).double())
    >>> [round(float(each), 6) for each in sigma]
    [3.03, 2.02]
    """
    epsilon = ridge * float(covariance.diagonal().mean())
    activated = matrix @ covariance + epsilon * matrix
    u, sigma, _ = torch.linalg.svd(activated, full_matrices=False)
    return u, np.asarray(sigma.cpu().numpy(), dtype=np.float64)


def purified(matrix: torch.Tensor, u: torch.Tensor, rank: int) -> torch.Tensor:
    """M' = [M C]_r C⁻¹, of rank r: the nearest to M of that rank by ‖(M − M') C‖_F.

    With M C = U diag(σ) Vᵀ that is U_r U_rᵀ M, for which C need not be inverted. At full rank it
    is M itself, to the bit. It is not the rank-r matrix that moves the outputs on the rows least:
    that one has C^½ in the place of C.

    Args:
        matrix: M (outputs, inputs).
        u: of `directions`.
        rank: r ≥ 1.

    >>> m = torch.diag(torch.tensor([3.0, 2.0]).double())
    >>> u, _ = directions(m, torch.diag(torch.tensor([0.1, 1.0]).double()))
    >>> purified(m, u, 1).abs().round().tolist()  # the second input is the one that is large
    [[0.0, 0.0], [0.0, 2.0]]
    """
    if rank >= u.shape[1]:
        return matrix
    kept = u[:, :rank]
    return kept @ (kept.T @ matrix)


def output_norm(matrix: torch.Tensor, covariance: torch.Tensor) -> float:
    """‖X Mᵀ‖_F / √N = √tr(M C Mᵀ): what a matrix does to the rows that C is of."""
    square = float(((matrix @ covariance) * matrix).sum())
    return float(np.sqrt(max(square, 0.0)))


def kept_energy(sigma: Array, rank: int) -> float | None:
    """Σ_{i ≤ r} σ_i² / Σ σ_i²; None of a matrix of zeros.

    >>> kept_energy(np.array([2.0, 1.0]), 1)
    0.8
    """
    total = float(sigma @ sigma)
    return float(sigma[:rank] @ sigma[:rank]) / total if total else None


def even_ranks(full: Sequence[int], keep: float | None, rank: int | None) -> list[int]:
    """The same share of every full rank, or the same rank where there is as much; 1 at least.

    >>> even_ranks([10, 4], 0.5, None), even_ranks([10, 4], None, 6)
    ([5, 2], [6, 4])
    """
    if rank is not None:
        return [min(rank, most) for most in full]
    return [max(1, round((keep or 0.0) * most)) for most in full]


def spectral_ranks(spectra: Sequence[Array], even: Sequence[int]) -> list[int]:
    """As many ranks in all as the even ones, where they lose least.

    The minimum of Σ_j Σ_{i > r_j} σ_ij² / Σ_i σ_ij² over ranks of that sum: the smallest shares go
    first. No spectrum loses more than 1.5 times what the even share takes, nor its last rank.

    Args:
        spectra: σ of each, descending.
        even: the rank of each by `even_ranks`.

    >>> spectral_ranks([np.array([9.0, 1.0, 0.5, 0.1]), np.array([1.0, 1.0, 1.0, 1.0])], [2, 2])
    [1, 3]
    """
    shares, owners, places = [], [], []
    for number, (sigma, share) in enumerate(zip(spectra, even, strict=True)):
        least = max(1, len(sigma) - round(MOST_PRUNED * (len(sigma) - share)))
        total = float(sigma @ sigma)
        shares.append(sigma[least:] ** 2 / total if total else np.zeros(len(sigma) - least))
        owners.append(np.full(len(sigma) - least, number))
        places.append(np.arange(least, len(sigma)))
    order = np.lexsort((-np.concatenate(places), np.concatenate(shares)))
    pruned = sum(map(len, spectra)) - sum(even)
    lost = np.bincount(np.concatenate(owners)[order[:pruned]], minlength=len(spectra))
    return [len(sigma) - int(count) for sigma, count in zip(spectra, lost, strict=True)]
