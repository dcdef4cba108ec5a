"""How often a sweep prints a win where there is none: 1,000 simulated sweeps without a true effect.

    python benchmarks/false_verdicts.py --sweeps 77            # of each of 13 populations
    python benchmarks/false_verdicts.py --sweeps 3 --quick     # does it run?
    python benchmarks/false_verdicts.py --sweeps 77 --old ../other-checkout   # before, and after

Only scores are made up (`false_verdict_populations.py`). A whole sweep is run on them: two
baselines, eleven λ, injections, group thresholds, the random control of the choice; points are
measured and stored, the rule chooses on validation rows, report rows are opened for the choice, and
the sentences are read. To be quick, points on validation rows get one bootstrap draw (the choice
reads values, and draws for its ties anew), those on report rows 400, and nobody computes AUC.

Group thresholds are fitted, so that they do differ from all models: a win over them counts as false
where 50,000 further rows do not show it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from false_verdict_populations import POPULATIONS, TASK, Drawn, Population

from mergekit_fair.evaluation import evaluate as evaluating
from mergekit_fair.evaluation.evaluate import counted, evaluate
from mergekit_fair.evaluation.multi_predictions import AnyPredictions
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import METRICS, MetricSettings
from mergekit_fair.fairness.measure import estimate_table
from mergekit_fair.progress import Silent
from mergekit_fair.report import outputs
from mergekit_fair.sweep import point_runner, runner
from mergekit_fair.sweep.limits import Select
from mergekit_fair.sweep.point_runner import PointRunner, TimeBudget
from mergekit_fair.sweep.points import Point
from mergekit_fair.sweep.record import INJECTED, PlannedPoint
from mergekit_fair.sweep.results import SweepResults
from mergekit_fair.sweep.store import Store
from mergekit_fair.sweep.sweep_config import Sweep, SweepConfig
from mergekit_fair.sweep.worker import Outcome, PointJob

CONFIG: dict[str, Any] = {
    "recipe": {},
    "evaluate": {"tasks": [TASK]},
    "baselines": {"fft": "fft", "lora": "lora"},
    "controls": ["random"],
    "thresholds": "fft",
    "inject": {"target": "fft", "groups": ["g00", "g01"], "lambda": [0.2, 0.4]},
}
# The README's rule, and a smaller gap at any price; where merges select fewer people, the fewest.
README = {"dpd": "<= fft", "eod": "<= fft + 0.01"}
SMALLER_GAP = {"dpd": "<= fft - 0.05", "eod": "<= fft"}
TRUTH = "truth"  # a split of so many rows that what they show is so
SHOWN = 0.004  # true differences below this are none
LAMBDAS = [number / 10 for number in range(11)]
MIN_GROUP_SIZE = 30


class Rows:
    """In the place of an `Evaluator`: the rows, and nothing that is known of models."""

    tasks = (TASK,)
    warnings: tuple[str, ...] = ()
    request = SimpleNamespace(allow_trained_rows=True, model_args={})

    def __init__(self, drawn: Drawn) -> None:
        self._drawn = drawn

    def labels(self, split: str) -> Mapping[str, Predictions]:
        return {TASK: self._drawn.split(split).rows}

    def prepared(self, split: str) -> Any:
        del split
        return SimpleNamespace(tasks={})

    def code_left_out(self, models: Iterable[str]) -> list[str]:
        del models
        return []


class Points:
    """In the place of a `Planner`: points without models."""

    inputs: Mapping[str, str] = {}
    measuring = "0" * 64

    def __init__(self, population: Population) -> None:
        self.levels: dict[str, float] = {}
        self._baseline, self._start, self._end = population.levels

    def models(self) -> list[str]:
        return []

    def require_unchanged(self) -> None:
        return None

    def candidates(self) -> list[Point]:
        return []

    def composer(self) -> Any:
        """Models of one weight, so that points of near levels are near."""

        def tensors(label: str) -> dict[str, torch.Tensor]:
            return {"level": torch.tensor([self.levels[_id(label)]])}

        return SimpleNamespace(tensors=tensors)

    def baselines(self) -> list[Point]:
        return [self._point("baseline", name, self._baseline) for name in ("fft", "lora")]

    def merges(self) -> list[Point]:
        return [self._merge(value) for value in LAMBDAS]

    def control_of(self, point: Point) -> Point:
        return self._point("control", f"random {point.label}", self._baseline, point.planned)

    def injections(self, groups: list[str], lambdas: Iterable[float]) -> list[Point]:
        values = list(lambdas)
        return [self.injection({name: value}) for name in groups for value in values]

    def injection(self, lambdas: Mapping[str, float]) -> Point:
        label = " ".join(["fft", *(f"+ {value:g} {name}" for name, value in lambdas.items())])
        level = self._baseline + (self._end - self._baseline) * sum(lambdas.values())
        settings = {INJECTED + name: value for name, value in lambdas.items()}
        return self._point("injection", label, level, settings=settings)

    def _merge(self, value: float) -> Point:
        level = self._start + (self._end - self._start) * value
        return self._point("merge", f"λ={value:g}", level, settings={"lambda": value})

    def _point(
        self,
        kind: Any,
        label: str,
        level: float,
        like: PlannedPoint | None = None,
        settings: Mapping[str, float] | None = None,
    ) -> Point:
        found = dict(settings or (like.settings if like else {}))
        size = sum(map(float, found.values())) if kind != "baseline" else None
        planned = PlannedPoint(
            id=_id(label),
            kind=kind,
            label=label,
            settings=found,
            lambda_=found.get("lambda"),  # type: ignore[arg-type]
            lambda_eff=size,
            lambda_l1=size,
            is_identity=size == 0,
        )
        self.levels[planned.id] = level
        return Point(planned, None, label)


def _id(label: str) -> str:
    return f"{label.encode().hex():0<16}"


@dataclass
class Scorer:
    """In the place of an executor: the scores of a point."""

    drawn: Drawn
    planner: Points

    def run(self, jobs: Iterable[PointJob]) -> Iterator[tuple[PointJob, Outcome]]:
        for job in jobs:
            yield job, Outcome({TASK: self.scores(job.point.id, job.split)})

    def scores(self, point: str, split: str) -> Any:
        number = int(point, 16) % (2**31 - 1)
        return self.drawn.scores(self.planner.levels[point], split, number).astype("float32")

    def close(self) -> None:
        return None


class Runner(PointRunner):
    """It measures nothing on the rows that show the truth."""

    def predictions(self, point: str, split: str | None = None) -> AnyPredictions:
        if split != TRUTH:
            return super().predictions(point, split)
        scorer: Any = self.make_executor()
        return self.labels(TRUTH)[TASK].with_scores(scorer.scores(point, TRUTH))


Base: Any = getattr(runner, "SweepRun", None) or vars(runner)["_Run"]


class Run(Base):
    """A sweep that writes no results, and knows the truth about group thresholds."""

    def _report(
        self, chosen: Point | None, control: Any, thresholds: Any, *more: Any
    ) -> dict[str, Any]:
        decisions = getattr(thresholds, "points", thresholds)  # an older version has them itself
        object.__setattr__(self, "true_gains", partial(self._gains, chosen, decisions))
        return super()._report(chosen, control, thresholds, *more)

    def _write(self, *_: Any, **__: Any) -> None:
        return None

    def _gains(self, chosen: Point | None, thresholds: Any, baseline: str, metric: str) -> float:
        """How much better the chosen point truly is than thresholds."""
        assert chosen is not None  # of no choice nothing is said to be won
        both = thresholds.predictions(TRUTH)[baseline], self.runner.predictions(chosen.id, TRUTH)
        theirs, its = (
            estimate_table(counted(answers), self.runner.settings)[metric] for answers in both
        )
        return float(its - theirs) * (-1 if METRICS[metric].better == "lower" else 1)


def quick_evaluate(rows: Predictions, settings: MetricSettings, **more: Any) -> Any:
    """Values are those of any number of draws."""
    draws = 400 if more["split"] == "report" else 1
    return evaluate(rows, replace(settings, draws=draws), **more)


def rule(population: Population, number: int) -> dict[str, Any]:
    """README's in every other sweep; only the others allow saturated points."""
    asked, is_any = number % 2, bool(number % 2)
    last, fewest = population.levels[2], {"selection_rate": f"<= {1.3 * population.levels[2]:.3f}"}
    other = fewest if last < population.levels[0] else SMALLER_GAP
    limits: dict[str, Any] = {**(README, other)[asked]}
    select = {"maximize": "acc", "subject_to": {**limits, "saturated": is_any}}
    with contextlib.suppress(ValueError):
        Select.model_validate(select)
        return select
    return {"maximize": "acc", "subject_to": limits}  # an older version: saturated points may win


def simulated(population: Population, seed: tuple[int, ...]) -> tuple[SweepResults, Any]:
    """One sweep, as `run_sweep` runs it, and what is true of wins over thresholds."""
    drawn, planner = Drawn(population, seed), Points(population)
    select = rule(population, seed[-1])
    config = SweepConfig.model_validate({**CONFIG, "select": select, "seed": seed[-1]})
    recipe: Any = SimpleNamespace(groups=lambda: {"g00": "a", "g01": "b"}, warnings=())
    sweep = Sweep(config, recipe, {"lambda": tuple(LAMBDAS)}, (0.2, 0.4), {}, "sweep.yml")
    evaluator: Any = Rows(drawn)
    fast = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=fast) as folder:
        store = Store(Path(folder))
        settings = MetricSettings(min_group_size=MIN_GROUP_SIZE, seed=seed[-1])
        points = Runner(
            evaluator,
            store,
            settings,
            Silent(),
            split="validation",
            make_executor=partial(Scorer, drawn, planner),
            budget=TimeBudget(),
        )
        try:
            run = Run(sweep, planner, points)
            results = run.run()
            return results, [
                (name, metric, gain)
                for name, metric, gain in wins(results)
                if "thresholds" not in name or run.true_gains(name, metric) < SHOWN
            ]
        finally:
            store.close()


def wins(results: SweepResults) -> list[tuple[str, str, float]]:
    """Baseline, metric and difference of everything that is said to be won."""
    won = []
    for baseline, gaps in results.comparison.items():
        for name, gap in gaps.items():
            if hasattr(gap, "claimed"):
                claimed = bool(gap.claimed)
            else:  # an older version
                claimed = gap.holds(results.confidence)  # type: ignore[attr-defined]
            sign = -1 if METRICS[name.rpartition(".")[2]].better == "lower" else 1
            if claimed and (gap.value or 0.0) * sign > 0:
                won.append((baseline, name, float(gap.value or 0.0)))
    return won


def printed_wins(results: SweepResults) -> list[str]:
    """The sentences of the terminal, the page and the card that say a win."""
    if not results.comparison:
        return []
    lines = vars(outputs)["verdict"](results).splitlines()
    return [line for line in lines if " against " in line and "othing was won" not in line]


def tally(population: Population, number: int, sweeps: int, shown: bool) -> dict[str, Any]:
    """Simulate, count and say."""
    start, counts, causes = time.perf_counter(), Counter[str](), Counter[str]()
    for trial in range(sweeps):
        results, false = simulated(population, (number, trial))
        found, said = wins(results), printed_wins(results)
        if bool(found) != bool(said):
            raise AssertionError(f"{population.name} {trial}: {found} are won, and {said} is said")
        counts["chosen"] += bool(results.comparison)
        counts["said"] += bool(found)
        counts["false"] += bool(false)
        causes.update(f"{name}/{metric}" for name, metric, _ in false)
        if shown:
            for name, metric, value in false:
                print(f"  {population.name} {trial}: {metric} {value:+.3f} against {name}")
    seconds = (time.perf_counter() - start) / sweeps
    return {
        "name": population.name,
        "sweeps": sweeps,
        **counts,
        "causes": dict(causes.most_common(6)),
        "seconds": round(seconds, 2),
    }


def _module(name: str) -> Any:
    """One that an older version may not have."""
    found = importlib.util.find_spec(name)
    return SimpleNamespace() if found is None else importlib.import_module(name)


def run_here(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every population, in this process."""
    for module in (point_runner, _module("mergekit_fair.sweep.rescored")):
        vars(module)["evaluate"] = quick_evaluate
    evaluating._scores = lambda *_: None
    found = []
    for number, population in enumerate(POPULATIONS):
        if arguments.only and arguments.only not in population.name:
            continue
        found.append(tally(population, number, arguments.sweeps, arguments.show))
        print(f"{found[-1]}", file=sys.stderr, flush=True)
    return found


def run_old(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The same with the package of another checkout."""
    command = [sys.executable, __file__, "--json", "--sweeps", str(arguments.sweeps)]
    command += ["--only", arguments.only] if arguments.only else []
    environment = {**os.environ, "PYTHONPATH": str(arguments.old.absolute())}
    done = subprocess.run(
        command, env=environment, cwd=arguments.old, stdout=subprocess.PIPE, check=True
    )
    return list(json.loads(done.stdout))


def table(parts: Mapping[str, list[dict[str, Any]]]) -> str:
    """Markdown: % of sweeps that say a win which is none, any win, and that choose a merge."""
    columns = {"false": "a win that is none", "said": "any win", "chosen": "a merge is chosen"}
    heads = [f"{part}: {title}" for part in parts for title in columns.values()]
    lines = [f"| population | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for rows in zip(*parts.values(), strict=True):
        lines.append(_line(rows[0]["name"], list(rows), columns))
    totals = [_total(rows, columns) for rows in parts.values()]
    return "\n".join([*lines, _line(f"all {totals[0]['sweeps']:,}", totals, columns)])


def _total(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> dict[str, Any]:
    return {key: sum(row.get(key, 0) for row in rows) for key in (*columns, "sweeps")}


def _line(name: str, rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> str:
    cells = [f"{100 * row.get(key, 0) / row['sweeps']:.1f}" for row in rows for key in columns]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=77, help="of every population")
    parser.add_argument("--only", help="populations with this in their name")
    parser.add_argument("--old", type=Path, help="another checkout, measured first")
    parser.add_argument("--show", action="store_true", help="every win that is said")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    old = run_old(arguments) if arguments.old else None
    new = run_here(arguments)
    if arguments.json:
        print(json.dumps(new))
    else:
        print(table({"before": old, "after": new} if old else {"now": new}))


if __name__ == "__main__":
    main()
