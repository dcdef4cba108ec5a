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
        matched = line["evaluation"]["level_matched"]
        cells = [_interval(metrics[key]) for key, _ in _WITH_INTERVAL]
        cells += [_value(metrics[key]["value"]) for key, _ in _VALUE_ONLY]
        cells += [_value(matched[key]["value"]) for key in ("dpd", "eod")]
        rows.append([*start, *cells, " ".join(marks(line))])
    return f"{_aligned(rows)}\n{_group_sizes(lines)}".rstrip()


def comparison_table(comparison: dict[str, Any]) -> str:
    """Chosen minus baseline, paired on the report rows."""
    rows = [["chosen minus", "acc", "DPD", "EOD"]]
    for name, gaps in comparison.items():
        rows.append([name, *(_interval(gaps[key], sign="+") for key in ("acc", "dpd", "eod"))])
    return _aligned(rows)


def verdict(comparison: dict[str, Any]) -> str:
    """One sentence a baseline: the differences whose paired interval leaves out 0, or none.

    Each interval is read by itself; they are not corrected for being several.
    """
    names = {"acc": "accuracy", "dpd": "DPD", "eod": "EOD"}
    sentences = []
    for baseline, gaps in comparison.items():
        shown = [
            f"{names[key]} {_interval(gaps[key], sign='+')}"
            for key in names
            if gaps[key]["low"] is not None and gaps[key]["low"] * gaps[key]["high"] > 0
        ]
        found = ", ".join(shown) or "no difference in accuracy, DPD or EOD can be told from noise"
        sentences.append(f"Against {baseline}, on the same report rows: {found}.")
    return "\n".join(sentences)


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
            row |= {key: evaluation[key] for key in ("degenerate", "saturated")}
            for name in _CSV_METRICS:
                for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                    row[name + suffix] = evaluation["metrics"][name][part]
            for name in ("acc", "dpd", "eod"):
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
    own = _value(evaluation["labels"]["dpd"])
    return f"n = {evaluation['n']}: {', '.join(groups)}; DPD of the labels: {own}"


def _interval(entry: dict[str, float | None], sign: str = "") -> str:
    if entry["value"] is None:
        return "–"
    text = f"{entry['value']:{sign}.3f}"
    if entry["low"] is None or entry["high"] is None:
        return text
    return f"{text} [{entry['low']:{sign}.3f}, {entry['high']:{sign}.3f}]"


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
