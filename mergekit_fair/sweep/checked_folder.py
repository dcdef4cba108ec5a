"""A finished sweep's folder, read again: what it says is what its saved scores give.

Files that say the same thing are compared with each other, and figures are computed again: those
of the chosen point and of the report rows with their intervals, of all other points the values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from mergekit_fair.checkpoints.fingerprint import model_fingerprint
from mergekit_fair.errors import FairError, SweepError
from mergekit_fair.evaluation.evidence import first_difference
from mergekit_fair.evaluation.multi_predictions import AnyPredictions
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness.claims import SATURATION
from mergekit_fair.merging.measured_inputs import MeasuredInputs
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.recipe_keys import without_measurement
from mergekit_fair.schema import parse_yaml_loosely, read_text
from mergekit_fair.sweep.comparing import Noise
from mergekit_fair.sweep.differences import compared_as, differences
from mergekit_fair.sweep.figures_again import (
    answered,
    require_figures,
    require_threshold,
    settings_of,
)
from mergekit_fair.sweep.global_threshold import SOURCE, THRESHOLD, GlobalThreshold
from mergekit_fair.sweep.limits import Select
from mergekit_fair.sweep.record import INJECTED, PointResult
from mergekit_fair.sweep.results import DifferenceRecord, SweepResults, TransferRecord
from mergekit_fair.sweep.sample_size import of_report
from mergekit_fair.sweep.selected import FOLDER, HEADS, RECIPE, selected_recipe
from mergekit_fair.sweep.selection import Nearness, Rule
from mergekit_fair.sweep.store import POINTS, Key, ReadStore, read_points, read_rows, read_scores
from mergekit_fair.sweep.transfer_matrix import transfer_matrix
from mergekit_fair.sweep.verdicts import judged

# A folder of vectors in `heads/`, by its name.
_OF_TARGET = re.compile("-[0-9a-f]{16}$")
_AGAIN = "run `mergekit-fair sweep SWEEP -o {}` again: finished points are kept"


def checked_results(folder: Path) -> tuple[SweepResults, str | None]:
    """results.json, of which everything was checked that can be.

    Returns:
        The results; and a sentence where nothing could be checked: an older version wrote them.

    Raises:
        SweepError: names the file that was changed or damaged, or the figure that is not what the
            saved scores give.
    """
    results = SweepResults.load(folder)
    if results.measuring is None:
        return results, (
            f"{folder}: results of an older version, which say nothing of what they were made of; "
            "they were not checked"
        )
    lines, _ = read_points(folder)
    for split, points in ((results.selected_on, results.points), ("report", results.report)):
        for point in points:
            _require_line(folder, lines.get((point.id, split)), point)
    whole = {(point.id, "report") for point in results.report}
    selected = results.selected.id or results.selected.best_merge
    whole.add((str(selected), results.selected_on))
    used = {key: lines[key] for key in _keys(results)}
    _require_figures(folder, used, whole, results.selected_on)
    _require_choice(folder, results)
    _require_recipe(folder, results)
    _require_comparison(folder, results)
    _require_thresholds(folder, results)
    _require_cutoffs(folder, results)
    _require_transfer(folder, results)
    return results, None


def require_proof(folder: Path) -> SweepResults:
    """As `checked_results`, and it must be possible to check.

    Raises:
        SweepError: as there, or results of an older version.
    """
    results, doubt = checked_results(folder)
    if doubt is not None:
        raise SweepError(
            "is of an older version, and says nothing of what it was made of",
            where=folder / "results.json",
            fix=f"run `mergekit-fair sweep SWEEP -o {folder}` again",
        )
    return results


def require_stored(store: ReadStore, selected_on: str) -> None:
    """Check what a sweep that goes on has found in its folder: values of every finished point.

    Args:
        store: of the folder.
        selected_on: the split that thresholds are set on.

    Raises:
        SweepError: as `checked_results`.
    """
    _require_figures(store.folder, store.lines, set(), selected_on)


def _keys(results: SweepResults) -> list[Key]:
    of_points = [(point.id, results.selected_on) for point in results.points]
    return [*of_points, *((point.id, "report") for point in results.report)]


def _require_line(folder: Path, line: PointResult | None, point: PointResult) -> None:
    """An entry of results.json is a line of points.jsonl."""
    if line is None:
        raise SweepError(
            f"has no line of {point.label} on {point.split} rows, which results.json reports on",
            where=folder / POINTS,
            fix=_AGAIN.format(folder),
        )
    if line.public(point.refused).to_dict() != point.to_dict():
        raise SweepError(
            f"says something else of {point.label} on {point.split} rows than {POINTS}",
            where=folder / "results.json",
            fix=_AGAIN.format(folder),
        )


def _require_figures(
    folder: Path, lines: Mapping[Key, PointResult], whole: set[Key], selected_on: str
) -> None:
    """Every line is what its scores and rows give."""
    known = {}
    for key, line in lines.items():
        scores = read_scores(folder, line)
        if line.rows not in known:
            known[line.rows] = read_rows(folder, line)
        rows = known[line.rows]
        require_figures(line, rows, scores, where=folder / POINTS, whole=key in whole)
        kept = None if line.split == selected_on else lines.get((line.id, selected_on))
        is_known = line.split == selected_on or kept is not None
        if line.evaluation is not None and is_known:
            require_threshold(line, kept, rows, scores, where=folder / POINTS)


def _require_choice(folder: Path, results: SweepResults) -> None:
    """The choice is the one that the rule makes of the points."""
    said = results.selected
    if said.select is None:  # an older version's, which chose by another rule
        return
    points = [point for point in results.points if point.refused is None]
    baselines = {point.label: point for point in points if point.kind == "baseline"}
    try:
        rule = Rule.of(Select.model_validate(said.select), baselines)
    except (ValidationError, LookupError) as error:
        raise SweepError(
            "says a rule that cannot be read",
            where=folder / "results.json",
            got=said.select,
            fix=_AGAIN.format(folder),
        ) from error

    def measure(tied: Sequence[PointResult]) -> Nearness:
        """As it was measured: the models may be gone."""
        known = {p.id: said.distances[p.label] for p in tied if p.label in said.distances}
        return Nearness(known, said.nearest or "")

    def answers(point: PointResult) -> Mapping[str, AnyPredictions]:
        rows, scores = read_rows(folder, point), read_scores(folder, point)
        return answered(rows, scores, list(point.evaluations))

    found = rule.choose(points, tied=Noise(rule, answers), measure=measure, budget=results.budget)
    _require_same(folder, found.to_dict(), said.to_dict(), "selected")


def _require_recipe(folder: Path, results: SweepResults) -> None:
    """selected/recipe.yml is the recipe of the chosen point, with what results.json says of it;
    where none is chosen there is none, or that of the best merge, which says so."""
    point = results.selected.id or results.selected.best_merge
    path = folder / FOLDER / RECIPE
    if results.selected.id is None and not path.is_file():
        return
    fix = f"{_AGAIN.format(folder)}, and the recipe is written again"
    problem = "is not the recipe of the chosen point"
    if results.selected.id is None:
        fix = f"{_AGAIN.format(folder)}, which puts it aside"
        problem = f"is there, although this sweep has chosen no point ({results.selected.headline})"
    try:
        recipe = Recipe.from_text(read_text(path), str(path))
        measured = MeasuredInputs.of(recipe)
        raw, _ = parse_yaml_loosely(recipe.source, path)
        expected = selected_recipe(without_measurement(raw), results)
    except (FairError, LookupError, StopIteration) as error:
        raise SweepError(f"{problem}: {error}", where=path, fix=fix) from error
    is_chosen = measured is not None and measured.point == point
    if not is_chosen or expected != recipe.source:
        raise SweepError(problem, where=path, fix=fix)
    if measured is not None and measured.kind == "head":
        _require_vectors(folder, recipe, measured.inputs)


def _require_vectors(folder: Path, recipe: Recipe, inputs: Mapping[str, str]) -> None:
    """The vectors of a chosen head, which lie in the sweep's own folder, are those of its figures.

    They are found there by their last names: the folder may have been moved.
    """
    for item in recipe.raw["models"]:
        *_, room, target, name = ("", "", *Path(str(item["model"])).parts)
        if room != HEADS or not _OF_TARGET.search(target):
            continue  # a model of the merge that the head is of
        vector = folder / HEADS / target / name
        found = model_fingerprint(vector, anew=True).digest if vector.is_dir() else None
        if found != inputs[str(item["model"])]:
            raise SweepError(
                "is gone" if found is None else "is not the vector that was measured",
                where=vector,
                got=found,
                allowed=inputs[str(item["model"])],
                fix=_AGAIN.format(folder),
            )


def _require_comparison(folder: Path, results: SweepResults) -> None:
    """The differences to the baselines are those of the report rows' scores."""
    chosen = results.chosen
    if chosen is None or chosen.evaluation is None or not results.comparison:
        return
    against = {
        compared_as(point.kind, point.label): point
        for point in results.report
        if point.id != chosen.id
    }
    answers = {name: _predictions(folder, point, results) for name, point in against.items()}
    own = _predictions(folder, chosen, results)
    measured = chosen.measured_with
    saturation = SATURATION if measured is None else measured.saturation
    worse = {label: change.worse for label, change in results.thresholds.items()}
    found = differences(own, answers, settings_of(chosen), saturation, worse=worse)
    _require_same(folder, _plain(found.judged), _plain(results.comparison), "comparison")
    said = {name: _plain(views) for name, views in results.comparison_views.items()}
    expected = {name: _plain(views) for name, views in found.views.items()}
    _require_same(folder, expected, said, "comparison_views")
    if results.detectable is not None:
        shown = of_report(
            own,
            settings_of(chosen),
            results.points,
            lambda point: _predictions(folder, point, results),
            reference=results.level.to,
            chosen=chosen.id,
            comparisons=len(answers),
        )
        of_rows = None if shown is None else shown.to_dict()
        _require_same(folder, of_rows, results.detectable.to_dict(), "detectable")


def _require_thresholds(folder: Path, results: SweepResults) -> None:
    """What thresholds by group have changed is what both points' scores give."""
    points = {(point.label, point.split): point for point in [*results.points, *results.report]}
    for label, record in results.thresholds.items():
        for split, said in record.change.items():
            pair = [points.get((name, split)) for name in (record.source, label)]
            source, own = (_predictions(folder, point, results) for point in pair if point)
            found = differences(own, {"source": source}, settings_of(points[label, split]))
            place = f"thresholds.{label}.change.{split}"
            _require_same(folder, _plain(found.judged)["source"], _plain({"": said})[""], place)


def _require_cutoffs(folder: Path, results: SweepResults) -> None:
    """Another threshold for all rows is one on the baseline's own scores."""
    points = [*results.points, *results.report]
    sources = {(p.label, p.split): p for p in points if p.kind == "baseline"}
    for point in points:
        if point.kind != "cutoff":
            continue
        said = point.settings
        source = sources.get((str(said.get(SOURCE)), point.split))
        expected = None if source is None else _binary(folder, source, results)
        by = GlobalThreshold(float(said.get(THRESHOLD, math.nan)))
        scores = read_scores(folder, point)
        if expected is None or not np.array_equal(by.scores(expected), scores, equal_nan=True):
            raise SweepError(
                f"says a threshold of {point.label} that is not the one of its scores on "
                f"{point.split} rows",
                where=folder / "results.json",
                got=dict(said),
                fix=_AGAIN.format(folder),
            )


def _require_transfer(folder: Path, results: SweepResults) -> None:
    """The matrix of safe injection, and all verdicts, are those of the points' scores."""
    transfer = results.transfer
    if transfer is None:
        return
    steps = _steps(results, transfer)
    _require_same(folder, list(steps), transfer.injected, "transfer.injected")
    by_label = {point.label: point for point in results.points}
    tried = {one.group: by_label[one.group] for one in transfer.tried if one.group in by_label}
    heads = [point.label.partition(" + ")[0] for point in steps.values()]
    target = next(p for p in results.points if p.kind == "baseline" and p.label == heads[0])
    before, settings = _binary(folder, target, results), settings_of(target)

    def found(points: Mapping[str, PointResult], step: float) -> dict[str, Any]:
        after = {name: _binary(folder, point, results) for name, point in points.items()}
        matrix = transfer_matrix(before, after, settings, step=step)
        return judged(matrix, transfer.tolerance).to_dict()

    said, expected = transfer.to_dict(), found(steps, transfer.step)
    for key in ("groups", "rates", "change", "hard", "verdicts"):
        _require_same(folder, expected.get(key), said.get(key), f"transfer.{key}")
    if said.get("tried"):
        again = found(tried, 1.0)["verdicts"] if tried else []
        _require_same(folder, again, said["tried"], "transfer.tried")


def _steps(results: SweepResults, transfer: TransferRecord) -> dict[str, PointResult]:
    """Group → the point that injects its vector alone, by the matrix's step."""
    found = {}
    for point in results.points:
        injected = {k: v for k, v in point.settings.items() if k.startswith(INJECTED)}
        if point.kind == "injection" and list(injected.values()) == [transfer.step]:
            found[next(iter(injected)).removeprefix(INJECTED)] = point
    return {name: found[name] for name in transfer.injected if name in found}


def _predictions(folder: Path, point: PointResult, results: SweepResults) -> AnyPredictions:
    """What a point answered to the deciding task."""
    rows, scores = read_rows(folder, point), read_scores(folder, point)
    return answered(rows, scores, list(point.evaluations) or None)[results.task]


def _binary(folder: Path, point: PointResult, results: SweepResults) -> Predictions:
    """The same of a point that only a task answered by no or yes can have."""
    found = _predictions(folder, point, results)
    if not isinstance(found, Predictions):
        raise SweepError(
            f"says {point.kind} of {results.task}, which has {found.kind}",
            where=folder / "results.json",
            fix=_AGAIN.format(folder),
        )
    return found


def _plain(differences: Mapping[str, Mapping[str, DifferenceRecord]]) -> dict[str, Any]:
    return {name: {m: each.to_dict() for m, each in of.items()} for name, of in differences.items()}


def _require_same(folder: Path, expected: Any, said: Any, place: str) -> None:
    if difference := first_difference(expected, said, place):
        place, value, got = difference
        raise SweepError(
            f"says another {place} than the scores give",
            where=folder / "results.json",
            got=got,
            allowed="undefined" if value is None else value,
            fix=_AGAIN.format(folder),
        )
