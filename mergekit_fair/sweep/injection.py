"""The second stage: group vectors on a baseline.

Which may be injected, and with which λ, is measured and never guessed from weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness.eligible_groups import worst_group
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.comparing import Noise
from mergekit_fair.sweep.outlook import outlook_of
from mergekit_fair.sweep.point_runner import PointRunner
from mergekit_fair.sweep.points import Planner, Point
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import TransferRecord, Verdict, WorstRecord
from mergekit_fair.sweep.selection import Rule
from mergekit_fair.sweep.sweep_config import Inject, Sweep
from mergekit_fair.sweep.transfer_matrix import Transfer, transfer_matrix
from mergekit_fair.sweep.verdicts import judged, verdicts


@dataclass(frozen=True)
class Injected:
    """What the stage has measured and judged.

    Attributes:
        points: that take part in the choice.
        worst_group: of the target, where the sweep asks for it.
        transfer: the judged matrix, where the sweep asks for safe groups.
        refused: point id → why it may not be chosen although it was measured.
    """

    points: list[Point] = field(default_factory=list)
    worst_group: WorstRecord | None = None
    transfer: TransferRecord | None = None
    refused: Mapping[str, str] = field(default_factory=dict)


def inject(
    sweep: Sweep, planner: Planner, runner: PointRunner, baselines: Mapping[str, PointResult]
) -> Injected:
    """Measure the injections that the sweep file asks for, as far as the budget goes.

    Raises:
        MeasurementError: no group can be called the worst one.
    """
    config = sweep.config.inject
    if config is None:
        return Injected()
    if config.groups == "safe":
        return _inject_safely(sweep, planner, runner, baselines, config)
    if isinstance(config.groups, list):
        points = planner.injections(config.groups, sweep.inject_grid)
        runner.measure(points)
        return Injected(points)
    worst, harms = worst_group(
        baselines[config.target].require_measured().to_dict(),
        candidates=sweep.recipe.groups(),
        excluded=runner.rows.excluded,
        min_group_size=runner.settings.min_group_size,
    )
    runner.progress.say(f"worst-served group of {config.target}: {worst} ({harms[worst]:.3f})")
    points = planner.injections([worst], sweep.inject_grid)
    runner.measure(points)
    return Injected(points, WorstRecord(name=worst, mean_of_dpd_and_eod={**harms}))


def _inject_safely(
    sweep: Sweep,
    planner: Planner,
    runner: PointRunner,
    baselines: Mapping[str, PointResult],
    config: Inject,
) -> Injected:
    """One small step of every group, the transfer matrix, a verdict for each, then the search.

    Groups whose step is safe are added greedily: of all safe groups not yet added, at every λ, the
    rule chooses one; as long as it gets better, the next is looked for on top of it. Every point
    has a verdict of its own, at its own λ: what is not shown to be safe is measured, shown and
    never chosen.
    """
    order = _screened(planner, sweep.recipe.groups(), config)
    names = [str(one["group"]) for one in order]
    steps = {name: planner.injection({name: config.step}) for name in names}
    target = runner.binary(baselines[config.target].id)
    outlook = outlook_of(target, runner.settings, config)
    tolerance = outlook.tolerance
    for text in outlook.warnings:
        runner.progress.say(f"warning: {text}")
    if len(runner.measure(list(steps.values()))) < len(steps):
        runner.unfinished["safe injection: no verdicts"] = most_added(len(steps), sweep.inject_grid)
        refused = {step.id: "no verdict" for step in steps.values()}
        return Injected([*steps.values()], refused=refused)
    matrix = _transfer(runner, target, steps, config.step)
    judgements = verdicts(matrix, tolerance)
    for verdict in judgements:
        runner.progress.say(f"{verdict.group}: {verdict.status}: {verdict.reason}")
    greedy = _Greedy(
        sweep, planner, runner, target, tolerance, Rule.of(sweep.config.select, baselines)
    )
    safe = [verdict.group for verdict in judgements if verdict.status == "safe"]
    greedy.run(safe, {name: steps[name] for name in safe})
    refused = {steps[v.group].id: v.status for v in judgements if v.status != "safe"}
    known = {step.label for step in steps.values()}
    tried = [verdict.to_dict() for label, verdict in greedy.tried.items() if label not in known]
    transfer = judged(matrix, tolerance, screening=order, added=greedy.added, tried=tried)
    return Injected(
        [*steps.values(), *greedy.points],
        transfer=transfer,
        refused={**refused, **greedy.refused},
    )


def most_added(groups: int, lambdas: Sequence[float]) -> int:
    """Points that a greedy search over so many safe groups measures at most."""
    return len(lambdas) * groups * (groups + 1) // 2


def _screened(planner: Planner, groups: Mapping[str, str], config: Inject) -> list[dict[str, Any]]:
    """The candidates in the order of screening in weight space, which decides nothing else."""
    from mergekit_fair.vectors.recipe_vectors import recipe_vectors

    recipe = planner.injection({next(iter(groups)): config.step}).recipe
    if recipe is None:
        return []
    vectors = recipe_vectors(recipe, planner.options, Silent())
    return [one.to_dict() for one in vectors.screened]


def _transfer(
    runner: PointRunner, target: Predictions, stepped: Mapping[str, Point], step: float
) -> Transfer:
    answers = {name: runner.binary(point.id) for name, point in stepped.items()}
    return transfer_matrix(target, answers, runner.settings, step=step)


@dataclass
class _Greedy:
    """Adds safe groups one after the other.

    Attributes:
        tolerance: largest harm of a point at its own λ.
        points: measured on the way.
        tried: label → its verdict.
        added: group → λ, of the last accepted point.
    """

    sweep: Sweep
    planner: Planner
    runner: PointRunner
    target: Predictions
    tolerance: float
    rule: Rule
    points: list[Point] = field(default_factory=list)
    tried: dict[str, Verdict] = field(default_factory=dict)
    added: dict[str, float] = field(default_factory=dict)

    @property
    def refused(self) -> dict[str, str]:
        """Point id → why it may not be chosen."""
        ids = {point.label: point.id for point in self.points}
        return {
            ids[label]: verdict.status
            for label, verdict in self.tried.items()
            if verdict.status != "safe"
        }

    def run(self, safe: Sequence[str], steps: Mapping[str, Point]) -> None:
        """Until no further group makes the rule's choice better, or the budget is spent."""
        left, best = list(safe), None
        while left:
            tried = {
                point.id: (point, {**self.added, name: value})
                for name in left
                for value in self.sweep.inject_grid
                for point in [self.planner.injection({**self.added, name: value})]
            }
            if not self.added:
                step = self.sweep.config.inject.step if self.sweep.config.inject else 0.0
                tried |= {p.id: (p, {name: step}) for name, p in steps.items()}
            points = [point for point, _ in tried.values()]
            self.points += points
            results = self.runner.measure(points)
            chosen = self._chosen([result for result in results if result.evaluation is not None])
            if len(results) < len(points):
                further = most_added(len(left) - 1, self.sweep.inject_grid)
                self.runner.unfinished["safe injection: further groups"] = further
                return
            if chosen is None:
                return
            if best is not None and self.rule.rank(chosen) >= self.rule.rank(best):
                return
            best, self.added = chosen, tried[chosen.id][1]
            left = [name for name in left if name not in self.added]

    def _chosen(self, results: Sequence[PointResult]) -> PointResult | None:
        """By the rule, of the points that are shown to be safe at their own λ."""
        if not results:
            return None
        points = {point.id: point for point in self.points}
        stepped = {result.label: points[result.id] for result in results}
        judgements = verdicts(_transfer(self.runner, self.target, stepped, 1.0), self.tolerance)
        self.tried |= {verdict.group: verdict for verdict in judgements}
        allowed = [result for result in results if self.tried[result.label].status == "safe"]
        return self.rule.best(allowed, tied=Noise(self.rule, self.runner.answers))
