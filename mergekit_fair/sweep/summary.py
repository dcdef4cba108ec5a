"""The plan of a sweep in numbers: what would be read, held and run."""

from __future__ import annotations

import math
from typing import Any

from mergekit_fair.checkpoints.cache import size_of
from mergekit_fair.checkpoints.folder import tensor_infos
from mergekit_fair.evaluation.evaluator import Exam
from mergekit_fair.sweep.points import Planner
from mergekit_fair.sweep.sweep_config import Sweep

_FLOAT64 = 8


def summary_of(sweep: Sweep, exam: Exam, planner: Planner) -> dict[str, Any]:
    """Models, bytes, points, rows and forward passes.

    `forward_passes` counts rows: every point on the rows of the selection's split, baselines,
    the chosen point and its random control on those of the report split.
    """
    config, inject = sweep.config, sweep.config.inject
    groups = inject.groups if inject and isinstance(inject.groups, list) else []
    injections = planner.injections(groups, sweep.inject_grid)
    points = [*planner.baselines(), *planner.merges(), *injections]
    rows = {
        split: sum(len(sheet) for sheet in exam.sheets(split).values())
        for split in ("validation", "report")
    }
    budget = config.search.budget if config.search else 0
    later = _later(sweep)
    known = len(config.baselines)
    further = 1 if "random" in config.controls else 0  # the control of the chosen point
    passes = (len(points) + budget + later + further) * rows[config.select.split]
    return {
        "sweep": sweep.where,
        "tasks": list(exam.tasks),
        "models": planner.models(),
        "bytes_read": planner.bytes_read(),
        "memory_bytes": _memory(planner),
        "points": [point.describe() for point in points],
        "search_budget": budget,
        "injection_points_of_the_worst_group": later if inject and inject.groups != "safe" else 0,
        "injection_points_of_safe_groups": later if inject and inject.groups == "safe" else 0,
        "rows": rows,
        "forward_passes": passes + (known + 1 + further) * rows["report"],
        "warnings": list(exam.warnings),
    }


def _later(sweep: Sweep) -> int:
    """Injections whose groups are known once others are measured; of `safe` at most so many."""
    inject = sweep.config.inject
    if inject is None or isinstance(inject.groups, list):
        return 0
    if inject.groups == "worst":
        return len(sweep.inject_grid)
    groups = len(sweep.recipe.groups())
    return groups + len(sweep.inject_grid) * groups * (groups + 1) // 2


def _memory(planner: Planner) -> int:
    """Bytes of all checkpoints, of the model and of one sum of vectors; what does not fit into
    memory is read from disk for every point."""
    base, *others = planner.models()
    elements = sum(math.prod(info.shape) for info in tensor_infos(base).values())
    return sum(map(size_of, [base, *others])) + size_of(base) + elements * _FLOAT64
