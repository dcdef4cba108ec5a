"""Classes and labels as text: what is worst and of whom, each class, groups, differences."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from multi_samples import NAMES, multi_samples, three_classes

from mergekit_fair.evaluation.compare_runs import compare_folders
from mergekit_fair.evaluation.evaluate import MultiEvaluation, evaluate
from mergekit_fair.evaluation.multi_predictions import MultiPredictions, read_samples_of
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.report.comparison_text import multi_comparison_text
from mergekit_fair.report.evaluation_text import evaluation_text
from mergekit_fair.report.multi_tables import view_groups_table, views_table
from mergekit_fair.report.tables import interval_text, value_text

SETTINGS = MetricSettings(draws=200, min_group_size=1)


def rows_of(samples: list[dict[str, Any]]) -> MultiPredictions:
    found = read_samples_of("t", samples)
    assert isinstance(found, MultiPredictions)
    return found


def measured(rows: MultiPredictions) -> MultiEvaluation:
    return evaluate(rows, SETTINGS, model="m", split="report")


def many(classes: int, groups: int, n: int = 800) -> MultiPredictions:
    """Rows of so many classes and groups; a model that errs most about the first group."""
    rng = np.random.default_rng(0)
    labels, members = rng.integers(0, classes, n), rng.integers(0, groups, n)
    logits = 2 * np.eye(classes)[labels] + rng.normal(size=(n, classes))
    logits[members == 0, 0] += 2
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    names = [f"class {number}" for number in range(classes)]
    listed = [[f"group {number}"] for number in members]
    return rows_of(multi_samples("classes", labels, log_probs, listed, names))


@pytest.fixture(scope="module")
def rows() -> MultiPredictions:
    return rows_of(three_classes(skill=2.0, bias=2.0))


@pytest.fixture(scope="module")
def evaluation(rows: MultiPredictions) -> MultiEvaluation:
    return measured(rows)


def renamed(rows: MultiPredictions, names: tuple[str, ...], group: str) -> MultiPredictions:
    groups = {group if name == "a" else name: mask for name, mask in rows.groups.items()}
    return replace(rows, names=names, groups=groups)


class TestEvaluation:
    def test_whose_the_worst_gap_is(self, evaluation: MultiEvaluation) -> None:
        text = evaluation_text(evaluation)
        hate = evaluation.views["hate"]
        assert evaluation.worst_view["dpd"] == "hate"
        a, b = (value_text(hate.groups[name].selection_rate) for name in "ab")
        assert f"Worst DPD: of hate, the selection rate of a ({a}) minus that of b ({b}).\n" in text
        shown = interval_text(evaluation.worst["dpd"])
        assert f"worst_dpd  {shown}  hate" in text

    def test_of_every_class(self, evaluation: MultiEvaluation) -> None:
        table = views_table(evaluation)
        [(_, shown)] = table.sections
        assert [row.head for row in shown] == list(NAMES)
        for row in shown:
            view = evaluation.views[row.head]
            assert [str(cell) for cell in row.cells] == [
                value_text(view.labels.base_rate),
                value_text(view.metrics["selection_rate"].value),
                interval_text(view.metrics["dpd"]),
                interval_text(view.metrics["eod"]),
            ]

    def test_lines_fit_a_terminal(self) -> None:
        for found in (measured(many(3, 2)), measured(many(5, 8))):
            _, *lines = evaluation_text(found).splitlines()
            tables = [line for line in lines if not line.startswith(("Worst", "warning"))]
            assert max(map(len, tables)) <= 80

    def test_many_groups_are_those_that_make_a_gap(self) -> None:
        found = measured(many(5, 8))
        assert all(len(body) == 8 for _, body in view_groups_table(found).sections)
        folded = view_groups_table(found, 24)
        assert folded.foot
        for (_, body), view in zip(folded.sections, found.views.values(), strict=True):
            made = {name for gap in ("dpd", "eod") for name in view.deciding[gap].groups}
            assert {row.head for row in body} == made
        assert not view_groups_table(found, 40).foot

    def test_names_of_columns_are_names_of_classes_and_groups(self, rows: MultiPredictions) -> None:
        plain = evaluation_text(measured(rows)).splitlines()
        text = evaluation_text(measured(renamed(rows, ("n", "value", "TPR"), "class n")))
        assert len(text.splitlines()) == len(plain)
        assert "Worst DPD: of n, the selection rate of class n (" in text

    def test_long_names_are_cut(self, rows: MultiPredictions) -> None:
        long = renamed(rows, ("x" * 500, "y" * 500, "z"), "g" * 500)
        lines = evaluation_text(measured(long)).splitlines()
        assert max(map(len, lines[1:])) < 180
        assert any(line.startswith("x" * 29 + "…" + "x" * 10) for line in lines)

    def test_a_label_without_a_gap(self) -> None:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 2, (60, 2))
        samples = multi_samples("labels", labels, -rng.random((60, 2)), [["a"]] * 60, ("x", "y"))
        text = evaluation_text(measured(rows_of(samples)))
        assert "worst_dpd  –\n" in text
        assert "Worst" not in text
        assert "label x\n" in text


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folders: list[Path] = []
    for name, options in (("a", {"bias": 2.0, "seed": 2}), ("b", {"seed": 1})):
        folders.append(tmp_path_factory.mktemp("compared") / name)
        folders[-1].mkdir()
        samples = three_classes(skill=2.0, **options)  # type: ignore[arg-type]
        text = "".join(json.dumps(each) + "\n" for each in samples)
        (folders[-1] / "samples_t.jsonl").write_text(text)
    return compare_folders(folders[0], folders[1:], SETTINGS)["t"]


class TestComparison:
    def test_five_figures_then_every_class(self, compared: dict[str, Any]) -> None:
        lines = multi_comparison_text("t", compared).splitlines()
        assert max(map(len, lines)) <= 80
        own = compared["models"]["b"]["worst_dpd"]
        assert own["claimed"]
        [line] = [line for line in lines if line.startswith("worst_dpd  -")]
        assert line.split()[1] == value_text(own["value"], "+")
        assert "] ! " in line
        start = lines.index(next(line for line in lines if "in each class or label" in line))
        of_class = {line.split()[0]: line for line in lines[start:] if "[" in line}
        assert set(of_class) == set(NAMES)
        dpd = compared["views"]["b"]["hate"]["dpd"]["value"]
        assert of_class["hate"].split()[1] == value_text(dpd, "+")

    def test_whose_the_worst_gaps_are(self, compared: dict[str, Any]) -> None:
        marks = compared["marks"]["a"]
        assert marks["worst_view"]["dpd"] == "hate"
        assert marks["deciding"]["worst_dpd"] == {
            "rate": "selection_rate",
            "highest": "a",
            "lowest": "b",
        }
        assert "  that of          hate: a − b" in multi_comparison_text("t", compared)
