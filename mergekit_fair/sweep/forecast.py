"""What a sweep would run: `--dry-run`, in a folder that may hold finished points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.progress import Bars, Progress, Silent
from mergekit_fair.sweep.checked_folder import require_stored
from mergekit_fair.sweep.point_runner import LocalExecutor, TimeBudget
from mergekit_fair.sweep.points import Planner
from mergekit_fair.sweep.preparation import planned, prepared
from mergekit_fair.sweep.runner import SweepRun
from mergekit_fair.sweep.store import ReadStore
from mergekit_fair.sweep.sweep_config import Sweep
from mergekit_fair.sweep.sweep_plan import LeftRecord, SweepPlan
from mergekit_fair.sweep.worker import Outcome, PointJob


def plan_sweep(sweep: Sweep, probe: Progress | None = None, out: Path | None = None) -> SweepPlan:
    """What a sweep would do; measures nothing.

    Args:
        sweep: from `load_sweep`.
        probe: run two batches of the base model, unless nothing is left to run, and add
            `seconds_per_point` and `estimated_minutes`; told what is done.
        out: the folder, whose finished points are counted; it is only read.

    Raises:
        CheckpointError, ConfigError, DataError, RecipeError, SweepError: whatever would stop the
            sweep.
    """
    evaluator, planner = prepared(sweep, probe)
    plan = planned(sweep, evaluator, planner)
    store = None if out is None else ReadStore(out)
    if store is not None and store.lines:
        left = _left(sweep, evaluator, planner, plan, store, probe or Silent())
        plan = plan.model_copy(update={"left": left})
    if probe is None or (plan.left is not None and not plan.left.forward_passes):
        return plan
    local = LocalExecutor(sweep, evaluator, planner.models()[0], probe)
    size = sweep.config.evaluate.batch_size
    seconds = local.worker.probe("validation", size if isinstance(size, int) else 64)

    def minutes(forward_passes: int) -> float:
        return round(seconds * forward_passes / plan.rows["validation"] / 60, 2)

    times = {
        "seconds_per_point": round(seconds, 2),
        "estimated_minutes": minutes(plan.forward_passes),
    }
    if plan.left is None:
        return plan.model_copy(update=times)
    left = plan.left.model_copy(update={"minutes": minutes(plan.left.forward_passes)})
    return plan.model_copy(update={**times, "left": left})


class _Listing:
    """An executor that runs nothing; what it is given is what is left."""

    def __init__(self) -> None:
        self.jobs: list[PointJob] = []

    def run(self, jobs: Iterable[PointJob]) -> Iterator[tuple[PointJob, Outcome]]:
        self.jobs += jobs
        yield from ()

    def close(self) -> None:
        pass


def _left(
    sweep: Sweep,
    evaluator: Evaluator,
    planner: Planner,
    plan: SweepPlan,
    store: ReadStore,
    progress: Progress,
) -> LeftRecord:
    """What is left: the sweep goes through its stages, and no model is run."""
    listing, split = _Listing(), sweep.config.select.split
    require_stored(store, split)
    run = SweepRun.of(
        sweep,
        planner,
        evaluator,
        store,
        Bars(progress),
        make_executor=lambda: listing,
        budget=TimeBudget(),
    )
    done = store.results(split)
    points = {point.id for point in plan.points}
    further = plan.search_budget + plan.injection_points_of_the_worst_group
    further += plan.injection_points_of_safe_groups
    is_known, missing = False, plan.head_rows or 0
    if all(point.id in done for point in planner.baselines()):
        candidates = run.candidates()
        points |= {point.id for point in candidates.points if point.kind != "head"}
        further = sum(run.runner.unfinished.values())
        missing = candidates.heads.missing
        is_known = not listing.jobs and not further and candidates.heads.is_whole
    if is_known:
        _, chosen = run.choice(candidates)
        control = run.control(chosen)
        points |= {point.id for point in control}
        needed = {point.id for point in (*run.on_report(chosen, candidates.heads), *control)}
        to_report = len(needed - store.results("report").keys())
        to_report += candidates.heads.to_report(chosen)
    else:  # which point is chosen shows later
        controls = int("random" in sweep.config.controls)
        needed = {point.id for point in planner.baselines()}
        to_report = len(needed - store.results("report").keys()) + 1 + controls
        further += controls
    left = len(points - done.keys()) + further
    passes = left * plan.rows[split] + to_report * plan.rows["report"] + missing
    return LeftRecord(
        finished=sorted(points & done.keys()),
        points=left,
        forward_passes=passes,
        at_most=not is_known,
        minutes=None if passes else 0.0,
    )
