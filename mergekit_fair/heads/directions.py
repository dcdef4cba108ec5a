"""Directions of a fair head: probes of the groups, folded into the classifier's last layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.evaluation.soft_objective import LABELS_OF_RATES, counting
from mergekit_fair.heads.last_layer import Array, FeatureRows

# Of the probes' L2 penalty, on standardised features: strong, since only a direction is wanted.
_STRENGTH = 0.01
_STEPS = 1000
# Rows that a cell needs for a direction of its own.
LEAST = 10
_AT_ONCE = 4096  # rows that are widened to float64 at a time
CONSTANT = "constant"
REST = "rest"


@dataclass(frozen=True)
class GroupCell:
    """Rows of one group, of both labels or of one: what a probe tells from all others.

    Attributes:
        group: its name.
        label: 0 or 1; None for both.
    """

    group: str
    label: int | None = None

    def __str__(self) -> str:
        if self.label is None:  # the constant direction has a name, too
            return f"group {self.group}" if self.group == CONSTANT else self.group
        return f"{self.group}, {self.label}"

    def mask(self, rows: Predictions) -> NDArray[np.bool_]:
        """Its rows, bool (n,)."""
        inside = rows.groups.get(self.group, np.zeros(len(rows), dtype=np.bool_))
        return inside if self.label is None else inside & (rows.labels == self.label)


@dataclass(frozen=True, eq=False)
class Direction:
    """u(x) = w · f + b, which a vector adds to the logit gap; f are the last layer's inputs.

    Attributes:
        name: of the cell, or `constant`.
        weight: w (H,).
        bias: b; 0 for a head without bias.
    """

    name: str
    weight: Array
    bias: float

    def of(self, features: NDArray[np.float32]) -> Array:
        """u (n,) of features (n, H)."""
        return np.asarray(moves_along([self], features)[0])


def moves_along(directions: Sequence[Direction], features: NDArray[np.float32]) -> Array:
    """u (K, n) of K directions and features (n, H).

    >>> along = [Direction("a", np.array([1.0, 0.0]), 0.5), Direction("b", np.ones(2), 0.0)]
    >>> moves_along(along, np.array([[1, 2], [3, 4]], dtype=np.float32))
    array([[1.5, 3.5],
           [3. , 7. ]])
    """
    weights = np.stack([each.weight for each in directions])
    parts = [weights @ part.T for part in _widened(features)]
    return np.concatenate(parts, axis=1) + np.array([[each.bias] for each in directions])


def moments(features: NDArray[np.float32]) -> tuple[Array, Array]:
    """Mean and standard deviation (H,) over n rows."""
    mean = np.sum([part.sum(axis=0) for part in _widened(features)], axis=0) / len(features)
    squares = [((part - mean) ** 2).sum(axis=0) for part in _widened(features)]
    return mean, np.sqrt(np.sum(squares, axis=0) / len(features))


def _widened(features: NDArray[np.float32]) -> Iterator[Array]:
    """Blocks of rows in float64, in which all is computed; of all rows that is a lot of memory."""
    for start in range(0, max(1, len(features)), _AT_ONCE):
        yield features[start : start + _AT_ONCE].astype(np.float64)


def cells_of(metric: str, groups: Sequence[str]) -> list[GroupCell]:
    """What has to be told apart: groups for DPD; groups by label for EOD.

    Source: the optimal fair rule is linear in the score and in p(g|x) for demographic parity, in
    p(g, y|x) for equalized odds (arXiv 2310.05725, 2402.02817).

    >>> [str(cell) for cell in cells_of("eod", ["f", "m"])]
    ['f, 0', 'f, 1', 'm, 0', 'm, 1']
    """
    labels = [each[0] if len(each) == 1 else None for each in LABELS_OF_RATES[metric]]
    return [GroupCell(group, label) for group in groups for label in sorted(labels, key=str)]


def fit_directions(
    train: FeatureRows, cells: Sequence[GroupCell], *, has_bias: bool
) -> tuple[list[Direction], list[GroupCell]]:
    """A direction a cell from training rows, each of standard deviation 1 over them.

    Where no row is in two cells, the coefficients of a multinomial logistic regression on the cell
    (with one more for all other rows), centred over the cells; else those of a logistic regression
    for each cell. L2 with C = 0.01 on standardised features. Of a head without bias, features are
    not centred and nothing has an intercept.

    Args:
        train: rows that the model was trained on, or others; never those that are measured.
        cells: what to tell apart.
        has_bias: whether the head has a bias.

    Returns:
        The directions, and the cells that have none: fewer than `LEAST` of their rows, or of the
        others, are there.
    """
    counted = counting(train.rows)
    masks = {cell: cell.mask(train.rows)[counted] for cell in cells}
    fitted = [c for c, mask in masks.items() if LEAST <= mask.sum() <= len(mask) - LEAST]
    left_out = [cell for cell in cells if cell not in fitted]
    if not fitted:
        return [], left_out
    weights = None if train.rows.weights is None else train.rows.weights[counted]
    if weights is not None:  # the penalty stands beside a sum over rows
        weights = weights / weights.mean()
    features = train.features[counted]
    scaling = _Scaling.of(features, has_bias=has_bias)
    probe = _Probe(scaling, weights)
    members = np.stack([masks[cell] for cell in fitted])
    if (members.sum(axis=0) > 1).any():
        found = [probe.binary(mask) for mask in members]
    else:
        found = probe.multinomial(members)
    directions = [
        Direction(str(cell), weight, bias)
        for cell, (weight, bias) in zip(fitted, found, strict=True)
    ]
    return _units(directions, features), left_out


def constant_direction(train: FeatureRows, *, has_bias: bool) -> Direction:
    """What moves all rows alike: the bias; without one, the direction nearest to 1 on all rows.

    That is the least-squares solution of w · f ≈ 1 with a small ridge. After a final norm it
    hardly varies: features of Llama or Qwen2 lie on a shell, off the origin.
    """
    width = train.features.shape[1]
    if has_bias:
        return Direction(CONSTANT, np.zeros(width), 1.0)
    features = train.features[counting(train.rows)]
    gram = np.zeros((width, width))
    for part in _widened(features):
        gram += part.T @ part / len(features)
    ridge = 1e-4 * np.trace(gram) / width * np.eye(width)
    center, _ = moments(features)
    weight = np.linalg.solve(gram + ridge, center)
    mean = float(center @ weight)
    return Direction(CONSTANT, weight / (mean or 1.0), 0.0)


def spread_of_constant(train: FeatureRows, rows: FeatureRows, *, has_bias: bool) -> float:
    """How much the constant direction varies over rows, of a mean of about 1: 0 for a bias.

    The level of other rows is kept the less, the larger it is.
    """
    constant = constant_direction(train, has_bias=has_bias)
    return float(moves_along([constant], rows.features[counting(rows.rows)]).std())


def random_directions(
    like: Sequence[Direction], train: FeatureRows, *, seed: int
) -> list[Direction]:
    """The control: as many Gaussian directions, of the same standard deviation over the rows.

    What coefficients on them still gain is not the groups' doing (arXiv 2212.04089).
    """
    rng = np.random.default_rng(seed)
    features = train.features[counting(train.rows)]
    center, _ = moments(features)
    found = []
    for direction in like:
        weight = rng.standard_normal(len(direction.weight))
        bias = 0.0 if direction.bias == 0 else -float(center @ weight)
        found.append(Direction(direction.name, weight, bias))
    return _units(found, features)


def _units(directions: Sequence[Direction], features: NDArray[np.float32]) -> list[Direction]:
    """The same of standard deviation 1; those that do not vary as they are."""
    spreads = moves_along(directions, features).std(axis=1)
    spreads[spreads == 0] = 1.0
    return [
        Direction(each.name, each.weight / spread, each.bias / spread)
        for each, spread in zip(directions, spreads.tolist(), strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Scaling:
    """Features (n, H) as a probe sees them, and the way back.

    Attributes:
        values: scaled, and centred unless the head has no bias.
        center, scale: (H,).
        has_bias: whether it has.
    """

    values: Array
    center: Array
    scale: Array
    has_bias: bool

    @classmethod
    def of(cls, features: NDArray[np.float32], *, has_bias: bool) -> _Scaling:
        center, scale = moments(features)
        scale[scale < 1e-6 * scale.max(initial=1e-30)] = np.inf  # constant: nothing to tell
        center = center if has_bias else np.zeros_like(center)
        values = features.astype(np.float64)
        values -= center
        values /= scale
        return cls(values, center, scale, has_bias)

    def back(self, weight: Array, bias: float) -> tuple[Array, float]:
        """Coefficients on the features themselves."""
        weight = weight / self.scale
        return weight, float(bias - weight @ self.center) if self.has_bias else 0.0


@dataclass(frozen=True, eq=False)
class _Probe:
    """Logistic regressions on the same features."""

    scaling: _Scaling
    weights: Array | None

    def multinomial(self, members: NDArray[np.bool_]) -> list[tuple[Array, float]]:
        """Of members (K, n) that do not overlap: K coefficients."""
        codes = np.where(members.any(axis=0), members.argmax(axis=0), len(members))
        weight, bias = self._fit(codes)
        if len(weight) == 1:  # two classes: scikit-learn gives their difference
            weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        weight, bias = weight - weight.mean(axis=0), bias - bias.mean()
        return [self.scaling.back(weight[k], float(bias[k])) for k in range(len(members))]

    def binary(self, inside: NDArray[np.bool_]) -> tuple[Array, float]:
        """Of one mask (n,)."""
        weight, bias = self._fit(inside.astype(np.int64))
        return self.scaling.back(weight[0], float(bias[0]))

    def _fit(self, codes: NDArray[np.int64]) -> tuple[Array, Array]:
        from sklearn.linear_model import LogisticRegression

        probe = LogisticRegression(
            C=_STRENGTH, max_iter=_STEPS, fit_intercept=self.scaling.has_bias
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a direction that has not converged is one, too
            probe.fit(self.scaling.values, codes, sample_weight=self.weights)
        return np.asarray(probe.coef_), np.asarray(
            np.broadcast_to(probe.intercept_, len(probe.coef_))
        )
