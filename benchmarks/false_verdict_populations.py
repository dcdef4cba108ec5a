"""Sweeps in which nothing is better than anything: rows, and the scores of every model on them.

In all populations the true DPD, EOD and accuracy of all models are equal, by construction. `kind`
says where else they may differ: models that select fewer people, and models that rank alike and
differ in their threshold alone (then equal at equal levels, and not at their own thresholds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from mergekit_fair.evaluation.predictions import Predictions

Floats = NDArray[np.float64]

TASK = "simulated"
SPLITS = ("validation", "report", "truth")
SHARED = 0.8  # of the variance of a model's luck that all models share
EIGHT = (0.02, *[0.14] * 7)  # shares of the groups, which partition the rows
MANY = (0.2, 0.15, 0.1, 0.1, 0.08, 0.07, 0.06, 0.05, 0.04, *[0.03] * 2, *[0.01] * 9)
OVERLAPPING = (0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.03, 0.02)  # a row is in each by itself


@dataclass(frozen=True)
class Population:
    """One kind of sweep.

    Attributes:
        name: for the table.
        shares: of the groups.
        rows: of the selection's rows, of the report rows.
        gap: in rates between the lowest and the highest group, the same for every model (a row in
            several groups has the highest rate of them).
        levels: selection rate of the baselines, and of merges at λ = 0 and at λ = 1.
        informative: labels are seen (TPR 0.7, FPR 0.2 at a level of 0.4); else they are coins, so
            that accuracy is 0.5 at any level.
        kind: `rates`: groups differ by `gap` at each model's own threshold; `ranking`: at
            each model's level-matched threshold.
        overlapping: groups overlap.
        cluster: rows that share their luck and their group.
    """

    name: str
    shares: tuple[float, ...] = EIGHT
    rows: tuple[int, int] = (1000, 2000)
    gap: float = 0.0
    levels: tuple[float, float, float] = (0.4, 0.4, 0.4)
    informative: bool = False
    kind: Literal["rates", "ranking"] = "rates"
    overlapping: bool = False
    cluster: int = 1


POPULATIONS = (
    Population("alike", informative=True),
    Population("alike, gap 0.2", gap=0.2, informative=True),
    Population("two groups, gap 0.1", shares=(0.3, 0.7), gap=0.1, informative=True),
    Population("20 groups, 9 of 1 %", shares=MANY, informative=True),
    Population("selects less, to 0.1", levels=(0.5, 0.5, 0.1)),
    Population("selects less, to 0.03", levels=(0.5, 0.5, 0.03)),
    Population("selects less, gap 0.1", levels=(0.5, 0.5, 0.1), gap=0.1),
    Population("selects more, from 0.05", levels=(0.05, 0.05, 0.5)),
    Population("other threshold alone", levels=(0.5, 0.5, 0.05), gap=0.2, kind="ranking"),
    Population("overlapping", shares=OVERLAPPING, overlapping=True, informative=True),
    Population(
        "overlapping, selects less",
        shares=OVERLAPPING,
        overlapping=True,
        levels=(0.5, 0.5, 0.05),
    ),
    Population("clusters of 20", rows=(2000, 4000), cluster=20, informative=True),
    Population("clusters, gap 0.2", rows=(2000, 4000), cluster=20, informative=True, gap=0.2),
)


@dataclass(frozen=True, eq=False)
class Split:
    """Rows, and what is random in them.

    Attributes:
        rows: unanswered.
        place: (n,), where a row stands between the lowest rate (0) and the highest (1).
        common: (n,), the luck that all models share.
        owner: (n,), the cluster of each.
    """

    rows: Predictions
    place: Floats
    common: Floats
    owner: NDArray[np.intp]

    @classmethod
    def of(cls, population: Population, n: int, rng: np.random.Generator) -> Split:
        owner = np.arange(n) // population.cluster
        members = _members(population, int(owner[-1]) + 1, rng)[owner]
        labels = (rng.random(n) < (0.4 if population.informative else 0.5)).astype(np.int8)
        rows = _rows(members, labels, owner if population.cluster > 1 else None)
        return cls(rows, _places(members), _luck(owner, population.cluster, rng), owner)


class Drawn:
    """One sweep: its splits, drawn when they are asked for, and every model's scores.

    Args:
        population: what it is drawn from.
        seed: of this sweep.
    """

    def __init__(self, population: Population, seed: Sequence[int]) -> None:
        self._population, self._seed = population, list(seed)
        self._splits: dict[str, Split] = {}

    def split(self, name: str) -> Split:
        """`validation`, `report`, or `truth`: 50,000 rows."""
        if name not in self._splits:
            number = SPLITS.index(name)
            n = (*self._population.rows, 50_000)[number]
            rng = np.random.default_rng([*self._seed, number])
            self._splits[name] = Split.of(self._population, n, rng)
        return self._splits[name]

    def scores(self, level: float, split: str, number: int) -> Floats:
        """Logit gaps (n,) of the model of this number, which selects `level` of all rows."""
        rng = np.random.default_rng([*self._seed, number, SPLITS.index(split)])
        drawn = self.split(split)
        own = _luck(drawn.owner, self._population.cluster, rng)
        luck = np.sqrt(SHARED) * drawn.common + np.sqrt(1 - SHARED) * own
        return _means(self._population, drawn, level) + luck


def _means(found: Population, drawn: Split, level: float) -> Floats:
    """(n,): P(score > 0) is the row's rate."""
    place = drawn.place - drawn.place.mean()
    if found.kind == "ranking":
        return np.asarray(ndtri(level) + 3 * found.gap * place)
    moved = found.gap * place
    if not found.informative:
        return np.asarray(ndtri(np.clip(level + moved, 0.001, 0.999)))
    rates = np.where(drawn.rows.labels == 1, 0.7, 0.2) * level / 0.4
    return np.asarray(ndtri(np.clip(rates + moved, 0.001, 0.999)))


def _members(population: Population, clusters: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(clusters, G)."""
    shares = np.array(population.shares)
    if population.overlapping:
        return np.asarray(rng.random((clusters, len(shares))) < shares)
    return np.asarray(np.eye(len(shares), dtype=bool)[rng.choice(len(shares), clusters, p=shares)])


def _places(members: NDArray[np.bool_]) -> Floats:
    """Evenly spread over the groups; of several groups the highest, without any the lowest."""
    places = np.linspace(0, 1, members.shape[1])
    return np.asarray(np.where(members, places, 0.0).max(axis=1))


def _luck(owner: NDArray[np.intp], cluster: int, rng: np.random.Generator) -> Floats:
    """Standard normal (n,); half of its variance is that of the cluster."""
    each = rng.standard_normal(len(owner))
    if cluster == 1:
        return each
    return np.asarray(np.sqrt(0.5) * (each + rng.standard_normal(int(owner[-1]) + 1)[owner]))


def _rows(
    members: NDArray[np.bool_], labels: NDArray[np.int8], owner: NDArray[np.intp] | None
) -> Predictions:
    n = len(labels)
    content: dict[str, Any] = {
        "task": TASK,
        "keys": tuple(range(n)),
        "labels": labels,
        "predicted": np.full(n, 2, dtype=np.int8),
        "groups": {f"g{number:02}": column for number, column in enumerate(members.T)},
        "excluded": (),
    }
    if owner is not None and "clusters" in {field.name for field in fields_of(Predictions)}:
        content["clusters"] = owner.astype(np.int64)
    return Predictions(**content)
