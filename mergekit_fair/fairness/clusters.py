"""Clusters: rows that are not independent, such as those of one template or author.

What is resampled are whole clusters. A draw takes K − 1 of the K clusters with replacement, which
gives a mean of cluster sums exactly the variance that their spread says (Rao and Wu 1988; K of them
would give (K − 1) / K of it), and rates, which are all that is read of a draw, do not depend on how
many rows it has. Few clusters say little about their own spread: limits are those of Student's t
with as many degrees of freedom as there are effective clusters, less one (`widened`).

A rate's design effect is the variance of the sums of clusters over that of as many independent
rows. Its effective number of rows, n / design effect, is what Wilson's interval takes. Half a
cluster more, of ones and zeros in equal parts, is added to the variance, as in `jackknife`:
clusters that all agree vary not at all, though the next one might not agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.labels import is_nan, unmasked

FEW = 30
"""With fewer clusters than this, intervals are a rough guide."""

Codes = NDArray[np.int64]
Values = NDArray[np.float64]
# Drawing an index of K clusters is so many times as fast as drawing one of D binomial numbers.
_FASTER = 14
_DENSE = 0.05


def cluster_codes(clusters: Any, n: int) -> Codes | None:
    """The number of each row's cluster, from 0, int64 (n,); None if every row is one by itself.

    Args:
        clusters: one label a row, texts or numbers that are compared as they are written; None or
            NaN for a row of its own. None: every row is.

    Raises:
        MeasurementError: not one label a row, or there is one cluster alone.

    >>> cluster_codes(["b", None, "a", "b", None], 5)
    array([1, 2, 0, 1, 3])
    >>> cluster_codes(["a", "b", "c"], 3) is None
    True
    """
    if clusters is None:
        return None
    labels = unmasked(clusters)
    if not isinstance(labels, np.ndarray):  # among texts, numpy would write NaN as one
        labels = np.array(list(labels), dtype=object)
    if labels.shape != (n,):
        raise MeasurementError(
            "needs one cluster per row",
            where="clusters",
            got=f"shape {labels.shape}",
            allowed=f"shape ({n},)",
            fix="pass the clusters of the same rows as y_true, in the same order",
        )
    if labels.dtype.kind in "iub":
        alone = np.zeros(n, dtype=bool)
    else:
        written = labels.tolist()
        is_text = labels.dtype.kind in "US"
        alone = np.array(
            [label is None or is_nan(label) or (is_text and label == "nan") for label in written],
            dtype=bool,
        )
        labels = np.array([_written(label) for label in written], dtype=str)
    codes = np.empty(n, dtype=np.int64)
    names, codes[~alone] = np.unique(labels[~alone], return_inverse=True)
    codes[alone] = len(names) + np.arange(int(alone.sum()))
    count = len(names) + int(alone.sum())
    if count == 1 < n:
        raise MeasurementError(
            "are one alone, whose spread cannot be seen",
            where="clusters",
            got=f"{n} rows of one cluster",
            allowed="two clusters or more; some hundreds are good",
            fix="name what is sampled independently, or leave clusters out",
        )
    return None if count == n else codes


def _written(label: Any) -> str:
    """1 and 1.0 are one: a column of integers becomes one of floats where a cell is empty."""
    whole = isinstance(label, float) and label.is_integer()
    return str(int(label)) if whole else str(label)


def times_drawn(
    rng: np.random.Generator,
    size: int,
    draws: int,
    contents: int,
    content_of: NDArray[np.intp] | None = None,
) -> Values:
    """How often each content comes in draws of all of K clusters but one, (draws, contents)."""
    counted = np.empty((draws, contents))
    for draw in range(draws):  # one at a time stays in the processor's cache
        picked = rng.integers(0, size, size - 1)
        picked = picked if content_of is None else content_of[picked]
        counted[draw] = np.bincount(picked, minlength=contents)
    return counted


@dataclass(frozen=True, eq=False)
class Clusters:
    """K clusters of rows, of D distinct contents, ordered by what they hold.

    Attributes:
        held: sparse (D, C), rows of each of C kinds in a cluster.
        times: int64 (D,), how many clusters hold just that.
        added, chance: (C,), see `with_rows`; None for none.
    """

    held: Any
    times: NDArray[np.int64]
    added: Values | None = None
    chance: Values | None = None

    @classmethod
    def of(cls, codes: Codes, kind: NDArray[np.integer[Any]], kinds: int) -> Clusters:
        """Of m rows.

        Args:
            codes: (m,), the cluster of each, from 0 without a gap.
            kind: (m,), what each row is, below `kinds`.
        """
        size = int(codes.max()) + 1
        ones = np.ones(len(codes), dtype=np.int64)
        return cls._distinct(_sparse(ones, codes, kind, (size, kinds)), np.ones(size, np.int64))

    @classmethod
    def _distinct(cls, held: Any, times: NDArray[np.int64]) -> Clusters:
        """Contents that are equal become one. None is empty."""
        # Equal contents have equal sums of random numbers: 64 bits, modulo 2⁶⁴.
        random = np.random.default_rng(0).integers(0, 2**64, held.shape[1], dtype=np.uint64)
        terms = held.data.astype(np.uint64) * random[held.indices]
        digests = np.add.reduceat(terms, held.indptr[:-1])
        _, first, content = np.unique(digests, return_index=True, return_inverse=True)
        counted = np.bincount(content.reshape(-1), times).astype(np.int64)
        return cls(held[first].astype(np.float64), counted)

    def merged(self, kind: NDArray[np.integer[Any]], kinds: int) -> Clusters:
        """The same clusters, of fewer kinds: (C,) says what each kind becomes."""
        size = len(kind)
        to = _sparse(np.ones(size), np.arange(size), kind, (size, kinds))
        return self._distinct((self.held @ to).tocsr(), self.times)

    def __len__(self) -> int:
        return int(self.times.sum())

    @property
    def widest(self) -> int:
        """Numbers that one draw needs at once."""
        return max(len(self), *self.held.shape)

    @property
    def content(self) -> tuple[bytes, ...]:
        """What tells them from others: equal for equal contents."""
        parts = self.times, self.held.indptr, self.held.indices, self.held.data
        return tuple(np.asarray(part).tobytes() for part in parts)

    def of_kinds(self, kinds: NDArray[np.intp]) -> Clusters:
        """The same clusters, of these kinds of rows alone."""
        added, chance = (
            None if each is None else each[kinds] for each in (self.added, self.chance)
        )
        return Clusters(self.held[:, kinds], self.times, added, chance)

    def with_rows(self, scale: Values, added: Values, chance: Values) -> Clusters:
        """Clusters of fractions of rows, and further ones that are drawn now and then.

        Args:
            scale: (C,), what a row of each kind becomes.
            added: (C,), rows of each kind in a further cluster that holds nothing else.
            chance: (C,), how many of these a draw has on average.
        """
        return replace(self, held=self.held.multiply(scale).tocsr(), added=added, chance=chance)

    def drawn(self, streams: list[np.random.Generator], draws: int) -> Values:
        """Rows of each kind in so many draws, (C, draws); `streams`: two generators."""
        rows = (self._times(streams[0], draws) @ self._matrix).T
        if self.added is not None and self.chance is not None:
            # by draw, so that the numbers do not depend on how many are drawn at once
            further = streams[1].poisson(self.chance, (draws, len(self.chance)))
            rows = rows + (self.added * further).T
        return np.ascontiguousarray(rows)

    def _times(self, rng: np.random.Generator, draws: int) -> Values:
        """How often each content is drawn, (draws, D)."""
        size, contents = len(self), len(self.times)
        if contents * _FASTER < size:
            return rng.multinomial(size - 1, self.times / size, draws).astype(np.float64)
        content_of = None if contents == size else np.repeat(np.arange(contents), self.times)
        return times_drawn(rng, size, draws, contents, content_of)

    @cached_property
    def _matrix(self) -> Any:
        """`held`, dense where that is faster."""
        is_dense = self.held.nnz > _DENSE * np.prod(self.held.shape)
        return self.held.toarray() if is_dense else self.held

    def sums(self, line: Values, cell: NDArray[np.intp]) -> Values:
        """What each content adds to the sums of a line, (D, 6), by 3·y + ŷ.

        Args:
            line: (C,), what a row of each kind counts for there; 0: nothing.
            cell: (C,), its 3·y + ŷ.
        """
        kinds = np.flatnonzero(line)
        by_cell = _sparse(line[kinds], kinds, cell[kinds], (len(line), 6))
        return np.asarray((self.held @ by_cell).toarray())


def _sparse(
    values: NDArray[Any], rows: NDArray[Any], columns: NDArray[Any], shape: tuple[int, int]
) -> Any:
    from scipy.sparse import csr_array  # only clusters need it

    return csr_array((values, (rows, columns)), shape=shape)


@dataclass(frozen=True, eq=False)
class Spread:
    """How the sums of clusters vary: of all rows, then of each group.

    Attributes:
        present: int64 (1 + G,), how many clusters have rows: K of them of all rows.
        totals: (1 + G, 6), sums over all clusters, by 3·y + ŷ.
        squares: (1 + G, 6, 6), Σ over clusters of products of their sums.
        shared: (1 + G, 6, 6), the same of a line's and all rows'.
    """

    present: NDArray[np.int64]
    totals: Values
    squares: Values
    shared: Values

    @classmethod
    def of(cls, clusters: Clusters, lines: Iterator[Values], cell: NDArray[np.intp]) -> Spread:
        """Of all rows and of G groups: (C,) what a row of each kind counts for in each of them."""
        times, overall = clusters.times[:, np.newaxis], None
        present, totals, squares, shared = [], [], [], []
        for line in lines:
            mine = clusters.sums(line, cell)
            overall = mine if overall is None else overall
            present.append(clusters.times[mine.any(axis=1)].sum())
            totals.append((times * mine).sum(axis=0))
            squares.append((times * mine).T @ mine)
            shared.append((times * mine).T @ overall)
        return cls(np.array(present), np.stack(totals), np.stack(squares), np.stack(shared))

    def sizes(self, whole: Values) -> Values:
        """Effective numbers of clusters (Σ n)² / Σ n² that a rate reads, (1 + G,); 0 without rows.

        Args:
            whole: (6,), which cells its whole is the sum of.
        """
        rows, squares = self.totals @ whole, self.squares @ whole @ whole
        return np.divide(rows**2, squares, out=np.zeros_like(rows), where=squares > 0)

    def effective_rows(self, part: Values, whole: Values) -> Values:
        """Rows of a plain share that would be as sure as a rate Σ part / Σ whole, (1 + G,).

        Args:
            part, whole: (6,), which cells they are the sums of.
        """
        rows, sizes = self.totals @ whole, self.sizes(whole)
        known = rows > 0
        rates = np.divide(self.totals @ part, rows, out=np.zeros_like(rows), where=known)
        turned = part - rates[:, np.newaxis] * whole
        scatter = np.einsum("li,lij,lj->l", turned, self.squares, turned)
        variance = np.divide(scatter, rows**2, out=np.zeros_like(rows), where=known)
        variance *= self.present[0] / (self.present[0] - 1)
        one = np.where(known, sizes, 1.0)
        variance += _ones_and_zeros(rates) / 2 / one**2
        return np.where(known, (rates * (1 - rates) + 1 / (4 * one)) / variance, 0.0)

    def overall_effect(self) -> float:
        """How many rows are worth one in the accuracy of all rows, at least 1."""
        right, every = np.eye(6)[0] + np.eye(6)[4], np.ones(6)
        rows = float(self.totals[0] @ every)
        return max(1.0, rows / float(self.effective_rows(right, every)[0]))

    def design_effects(self) -> Values:
        """Of selection in each group by label, less that of all rows: (G, 2), at least 1.

        How many rows are worth one where the group is compared with others: what a cluster does to
        all groups alike cancels. Half a cluster more is added; at most the mean size of a cluster.
        """
        effects = np.ones((len(self.totals) - 1, 2))
        for label in (0, 1):
            part, whole = np.zeros((2, 6))
            part[3 * label + 1] = 1.0
            whole[3 * label : 3 * label + 2] = 1.0
            rows, sizes = self.totals @ whole, self.sizes(whole)
            has = rows > 0
            one = np.where(has, rows, 1.0)
            rates = np.where(has, self.totals @ part / one, 0.0)
            turned = (part - rates[:, np.newaxis] * whole) / one[:, np.newaxis]
            scatter = (
                np.einsum("li,lij,lj->l", turned, self.squares, turned)
                - 2 * np.einsum("li,lij,j->l", turned, self.shared, turned[0])
                + turned[0] @ self.squares[0] @ turned[0]
            )
            mean_size = np.where(has, one / np.where(has, sizes, 1.0), 1.0)
            half = _ones_and_zeros(rates) / 2
            independent = rates * (1 - rates) * rows
            effect = (scatter * rows**2 + half * mean_size**2) / (independent + half * mean_size)
            effects[:, label] = np.clip(effect, 1.0, mean_size)[1:]
        return effects


def _ones_and_zeros(rates: Values) -> Values:
    """The mean square of a 1 and a 0 about a rate."""
    return np.asarray((rates**2 + (1 - rates) ** 2) / 2)


def students(p_value: float, clusters: int) -> float:
    """A two-sided p-value of a normal deviate as one of Student's t of so many clusters, less one.

    >>> round(students(0.05, 11), 4), round(students(0.05, 10**9), 4)
    (0.0784, 0.05)
    """
    from scipy.special import ndtri, stdtr

    return min(1.0, float(2 * stdtr(max(clusters - 1, 1), ndtri(p_value / 2))))


def widened(confidence: float, clusters: float) -> float:
    """The confidence whose normal deviate is Student's t of so many effective clusters, less one.

    >>> round(widened(0.95, 30), 4), round(widened(0.95, 1e9), 4)
    (0.9592, 0.95)
    """
    from scipy.special import ndtr, stdtrit

    deviate = stdtrit(max(clusters - 1, 1.0), (1 + confidence) / 2)
    return float(1 - 2 * ndtr(-deviate))
