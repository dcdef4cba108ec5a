"""A fair head beside its target and its controls on report rows: figures, and a csv of the rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mergekit_fair.errors import MeasurementError
from mergekit_fair.escaping import in_spreadsheet
from mergekit_fair.evaluation.evaluate import evaluate
from mergekit_fair.evaluation.group_thresholds import fit, remarks
from mergekit_fair.evaluation.levels import Level
from mergekit_fair.evaluation.paired_models import paired_models
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.claims import JudgedDifference, judged
from mergekit_fair.fairness.labels import UNANSWERED
from mergekit_fair.heads.fair_head import FairHead, HeadSettings
from mergekit_fair.heads.head_results import (
    BALANCED,
    CONTROLS,
    HEAD,
    NEEDS_GROUPS,
    RANDOM,
    TARGET,
    THRESHOLDS,
    WHOLE,
    Compared,
)
from mergekit_fair.heads.last_layer import Array, FeatureRows, LastLayer
from mergekit_fair.heads.rival_heads import balanced_head, random_head, whole_layer


def models_beside(
    fair: FairHead,
    gaps: Array,
    layer: LastLayer,
    fitted: Mapping[str, FeatureRows],
    settings: MetricSettings,
    head: HeadSettings,
    report: FeatureRows,
) -> tuple[dict[str, Predictions], list[str]]:
    """Target, fair head and controls on report rows, and what a reader should know of these.

    Args:
        fair: as it was fitted.
        gaps: (n,), the fair head's logit gaps of report rows.
        layer: of the target.
        fitted: rows of `train` and `validation`, on which controls are fitted, too.
        settings: which gap it is, and who decides it.
        head: how the fair head was fitted.
        report: the rows.
    """
    rows = report.rows
    balanced = balanced_head(fitted, settings, layer=layer, seed=head.seed)
    models = {
        TARGET: rows,
        HEAD: rows.with_scores(gaps),
        RANDOM: random_head(fair, fitted, settings, head).moved(report),
        WHOLE: whole_layer(fair, fitted, settings, head).moved(report),
        BALANCED: rows.with_scores(rows.scores + balanced.of(report.features)),
    }
    try:
        thresholds = fit(head.metric, fitted["validation"].rows, settings)
    except MeasurementError as error:
        return models, [f"{THRESHOLDS} are left out: {error}"]
    said = remarks(THRESHOLDS, f"the {TARGET}", thresholds, fitted["validation"].rows)
    return {**models, THRESHOLDS: rows.with_scores(thresholds.scores(rows))}, list(said)


def compared_models(
    models: Mapping[str, Predictions], settings: MetricSettings
) -> dict[str, Compared]:
    """Each model by itself and minus the target.

    The fair head is what was asked for; the controls' tests are corrected among themselves.
    """
    differences = {
        **_judged(models, [HEAD], settings),
        **_judged(models, [name for name in CONTROLS if name in models], settings),
    }
    level = Level(TARGET, models[TARGET].selection_rate)
    return {
        name: Compared(
            evaluation=evaluate(predictions, settings, model=name, split="report", level=level),
            differences=differences.get(name, {}),
            needs_groups=name in NEEDS_GROUPS,
            is_control=name in CONTROLS,
            said=CONTROLS.get(name),
        )
        for name, predictions in models.items()
    }


def _judged(
    models: Mapping[str, Predictions], names: Sequence[str], settings: MetricSettings
) -> dict[str, dict[str, JudgedDifference]]:
    pairs = {name: (TARGET, name) for name in names}
    wanted = {name: models[name] for name in (TARGET, *names)}
    found = paired_models(wanted, pairs, settings)
    return judged(found.evidence, settings.confidence)


def rows_text(models: Mapping[str, Predictions], ids: Sequence[int]) -> str:
    """A csv of the report rows: what was predicted, and every head's logit gap.

    Columns: id (row number in the source), label, groups (a JSON list), prediction (of the fair
    head), weight, and one a head, its logit gap. What decides by groups is no head and has no logit
    gap of its own: of it `prediction of NAME` is there, 0 or 1. Empty: no answer.
    """
    target = models[TARGET]
    columns: dict[str, Sequence[Any]] = {
        "id": ids,
        "label": target.labels.tolist(),
        "groups": [
            json.dumps(
                [n for n, inside in target.groups.items() if inside[row]], ensure_ascii=False
            )
            for row in range(len(target))
        ],
        "prediction": _predicted(models[HEAD]),
        "weight": [""] * len(target) if target.weights is None else target.weights.tolist(),
    }
    for name, each in models.items():
        if name in NEEDS_GROUPS:
            columns[f"prediction of {name}"] = _predicted(each)
        else:
            columns[name] = ["" if np.isnan(gap) else gap for gap in each.scores.tolist()]
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(columns)
    table.writerows([map(in_spreadsheet, row) for row in zip(*columns.values(), strict=True)])
    return buffer.getvalue()


def _predicted(rows: Predictions) -> list[Any]:
    return ["" if answer == UNANSWERED else answer for answer in rows.predicted.tolist()]
