"""Which groups' vectors may be injected, and with which λ: measured, never guessed from weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mergekit_fair.progress import Silent
from mergekit_fair.sweep.comparing import choose_by
from mergekit_fair.sweep.injection.transfer_matrix import Transfer, transfer_matrix
from mergekit_fair.sweep.injection.verdicts import judged, verdicts
from mergekit_fair.sweep.lines import Line
from mergekit_fair.sweep.measurer import Measurer
from mergekit_fair.sweep.points import Planner, Point
from mergekit_fair.sweep.select import rank
from mergekit_fair.sweep.sweep_config import Inject, Sweep


@dataclass(frozen=True)
class Injected:
    """What the stage has found.

    Attributes:
        points: that take part in the choice.
        results: what it adds to results.json.
        refused: point id → why it may not be chosen although it was measured.
        warnings: for its reader.
    """

    points: list[Point] = field(default_factory=list)
    results: Mapping[str, Any] = field(
        default_factory=lambda: {"worst_group": None, "transfer": None}
    )
    refused: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def inject_safely(
    sweep: Sweep, planner: Planner, measurer: Measurer, baselines: Mapping[str, Line]
) -> Injected:
    """One small step of every group, the transfer matrix, a verdict for each, then the search.

    Groups whose step is safe are added greedily: of all safe groups not yet added, at every λ, the
    rule chooses one; as long as it gets better, the next is looked for on top of it. A point that
    harms a group by more than the tolerance at its own λ is measured, shown and never chosen.
    """
    config = sweep.config.inject
    if config is None:
        return Injected()
    order = screened(planner, sweep.recipe.groups(), config)
    steps = {
        str(one["group"]): planner.injection({str(one["group"]): config.step}) for one in order
    }
    measurer.measure(list(steps.values()))
    matrix = _transfer(measurer, baselines[config.target], steps, config.step)
    found = verdicts(matrix, config.tolerance)
    safe = [verdict.group for verdict in found if verdict.status == "safe"]
    for verdict in found:
        measurer.progress.say(f"{verdict.group}: {verdict.status}. {verdict.reason}")
    search = _Greedy(sweep, planner, measurer, baselines, config)
    search.run(safe, {name: steps[name] for name in safe})
    unsafe = {steps[v.group].id: f"{v.status} step" for v in found if v.status != "safe"}
    transfer = {**judged(matrix, config.tolerance), "screening": order, "added": search.added}
    return Injected(
        [*steps.values(), *search.points],
        {"worst_group": None, "transfer": transfer},
        refused={**unsafe, **search.refused},
    )


def screened(planner: Planner, groups: Mapping[str, str], config: Inject) -> list[dict[str, Any]]:
    """The candidates in the order of screening in weight space, which decides nothing else."""
    from mergekit.options import MergeOptions

    from mergekit_fair.vectors.recipe_vectors import recipe_vectors

    recipe = planner.injection({next(iter(groups)): config.step}).recipe
    if recipe is None:
        return []
    vectors = recipe_vectors(recipe, MergeOptions(quiet=True), Silent())
    return [one.to_dict() for one in vectors.screened]


def _transfer(
    measurer: Measurer, target: Line, stepped: Mapping[str, Point], step: float
) -> Transfer:
    sheet = measurer.sheet
    return transfer_matrix(
        sheet.labels,
        measurer.answers(target["id"]).predictions,
        {name: measurer.answers(point.id).predictions for name, point in stepped.items()},
        sheet.groups,
        step=step,
        confidence=measurer.settings.confidence,
        min_group_size=measurer.settings.min_group_size,
        exclude=sheet.excluded,
        seed=measurer.settings.seed,
    )


class _Greedy:
    """Adds safe groups one after the other.

    Attributes:
        points: measured on the way.
        refused: point id → why it may not be chosen.
        added: group → λ, of the last accepted point.
    """

    def __init__(
        self,
        sweep: Sweep,
        planner: Planner,
        measurer: Measurer,
        baselines: Mapping[str, Line],
        config: Inject,
    ) -> None:
        self._sweep, self._planner, self._measurer = sweep, planner, measurer
        self._baselines, self._config = baselines, config
        self.points: list[Point] = []
        self.refused: dict[str, str] = {}
        self.added: dict[str, float] = {}

    def run(self, safe: Sequence[str], steps: Mapping[str, Point]) -> None:
        """Until no further group makes the rule's choice better."""
        left, best = list(safe), None
        while left:
            tried = {
                point.id: (point, {**self.added, name: value})
                for name in left
                for value in self._sweep.inject_grid
                for point in [self._planner.injection({**self.added, name: value})]
            }
            if not self.added:
                tried |= {p.id: (p, {name: self._config.step}) for name, p in steps.items()}
            points = [point for point, _ in tried.values()]
            lines = self._allowed(points)
            self.points += points
            chosen = self._chosen(lines)
            if chosen is None or (best is not None and self._rank(chosen) >= self._rank(best)):
                return
            best, self.added = chosen, tried[chosen["id"]][1]
            left = [name for name in left if name not in self.added]

    def _allowed(self, points: Sequence[Point]) -> list[Line]:
        """The points that are not shown to harm a group at their own λ."""
        lines = [line for line in self._measurer.measure(points) if "evaluation" in line]
        if not lines:
            return []
        by_label = {point.label: point for point in points}
        stepped = {line["label"]: by_label[line["label"]] for line in lines}
        matrix = _transfer(self._measurer, self._baselines[self._config.target], stepped, 1.0)
        found = verdicts(matrix, self._config.tolerance)
        harmful = {verdict.group for verdict in found if verdict.status == "unsafe"}
        for label in harmful:
            self.refused[by_label[label].id] = "harms a group"
        return [line for line in lines if line["label"] not in harmful]

    def _chosen(self, lines: Sequence[Line]) -> Line | None:
        rule = self._sweep.config.select
        choice = choose_by(self._measurer, lines, self._baselines, rule)
        return next((line for line in lines if line["id"] == choice.id), None)

    def _rank(self, line: Line) -> tuple[float, float]:
        return rank(line, self._baselines, self._sweep.config.select)
