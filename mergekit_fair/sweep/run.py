"""A whole sweep: baselines, grid, injection, choice, report split, the selected recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mergekit_fair.data import Rows, load_rows
from mergekit_fair.engine.files import write_atomic
from mergekit_fair.errors import SweepError
from mergekit_fair.fairness import HEADLINE, compare, holm
from mergekit_fair.fairness.worst_group import worst_group
from mergekit_fair.harness.evaluate import Level, Measuring, versions
from mergekit_fair.harness.predict import predictions
from mergekit_fair.progress import Progress
from mergekit_fair.sweep.apply import Runner, measure_point
from mergekit_fair.sweep.config import Sweep
from mergekit_fair.sweep.plan import Planner, Point
from mergekit_fair.sweep.results import one_line, public, selected_recipe, to_json
from mergekit_fair.sweep.select import choose
from mergekit_fair.sweep.store import Store

Line = dict[str, Any]


def plan_summary(sweep: Sweep) -> dict[str, Any]:
    """What a sweep would do: models, bytes, points, rows; measures nothing.

    Raises:
        CheckpointError, DataError, RecipeError: whatever would stop the sweep.
    """
    rows = load_rows(sweep.config.evaluate.data)
    return _summary(sweep, rows, Planner(sweep, rows.fingerprint()))


def _summary(sweep: Sweep, rows: Rows, planner: Planner) -> dict[str, Any]:
    inject = sweep.config.inject
    groups: list[str] = []
    if inject and isinstance(inject.groups, list):
        groups = inject.groups
    later = len(sweep.inject_grid) if inject and inject.groups == "worst" else 0
    points = [*planner.baselines(), *planner.merges(), *planner.injections(groups)]
    return {
        "sweep": sweep.where,
        "models": planner.models(),
        "bytes_read": planner.bytes_read(),
        "points": [point.describe() for point in points],
        "injection_points_of_the_worst_group": later,
        "rows": {split: len(rows.of(split).labels) for split in ("validation", "report")},
        "warnings": list(rows.warnings),
    }


def run_sweep(sweep: Sweep, out: Path, progress: Progress) -> dict[str, Any]:
    """Measure every point that is not measured yet, choose, and open the report split.

    Writes `plan.json`, `points.jsonl`, `scores/`, `results.json` and, unless nothing can be
    chosen, `selected/recipe.yml` in `out`. The same call again goes on where it was killed and
    ends with the same `results.json`.

    Returns:
        The content of results.json.
    """
    rows = load_rows(sweep.config.evaluate.data)
    planner = Planner(sweep, rows.fingerprint())
    summary = _summary(sweep, rows, planner)
    store = Store(out)
    try:
        write_atomic(out / "plan.json", to_json(summary))
        for warning in rows.warnings:
            progress.say(f"warning: {warning}")
        return _Run(sweep, rows, planner, store, progress).run()
    finally:
        store.close()


@dataclass
class _Run:
    sweep: Sweep
    rows: Rows
    planner: Planner
    store: Store
    progress: Progress
    how: Measuring = field(init=False)
    runner: Runner | None = None

    def __post_init__(self) -> None:
        given = self.sweep.config.evaluate
        self.how = Measuring(
            reference=given.reference,
            confidence=given.confidence,
            min_group_size=given.min_group_size,
            saturation=given.saturation,
            seed=self.sweep.config.seed,
        )

    def run(self) -> dict[str, Any]:
        lines, level = self._baselines()
        by_name = {line["label"]: line for line in lines}
        merges = self.planner.merges()
        lines += [self._measure(point, level) for point in merges]
        groups, harms = self._groups_to_inject(by_name)
        injections = self.planner.injections(groups)
        lines += [self._measure(point, level) for point in injections]
        choice = choose(lines, by_name, self.sweep.config.select)
        chosen = [point for point in [*merges, *injections] if point.id == choice.id]
        opened = set(self.store.lines("report")) - {line["id"] for line in by_name.values()}
        report = [
            _measured(self._measure(point, level, "report"))
            for point in [*self.planner.baselines(), *chosen]
        ]
        results = {
            "sweep": self.sweep.where,
            "task": self.rows.name,
            "confidence": self.how.confidence,
            "level": {"to": level.to, "rate": level.rate},
            "points": [public(line) for line in lines],
            "selected": {"label": chosen[0].label if chosen else None, **asdict(choice)},
            "worst_group": {"name": groups[0], "mean_of_dpd_and_eod": harms} if harms else None,
            "report": [public(line) for line in report],
            "report_opened_for_another_selection": bool(opened - {choice.id}),
            "comparison": self._comparison(by_name, chosen[0]) if chosen else {},
            "warnings": list(self.rows.warnings),
            "versions": versions(),
        }
        for point in chosen:
            selected = self.store.folder / "selected"
            selected.mkdir(exist_ok=True)
            write_atomic(selected / "recipe.yml", selected_recipe(point, results))
        write_atomic(self.store.folder / "results.json", to_json(results))
        return results

    def _baselines(self) -> tuple[list[Line], Level]:
        """Their lines, and the selection rate that level-matched figures are measured at."""
        points = self.planner.baselines()
        if not points:
            rate = float(self.rows.of("validation").labels.mean())
            return [], Level("labels", rate)
        first = next((point for point in points if point.label == "fft"), points[0])
        line = _measured(self._measure(first, None))
        rate = line["evaluation"]["metrics"]["selection_rate"]["value"]
        level = Level(first.label, rate)
        return [_measured(self._measure(point, level)) for point in points], level

    def _groups_to_inject(self, baselines: dict[str, Line]) -> tuple[list[str], dict[str, float]]:
        inject = self.sweep.config.inject
        if inject is None:
            return [], {}
        if isinstance(inject.groups, list):
            return inject.groups, {}
        worst, harms = worst_group(
            baselines[inject.target]["evaluation"],
            candidates=self.sweep.recipe.groups(),
            excluded=self.rows.excluded,
            min_group_size=self.how.min_group_size,
        )
        self.progress.say(f"worst-served group of {inject.target}: {worst} ({harms[worst]:.3f})")
        return [worst], harms

    def _measure(self, point: Point, level: Level | None, split: str = "validation") -> Line:
        done = self.store.lines(split).get(point.id)
        if done is not None:
            return done
        config = self.sweep.config
        if self.runner is None:
            self.runner = Runner(
                self.planner.models()[0],
                self.rows,
                config.evaluate,
                seed=config.seed,
                progress=self.progress,
            )
        threshold = None
        if split == "report":
            before = self.store.lines("validation")[point.id]["evaluation"]
            threshold = before["level_matched"]["threshold"]
        line, found = measure_point(
            self.runner,
            point,
            self.rows.of(split),
            split,
            self.how,
            level=level,
            threshold=threshold,
        )
        self.store.append(line, found)
        self.progress.say(one_line(line))
        return line

    def _comparison(self, baselines: dict[str, Line], chosen: Point) -> dict[str, Any]:
        """Chosen point minus each baseline on the same report rows, paired.

        `adjusted_p_value` is corrected (Holm) for every baseline and headline metric looked at.
        """
        rows = self.rows.of("report")
        groups = {name: rows.membership[:, i] for i, name in enumerate(rows.group_names)}
        after = predictions(self.store.margins(chosen.id, "report"))
        found: dict[str, Any] = {
            name: compare(
                rows.labels,
                predictions(self.store.margins(line["id"], "report")),
                after,
                groups,
                reference=self.how.reference,
                confidence=self.how.confidence,
                min_group_size=self.how.min_group_size,
                exclude=tuple(sorted(self.rows.excluded)),
                seed=self.how.seed,
            ).to_dict()
            for name, line in baselines.items()
        }
        looked_at = {
            (name, metric): gaps[metric]["p_value"]
            for name, gaps in found.items()
            for metric in HEADLINE
            if gaps[metric]["p_value"] is not None
        }
        for (name, metric), adjusted in holm(looked_at).items():
            found[name][metric]["adjusted_p_value"] = adjusted
        return found


def _measured(line: Line) -> Line:
    """The line, for models that a sweep cannot do without."""
    if "evaluation" not in line:
        raise SweepError(
            f"cannot be measured: {line['error']}",
            where=f"{line['label']} on {line['split']}",
            fix="leave this model out, or train it again",
        )
    return line
