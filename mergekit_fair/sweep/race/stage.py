"""The grid as a race: growing random parts of the rows, and points stopped in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import ConfigError
from mergekit_fair.fairness import Groups
from mergekit_fair.harness.exam import Exam
from mergekit_fair.sweep.config import Sweep
from mergekit_fair.sweep.lines import Line
from mergekit_fair.sweep.measurer import Measurer
from mergekit_fair.sweep.plan import Point
from mergekit_fair.sweep.race.judgement import Terms
from mergekit_fair.sweep.race.predictive import Course
from mergekit_fair.sweep.race.standings import Entrant, row_blocks, standings
from mergekit_fair.sweep.select import limit_of


@dataclass(frozen=True)
class Raced:
    """How a race went.

    Attributes:
        points: that are measured on all rows, or still have to be: controls, and λ = 0.
        results: for results.json: rows, the passes that were made and those of a full grid, and on
            how many rows each stopped point was seen.
    """

    points: list[Point]
    results: dict[str, Any]


def race(
    sweep: Sweep, measurer: Measurer, points: Sequence[Point], baselines: Mapping[str, Line]
) -> Raced:
    """Measure the merges of a grid on parts of the rows until the rule's choice is settled.

    Points that have gone all the way have an evaluation as any other; batches were others, so
    scores may differ from `eval`'s in the last bits. Random controls are measured for these alone.

    Raises:
        SweepError: a rule about another task.
    """
    racing = [p for p in points if p.kind == "merge" and not p.describe()["adds_nothing"]]
    course, terms = _course(measurer, baselines), _terms(sweep, measurer, baselines)
    blocks = row_blocks(course.labels, course.groups, sweep.config.seed)
    left, stopped, passes = list(racing), dict[str, int](), 0
    for number, block in enumerate(blocks):
        measurer.parts(left, _name(number), block)
        passes += len(block) * len(left)
        if number + 1 == len(blocks) or len(left) < 2:
            continue
        seen = np.concatenate(blocks[: number + 1])
        margins = np.stack([_margins(measurer, point, number) for point in left])
        entrants = [Entrant(point.id, point.size or 0.0) for point in left]
        found = standings(course, terms, entrants, seen, margins, seed=sweep.config.seed)
        names = set(found.survivors())
        stopped |= {point.label: len(seen) for point in left if point.id not in names}
        left = [point for point in left if point.id in names]
    for point in left:
        measurer.assemble(point, [_name(number) for number in range(len(blocks))], blocks)
    full = len(racing) * course.n
    results = {"rows": course.n, "passes": passes, "full_passes": full, "stopped": stopped}
    measurer.progress.say(
        f"race: {len(stopped)} of {len(racing)} points stopped early, {passes:,} of {full:,} "
        "forward passes"
    )
    kept = {str(point.settings) for point in left}
    others = [
        p for p in points if p not in racing and (p.kind != "control" or str(p.settings) in kept)
    ]
    return Raced([*others, *left], results)


def require_one_task(sweep: Sweep, exam: Exam) -> None:
    """Parts of the rows are those of one task.

    Raises:
        ConfigError: several tasks.
    """
    if len(exam.tasks) > 1:
        raise ConfigError(
            "a race knows the rows of one task only",
            where=f"{sweep.where}: race",
            got=list(exam.tasks),
            fix="set race: false, or measure one task",
        )


def _name(number: int) -> str:
    return f"race-{number}"


def _margins(measurer: Measurer, point: Point, number: int) -> NDArray[np.float64]:
    """What a point has answered to the blocks so far."""
    parts = [
        measurer.store.scores(point.id, measurer.split, _name(place)) for place in range(number + 1)
    ]
    return np.concatenate(parts).astype(np.float64)


def _course(measurer: Measurer, baselines: Mapping[str, Line]) -> Course:
    sheet = measurer.sheet
    known = [measurer.answers(line["id"]).scores for line in baselines.values()]
    return Course(
        labels=sheet.labels,
        groups=Groups.of(sheet.groups, len(sheet)),
        known=np.stack(known) if known else np.empty((0, len(sheet))),
    )


def _terms(sweep: Sweep, measurer: Measurer, baselines: Mapping[str, Line]) -> Terms:
    rule, how = sweep.config.select, measurer.how
    level = None if measurer.levels is None else measurer.levels[measurer.task].rate
    return Terms(
        maximize=rule.maximize,
        limits=tuple((c, limit_of(c, baselines)) for c in rule.constraints()),
        reference=how.reference,
        confidence=how.confidence,
        min_group_size=how.min_group_size,
        exclude=measurer.sheet.excluded,
        level=level,
        saturation=how.saturation,
    )
