"""Tables of a sweep: text for the terminal, CSV for everything else."""

from __future__ import annotations

import csv
import io
from typing import Any

from mergekit_fair.sweep.results import marks

Line = dict[str, Any]

_WITH_INTERVAL = (("acc", "acc"), ("dpd", "DPD"), ("eod", "EOD"))
_VALUE_ONLY = (("bal_acc", "bal"), ("worst_group_acc", "worst"), ("selection_rate", "selected"))
_CSV_METRICS = ("acc", "bal_acc", "worst_group_acc", "selection_rate", "dpd", "eod")


def points_table(lines: list[Line], *, chosen: str | None = None) -> str:
    """One row a point, then the groups' sizes.

    Columns: accuracy, DPD and EOD with intervals; balanced accuracy, worst-group accuracy,
    selection rate; DPD= and EOD= at the reference's selection rate; marks.

    Args:
        lines: of one split.
        chosen: id of the point to mark with `*`.
    """
    titles = [title for _, title in (*_WITH_INTERVAL, *_VALUE_ONLY)]
    rows = [["", "model", "λ_eff", *titles, "DPD=", "EOD=", ""]]
    for line in lines:
        effective = line["lambda_eff"]
        start = ["*" if line["id"] == chosen else "", line["label"]]
        start.append("" if effective is None else f"{effective:g}")
        if "evaluation" not in line:
            rows.append([*start, *[""] * (len(titles) + 2), line["error"]])
            continue
        metrics = line["evaluation"]["metrics"]
        matched = line["evaluation"].get("level_matched", {})
        cells = [interval_text(metrics[key]) for key, _ in _WITH_INTERVAL]
        cells += [value_text(metrics[key]["value"]) for key, _ in _VALUE_ONLY]
        cells += [value_text(matched[key]["value"]) if matched else "" for key in ("dpd", "eod")]
        rows.append([*start, *cells, " ".join(marks(line))])
    return f"{aligned(rows)}\n{_group_sizes(lines)}".rstrip()


def comparison_table(comparison: dict[str, Any]) -> str:
    """Chosen minus baseline, paired on the report rows."""
    rows = [["chosen minus", "acc", "DPD", "EOD"]]
    for name, gaps in comparison.items():
        rows.append([name, *(interval_text(gaps[key], sign="+") for key in ("acc", "dpd", "eod"))])
    return aligned(rows)


def verdict(results: dict[str, Any]) -> str:
    """One sentence a baseline: what was won and lost with what confidence, or that nothing was.

    A difference holds where its Holm-adjusted p-value is at most 1 − confidence and its interval
    leaves out 0. On a selection's own rows the sentence says so.
    """
    sentences = [
        _sentence(results["selected"]["label"], baseline, gaps, results["confidence"])
        for baseline, gaps in results["comparison"].items()
    ]
    if results["selected_on"] == "report":
        sentences.append("These are the rows that it was selected on: the figures are optimistic.")
    return "\n".join(sentences)


def _sentence(label: str, baseline: str, gaps: dict[str, Any], confidence: float) -> str:
    """`λ=0.4: EOD −0.031 [−0.049, −0.012] against fft at accuracy −0.002 [−0.008, +0.004].`"""
    better = {"acc": 1, "dpd": -1, "eod": -1}
    held = [key for key in better if _holds(gaps[key], confidence)]
    won = [key for key in held if gaps[key]["value"] * better[key] > 0]
    lost = [key for key in held if key not in won]
    rest = [key for key in better if key not in held]
    if won:
        rest_at = [key for key in rest if key == "acc" or "acc" in won]
        parts = [f"{_named(gaps, won)} against {baseline}"]
        if rest_at:
            parts.append(f"at {_named(gaps, rest_at)}")
        if lost:
            parts.append(f"but lost: {_named(gaps, lost)}")
        return f"{label}: {' '.join(parts)}."
    if lost:
        return f"{label}: nothing was won against {baseline}, and lost: {_named(gaps, lost)}."
    return (
        f"{label}: nothing was won against {baseline}; no difference in accuracy, DPD or EOD can "
        f"be told from noise ({_named(gaps, list(better))})."
    )


def _named(gaps: dict[str, Any], keys: list[str]) -> str:
    names = {"acc": "accuracy", "dpd": "DPD", "eod": "EOD"}
    return ", ".join(f"{names[key]} {interval_text(gaps[key], sign='+')}" for key in keys)


def _holds(gap: dict[str, Any], confidence: float) -> bool:
    if gap["low"] is None or gap["low"] * gap["high"] <= 0:
        return False
    return float(gap["adjusted_p_value"]) <= 1 - confidence


def results_csv(results: dict[str, Any]) -> str:
    """Every evaluation as one CSV row; undefined values are empty."""
    lines = [*results["points"], *results["report"]]
    columns = ["id", "kind", "label", "split", "lambda", "lambda_eff", "selected"]
    for name in _CSV_METRICS:
        columns += [name, f"{name}_low", f"{name}_high"]
    columns += ["level_matched_acc", "level_matched_dpd", "level_matched_eod"]
    columns += ["degenerate", "saturated", "error"]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        row = {key: line.get(key) for key in columns if key in line}
        row["selected"] = line["id"] == results["selected"]["id"]
        evaluation = line.get("evaluation")
        if evaluation:
            row |= {key: evaluation.get(key) for key in ("degenerate", "saturated")}
            for name in _CSV_METRICS:
                for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                    row[name + suffix] = evaluation["metrics"][name][part]
            for name in ("acc", "dpd", "eod") if "level_matched" in evaluation else ():
                row[f"level_matched_{name}"] = evaluation["level_matched"][name]["value"]
        writer.writerow(row)
    return out.getvalue()


def _group_sizes(lines: list[Line]) -> str:
    """n of the groups and the DPD of the labels themselves: the same for every point."""
    evaluation = next((line["evaluation"] for line in lines if "evaluation" in line), None)
    if evaluation is None:
        return ""
    groups = [
        f"{name} {group['n']} ({group['n_pos']} positive)"
        for name, group in evaluation["groups"].items()
    ]
    own = value_text(evaluation["labels"]["dpd"])
    return f"n = {evaluation['n']}: {', '.join(groups)}; DPD of the labels: {own}"


def interval_text(entry: dict[str, Any], sign: str = "") -> str:
    """`0.123 [0.100, 0.150]`; without limits where there are none, a dash where undefined."""
    if entry["value"] is None:
        return "–"
    text = f"{entry['value']:{sign}.3f}"
    if entry["low"] is None or entry["high"] is None:
        return text
    return f"{text} [{entry['low']:{sign}.3f}, {entry['high']:{sign}.3f}]"


def value_text(value: float | None) -> str:
    """Three decimals, or a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def aligned(rows: list[list[str]]) -> str:
    """Rows of equally many cells as columns of text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
