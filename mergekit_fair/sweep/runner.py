"""A whole sweep: baselines, grid, search, injection, choice, report split, the chosen recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.evaluate import Level, versions
from mergekit_fair.evaluation.evaluator import Exam
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.files import write_atomic
from mergekit_fair.progress import Progress
from mergekit_fair.sweep.comparing import choose_by, differences
from mergekit_fair.sweep.exams import open_exam
from mergekit_fair.sweep.executor import Executor, Local
from mergekit_fair.sweep.injection.injection_stage import inject
from mergekit_fair.sweep.lines import Line, levels_of, measured
from mergekit_fair.sweep.measurer import Measurer, unique
from mergekit_fair.sweep.points import Planner, Point
from mergekit_fair.sweep.postprocessing import Postprocessed, postprocess
from mergekit_fair.sweep.results import public, selected_recipe, to_json
from mergekit_fair.sweep.store import Store
from mergekit_fair.sweep.summary import summary_of
from mergekit_fair.sweep.sweep_config import Sweep

Make = Callable[[Sweep, Exam, str, Progress], Executor]


def plan_summary(sweep: Sweep, probe: Progress | None = None) -> dict[str, Any]:
    """What a sweep would do: models, bytes, points, rows, forward passes; measures nothing.

    Args:
        sweep: from `load_sweep`.
        probe: run two batches of the base model, and add `seconds_per_point` and
            `estimated_minutes`; told what is done.

    Raises:
        CheckpointError, ConfigError, DataError, RecipeError: whatever would stop the sweep.
    """
    exam, planner = _prepared(sweep)
    summary = summary_of(sweep, exam, planner)
    if probe is None:
        return summary
    local = Local(sweep, exam, planner.models()[0], probe)
    size = sweep.config.evaluate.batch_size
    seconds = local.worker.probe("validation", size if isinstance(size, int) else 64)
    rows = summary["rows"]["validation"]
    total = seconds * summary["forward_passes"] / rows
    return {
        **summary,
        "seconds_per_point": round(seconds, 2),
        "estimated_minutes": round(total / 60, 2),
    }


def run_sweep(sweep: Sweep, out: Path, progress: Progress, make: Make = Local) -> dict[str, Any]:
    """Measure every point that is not measured yet, choose, and open the report split.

    Writes `plan.json`, `points.jsonl`, `scores/`, `results.json` and, unless nothing can be
    chosen, `selected/recipe.yml` in `out`. The same call again goes on where it was killed and
    ends with the same `results.json`.

    Args:
        sweep: from `load_sweep`.
        out: the folder.
        progress: told what is done.
        make: the executor, given sweep, exam, base model and progress.

    Returns:
        The content of results.json.
    """
    exam, planner = _prepared(sweep)
    summary = summary_of(sweep, exam, planner)
    store = Store(out)
    given = sweep.config.evaluate
    settings = MetricSettings(
        reference=given.reference,
        confidence=given.confidence,
        min_group_size=given.min_group_size,
        seed=sweep.config.seed,
    )
    base = planner.models()[0]
    measurer = Measurer(
        exam,
        store,
        settings,
        progress,
        split=sweep.config.select.split,
        make=lambda: make(sweep, exam, base, progress),
    )
    try:
        write_atomic(out / "plan.json", to_json(summary))
        for warning in exam.warnings:
            progress.say(f"warning: {warning}")
        return _Run(sweep, planner, measurer).run()
    finally:
        measurer.close()
        store.close()


@dataclass
class _Run:
    sweep: Sweep
    planner: Planner
    measurer: Measurer

    def run(self) -> dict[str, Any]:
        baselines, level = self._baselines()
        by_name = {line["label"]: line for line in baselines}
        merges = self.planner.merges()
        self.measurer.measure(merges)
        searched = self._searched(by_name)
        injected = inject(self.sweep, self.planner, self.measurer, by_name)
        points = unique([*merges, *searched, *injected.points])
        lines = [*baselines, *self.measurer.measure(points)]
        thresholds = postprocess(self.sweep.config, self.measurer, by_name)
        allowed = [line for line in lines if line["id"] not in injected.refused]
        choice = choose_by(self.measurer, allowed, by_name, self.sweep.config.select)
        chosen = next((point for point in points if point.id == choice.id), None)
        control = self._control(chosen)
        lines += [line for line in self.measurer.measure(control) if line not in lines]
        results = {
            "sweep": self.sweep.where,
            "task": self.measurer.task,
            "confidence": self.measurer.settings.confidence,
            "level": {"to": level.to, "rate": level.rate},
            "selected_on": self.sweep.config.select.split,
            "points": [
                public(line, injected.refused.get(line["id"]))
                for line in [*lines, *thresholds.lines]
            ],
            "selected": {"label": chosen.label if chosen else None, **asdict(choice)},
            **injected.results,
            **self._report(chosen, control, thresholds),
            "warnings": [*self.measurer.exam.warnings, *injected.warnings, *thresholds.warnings],
            "versions": versions(),
        }
        self._write(chosen, results)
        return results

    def _baselines(self) -> tuple[list[Line], Level]:
        """Their lines, and the selection rate that level-matched figures are measured at."""
        measurer, points = self.measurer, self.planner.baselines()
        saturation = self.sweep.config.evaluate.saturation
        if not points:
            sheets = measurer.sheets()
            rates = {task: float(sheet.labels.mean()) for task, sheet in sheets.items()}
            measurer.levels = {
                task: Level("labels", rate, saturation) for task, rate in rates.items()
            }
            return [], measurer.levels[measurer.task]
        first = next((point for point in points if point.label == "fft"), points[0])
        measurer.levels = levels_of(measured(measurer.measure([first])[0]), saturation)
        lines = [measured(line) for line in measurer.measure(points)]
        return lines, measurer.levels[measurer.task]

    def _searched(self, baselines: dict[str, Line]) -> list[Point]:
        if self.sweep.config.search is None:
            return []
        from mergekit_fair.sweep.search.search_stage import search

        return search(self.sweep, self.planner, self.measurer, baselines)

    def _control(self, chosen: Point | None) -> list[Point]:
        """The chosen point with random vectors: without it nobody knows what the subgroups' did."""
        if chosen is None or "random" not in self.sweep.config.controls:
            return []
        return [self.planner.control_of(chosen)]

    def _report(
        self,
        chosen: Point | None,
        control: list[Point],
        thresholds: Postprocessed,
    ) -> dict[str, Any]:
        """The report split, opened for the baselines, the chosen point and its random control."""
        measurer = self.measurer
        known = self.planner.baselines()
        opened = {
            point
            for point, line in measurer.store.lines("report").items()
            if line["kind"] not in ("baseline", "control")
        }
        points = [*known, *([chosen] if chosen else []), *control]
        lines = measurer.measure(points, "report")
        for line in lines[: len(points) - len(control)]:
            measured(line)
        result: dict[str, Any] = {
            "report": [public(line) for line in [*lines, *thresholds.report()]],
            "report_opened_for_another_selection": self.sweep.config.select.split == "validation"
            and bool(opened - {chosen.id if chosen else None}),
            "comparison": {},
        }
        if chosen is not None:
            against = {p.label: measurer.answers(p.id, "report") for p in known}
            for point in control:
                against["random vectors"] = measurer.answers(point.id, "report")
            against |= thresholds.answers("report")
            mine = measurer.answers(chosen.id, "report")
            result["comparison"] = differences(mine, against, measurer.settings)
        return result

    def _write(self, chosen: Point | None, results: dict[str, Any]) -> None:
        folder = self.measurer.store.folder
        if chosen is not None:
            (folder / "selected").mkdir(exist_ok=True)
            write_atomic(folder / "selected" / "recipe.yml", selected_recipe(chosen, results))
        write_atomic(folder / "results.json", to_json(results))


def _prepared(sweep: Sweep) -> tuple[Exam, Planner]:
    """Everything that can be checked before the first forward pass is checked here."""
    if sweep.config.search is not None:
        from mergekit_fair.sweep.search.search_stage import require_possible

        require_possible(sweep, sweep.config.search)
    exam = open_exam(sweep.config.evaluate)
    _require_tasks(sweep, exam)
    return exam, Planner(sweep, exam.fingerprint())


def _require_tasks(sweep: Sweep, exam: Exam) -> None:
    """Every task that the rule names is measured.

    Raises:
        ConfigError: one is not.
    """
    unknown = [name for name in sweep.config.select.tasks() if name not in exam.tasks]
    if unknown:
        raise ConfigError(
            "select names a task that is not measured",
            where=sweep.where,
            got=unknown[0],
            allowed=exam.tasks,
        )
