"""One evaluation, and the comparison of several, as text."""

from __future__ import annotations

from typing import Any

from mergekit_fair.report.text_tables import aligned, interval_text, value_text

Evaluation = dict[str, Any]

_METRICS = (
    *("acc", "bal_acc", "worst_group_acc", "selection_rate", "tpr", "fpr"),
    *("dpd", "eod", "equal_opportunity", "dp_ratio", "eo_ratio"),
)
_COMPARED = ("acc", "dpd", "eod", "bal_acc", "worst_group_acc", "selection_rate")


def evaluation_text(evaluation: Evaluation) -> str:
    """Metrics with intervals, groups, gaps under the other references, warnings."""
    if "gap" in evaluation:
        return _preferences(evaluation)
    parts = [_title(evaluation), _metrics(evaluation), "", _groups(evaluation), ""]
    parts += [text for name in ("dpd", "eod") if (text := _sentence(name, evaluation))]
    parts.append(_rest(evaluation))
    parts += [f"warning: {text}" for text in evaluation["warnings"]]
    return "\n".join(parts)


def comparison_text(task: str, compared: dict[str, Any], baseline: str, n: int) -> str:
    """Every model minus the baseline on the same rows; `!` marks what is significant.

    Args:
        task: its name.
        compared: model → metric → value, low, high, p_value, adjusted_p_value, significant.
        baseline: whose figures are subtracted.
        n: rows.
    """
    rows = [["", *_COMPARED]]
    for name, metrics in compared.items():
        cells = [
            f"{interval_text(metrics[key], sign='+')}{' !' if metrics[key]['significant'] else ''}"
            for key in _COMPARED
        ]
        rows.append([name, *cells])
    return f"{task}: minus {baseline}, on the same {n} rows\n{aligned(rows)}"


def _preferences(evaluation: Evaluation) -> str:
    """Rates of a task without right answers."""
    rows = [["kind", "n", "preferred"]]
    for name, mean in evaluation["means"].items():
        rows.append([name, str(evaluation["sizes"][name]), value_text(mean)])
    return "\n".join(
        [
            f"{evaluation['task']}, {evaluation['split']} split: {evaluation['model']}, "
            f"n = {evaluation['n']}, {evaluation['confidence'] * 100:g} % intervals",
            aligned(rows),
            f"largest − smallest: {interval_text(evaluation['gap'])}",
            *(f"warning: {text}" for text in evaluation["warnings"]),
        ]
    )


def other_text(task: str, results: dict[str, Any]) -> str:
    """lm-eval's own figures of a task that measures no fairness."""
    figures = ", ".join(
        f"{key.split(',')[0]} {value:.4f}"
        for key, value in results.items()
        if "," in key and "_stderr" not in key and isinstance(value, float)
    )
    return f"{task} (measures no fairness): {figures}"


def _title(evaluation: Evaluation) -> str:
    marks = [name for name in ("degenerate", "saturated") if evaluation.get(name)]
    limit = f", a random {evaluation['limit']}" if evaluation.get("limit") else ""
    shown = f" [{', '.join(marks)}]" if marks else ""
    return (
        f"{evaluation['task']}, {evaluation['split']} split{limit}: {evaluation['model']}, "
        f"n = {evaluation['n']}, {evaluation['reference']}, "
        f"{evaluation['confidence'] * 100:g} % intervals"
        f"{shown}"
    )


def _metrics(evaluation: Evaluation) -> str:
    matched = evaluation.get("level_matched", {})
    to = f"at selection rate {matched['rate']:.3f} ({matched['to']})" if matched else ""
    rows = [["", "value", "by chance <", to]]
    for name in _METRICS:
        found = evaluation["metrics"][name]
        null = evaluation["uncertainty"].get(name, {}).get("null")
        rows.append(
            [
                name,
                interval_text(found),
                "" if null is None else f"{null['high']:.3f}",
                interval_text(matched[name]) if name in matched else "",
            ]
        )
    return aligned(rows)


def _groups(evaluation: Evaluation) -> str:
    rows = [["group", "n", "positive", "selected", "tpr", "fpr", "acc", "unanswered"]]
    for name, group in evaluation["groups"].items():
        rates = [value_text(group[key]) for key in ("selection_rate", "tpr", "fpr", "acc")]
        rows.append([name, str(group["n"]), str(group["n_pos"]), *rates, str(group["unanswered"])])
    if not any(group["unanswered"] for group in evaluation["groups"].values()):
        rows = [row[:-1] for row in rows]
    return aligned(rows)


def _sentence(name: str, evaluation: Evaluation) -> str | None:
    found = evaluation["uncertainty"][name]["distinguishable_from_0"]
    if found is None:
        return None
    verb = "differs from 0" if found else "is not distinguishable from 0"
    return f"{name.upper()} {verb}."


def _rest(evaluation: Evaluation) -> str:
    others = []
    for reference in ("between_groups", "to_overall"):
        if reference != evaluation["reference"]:
            gaps = evaluation[reference]
            others.append(
                f"{reference}: dpd {value_text(gaps['dpd'])}, eod {value_text(gaps['eod'])}"
            )
    rest = evaluation["one_vs_rest"]
    for name in ("dpd", "eod"):
        worst = f" ({rest[name]['worst_group']})" if rest[name]["worst_group"] else ""
        others.append(
            f"one_vs_rest {name}: macro {value_text(rest[name]['macro'])}, "
            f"worst {value_text(rest[name]['worst'])}{worst}"
        )
    labels = evaluation["labels"]
    others.append(
        f"labels: positive {value_text(labels['base_rate'])}, dpd {value_text(labels['dpd'])}"
    )
    return "; ".join(others)
