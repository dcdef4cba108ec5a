"""plan.json: what a sweep would read, hold and run, and what its rows can show."""

from __future__ import annotations

from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness.power import Detectable
from mergekit_fair.sweep.head_block import CHOSEN
from mergekit_fair.sweep.outlook import Outlook, outlook_of
from mergekit_fair.sweep.points import Planner
from mergekit_fair.sweep.record import SCHEMA_VERSION, PlannedPoint, SweepRecord
from mergekit_fair.sweep.sample_size import planned
from mergekit_fair.sweep.sweep_config import Sweep


class LeftRecord(SweepRecord):
    """What a sweep has not run yet, in a folder that holds finished points.

    Attributes:
        finished: ids of its points that are measured on the split that is selected on.
        points: how many are not.
        forward_passes: rows that are still run, report rows included.
        at_most: what they are depends on figures that are not known yet; it may be fewer.
        minutes: None where nothing was timed.
    """

    finished: list[str]
    points: int
    forward_passes: int
    at_most: bool
    minutes: float | None = None


class SweepPlan(SweepRecord):
    """The content of plan.json: what a sweep would read, hold and run.

    Attributes:
        models: the base first.
        memory_bytes: all checkpoints, what the model has of its own and one sum of vectors; what
            does not fit into memory is read from disk for every point.
        points: those that are known before anything is measured.
        search_start: how the search begins, in words; None without one.
        rows: split → rows, of all tasks.
        forward_passes: rows that are run: every point on the split that is selected on; baselines,
            the choice and its random control on the report rows; training and validation rows
            through the targets of heads.
        head_points: at most, which cost no pass of their own.
        head_rows: of the targets' passes.
        detectable: split → the smallest gaps and differences that its rows can show.
        safe_injection: what it can be expected to show with these rows.
        seconds_per_point, estimated_minutes: where two batches of the base were timed.
        left: of all this; None where nothing is finished yet.
    """

    optional = (
        "search_start",
        "head_points",
        "head_rows",
        "detectable",
        "safe_injection",
        "seconds_per_point",
        "estimated_minutes",
        "left",
    )

    schema_version: int = SCHEMA_VERSION
    sweep: str
    tasks: list[str]
    models: list[str]
    bytes_read: int
    memory_bytes: int
    points: list[PlannedPoint]
    search_budget: int
    search_start: str | None = None
    injection_points_of_the_worst_group: int
    injection_points_of_safe_groups: int
    rows: dict[str, int]
    forward_passes: int
    head_points: int | None = None
    head_rows: int | None = None
    warnings: list[str]
    detectable: dict[str, Detectable] = {}
    safe_injection: Outlook | None = None
    seconds_per_point: float | None = None
    estimated_minutes: float | None = None
    left: LeftRecord | None = None

    @classmethod
    def of(cls, sweep: Sweep, evaluator: Evaluator, planner: Planner) -> SweepPlan:
        """The plan of a sweep that is read and checked."""
        config, inject = sweep.config, sweep.config.inject
        groups = inject.groups if inject and isinstance(inject.groups, list) else []
        injections = planner.injections(groups, sweep.inject_grid)
        points = [*planner.baselines(), *planner.merges(), *planner.candidates(), *injections]
        rows = {
            split: sum(map(len, evaluator.labels(split).values()))
            for split in ("validation", "report")
        }
        budget = config.search.budget if config.search else 0
        later = _later_injections(sweep)
        control = 1 if "random" in config.controls else 0  # the chosen point's
        passes = (len(points) + budget + later + control) * rows[config.select.split]
        targets = [] if config.head is None else config.head.of
        of_heads = len(targets) * _rows_of_heads(evaluator) if targets else 0
        outlook = _outlook(sweep, evaluator)
        return cls(
            sweep=sweep.where,
            tasks=list(evaluator.tasks),
            models=planner.models(),
            bytes_read=planner.bytes_read(),
            memory_bytes=planner.memory_bytes(),
            points=[point.planned for point in points],
            search_budget=budget,
            injection_points_of_the_worst_group=later if inject and inject.groups != "safe" else 0,
            injection_points_of_safe_groups=later if inject and inject.groups == "safe" else 0,
            rows=rows,
            forward_passes=passes
            + (len(config.baselines) + 1 + control) * rows["report"]
            + of_heads
            + (rows["report"] if CHOSEN in targets else 0),  # the merge and its features
            head_points=None if sweep.head_grid is None else len(targets) * sweep.head_grid.most,
            head_rows=of_heads or None,
            detectable=planned(
                {split: evaluator.labels(split)[evaluator.tasks[0]] for split in rows},
                config.evaluate.settings(config.seed),
                len(config.baselines) + len(set(config.controls)) + (2 if config.thresholds else 0),
            ),
            warnings=[*evaluator.warnings, *(outlook.warnings if outlook else ())],
            safe_injection=outlook,
        )


def _rows_of_heads(evaluator: Evaluator) -> int:
    """Training and validation rows, which one pass a target is run over."""
    return sum(
        len(evaluator.labels(split)[evaluator.tasks[0]]) for split in ("train", "validation")
    )


def _outlook(sweep: Sweep, evaluator: Evaluator) -> Outlook | None:
    """Of safe injection, from labels and groups alone."""
    config = sweep.config
    if config.inject is None or config.inject.groups != "safe":
        return None
    rows = evaluator.labels(config.select.split)[evaluator.tasks[0]]
    assert isinstance(rows, Predictions)  # `sweep.answer_kinds` asks for it
    return outlook_of(rows, config.evaluate.settings(config.seed), config.inject)


def _later_injections(sweep: Sweep) -> int:
    """Injections whose groups are known once others are measured; of `safe` at most so many."""
    inject = sweep.config.inject
    if inject is None or isinstance(inject.groups, list):
        return 0
    if inject.groups == "worst":
        return len(sweep.inject_grid)
    groups = len(sweep.recipe.groups())
    return groups + len(sweep.inject_grid) * groups * (groups + 1) // 2
