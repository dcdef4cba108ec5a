"""Bases of task vectors, from their Gram matrix K = VᵀV alone.

    S = V B,  V̂ = S W [+ μ 1ᵀ],  ‖V − V̂‖² = tr[(BW − I)ᵀ K (BW − I)]

with V (D × T), B (T × M), W (M × T). With the mean μ = V 1 / T kept beside S, V is replaced by
V − μ 1ᵀ and K by H K H, H = I − 1 1ᵀ / T. No vector of length D is ever needed.

Source: "Efficient Model Editing with Task Vector Bases", arXiv 2502.01015.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import ConfigError

Matrix = NDArray[np.float64]

# The released code's settings, and how it divides the loss.
STEPS, LEARNING_RATE, WEIGHT_DECAY, TEMPERATURE = 6000, 1e-2, 1e-6, 5.0
# Of the largest eigenvalue: what lies below is rounding of K.
_ROUNDING = 1e-12


class Method(StrEnum):
    """How B is chosen.

    `autoencoder`: each basis vector a convex combination of tasks, B = softmax(A / τ) over tasks.
    `pca`: principal axes of the centred vectors, and their mean. `pca-uncentred`: without a mean.
    `random`: Gaussian combinations. `sample`: M of the T tasks themselves. The last two are
    controls.
    """

    AUTOENCODER = "autoencoder"
    PCA = "pca"
    UNCENTRED = "pca-uncentred"
    RANDOM = "random"
    SAMPLE = "sample"


@dataclass(frozen=True, eq=False)
class Fit:
    """A basis in coefficients.

    Attributes:
        method: how it was found.
        mixing: B, (T, M): basis vector m is Σ_t B_tm Δ_t. Centred: of Δ_t − μ, so that columns sum
            to 0 and Σ_t B_tm Δ_t is the same.
        weights: W, (M, T): task t is Σ_m W_mt s_m [+ μ].
        has_mean: whether μ = Σ_t Δ_t / T is kept too.
    """

    method: Method
    mixing: Matrix
    weights: Matrix
    has_mean: bool

    @property
    def stored(self) -> int:
        """Vectors that are kept: M, and the mean."""
        return self.mixing.shape[1] + self.has_mean

    @property
    def stored_mixing(self) -> Matrix:
        """(T, stored): what each kept vector is made of, the mean last."""
        tasks = len(self.mixing)
        mean = np.full((tasks, 1), 1.0 / tasks)
        return np.hstack([self.mixing, mean]) if self.has_mean else self.mixing

    def coefficients(self, amounts: ArrayLike) -> Matrix:
        """What each kept vector is multiplied with, (stored,), so that the sum is Σ_t a_t v̂_t.

        Σ_t a_t v̂_t = S (W a) + μ Σ_t a_t.

        Args:
            amounts: a, (T,).
        """
        a = np.asarray(amounts, dtype=np.float64)
        mixed = self.weights @ a
        return np.append(mixed, a.sum()) if self.has_mean else mixed


def fit(
    gram: ArrayLike, size: int | None = None, method: Method = Method.AUTOENCODER, *, seed: int = 0
) -> Fit:
    """Choose M basis vectors.

    Args:
        gram: K, (T, T), of T ≥ 2 task vectors, not all zero.
        size: M in 1 … T, without the mean; None: T / 2, at least 1. The centred vectors span T − 1
            dimensions: `pca` keeps no more.
        method: see `Method`.
        seed: of `autoencoder`, `random` and `sample`.

    Raises:
        ConfigError: fewer than two vectors, M out of range, or vectors that are all zero.
    """
    k = np.asarray(gram, dtype=np.float64)
    tasks = len(k)
    size = max(1, tasks // 2) if size is None else size
    if tasks < 2:
        raise ConfigError("a basis is of two task vectors at least", got=tasks)
    if not 1 <= size <= tasks:
        raise ConfigError("no such number of basis vectors", got=size, allowed=f"1 … {tasks}")
    if not np.trace(k) > 0:
        raise ConfigError("the task vectors are all zero")
    # In units of the mean square norm: nothing depends on the vectors' scale.
    k = k / (np.trace(k) / tasks)
    if method == Method.PCA:
        axes = _axes(_centred(k), min(size, tasks - 1))
        # Axes of length 0 may have a part along 1; without it, Σ_t B_tm (Δ_t − μ) is Σ_t B_tm Δ_t.
        return Fit(method, axes - axes.mean(axis=0), axes.T, has_mean=True)
    if method == Method.UNCENTRED:
        axes = _axes(k, size)
        return Fit(method, axes, axes.T, has_mean=False)
    generator = np.random.default_rng(seed)
    if method == Method.AUTOENCODER:
        mixing = _autoencoder(k, size, seed)
    elif method == Method.RANDOM:
        mixing = generator.standard_normal((tasks, size)) / np.sqrt(tasks)
    else:
        picked = np.sort(generator.choice(tasks, size, replace=False))
        mixing = np.eye(tasks)[:, picked]
    return Fit(method, mixing, best_weights(k, mixing), has_mean=False)


def error(gram: ArrayLike, fitted: Fit) -> float:
    """‖V − V̂‖²_F, in the squared units of K; ≥ `spectral_bound`."""
    return float(task_errors(gram, fitted).sum())


def task_errors(gram: ArrayLike, fitted: Fit) -> Matrix:
    """‖Δ_t − v̂_t‖², (T,)."""
    k = np.asarray(gram, dtype=np.float64)
    if fitted.has_mean:
        k = _centred(k)
    rest = fitted.mixing @ fitted.weights - np.eye(len(k))
    return np.asarray(np.maximum(np.einsum("it,ij,jt->t", rest, k, rest), 0.0))


def spectral_bound(gram: ArrayLike, stored: int) -> float:
    """Σ_{m > stored} eig_m(K): no `stored` vectors, however chosen, leave a smaller error."""
    values = np.linalg.eigvalsh(np.asarray(gram, dtype=np.float64))[::-1]
    return float(np.maximum(values[stored:], 0.0).sum())


def best_weights(gram: ArrayLike, mixing: ArrayLike) -> Matrix:
    """W* = (BᵀKB)⁺ BᵀK, (M, T): the least error for a given B."""
    k, b = np.asarray(gram, dtype=np.float64), np.asarray(mixing, dtype=np.float64)
    return np.asarray(np.linalg.pinv(b.T @ k @ b, rcond=_ROUNDING, hermitian=True) @ b.T @ k)


def _centred(k: Matrix) -> Matrix:
    h = np.eye(len(k)) - 1.0 / len(k)
    return h @ k @ h


def _axes(k: Matrix, size: int) -> Matrix:
    """The leading eigenvectors, (T, size), each with its largest entry positive.

    The sign changes no reconstruction; fixed, the same K gives the same files.
    """
    values, vectors = np.linalg.eigh(k)
    order = np.argsort(-values, kind="stable")[:size]
    axes = vectors[:, order]
    largest = np.abs(axes).argmax(axis=0)
    return np.asarray(axes * np.where(axes[largest, np.arange(size)] < 0, -1.0, 1.0))


def _autoencoder(k: Matrix, size: int, seed: int) -> Matrix:
    """B = softmax(A / τ) over tasks, by Adam on tr[(BW − I)ᵀK(BW − I)] / T²; K in units as above.

    A starts from N(0, 1) and W from the best for it; the best B on the way is kept. On one thread:
    several wait for each other longer than such products take, and change their last bits.
    """
    import torch

    from mergekit_fair.checkpoints.reader import one_thread_each

    tasks = len(k)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(tasks, size, generator=generator, dtype=torch.float64)
    gram, identity = torch.tensor(k), torch.eye(tasks, dtype=torch.float64)
    with one_thread_each():
        start = best_weights(k, torch.softmax(scores / TEMPERATURE, dim=0).numpy())
        weights = torch.tensor(start, requires_grad=True)
        scores.requires_grad_()
        adam = torch.optim.Adam([scores, weights], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        best, mixing = np.inf, np.empty(0)
        for _ in range(STEPS):
            adam.zero_grad()
            mixed = torch.softmax(scores / TEMPERATURE, dim=0)
            rest = mixed @ weights - identity
            loss = (rest * (gram @ rest)).sum() / tasks**2
            if loss.item() < best:
                best, mixing = loss.item(), mixed.detach().numpy().copy()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
    return mixing
