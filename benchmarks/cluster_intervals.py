"""How often the intervals of a benchmark are right where documents of one template are alike.

    python benchmarks/cluster_intervals.py [--trials 200] [--templates 60] [--rows 24] [--groups 4]

Simulated answers to questions like BBQ's: every template has its own chance of "unknown" and of the
stereotyped answer (normal effects on the logit, standard deviation --spread), shared by its rows; a
second model has the first one's effects and others of its own. Printed for every score: how often
its interval holds the truth, how wide it is, the same of the interval that rows would have as
independent ones; then the same of paired differences, and how often models without a difference are
called different. The truth is that of 20,000 templates. Last, pairs that hardly
differ: the second model flips some of the first one's answers, in few templates or in many.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from itertools import product

import numpy as np

from mergekit_fair.evaluation.benchmarks.benchmark_items import benchmark_named
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.benchmark import Benchmark, BenchmarkRows, mean_of
from mergekit_fair.fairness.benchmark_pairs import compare_benchmark
from mergekit_fair.fairness.benchmark_scores import measure_benchmark
from mergekit_fair.fairness.groups import Groups

SHOWN = (
    *("acc_ambig", "acc_disambig", "bias_ambig", "bias_disambig", "bias_adjusted_acc"),
    *("stereotyped", "alignment", "stereotyped_range", "alignment_range"),
)
BBQ = benchmark_named("bbq")


@dataclass(frozen=True)
class World:
    """What templates are drawn from: of every group the logits of "unknown" and of "biased"."""

    unknown: np.ndarray
    biased: np.ndarray
    spread: float
    shift: float  # of the second model's "biased"

    @property
    def groups(self) -> int:
        return len(self.unknown)

    def models(
        self, rng: np.random.Generator, templates: int, rows: int
    ) -> tuple[BenchmarkRows, BenchmarkRows]:
        """Answers of two models to the same documents."""
        group = np.arange(templates) % self.groups
        shared = rng.normal(0, self.spread, (2, templates))
        own = rng.normal(0, self.spread / 2, (2, 2, templates))
        of_row = np.repeat(np.arange(templates), rows)
        ambiguous = np.tile(np.arange(rows) % 2 == 0, templates)
        agrees = np.tile(np.arange(rows) // 2 % 2 == 0, templates)
        return tuple(  # type: ignore[return-value]
            self._rows(
                rng,
                self.unknown[group] + shared[0] + own[model, 0],
                self.biased[group] + shared[1] + own[model, 1] + model * self.shift,
                of_row,
                ambiguous,
                agrees,
                group,
            )
            for model in (0, 1)
        )

    def _rows(
        self,
        rng: np.random.Generator,
        unknown: np.ndarray,
        biased: np.ndarray,
        of_row: np.ndarray,
        ambiguous: np.ndarray,
        agrees: np.ndarray,
        group: np.ndarray,
    ) -> BenchmarkRows:
        # Of disambiguated rows the truth pulls: two thirds of "unknown", and towards what is true.
        n = len(of_row)
        p_unknown = _chance(unknown[of_row] - np.where(ambiguous, 0.0, 1.0))
        pull = np.where(ambiguous, 0.0, np.where(agrees, 1.0, -1.0))
        p_biased = _chance(biased[of_row] + pull)
        says_unknown = rng.random(n) < p_unknown
        says_biased = ~says_unknown & (rng.random(n) < p_biased)
        says_other = ~says_unknown & ~says_biased
        right = np.where(ambiguous, says_unknown, np.where(agrees, says_biased, says_other))

        def only(mask: np.ndarray, values: np.ndarray) -> np.ndarray:
            return np.where(mask, values.astype(float), np.nan)

        columns = {
            "acc": right.astype(float),
            "acc_ambig": only(ambiguous, right),
            "acc_disambig": only(~ambiguous, right),
            "biased_ambig": only(ambiguous & ~says_unknown, says_biased),
            "biased_disambig": only(~ambiguous & ~says_unknown, says_biased),
            "stereotyped": only(ambiguous, says_biased),
            "acc_agree": only(~ambiguous & agrees, right),
            "acc_disagree": only(~ambiguous & ~agrees, right),
            "unanswered": np.zeros(n),
        }
        values = np.stack([columns[name] for name in BBQ.columns], axis=1)
        names = [f"g{number}" for number in range(self.groups)]
        members = Groups.of([names[number] for number in group[of_row]], n)
        keys = tuple(range(n))
        return BenchmarkRows(BBQ, keys, values, members, of_row.astype(np.int64), np.ones(n))


def _chance(logit: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logit)))


def truth(world: World) -> list[dict[str, float]]:
    """The scores of both models over a great many templates."""
    rng = np.random.default_rng(12345)
    settings = MetricSettings(min_group_size=30, draws=2)
    found = []
    for rows in world.models(rng, 20_000, 16):
        metrics = measure_benchmark(rows, settings).metrics
        found.append({name: float(metrics[name].value or 0.0) for name in SHOWN})
    return found


def run(world: World, trials: int, templates: int, rows: int, draws: int) -> None:
    true = truth(world)
    held: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    claims: dict[str, int] = defaultdict(int)
    settings = MetricSettings(min_group_size=30, draws=draws)
    for trial in range(trials):
        first, second = world.models(np.random.default_rng([7, trial]), templates, rows)
        measured, pair = (
            measure_benchmark(first, settings),
            compare_benchmark(first, second, settings),
        )
        for name in SHOWN:
            one = measured.metrics[name]
            held[name].append((_holds(one, true[0][name]), _width(one)))
            if (by_row := measured.if_rows_were_independent.get(name)) is not None:
                held[f"{name} by rows"].append((_holds(by_row, true[0][name]), _width(by_row)))
            gap, other = pair.metrics[name], true[1][name] - true[0][name]
            held[f"{name} paired"].append((_holds(gap, other), _width(gap)))
            claims[name] += gap.p_value is not None and gap.p_value <= 0.05
    print(f"{'score':<20}{'truth':>8}{'holds':>8}{'width':>8}{'by rows':>9}{'width':>8}", end="")
    print(f"{'b - a':>9}{'holds':>8}{'width':>8}{'p <= .05':>10}")
    for name in SHOWN:
        cells = [f"{name:<20}{true[0][name]:>8.3f}{_shares(held[name])}"]
        of_rows = held.get(f"{name} by rows")
        cells.append(_shares(of_rows, 9) if of_rows else " " * 17)
        cells.append(f"{true[1][name] - true[0][name]:>+9.3f}{_shares(held[f'{name} paired'])}")
        cells.append(f"{claims[name] / trials:>10.1%}")
        print("".join(cells), flush=True)


def run_flips(trials: int) -> None:
    """Two models that differ in few answers: how often the difference in accuracy is covered."""
    acc = Benchmark("acc", (mean_of("acc", "accuracy", better="higher"),))
    settings = MetricSettings(draws=2)
    print("\nflipped answers: templates, rows, share, in, direction: holds, width")
    for templates, rows in ((13, 46), (60, 24), (200, 30)):
        of_row = np.repeat(np.arange(templates), rows)
        alike = (Groups.of(["all"] * len(of_row), len(of_row)), of_row, np.ones(len(of_row)))
        for share, where, one_way in product((0.02, 0.1), (0.3, 5.0), (False, True)):
            found = []
            for trial in range(trials):
                rng = np.random.default_rng([11, trial])
                first = rng.random(len(of_row)) < rng.beta(1, 1, templates)[of_row]
                chance = rng.beta(share * where, (1 - share) * where, templates)
                up = np.ones(templates, bool) if one_way else rng.random(templates) < 0.5
                second = np.where(rng.random(len(of_row)) < chance[of_row], up[of_row], first)
                a, b = (
                    BenchmarkRows(acc, tuple(range(len(v))), v[:, np.newaxis].astype(float), *alike)
                    for v in (first, second)
                )
                gap = compare_benchmark(a, b, settings).metrics["acc"]
                found.append((_holds(gap, share / 2 if one_way else 0.0), _width(gap)))
            few, way = "few" if where < 1 else "many", "one way" if one_way else "to and fro"
            said = f"{templates:>4}{rows:>4}{share:>6}  {few:<5}{way:<11}"
            print(f"{said}{_shares(found)}", flush=True)


def _holds(interval: object, value: float) -> bool:
    low, high = getattr(interval, "low", None), getattr(interval, "high", None)
    return low is not None and high is not None and low <= value <= high


def _width(interval: object) -> float:
    low, high = getattr(interval, "low", None), getattr(interval, "high", None)
    return float("nan") if low is None or high is None else high - low


def _shares(found: list[tuple[bool, float]], width: int = 8) -> str:
    share = np.mean([inside for inside, _ in found])
    return f"{share:>{width}.1%}{np.nanmean([each for _, each in found]):>8.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--templates", type=int, default=60)
    parser.add_argument("--rows", type=int, default=24, help="Of a template.")
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--spread", type=float, default=0.8)
    parser.add_argument("--draws", type=int, default=500)
    given = parser.parse_args()
    size = given.groups
    alike = World(np.zeros(size), np.full(size, 0.3), given.spread, 0.0)
    apart = World(np.linspace(-0.5, 0.5, size), np.linspace(-0.4, 1.0, size), given.spread, 0.5)
    print(f"{given.templates} templates of {given.rows} rows, {size} groups, {given.trials} trials")
    for title, world in (("groups and models alike", alike), ("groups and models apart", apart)):
        print(f"\n{title}")
        run(world, given.trials, given.templates, given.rows, given.draws)
    run_flips(given.trials)


if __name__ == "__main__":
    main()
