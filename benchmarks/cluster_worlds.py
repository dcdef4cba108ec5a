"""Simulated answers to benchmarks whose documents come in clusters, as the suites have them.

A world draws the answers of two models to the same documents. What belongs to a cluster (a BBQ
template, a StereoSet term, a WinoBias pair of occupations, a decision of discrim-eval) has normal
effects on the logit, shared by its documents; the second model has the first one's effects and
others of its own, half as large. So do all worlds say what is `alike` in groups and models, and
what is apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.evaluation.benchmarks.benchmark_items import benchmark_named
from mergekit_fair.evaluation.benchmarks.discrim_eval import AGES, GENDERS, RACES
from mergekit_fair.fairness.benchmark import BenchmarkRows
from mergekit_fair.fairness.groups import Groups

Floats = NDArray[np.float64]
Both = tuple[BenchmarkRows, BenchmarkRows]
_MANY = 20_000  # clusters whose scores are taken for the truth


def chance(logit: Floats) -> Floats:
    """1 / (1 + exp(−logit))."""
    return np.asarray(1 / (1 + np.exp(-logit)))


def answered(
    name: str, columns: dict[str, Floats], members: Groups, clusters: NDArray[Any]
) -> BenchmarkRows:
    """Rows of a benchmark, NaN in the columns that are not given."""
    benchmark, n = benchmark_named(name), len(clusters)
    nothing = {"unanswered": np.zeros(n)}
    values = [(nothing | columns).get(each, np.full(n, np.nan)) for each in benchmark.columns]
    of_row = clusters.astype(np.int64)
    keys = tuple(range(n))
    return BenchmarkRows(benchmark, keys, np.stack(values, axis=1), members, of_row, np.ones(n))


@dataclass(frozen=True)
class World(ABC):
    """What answers are drawn from.

    Attributes:
        spread: standard deviation of the clusters' effects.
        is_apart: whether groups differ, and the second model from the first.
    """

    spread: float
    is_apart: bool
    shown: ClassVar[tuple[str, ...]]
    excluded: ClassVar[tuple[str, ...]] = ()

    def shared(self, rng: np.random.Generator, *shape: int) -> tuple[Floats, Floats]:
        """Effects of clusters on the first and on the second model."""
        both, own = rng.normal(0, self.spread, shape), rng.normal(0, self.spread / 2, (2, *shape))
        return both + own[0], both + own[1]

    @abstractmethod
    def models(self, rng: np.random.Generator, *, many: bool = False) -> Both:
        """Answers of two models to the same documents; of a great many clusters for the truth."""


@dataclass(frozen=True)
class StereoSetWorld(World):
    """The report rows of a StereoSet task: 48 terms of 20 to 33 documents, by type of bias."""

    TYPES: ClassVar = {"gender": 6, "profession": 18, "race": 22, "religion": 2}
    LEANS: ClassVar = {"gender": 0.6, "profession": 0.1, "race": -0.2, "religion": 0.3}
    shown: ClassVar = ("ss", "lms", "icat", "ss_range")
    excluded: ClassVar = ("religion",)  # two terms decide no range

    def models(self, rng: np.random.Generator, *, many: bool = False) -> Both:
        times = _MANY // sum(self.TYPES.values()) if many else 1
        types = np.repeat(list(self.TYPES), [times * n for n in self.TYPES.values()])
        sizes = rng.integers(20, 34, len(types))
        of_row = np.repeat(np.arange(len(types)), sizes)
        leans = np.array([self.LEANS[name] if self.is_apart else 0.2 for name in types])
        members = Groups.of(types[of_row].tolist(), len(of_row))
        share = 1 / sizes[of_row]
        prefers, relates = self.shared(rng, len(types)), self.shared(rng, len(types))
        found = []
        for model in (0, 1):
            noise = rng.gumbel(size=(3, len(of_row)))
            lean = leans + prefers[model] + 0.3 * model * self.is_apart
            stereotype, opposite = noise[0] + lean[of_row], noise[1]
            nonsense = noise[2] + relates[model][of_row] - 1
            related = ((stereotype > nonsense) + (opposite > nonsense).astype(float)) / 2
            columns = {"share": share}
            for suffix in ("", "_norm"):
                columns[f"preferred{suffix}"] = share * (stereotype > opposite)
                columns[f"related{suffix}"] = share * related
            found.append(answered("stereoset", columns, members, of_row))
        return found[0], found[1]


@dataclass(frozen=True)
class WinoBiasWorld(World):
    """Its report rows: 236 pairs of occupations, of either type, answer and gender a sentence.

    A pair is easy or hard, more or less stereotyped, and has an occupation that is likelier
    whatever the sentence says.
    """

    PAIRS: ClassVar = 236
    shown: ClassVar = ("acc", "acc_pro", "acc_anti", "gap", "gap_type1", "gap_type2", "acc_range")

    def models(self, rng: np.random.Generator, *, many: bool = False) -> Both:
        pairs = _MANY if many else self.PAIRS
        number, answer, gender = (axis.ravel() for axis in np.mgrid[1:3, 0:2, 0:2])
        kind, side, male = (np.tile(axis, pairs) for axis in (number, answer, gender))
        of_row, pro = np.repeat(np.arange(pairs), 8), side == male
        members = Groups.of(np.where(male == 1, "male", "female").tolist(), len(of_row))
        effects = self.shared(rng, 3, pairs)
        found = []
        for model in (0, 1):
            ease, bias, first = (each[of_row] for each in effects[model])
            bias = bias + (0.4 + 0.3 * model if self.is_apart else 0.0)
            logit = 0.4 * kind - 0.2 + ease + np.where(pro, bias, -bias)
            logit += np.where(side == 1, first, -first) + 0.3 * self.is_apart * male
            right = (rng.random(len(of_row)) < chance(logit)).astype(float)
            columns = {"acc": right}
            for name, rows in (("pro", pro), ("anti", ~pro)):
                columns[f"acc_{name}"] = np.where(rows, right, np.nan)
                for each in (1, 2):
                    inside = rows & (kind == each)
                    columns[f"acc_{name}_type{each}"] = np.where(inside, right, np.nan)
            found.append(answered("winobias", columns, members, of_row))
        return found[0], found[1]


@dataclass(frozen=True)
class DiscrimEvalWorld(World):
    """Its report rows: 42 decisions, each about 135 persons.

    A decision has a logit of its own, and what race, gender and age change in it (half as much).
    """

    DECISIONS: ClassVar = 42
    shown: ClassVar = (
        *("yes", "black_bias", "female_bias", "age_bias"),
        *("yes_race_range", "yes_gender_range", "yes_age_range"),
    )

    def models(self, rng: np.random.Generator, *, many: bool = False) -> Both:
        decisions = 6_000 if many else self.DECISIONS
        grid = np.mgrid[0 : len(RACES), 0 : len(GENDERS), 0 : len(AGES)]
        race, gender, age = (np.tile(axis.ravel(), decisions) for axis in grid)
        persons = grid[0].size
        of_row = np.repeat(np.arange(decisions), persons)
        years = np.array(AGES)[age]
        z = (years - np.mean(AGES)) / np.std(AGES)
        names = zip(race.tolist(), gender.tolist(), years.tolist(), strict=True)
        members = Groups.of([[RACES[r], GENDERS[g], f"age {a}"] for r, g, a in names], len(of_row))
        effects = self.shared(rng, 2 + len(RACES) + len(GENDERS), decisions)
        of_race = self.is_apart * np.array([0.0, 0.3, 0.1, 0.15, 0.2])
        of_gender = self.is_apart * np.array([0.0, 0.2, 0.1])
        found = []
        for model in (0, 1):
            level, slope, *others = effects[model]
            races, genders = np.array(others[: len(RACES)]), np.array(others[len(RACES) :])
            stronger = 1.0 + model
            logit = 1 + level[of_row] + (slope[of_row] / 2 - 0.2 * stronger * self.is_apart) * z
            logit += races[race, of_row] / 2 + stronger * of_race[race]
            logit += genders[gender, of_row] / 2 + stronger * of_gender[gender]
            logit += rng.normal(0, 0.3, len(of_row))
            columns = {"yes": chance(logit), "logit": logit, "age": years.astype(float)}
            columns |= {"age squared": years**2.0, "logit × age": logit * years}
            for codes, groups in ((race, RACES), (gender, GENDERS)):
                for code, name in enumerate(groups):
                    columns[f"logit {name}"] = np.where(codes == code, logit, np.nan)
            found.append(answered("discrim_eval", columns, members, of_row))
        return found[0], found[1]


@dataclass(frozen=True)
class BbqWorld(World):
    """Templates of `rows` documents each, of one group each: ambiguous or not, in turns."""

    templates: int
    rows: int
    groups: int
    shown: ClassVar = (
        *("acc_ambig", "acc_disambig", "bias_ambig", "bias_disambig", "bias_adjusted_acc"),
        *("stereotyped", "alignment", "stereotyped_range", "alignment_range"),
    )

    def models(self, rng: np.random.Generator, *, many: bool = False) -> Both:
        templates, rows = (_MANY, 16) if many else (self.templates, self.rows)
        group = np.arange(templates) % self.groups
        unknown = np.linspace(-0.5, 0.5, self.groups) * self.is_apart
        biased = np.linspace(-0.4, 1.0, self.groups) if self.is_apart else np.full(self.groups, 0.3)
        shared = rng.normal(0, self.spread, (2, templates))
        own = rng.normal(0, self.spread / 2, (2, 2, templates))
        of_row = np.repeat(np.arange(templates), rows)
        ambiguous = np.tile(np.arange(rows) % 2 == 0, templates)
        agrees = np.tile(np.arange(rows) // 2 % 2 == 0, templates)
        names = [f"g{number}" for number in range(self.groups)]
        members = Groups.of([names[number] for number in group[of_row]], len(of_row))
        found = []
        for model in (0, 1):
            effects = shared + own[model]
            columns = self._columns(
                rng,
                (unknown[group] + effects[0])[of_row],
                (biased[group] + effects[1] + 0.5 * model * self.is_apart)[of_row],
                ambiguous,
                agrees,
            )
            found.append(answered("bbq", columns, members, of_row))
        return found[0], found[1]

    def _columns(
        self,
        rng: np.random.Generator,
        unknown: Floats,
        biased: Floats,
        ambiguous: NDArray[np.bool_],
        agrees: NDArray[np.bool_],
    ) -> dict[str, Floats]:
        # Of disambiguated rows the truth pulls: two thirds of "unknown", and towards what is true.
        n = len(ambiguous)
        p_unknown = chance(unknown - np.where(ambiguous, 0.0, 1.0))
        p_biased = chance(biased + np.where(ambiguous, 0.0, np.where(agrees, 1.0, -1.0)))
        says_unknown = rng.random(n) < p_unknown
        says_biased = ~says_unknown & (rng.random(n) < p_biased)
        says_other = ~says_unknown & ~says_biased
        right = np.where(ambiguous, says_unknown, np.where(agrees, says_biased, says_other))

        def only(mask: NDArray[np.bool_], values: NDArray[np.bool_]) -> Floats:
            return np.where(mask, values.astype(float), np.nan)

        return {
            "acc": right.astype(float),
            "acc_ambig": only(ambiguous, right),
            "acc_disambig": only(~ambiguous, right),
            "biased_ambig": only(ambiguous & ~says_unknown, says_biased),
            "biased_disambig": only(~ambiguous & ~says_unknown, says_biased),
            "stereotyped": only(ambiguous, says_biased),
            "acc_agree": only(~ambiguous & agrees, right),
            "acc_disagree": only(~ambiguous & ~agrees, right),
        }
