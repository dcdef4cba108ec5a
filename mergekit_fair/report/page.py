"""`report.html` of a sweep: one page that needs no network, no script and no other file."""

from __future__ import annotations

import base64
import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_fair.escaping import printable
from mergekit_fair.evaluation.evaluate import warnings_of
from mergekit_fair.files import write_atomic
from mergekit_fair.report.multi_tables import view_differences_table
from mergekit_fair.report.power_text import power_table
from mergekit_fair.report.sweep_tables import (
    added_text,
    comparison_table,
    groups_table,
    is_of_views,
    points_table,
    sign_test_text,
    transfer_tables,
    verdicts_table,
    views_table_of_points,
    worst_table,
)
from mergekit_fair.report.tables import Table
from mergekit_fair.report.verdict_text import MARKED, verdict
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import SweepResults, TransferRecord, tasks_of
from mergekit_fair.sweep.selected import FOLDER, NOT_CHOSEN, RECIPE

if TYPE_CHECKING:
    from jinja2 import Template

_TEMPLATES = Path(__file__).parent / "templates"
_PICTURES = {
    "curves": (
        "Accuracy, DPD, EOD and selection rate over what the grid sets",
        "Bands are intervals, dashed lines the baselines{star}.",
    ),
    "pareto": (
        "Accuracy against DPD and against EOD",
        "Upper left is better; squares are the baselines{star}.",
    ),
    "transfer": (
        "What each injected vector changes in each group",
        "Red is worse for the group; bold numbers are harms that make a vector unsafe.",
    ),
}
_TITLES_OF_VIEWS = {
    "curves": "Accuracy, macro DPD, macro EOD and worst EOD over what the grid sets",
    "pareto": "Accuracy against macro DPD and against macro EOD",
}
_STAR = ", the star is the chosen point"
_FORCED = (
    "Selected on the report split (select.force): every figure of the chosen model is optimistic, "
    "and no untouched rows are left to report on."
)
_REOPENED = (
    "The report split was opened before for another choice: its figures are no longer untouched."
)


def closed_text(results: SweepResults) -> str | None:
    """That report rows stay closed; None where a point is chosen."""
    if results.selected.id is not None:
        return None
    untouched = ", so that a later choice finds them untouched"
    still = "" if results.report_opened_for_another_selection else untouched
    return f"Report rows stay closed: no point is chosen{still}."


def capitalised(text: str) -> str:
    """With a capital letter at its beginning, and no other changed."""
    return text[:1].upper() + text[1:]


def budget_text(results: SweepResults) -> str | None:
    """What a time budget has left out, in a sentence; None if that is nothing."""
    budget = results.budget
    if budget is None:
        return None
    return (
        f"{budget.minutes:g} minutes were spent before everything was measured. Left out: "
        f"{budget.left_out_text}. The choice is among what is measured; the same command with more "
        "minutes goes on."
    )


def write_page(results: SweepResults, folder: Path) -> Path:
    """Write `report.html` into `folder`; the same results and pictures give the same bytes.

    `curves.svg`, `pareto.svg` and, if injections were judged, `transfer.svg` of the folder are
    embedded. Without matplotlib they may be those of an earlier run: they are left out, and the
    page says so. All text is escaped, and the page forbids scripts and requests.

    Args:
        results: of the sweep.
        folder: of the sweep; `selected/recipe.yml` is shown if a point was chosen.

    Returns:
        The path of the page.
    """
    path = folder / "report.html"
    page = template("page.html", autoescape=True, finalize=shown)
    write_atomic(path, page.render(_view(results, folder)))
    return path


def shown(value: Any) -> Any:
    """Before jinja2 escapes it; what is escaped already is left alone."""
    return value if hasattr(value, "__html__") else printable(value)


def template(name: str, **options: Any) -> Template:
    """A template of this package, by jinja2; an undefined name in it is an error.

    Args:
        name: of the file.
        options: of jinja2's `Environment`, such as how values are escaped.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    return environment.get_template(name)


def _view(results: SweepResults, folder: Path) -> dict[str, Any]:
    """What the template shows."""
    chosen, worst, transfer = results.selected, results.worst_group, results.transfer
    measured = [*results.report, *results.points]
    evaluation = next((p.evaluation for p in measured if p.evaluation is not None), None)
    return {
        "results": results,
        "chosen": chosen,
        "title": f"{results.task}: {chosen.label or chosen.headline}",
        "headline": capitalised(chosen.headline),
        "closed": closed_text(results),
        "verdicts": verdict(results).splitlines(),
        "banners": _banners(results),
        "budget": budget_text(results),
        "confidence": f"{results.confidence * 100:.4g} %",
        "level": str(results.level),
        "is_of_views": results.level.rate is None,
        "reference": "" if evaluation is None else evaluation.reference,
        "report": _tables(results, results.report),
        "views": [
            views_table_of_points(results, results.report, task)
            for task in tasks_of(results.report)
            if is_of_views(results.report, task)
        ],
        "has_views": any(is_of_views(measured, task) for task in tasks_of(measured)),
        "comparison": comparison_table(results.comparison),
        "view_differences": _view_differences(results),
        "detectable": _detectable(results),
        "marked": MARKED,
        "pictures": _pictures(results, folder),
        "pictures_missing": _why_no_pictures(results, folder),
        "points": _tables(results, results.points),
        "groups": [groups_table(results.report, task) for task in tasks_of(results.report)],
        "worst": None if worst is None else worst_table(worst),
        "transfer": None if transfer is None else _transfer(transfer),
        "warnings": _warnings(results),
        "recipe": _recipe(folder, is_chosen=chosen.id is not None),
        "sweep": shlex.quote(results.sweep),
    }


def _view_differences(results: SweepResults) -> Table | None:
    """Of classes or labels: chosen minus each baseline in each of them."""
    pairs = {f"minus {name}": views for name, views in results.comparison_views.items()}
    caption = "Chosen minus baseline in each class or label; none of these is claimed"
    return view_differences_table(pairs, caption) if pairs else None


def _detectable(results: SweepResults) -> Table | None:
    """What the report rows can show."""
    found = results.detectable
    return (
        power_table({"report": found}) if found is not None and (found.dpd or found.eod) else None
    )


def _banners(results: SweepResults) -> list[str]:
    """What must be read before any number."""
    banners = []
    if results.selected_on == "report":
        banners.append(_FORCED)
    if results.report_opened_for_another_selection:
        banners.append(_REOPENED)
    return banners


def _tables(results: SweepResults, points: Sequence[PointResult]) -> list[Table]:
    """One a task, the deciding one first; where nothing could be measured, the errors."""
    tasks = tasks_of(points) or ([results.task] if points else [])
    return [points_table(results, points, task) for task in tasks]


def _transfer(transfer: TransferRecord) -> dict[str, Any]:
    return {
        "level": f"{transfer.interval_level * 100:.4g} %",
        "step": f"{transfer.step:g}",
        "tolerance": f"{transfer.tolerance:g}",
        "added": added_text(transfer),
        "verdicts": verdicts_table(transfer),
        "sign_test": sign_test_text(transfer),
        "matrices": transfer_tables(transfer),
        "warnings": transfer.warnings,
    }


def _warnings(results: SweepResults) -> list[str]:
    """Of the sweep, then of the report rows; each once."""
    texts = list(results.warnings)
    for point in results.report:
        for task, evaluation in point.evaluations.items():
            texts += [f"{point.label}, {task}: {text}" for text in warnings_of(evaluation)]
    return list(dict.fromkeys(texts))


def _names(results: SweepResults) -> list[str]:
    """An old transfer.svg of a sweep that judges no injections any more is not shown."""
    return [name for name in _PICTURES if name != "transfer" or results.transfer]


def _can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def _pictures(results: SweepResults, folder: Path) -> list[dict[str, str]]:
    """As images, not inline: their ids cannot clash, and a script in an SVG does not run."""
    if not _can_draw():
        return []
    pictures = []
    for name in _names(results):
        path = folder / f"{name}.svg"
        if path.is_file():
            title, reading = _PICTURES[name]
            if is_of_views(results.points, results.task):
                title = _TITLES_OF_VIEWS.get(name, title)
            reading = reading.format(star=_STAR if results.selected.id is not None else "")
            content = base64.b64encode(path.read_bytes()).decode("ascii")
            pictures.append({"name": name, "title": title, "reading": reading, "content": content})
    return pictures


def _why_no_pictures(results: SweepResults, folder: Path) -> str | None:
    if not _can_draw():
        return (
            "No pictures: matplotlib is missing where this page was made, and pictures in the "
            "folder may be of an earlier run. pip install 'mergekit-fair[plot]', then "
            "mergekit-fair report DIR."
        )
    missing = [f"{name}.svg" for name in _names(results) if not (folder / f"{name}.svg").is_file()]
    if not missing:
        return None
    return f"Not in the folder: {', '.join(missing)}. mergekit-fair report DIR draws them."


def _recipe(folder: Path, *, is_chosen: bool) -> str | None:
    """Of the choice; without one that of a merge which says so, and of no earlier choice."""
    path = folder / FOLDER / RECIPE
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return text if text and (is_chosen or text.startswith(NOT_CHOSEN)) else None
