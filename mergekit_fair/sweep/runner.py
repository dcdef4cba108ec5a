"""A whole sweep: baselines, grid, search, injection, choice, report split, the chosen recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergekit_fair.errors import SweepError
from mergekit_fair.evaluation.evaluate import versions
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.evaluation.levels import AnyLevel, level_of_labels
from mergekit_fair.evaluation.multi_predictions import AnyPredictions
from mergekit_fair.evaluation.truncation import length_notes
from mergekit_fair.files import write_atomic
from mergekit_fair.progress import Progress
from mergekit_fair.sweep.checked_folder import require_stored
from mergekit_fair.sweep.comparing import Noise
from mergekit_fair.sweep.cutoffs import Cutoffs
from mergekit_fair.sweep.differences import compared_as, differences
from mergekit_fair.sweep.distances import Distances
from mergekit_fair.sweep.head_stage import Heads, OpenWorker
from mergekit_fair.sweep.injection import Injected, inject
from mergekit_fair.sweep.point_runner import (
    Executor,
    ExecutorFactory,
    LocalExecutor,
    PointRunner,
    TimeBudget,
)
from mergekit_fair.sweep.points import Planner, Point, unique
from mergekit_fair.sweep.preparation import planned, prepared
from mergekit_fair.sweep.record import SCHEMA_VERSION, PointResult, to_json
from mergekit_fair.sweep.rescored import Rescored
from mergekit_fair.sweep.results import Choice, LevelRecord, SweepResults
from mergekit_fair.sweep.sample_size import of_report
from mergekit_fair.sweep.selected import write_selected
from mergekit_fair.sweep.selection import Rule, reference_of
from mergekit_fair.sweep.store import ReadStore, Store
from mergekit_fair.sweep.sweep_config import Sweep
from mergekit_fair.sweep.thresholded_baseline import ThresholdedBaseline


def run_sweep(
    sweep: Sweep,
    out: Path,
    progress: Progress,
    make_executor: ExecutorFactory = LocalExecutor,
    budget: TimeBudget | None = None,
    *,
    write_best: bool = False,
) -> SweepResults:
    """Measure every point that is not measured yet, choose, and open the report split.

    Writes `plan.json`, `points.jsonl`, `scores/`, `results.json` and, if a point is chosen,
    `selected/recipe.yml` in `out`. Where none is, the report split stays closed, and what an
    earlier run has selected is put aside. The same call again goes on where it was killed, or
    where the budget was spent, and ends with the same `results.json`.

    Args:
        sweep: from `load_sweep`.
        out: the folder.
        progress: told what is done.
        make_executor: given sweep, evaluator, base model and progress.
        budget: of time, for points on the split that is selected on.
        write_best: where no point is chosen, write the recipe of the best merge, which says so.

    Raises:
        SweepError: the budget is spent before the baselines are measured.
    """
    evaluator, planner = prepared(sweep, progress)
    plan = planned(sweep, evaluator, planner)
    store = Store(out)
    base = planner.models()[0]
    here = LocalExecutor(sweep, evaluator, base, progress)

    def executor() -> Executor:
        is_here = make_executor is LocalExecutor
        return here if is_here else make_executor(sweep, evaluator, base, progress)

    run = SweepRun.of(
        sweep,
        planner,
        evaluator,
        store,
        progress,
        make_executor=executor,
        budget=budget or TimeBudget(),
        open_worker=lambda: here.worker,
    )
    runner = run.runner
    try:
        require_stored(store, runner.split)
        write_atomic(out / "plan.json", to_json(plan.to_dict()))
        for warning in plan.warnings:
            progress.say(f"warning: {warning}")
        return run.run(write_best=write_best)
    finally:
        runner.close()
        here.close()
        store.close()


@dataclass(frozen=True)
class Candidates:
    """What is measured on the split that is selected on, before anything is chosen.

    Attributes:
        baselines: name → result.
        level: the selection rate that level-matched figures are measured at; of classes or labels
            those that models' are read beside.
        points: merges, searched and injected ones.
        results: of the baselines, then of the points.
        injected: what the second stage says.
        heads: fair heads, which are among points and results.
    """

    baselines: dict[str, PointResult]
    level: AnyLevel
    points: list[Point]
    results: list[PointResult]
    injected: Injected
    heads: Heads


@dataclass(frozen=True)
class SweepRun:
    """The stages of a sweep, one after the other.

    Attributes:
        open_worker: gives what runs models in this process; None: none may be run.
    """

    sweep: Sweep
    planner: Planner
    runner: PointRunner
    open_worker: OpenWorker | None = None

    @classmethod
    def of(
        cls,
        sweep: Sweep,
        planner: Planner,
        evaluator: Evaluator,
        store: ReadStore,
        progress: Progress,
        *,
        make_executor: Callable[[], Executor],
        budget: TimeBudget,
        open_worker: OpenWorker | None = None,
    ) -> SweepRun:
        """Of a sweep that is read and checked."""
        evaluate = sweep.config.evaluate
        runner = PointRunner(
            evaluator,
            store,
            evaluate.settings(sweep.config.seed),
            progress,
            split=sweep.config.select.split,
            make_executor=make_executor,
            budget=budget,
            saturation=evaluate.saturation,
            require_unchanged=planner.require_unchanged,
        )
        return cls(sweep, planner, runner, open_worker)

    def run(self, *, write_best: bool = False) -> SweepResults:
        """All of them."""
        runner, config = self.runner, self.sweep.config
        candidates = self.candidates()
        results, injected, level = candidates.results, candidates.injected, candidates.level
        thresholds = ThresholdedBaseline.fit(config, runner, candidates.baselines)
        choice, chosen = self.choice(candidates)
        best = next((result for result in results if result.id == choice.id), None)
        cutoffs = Cutoffs.of(config, runner, candidates.baselines, best)
        heads, asked = candidates.heads, config.controls
        rivals = heads.controls(chosen, asked, runner.split)
        said = heads.notes(chosen, asked)
        for warning in (*thresholds.warnings, *cutoffs.warnings, *said):
            runner.progress.say(f"warning: {warning}")
        control = self.control(chosen)
        known = {result.id for result in results}
        results += [result for result in runner.measure(control) if result.id not in known]
        rescored = [
            *rivals.results(runner.split),
            *cutoffs.results(runner.split),
            *thresholds.points.results(runner.split),
        ]
        done = runner.store.results(runner.split)
        control = [point for point in control if point.id in done]
        report = self._report(chosen, control, thresholds, cutoffs.level, heads)
        sweep_results = SweepResults(
            schema_version=SCHEMA_VERSION,
            sweep=self.sweep.where,
            task=runner.task,
            confidence=runner.settings.confidence,
            level=LevelRecord.of(level),
            selected_on=config.select.split,
            points=[
                result.public(injected.refused.get(result.id)) for result in [*results, *rescored]
            ],
            selected=choice,
            worst_group=injected.worst_group,
            transfer=injected.transfer,
            **report,
            detectable=of_report(
                runner.labels("report")[runner.task],
                runner.settings,
                results,
                lambda point: runner.predictions(point.id),
                reference=level.to,
                chosen=choice.id,
                comparisons=len(report["comparison"]),
            ),
            budget=runner.budget_record,
            warnings=[
                *runner.evaluator.warnings,
                *thresholds.warnings,
                *cutoffs.warnings,
                *said,
                *runner.evaluator.code_left_out(self.planner.models()),
                *(text for model in self.planner.models() for text in runner.seen.remarks(model)),
                *_length_notes(results, self.planner.models()),
            ],
            versions=versions(),
            inputs=self.planner.inputs,
            measuring=self.planner.measuring,
        )
        self.planner.require_unchanged()
        wanted = choice.id or (choice.best_merge if write_best else None)
        written = (point for point in candidates.points if point.id == wanted)
        self._write(next(written, None), sweep_results)
        return sweep_results

    def candidates(self) -> Candidates:
        """Measure baselines and points, as far as the budget goes."""
        baselines, level = self._baselines()
        by_name = {result.label: result for result in baselines}
        merges = [*self.planner.merges(), *self.planner.candidates()]
        self.runner.measure(merges)
        searched = self._searched(by_name)
        injected = inject(self.sweep, self.planner, self.runner, by_name)
        points = unique([*merges, *searched, *injected.points])
        results = [*baselines, *self.runner.measure(points)]
        so_far = Candidates(by_name, level, points, results, injected, Heads(self.runner))
        heads = Heads.fit(
            self.sweep,
            self.planner,
            self.runner,
            self.open_worker,
            chosen=lambda: self.choice(so_far)[1],
        )
        points, results = [*points, *heads.points], [*results, *heads.results()]
        return replace(so_far, points=points, results=results, heads=heads)

    def choice(self, candidates: Candidates) -> tuple[Choice, Point | None]:
        """By the rule, and the chosen point, if there is one."""
        runner, points, refused = self.runner, candidates.points, candidates.injected.refused
        rule = Rule.of(self.sweep.config.select, candidates.baselines)
        reference = next((p for p in self.planner.baselines() if p.label == rule.reference), None)
        choice = rule.choose(
            [result for result in candidates.results if result.id not in refused],
            tied=Noise(rule, runner.answers),
            measure=Distances(self.planner, points, reference, runner.progress),
            budget=runner.budget_record,
        )
        return choice, next((point for point in points if point.id == choice.id), None)

    def _baselines(self) -> tuple[list[PointResult], AnyLevel]:
        """Their results, and the selection rate that level-matched figures are measured at."""
        runner, points = self.runner, self.planner.baselines()
        saturation = self.sweep.config.evaluate.saturation
        if not points:
            runner.levels = {
                task: replace(level_of_labels(rows), saturation=saturation)
                for task, rows in runner.labels().items()
            }
            return [], runner.levels[runner.task]
        reference = reference_of([point.label for point in points])
        first = next(point for point in points if point.label == reference)
        for result in runner.measure([first]):
            result.require_measured()
            runner.levels = result.levels(saturation)
        results = runner.measure(points)
        if len(results) < len(points) or runner.levels is None:
            raise SweepError(
                "is spent before all baselines are measured, without which nothing can be chosen",
                where="--max-minutes",
                got=runner.budget.minutes,
                fix="give more minutes; the same command goes on with what is finished",
            )
        for result in results:
            result.require_measured()
        return results, runner.levels[runner.task]

    def _searched(self, baselines: dict[str, PointResult]) -> list[Point]:
        if self.sweep.config.search is None:
            return []
        from mergekit_fair.sweep.search.search_stage import search

        return search(self.sweep, self.planner, self.runner, baselines)

    def control(self, chosen: Point | None) -> list[Point]:
        """The chosen point with random vectors: without it nobody knows what the subgroups' did."""
        if chosen is None or "random" not in self.sweep.config.controls:
            return []
        if chosen.kind in ("candidate", "head"):
            return []  # the one is no sum of vectors that is known, the other has its own controls
        return [self.planner.control_of(chosen)]

    def on_report(self, chosen: Point | None, heads: Heads) -> list[Point]:
        """The models that are run on the report rows, beside the chosen one's control: of a head
        the merge that it is of, whose scores it moves."""
        if chosen is None:
            return []
        run = heads.merge_of(chosen) if chosen.kind == "head" else chosen
        return [*self.planner.baselines(), *([] if run is None else [run])]

    def _report(
        self,
        chosen: Point | None,
        control: list[Point],
        thresholds: ThresholdedBaseline,
        level: Rescored,
        heads: Heads,
    ) -> dict[str, Any]:
        """The report split, opened for the baselines, the chosen point and its controls; without a
        chosen point nobody reads it."""
        runner = self.runner
        opened = {
            point
            for point, result in runner.store.results("report").items()
            if result.kind not in ("baseline", "control", "thresholds", "cutoff", "refit")
        }
        merge = heads.merge_of(chosen)
        is_opened_again = bool(opened - {each.id for each in (chosen, merge) if each is not None})
        flag = runner.split == "validation" and is_opened_again
        if chosen is None:
            return {
                "report": [],
                "report_opened_for_another_selection": flag,
                "comparison": {},
                "comparison_views": {},
                "thresholds": thresholds.records({runner.split}),
            }
        needed = self.on_report(chosen, heads)
        results = runner.measure([*needed, *control], "report")
        for result in results[: len(needed)]:
            result.require_measured()
        results[len(needed) : len(needed)] = heads.chosen(chosen).results("report")
        rivals = heads.controls(chosen, self.sweep.config.controls, "report")
        changes = thresholds.records({runner.split, "report"})
        others: dict[str, AnyPredictions] = {
            compared_as(point.kind, point.label): runner.predictions(point.id, "report")
            for point in [*needed, *control]
            if point.id != chosen.id
        }
        for each in (rivals, level, thresholds.points):
            others |= {
                compared_as(each.decisions[label].planned.kind, label): predictions
                for label, predictions in each.predictions("report").items()
            }
            results += each.results("report")
        found = differences(
            runner.predictions(chosen.id, "report"),
            others,
            runner.settings,
            runner.saturation,
            worse={label: change.worse for label, change in changes.items()},
        )
        return {
            "report": [result.public() for result in results],
            "report_opened_for_another_selection": flag,
            "comparison": found.judged,
            "comparison_views": found.views,
            "thresholds": changes,
        }

    def _write(self, point: Point | None, results: SweepResults) -> None:
        runner = self.runner
        recipe = None if point is None or point.recipe is None else point.recipe.raw
        write_selected(runner.store.folder, recipe, results, runner.progress)
        results.write(runner.store.folder)


def _length_notes(results: Sequence[PointResult], models: Sequence[str]) -> list[str]:
    """Of the first point that was measured: all read the same texts with the same tokenizer."""
    measured = next((result.evaluations for result in results if result.evaluations), {})
    lengths = [evaluation.max_length for evaluation in measured.values()]
    truncated = {task: evaluation.truncated for task, evaluation in measured.items()}
    return length_notes(next(iter(lengths), None), truncated, models)
