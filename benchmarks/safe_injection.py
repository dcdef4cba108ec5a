"""How often verdicts of safe injection are right where the truth is known, by simulation.

A world has groups, apart or overlapping, scores whose distribution is known in every group and
label, and a step that moves them. So the harm that the step does to the predictions of every group
is known to quadrature: it is no average of samples. Steps are

    idle       every score moves by a normal of 0.1 spreads, no group by more than another
    mending    the same, and every group's scores move towards the others'
    harmful    the same, and one group's scores move, of one label or of both, by just as much as
               makes the largest harm of any group a stated multiple of the tolerance: all of its
               rows, 15 % of them, or only rows near the threshold

Example:
    python benchmarks/safe_injection.py --workers 2         # every table of docs/sweeps.md
    python benchmarks/safe_injection.py --quick             # does it run?
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.sweep.transfer_matrix import transfer_matrix
from mergekit_fair.sweep.verdicts import verdicts

Values = NDArray[np.float64]

TOLERANCE = 0.03
JITTER = 0.1  # of a step, in the scores' spread
NEAR = 0.25  # width of what "near the threshold" is
FEW = 0.15  # share of rows that "a few" are
GRID = np.linspace(-12, 12, 2401)
# Shares, places and spreads of the parts that a label's scores are mixed of, and how far the
# centres of the two labels lie apart.
SHAPES = {
    "normal": ((1.0,), (0.0,), (1.0,), 1.8),
    "weak": ((1.0,), (0.0,), (1.0,), 0.8),
    "heavy": ((0.8, 0.2), (0.0, 0.0), (0.7, 2.2), 1.8),
    "sure": ((0.85, 0.15), (0.0, 0.0), (0.8, 1.5), 5.0),
    "skewed": ((0.6, 0.4), (-0.6, 0.9), (0.6, 1.0), 1.6),
}
MOVES = {"all": "all rows move", "few": "15 % move", "near": "rows near the threshold move"}


@dataclass(frozen=True)
class Design:
    """Rows: how many, in how many groups, how large a share the smallest has."""

    groups: int
    n: int
    smallest: float
    overlapping: bool = False
    weighted: bool = False

    def __str__(self) -> str:
        kind = " overlapping" * self.overlapping + ", weighted" * self.weighted
        size = "" if self.overlapping else f", smallest {self.n * self.smallest:,.0f}"
        return f"{self.groups}{kind} groups, {self.n:,} rows{size}"


DESIGNS = (
    Design(2, 600, 0.3),
    Design(3, 1_000, 0.15),
    Design(5, 1_500, 0.06),
    Design(5, 2_000, 0.1, overlapping=True),
    Design(5, 2_000, 0.1, weighted=True),
    Design(8, 4_000, 0.05),
    Design(8, 12_000, 0.02),
)


@dataclass(frozen=True, eq=False)
class World:
    """Rows by membership pattern and label, their scores, and a step.

    Attributes:
        patterns: bool (P, H).
        chance, base: (P,), the share of each pattern, and of label 1 in it.
        offset: (P,), added to all scores of a pattern.
        shape, moves: of SHAPES and MOVES.
        shift: (P, 2), how far scores of each pattern and label are moved.
    """

    patterns: NDArray[np.bool_]
    chance: Values
    base: Values
    offset: Values
    shape: str
    moves: str
    shift: Values = field(repr=False)

    def density(self) -> Values:
        """(P, 2, grid), of scores before the step."""
        shares, places, spreads, apart = SHAPES[self.shape]
        centre = self.offset[:, np.newaxis] + np.array([-apart, apart]) / 2
        z = GRID - centre[..., np.newaxis]
        return np.asarray(
            sum(
                share * norm.pdf(z, place, spread)
                for share, place, spread in zip(shares, places, spreads, strict=True)
            )
        )

    def harm(self, density: Values) -> float:
        """The largest harm that the step does to a group's predictions, of both kinds."""
        width = GRID[1] - GRID[0]
        above = (GRID > 0) + (GRID == 0) / 2
        share = FEW if self.moves == "few" else 1.0
        near = np.exp(-((GRID / NEAR) ** 2) / 2) if self.moves == "near" else 1.0
        moved = norm.cdf((GRID + self.shift[..., np.newaxis] * near) / JITTER)
        after = share * moved + (1 - share) * norm.cdf(GRID / JITTER)
        rates = [(density * said).sum(axis=-1) * width for said in (above, after)]
        weight = self.chance[:, np.newaxis] * np.stack([1 - self.base, self.base], axis=1)
        harms: list[float] = []
        for group in self.patterns.T:
            (gap, accuracy), (new_gap, new_accuracy) = (
                (_gap(weight, rate, group), _accuracy(weight, rate, group)) for rate in rates
            )
            harms += [new_gap - gap, accuracy - new_accuracy]
        return max(harms)

    def sample(
        self, design: Design, rng: np.random.Generator
    ) -> tuple[Predictions, Values, Values]:
        """Rows, and scores before and after the step."""
        shares, places, spreads, apart = SHAPES[self.shape]
        n = design.n
        pattern = rng.choice(len(self.chance), n, p=self.chance)
        y = (rng.random(n) < self.base[pattern]).astype(np.int8)
        part = rng.choice(len(shares), n, p=shares)
        z = self.offset[pattern] + (2 * y - 1) * apart / 2
        z = z + np.array(places)[part] + np.array(spreads)[part] * rng.standard_normal(n)
        near = np.exp(-((z / NEAR) ** 2) / 2) if self.moves == "near" else 1.0
        moves = rng.random(n) < (FEW if self.moves == "few" else 1.0)
        moved = z + self.shift[pattern, y] * near * moves + JITTER * rng.standard_normal(n)
        members = self.patterns[pattern]
        rows = Predictions(
            task="simulated",
            keys=tuple(range(n)),
            labels=y,
            predicted=np.full(n, 2, dtype=np.int8),
            groups={f"g{at}": members[:, at] for at in range(members.shape[1])},
            excluded=(),
            weights=rng.lognormal(0, 0.5, n) if design.weighted else None,
        )
        return rows, z, moved


def _gap(weight: Values, rate: Values, group: NDArray[np.bool_]) -> float:
    """(DPD + EOD) / 2 of a group against all others."""
    sides = []
    for rows in (group, ~group):
        w, r = weight[rows], rate[rows]
        by_label = (w * r).sum(axis=0) / w.sum(axis=0)
        sides.append(np.array([(w * r).sum() / w.sum(), *by_label]))
    parity, *odds = np.abs(sides[0] - sides[1])
    return float((parity + max(odds)) / 2)


def _accuracy(weight: Values, rate: Values, group: NDArray[np.bool_]) -> float:
    w, r = weight[group], rate[group]
    return float((w * np.stack([1 - r[:, 0], r[:, 1]], axis=1)).sum() / w.sum())


def world(
    design: Design, shape: str, moves: str, times: float | None, rng: np.random.Generator
) -> World | None:
    """One world; its step mends gaps (`times` None), is idle (0), or harms by times · tolerance.

    None where no shift harms as much.
    """
    patterns, chance = _patterns(design, rng)
    base = rng.uniform(0.35, 0.65, len(patterns))
    offset = patterns @ (0.3 * rng.standard_normal(design.groups))
    shift = np.zeros((len(patterns), 2))
    found = World(patterns, chance, base, offset - 0.2, shape, moves, shift)
    if times is None:
        shift += -0.15 * offset[:, np.newaxis]
    if not times:
        return found
    group = patterns[:, rng.integers(design.groups)]
    labels = (np.array([1, 1]), np.array([1, 0]), np.array([0, 1]), np.array([1, -1]))
    direction = group[:, np.newaxis] * labels[rng.integers(4)] * rng.choice([-1, 1])
    density = found.density()

    def excess(size: float) -> float:
        shift[:] = size * direction
        return found.harm(density) - times * TOLERANCE

    largest = 0.05
    while excess(largest) < 0:
        largest *= 1.6
        if largest > 6:
            return None
    excess(float(brentq(excess, 0, largest, xtol=1e-4)))
    return found


def _patterns(design: Design, rng: np.random.Generator) -> tuple[NDArray[np.bool_], Values]:
    groups = design.groups
    if not design.overlapping:
        share = (1 - design.smallest) / (groups - 1)
        return np.eye(groups, dtype=bool), np.array([design.smallest] + [share] * (groups - 1))
    while True:
        patterns = np.unique(rng.random((12, groups)) < 1.6 / groups, axis=0)
        if patterns.any(axis=0).all() and (~patterns).any(axis=0).all():
            return patterns, rng.dirichlet(np.full(len(patterns), 3.0))


@dataclass
class Tally:
    """Verdicts with scores (soft rates, predictions beside them), and of predictions alone."""

    soft: list[str] = field(default_factory=list)
    hard: list[str] = field(default_factory=list)

    def add(self, rows: Predictions, before: Values, after: Values) -> None:
        settings = MetricSettings(min_group_size=1)
        known = [np.where(z > 0, np.inf, -np.inf) for z in (before, after)]
        for statuses, (first, second) in ((self.soft, (before, after)), (self.hard, known)):
            answers = rows.with_scores(first), {"step": rows.with_scores(second)}
            (verdict,) = verdicts(transfer_matrix(*answers, settings, step=0.1), TOLERANCE)
            statuses.append(verdict.status)

    def share(self, status: str, of: str = "soft") -> float:
        """In %."""
        statuses = self.soft if of == "soft" else self.hard
        return 100 * statuses.count(status) / max(len(statuses), 1)


def simulated(
    design: Design, shape: str, moves: str, times: float | None, trials: int, seed: int
) -> Tally:
    """Verdicts over so many samples, two of a world."""
    rng, tally = np.random.default_rng([seed, design.n, design.groups]), Tally()
    while len(tally.soft) < trials:
        found = world(design, shape, moves, times, rng)
        for _ in range(2 if found else 0):
            tally.add(*found.sample(design, rng))  # type: ignore[union-attr]
    return tally


Job = tuple[Design, str, str, float | None, int, int]
KINDS = [*((shape, "all") for shape in SHAPES), ("normal", "few"), ("normal", "near")]
# Heading → the size of the step's harm, and which verdict is counted.
COLUMNS: dict[str, tuple[float | None, str]] = {
    "idle: safe": (0.0, "safe"),
    "mending: safe": (None, "safe"),
    "harm 1 ×: safe": (1.0, "safe"),
    "1.5 ×: safe": (1.5, "safe"),
    "2 ×: unsafe": (2.0, "unsafe"),
}


def jobs(trials: int, designs: tuple[Design, ...], seed: int) -> list[Job]:
    """Most trials where verdicts may err."""
    return [
        (design, shape, moves, times, trials if times == 1 else trials // 4, seed)
        for design in designs
        for times, _ in COLUMNS.values()
        for shape, moves in (KINDS if times else KINDS[: len(SHAPES)])
    ]


def tables(found: dict[Job, Tally], designs: tuple[Design, ...]) -> Iterator[str]:
    """Lines of Markdown."""
    yield f"| rows | {' | '.join(COLUMNS)} |"
    yield "|---" * (1 + len(COLUMNS)) + "|"
    for design in designs:
        cells = []
        for times, status in COLUMNS.values():
            of = _together(t for job, t in found.items() if (job[0], job[3]) == (design, times))
            cells.append(f"{of.share(status):.1f} / {of.share(status, 'hard'):.1f}")
        yield f"| {design} | {' | '.join(cells)} |"
    yield "\n| harm of 1 × the tolerance | called safe | most in one design |\n|---|---|---|"
    for shape, moves in KINDS:
        edge = {job[0]: t for job, t in found.items() if job[1:4] == (shape, moves, 1.0)}
        design = max(edge, key=lambda each: edge[each].share("safe"))
        mean = _together(edge.values()).share("safe")
        most = f"{edge[design].share('safe'):.1f} ({design})"
        yield f"| {shape} scores, {MOVES[moves]} | {mean:.1f} | {most} |"


def _together(tallies: Iterable[Tally]) -> Tally:
    whole = Tally()
    for tally in tallies:
        whole.soft += tally.soft
        whole.hard += tally.hard
    return whole


def steps(seed: int) -> Iterator[str]:
    """Half-widths of a slope per unit of λ, at steps of several sizes: does a larger one help?"""
    rng, design = np.random.default_rng(seed), Design(5, 2_000, 0.2)
    found = world(design, "normal", "all", 0.0, rng)
    assert found is not None
    rows, z, _ = found.sample(design, rng)
    drift = rng.standard_normal(design.n)
    yield "\n| step | soft | predictions |\n|---|---|---|"
    for step in (0.05, 0.1, 0.2, 0.4):
        cells = []
        for of in (lambda s: s, lambda s: np.where(s > 0, np.inf, -np.inf)):
            before, after = (rows.with_scores(of(s)) for s in (z, z + step * drift))
            matrix = transfer_matrix(before, {"g0": after}, MetricSettings(), step=step)
            low, high = matrix.change.low["tpr"], matrix.change.high["tpr"]
            cells.append(f"{float((high - low).mean()) / 2 / step:.3f}")
        yield f"| {step} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two designs, few trials")
    options = parser.parse_args()
    designs = DESIGNS[:2] if options.quick else DESIGNS
    todo = jobs(8 if options.quick else options.trials, designs, options.seed)
    with ProcessPoolExecutor(options.workers) as pool:
        found = dict(zip(todo, pool.map(simulated, *zip(*todo, strict=True)), strict=True))
    for line in (*tables(found, designs), *steps(options.seed)):
        print(line)


if __name__ == "__main__":
    main()
