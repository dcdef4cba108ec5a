"""The walk of clusters: data → documents → samples → predictions → evaluations, saved rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import raises

from mergekit_fair.data import load_rows, load_spec
from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.benchmarks.benchmark_items import benchmark_rows
from mergekit_fair.evaluation.compare_runs import _like
from mergekit_fair.evaluation.documents import documents
from mergekit_fair.evaluation.evaluate import evaluate
from mergekit_fair.evaluation.levels import Level
from mergekit_fair.evaluation.measure_file import measure_file
from mergekit_fair.evaluation.prediction_table import PredictionColumns, read_rows_of
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.evaluation.saved_rows import read_rows_text, rows_text
from mergekit_fair.fairness import MetricSettings, measure, score_quality
from mergekit_fair.fairness.benchmark_scores import measure_benchmark

SETTINGS = MetricSettings(draws=20)


def predictions(n: int = 120, clusters: int | None = 40) -> Predictions:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n).astype(np.int8)
    masks = {name: rng.random(n) < 0.5 for name in "ab"}
    rows = Predictions("task", tuple(range(n)), labels, labels, masks, ())
    found = rows.with_scores(rng.normal(size=n) + labels - 0.5)
    return found if clusters is None else replace(found, clusters=rng.integers(0, clusters, n))


def samples(docs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"doc_id": i, "doc": {"groups": ["a"], **doc}, "dpd": (i % 2, 1, ["a"]),
         "filtered_resps": []}
        for i, doc in enumerate(docs)
    ]  # fmt: skip


def test_documents_carry_what_the_data_say(tmp_path: Path) -> None:
    lines = [f"text {i},{i % 2},{'fm'[i // 2 % 2]},{i // 4}" for i in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label,sex,template", *lines]))
    block = {
        "name": "small", "source": "rows.csv", "text": "text", "label": {"column": "label"},
        "groups": {"column": "sex"}, "cluster": "template",
        "splits": {"shares": {"train": 0.4, "validation": 0.6}},
    }  # fmt: skip
    rows = load_rows(load_spec(block, folder=tmp_path))
    docs = documents(rows, "validation", "Is it?")
    by_id = dict(zip(rows.ids.tolist(), rows.clusters.tolist(), strict=True))
    assert all(doc["cluster"] == by_id[doc["id"]] for doc in docs)
    assert len(set(docs["cluster"])) == len({doc["id"] // 4 for doc in docs})
    del block["cluster"]
    plain = documents(load_rows(load_spec(block, folder=tmp_path)), "validation", "Is it?")
    assert "cluster" not in plain.column_names


def test_samples_carry_clusters() -> None:
    found = Predictions.of_samples("t", samples([{"cluster": 7}, {"cluster": 5}, {"cluster": 7}]))
    assert found.clusters is not None
    assert found.clusters.tolist() == [7, 5, 7]
    named = samples([{"cluster": "x"}, {"cluster": None}, {"cluster": "x"}, {"cluster": None}])
    codes = Predictions.of_samples("t", named).clusters
    assert codes is not None
    assert codes[0] == codes[2]
    assert len(set(codes.tolist())) == 3
    assert Predictions.of_samples("t", samples([{}, {}])).clusters is None
    with raises(MeasurementError, "1 of 2 samples have no `cluster`", where="t"):
        Predictions.of_samples("t", samples([{"cluster": 1}, {}]))


def test_an_evaluation_is_of_clusters() -> None:
    rows = predictions()
    level = Level("labels", rows.base_rate)
    found, plain = (
        evaluate(each, SETTINGS, model="m", split="s", level=level)
        for each in (rows, replace(rows, clusters=None))
    )
    assert rows.clusters is not None
    assert found.clusters == len(np.unique(rows.clusters))
    assert found.to_dict()["clusters"] == found.clusters
    assert "clusters" not in plain.to_dict()
    expected = measure(rows.labels, rows.predicted, rows.groups, clusters=rows.clusters, draws=20)
    assert found.metrics == expected.metrics
    quality = score_quality(
        rows.labels, rows.logit_gaps, rows.groups, probabilities=rows.probabilities,
        clusters=rows.clusters, draws=20,
    )  # fmt: skip
    assert found.scores == quality
    assert found.scores != plain.scores
    assert found.level_matched is not None
    assert plain.level_matched is not None
    assert found.level_matched.threshold == plain.level_matched.threshold
    assert type(found).from_dict(found.to_dict()) == found


def test_preferences_are_of_clusters() -> None:
    said = [
        {
            "doc_id": i,
            "preference_gap": (i // 2 % 2, ("age", "race")[i % 2]),
            "doc": {"cluster": i // 10},
        }
        for i in range(100)
    ]
    rows = benchmark_rows("t", said)
    assert rows is not None
    found = measure_benchmark(rows, SETTINGS)
    assert found.clusters == 10
    assert any("10 clusters, fewer than 30" in text for text in found.warnings)


def test_saved_rows_keep_clusters() -> None:
    rows = predictions()
    again = read_rows_text(rows_text({"task": rows}))["task"]
    assert again.clusters is not None
    assert rows.clusters is not None
    assert again.clusters.tolist() == rows.clusters.tolist()
    assert "clusters" not in rows_text({"task": predictions(clusters=None)})


def test_compared_runs_have_the_same_clusters() -> None:
    rows = predictions()
    assert rows.clusters is not None
    for clusters in (None, rows.clusters + 1):
        with raises(MeasurementError, "other labels, groups, weights or clusters"):
            _like(rows, replace(rows, clusters=clusters), "b", "a")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_of_predictions_names_its_clusters(tmp_path: Path, kind: str) -> None:
    rows = predictions()
    assert rows.clusters is not None
    table = [
        {"y": int(y), "p": int(p), "g": "a" if a else "b", "t": f"template {c}"}
        for y, p, a, c in zip(
            rows.labels, rows.predicted, rows.groups["a"], rows.clusters, strict=True
        )
    ]
    file = tmp_path / f"p.{kind}"
    lines = [json.dumps(row) for row in table]
    if kind == "csv":
        lines = ["y,p,g,t", *(",".join(map(str, row.values())) for row in table)]
    file.write_text("\n".join(lines))
    columns = PredictionColumns(label="y", prediction="p", groups=("g",), cluster="t")
    found = measure_file(file, read_rows_of(file, columns), SETTINGS)
    expected = measure(
        rows.labels, rows.predicted, [row["g"] for row in table], clusters=rows.clusters, draws=20
    )
    assert found.metrics == expected.metrics
    assert found.clusters == expected.clusters
