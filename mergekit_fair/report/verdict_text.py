"""What was won and lost, in sentences: all of them follow from `fairness.claims`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from mergekit_fair.escaping import one_line
from mergekit_fair.fairness.claims import LEVEL
from mergekit_fair.fairness.metrics import HEADLINE
from mergekit_fair.fairness.one_vs_rest import EVERY_METRIC, MULTI_METRICS
from mergekit_fair.report.tables import Cell, IntervalLike, interval_cell, interval_text
from mergekit_fair.sweep.results import SweepResults

MARKED = (
    "what may be claimed: of accuracy, DPD and EOD, after Holm's correction over all of them here; "
    "of a gap what also holds at equal selection rates, and does not rest on gaps near 0"
)


class DifferenceLike(IntervalLike, Protocol):
    """A difference of two models, and what may be said of it; None: an older version's."""

    @property
    def adjusted_p_value(self) -> float | None: ...
    @property
    def claimed(self) -> bool | None: ...
    @property
    def withheld(self) -> str | None: ...
    @property
    def near_0(self) -> bool | None: ...


Gaps = Mapping[str, DifferenceLike]


def difference_cell(gap: DifferenceLike | None, *, with_p: bool = True) -> Cell:
    """`-0.050 [-0.080, -0.020] p = 0.012`, strong where it is claimed; and that gaps are near 0."""
    if gap is None or gap.value is None:
        return Cell("–")
    cell, p = interval_cell(gap, "+"), gap.adjusted_p_value if with_p else None
    shown = "" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    notes = (cell.note, shown, "gaps near 0" * bool(gap.near_0))
    return Cell(cell.text, " ".join(filter(None, notes)), bool(gap.claimed))


def withheld_text(gaps: Gaps) -> str:
    """`DPD -0.103 [-0.200, -0.020]: is gone at equal selection rates; …`, or nothing: what leaves
    out 0 and is not claimed, with the reason.
    """
    kept = (name for name in _headline(gaps) if gaps[name].withheld)
    return "; ".join(f"{_named(gaps, [name])}: {gaps[name].withheld}" for name in kept)


def verdict(results: SweepResults) -> str:
    """One sentence a baseline: what was won and lost with what confidence, or that nothing was.

    Only what is claimed is called won or lost. On a selection's own rows the sentence says so.
    """
    label = str(results.selected.label)
    sentences = [sentence(label, name, gaps) for name, gaps in results.comparison.items()]
    if results.selected_on == "report":
        sentences.append("These are the rows that it was selected on: the figures are optimistic.")
    return "\n".join(map(one_line, sentences))


def sentence(label: str, baseline: str, gaps: Gaps) -> str:
    """`λ=0.4: EOD −0.031 [−0.049, −0.012] against fft at accuracy −0.002 [−0.008, +0.004].`"""
    if any(gaps[name].claimed is None for name in _headline(gaps)):
        return (
            f"{label}: an older version has compared it with {baseline}, by other rules; run the "
            "sweep again to read what was won."
        )
    won, lost, rest = _parted(gaps)
    withheld = withheld_text(gaps)
    also = f" Not claimed: {withheld}." if withheld else ""
    if won:
        at = [name for name in rest if name == "acc" or "acc" in won]
        parts = [f"{_named(gaps, won)} against {baseline}"]
        parts += [f"at {_named(gaps, at)}"] if at else []
        parts += [f"but lost: {_named(gaps, lost)}"] if lost else []
        return f"{label}: {' '.join(parts)}.{also}"
    if lost:
        return f"{label}: nothing was won against {baseline}, and lost: {_named(gaps, lost)}.{also}"
    return f"{label}: nothing was won against {baseline}{_noise(gaps, rest)}.{also}"


def _headline(gaps: Gaps) -> tuple[str, ...]:
    """Accuracy and gaps; of classes or labels their means and maxima."""
    return tuple(MULTI_METRICS) if "macro_dpd" in gaps else HEADLINE


def _parted(gaps: Gaps) -> tuple[list[str], list[str], list[str]]:
    """What was won, what was lost, and what cannot be told from noise."""
    names = _headline(gaps)
    better = {name: -1 if EVERY_METRIC[name].better == "lower" else 1 for name in names}
    claimed = [name for name in names if gaps[name].claimed]
    won = [name for name in claimed if (gaps[name].value or 0.0) * better[name] > 0]
    lost = [name for name in claimed if name not in won]
    rest = [name for name in names if not gaps[name].claimed and not gaps[name].withheld]
    return won, lost, rest


def _noise(gaps: Gaps, names: Sequence[str]) -> str:
    if not names:
        return ""
    *titles, last = (EVERY_METRIC[name].title for name in names)
    listed = f"{', '.join(titles)} or {last}" if titles else last
    figures = "" if "macro_dpd" in gaps else f" ({_named(gaps, names)})"  # five: they are a table
    return f"; no difference in {listed} can be told from noise{figures}"


def _named(gaps: Gaps, names: Sequence[str]) -> str:
    return ", ".join(f"{EVERY_METRIC[name].title} {_with_level(gaps, name)}" for name in names)


def _with_level(gaps: Gaps, name: str) -> str:
    """`-0.031 [-0.049, -0.012] (at equal selection rates -0.028 [-0.046, -0.010])`"""
    text, level = interval_text(gaps[name], "+"), gaps.get(f"{LEVEL}{name}")
    if level is None:
        return text
    return f"{text} (at equal selection rates {interval_text(level, '+')})"
