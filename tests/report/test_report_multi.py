"""Classes and labels as text: what is worst and of whom, each class, groups, differences."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from multi_samples import NAMES, multi_samples, three_classes

from mergekit_fair.evaluation.compare_runs import compare_folders
from mergekit_fair.evaluation.evaluate import MultiEvaluation, evaluate
from mergekit_fair.evaluation.levels import MultiLevel
from mergekit_fair.evaluation.multi_predictions import MultiPredictions, read_samples_of
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.report.card import card_of_evaluations, card_of_sweep
from mergekit_fair.report.comparison_text import multi_comparison_text
from mergekit_fair.report.evaluation_text import evaluation_text
from mergekit_fair.report.multi_tables import view_groups_table, views_table
from mergekit_fair.report.outputs import summary_text
from mergekit_fair.report.page import write_page
from mergekit_fair.report.sweep_csv import results_csv
from mergekit_fair.report.sweep_tables import comparison_table, groups_table
from mergekit_fair.report.tables import interval_text, value_text
from mergekit_fair.report.verdict_text import verdict
from mergekit_fair.sweep.differences import differences
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import Choice, LevelRecord, SweepResults

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
        said = f"Worst DPD (class hate): the selection rate of a ({a}) minus that of b ({b}).\n"
        assert said in text
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

    def test_how_often_the_other_model_predicts_each(self, rows: MultiPredictions) -> None:
        rates = {"hate": 0.111, "offensive": 0.222, "neither": 0.667}
        level = MultiLevel("fft", rates)
        found = evaluate(rows, SETTINGS, model="m", split="report", level=level)
        lines = evaluation_text(found).splitlines()
        assert found.level_matched is not None
        at = found.level_matched.__pydantic_extra__["worst_dpd"]
        assert lines[1].split() == ["value", "worst", "for", "at", "the", "rates", "of", "fft"]
        assert lines[4].endswith(f"  {interval_text(at)}")
        head = next(number for number, line in enumerate(lines) if line.startswith("class  "))
        assert lines[head].split()[:6] == ["class", "base", "rate", "selected", "by", "fft"]
        shown = [line.split()[3] for line in lines[head + 1 : head + 4]]
        assert shown == [value_text(rate) for rate in rates.values()]

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
        assert "Worst DPD (class n): the selection rate of class n (" in text

    def test_long_names_are_cut(self, rows: MultiPredictions) -> None:
        long = renamed(rows, ("x" * 500, "y" * 500, "z"), "g" * 500)
        lines = evaluation_text(measured(long)).splitlines()
        assert max(map(len, lines[1:])) < 180
        assert any(line.startswith("x" * 29 + "…" + "x" * 10) for line in lines)

    def test_what_one_class_says_has_its_name(self, evaluation: MultiEvaluation) -> None:
        views = {
            name: view.model_copy(update={"warnings": ("all", *((name,) * (name != "hate")))})
            for name, view in evaluation.views.items()
        }
        found = evaluation.model_copy(update={"views": views, "warnings": ("whole", "all")})
        names = ["offensive: offensive", "neither: neither"]
        assert evaluation_text(found).splitlines()[-4:] == [
            f"warning: {text}" for text in ("whole", "all", *names)
        ]

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


@pytest.fixture(scope="module")
def swept() -> SweepResults:
    """A baseline and a merge, whose report rows are compared."""
    models = {
        "fft": rows_of(three_classes(skill=2.0, bias=2.0, seed=2)),
        "λ=0.5": rows_of(three_classes(skill=2.0, seed=1)),
    }
    points = [
        PointResult(
            id=label, kind=kind, label=label, settings={}, lambda_=None, lambda_eff=None,
            split="report", evaluation=measured(rows),
        )
        for (label, rows), kind in zip(models.items(), ("baseline", "merge"), strict=True)
    ]  # fmt: skip
    found = differences(models["λ=0.5"], {"fft": models["fft"]}, SETTINGS, saturation=0.1)
    chosen = Choice(
        label="λ=0.5", id="λ=0.5", feasible=True, rule="minimise macro_eod", reason="it is",
        candidates=(1, 1), ties=(),
    )  # fmt: skip
    return SweepResults(
        **{"sweep": "s.yml", "task": "t", "confidence": 0.95, "selected_on": "validation"},
        level=LevelRecord(to="fft", rates=models["fft"].selection_rates),
        **{"points": points, "selected": chosen, "report": points, "transfer": None},
        **{"worst_group": None, "report_opened_for_another_selection": False},
        **{"comparison": found.judged, "comparison_views": found.views},
        **{"warnings": [], "versions": {}},
    )


class TestSweep:
    def test_text(self, swept: SweepResults) -> None:
        lines = summary_text(swept, 100).splitlines()
        head = next(line for line in lines if line.split()[:1] == ["model"])
        assert head.split() == ["model", "acc", "macro_eod", "macro_dpd"]
        assert lines[0].endswith("confidence intervals)")
        wide = summary_text(swept, 300).splitlines()
        assert "worst_eod=" in wide[1].split()
        assert wide[0].endswith("; names with =: at the selection rates of fft)")
        merge = swept.report[1].evaluation
        assert isinstance(merge, MultiEvaluation)
        start = lines.index("Each class or label by itself, of these")
        rate = value_text(merge.views["hate"].labels.base_rate)
        assert lines[start + 2].split() == ["hate"]
        assert lines[start + 11].startswith(f"Base rates: hate {rate}, offensive ")
        shown = merge.views["hate"].metrics
        assert lines[start + 4].split()[:2] == ["*", "λ=0.5"]
        assert lines[start + 4].split()[2] == value_text(shown["selection_rate"].value)
        assert all(interval_text(shown[name]) in lines[start + 4] for name in ("dpd", "eod"))
        assert max(map(len, lines[start : start + 11])) <= 80

    def test_what_the_rule_reads_at_equal_rates_is_shown_beside_it(
        self, swept: SweepResults
    ) -> None:
        rule = "minimise level_matched.worst_eod, subject to acc >= 0.3"
        selected = swept.selected.model_copy(update={"rule": rule})
        text = summary_text(swept.model_copy(update={"selected": selected}), 100)
        head = next(line for line in text.splitlines() if line.split()[:1] == ["model"])
        assert head.split()[:4] == ["model", "acc", "worst_eod", "worst_eod="]

    def test_the_verdict_names_macro_and_worst(self, swept: SweepResults) -> None:
        said = verdict(swept)
        assert swept.comparison["fft"]["worst_dpd"].claimed
        assert "worst DPD -" in said
        assert " against fft" in said

    def test_csv(self, swept: SweepResults) -> None:
        fft, *_ = rows = list(csv.DictReader(io.StringIO(results_csv(swept))))
        assert len(rows) == 4
        evaluation = swept.points[0].evaluation
        assert isinstance(evaluation, MultiEvaluation)
        assert fft["worst_dpd_of"] == evaluation.worst_view["dpd"] == "hate"
        for name, view in evaluation.views.items():
            for metric in ("selection_rate", "dpd", "eod"):
                assert float(fft[f"{metric}/{name}"]) == view.metrics[metric].value
        assert not {"selection_rate", "dpd", "level_matched_dpd"} & set(fft)
        assert float(rows[2]["chosen_minus_worst_dpd"]) < 0

    def test_page(self, swept: SweepResults, tmp_path: Path) -> None:
        page = write_page(swept, tmp_path).read_text()
        for caption in (
            "t, report rows, each class or label by itself",
            "Chosen minus baseline in each class or label; none of these is claimed",
            "t, report rows, by group",
        ):
            assert f"<caption>{caption}</caption>" in page
        assert "hate: a − b" in page
        assert "threshold for everybody" not in page
        assert "Group thresholds" not in page

    @pytest.mark.parametrize("decides", ["classes", "binary"])
    def test_beside_a_task_of_no_or_yes(
        self, swept: SweepResults, tmp_path: Path, decides: str
    ) -> None:
        rows = rows_of(three_classes(skill=2.0, bias=2.0, seed=2)).views["hate"]
        binary = evaluate(replace(rows, task="u"), SETTINGS, model="m", split="report")

        def both(point: PointResult) -> PointResult:
            evaluation = point.evaluation
            assert evaluation is not None
            if decides == "classes":
                return point.model_copy(update={"tasks": {"u": binary}})
            return point.model_copy(update={"evaluation": binary, "tasks": {"t": evaluation}})

        changes: dict[str, Any] = {"points": [both(point) for point in swept.points]}
        changes["report"] = changes["points"]
        if decides == "binary":
            level = LevelRecord(to="fft", rate=0.3)
            changes |= {"task": "u", "level": level, "comparison": {}, "comparison_views": {}}
        results = swept.model_copy(update=changes)
        page = write_page(results, tmp_path).read_text()
        assert page.count("each class or label by itself</caption>") == 1
        assert "<dt>macro, worst</dt>" in page
        assert ("The gap at one threshold" in page) is (decides == "binary")
        card = card_of_sweep(results, name="m", recipe="", config={}, pictures=[])
        assert "at one threshold for everybody" in card
        assert "**macro**, **worst**" in card
        first = next(csv.DictReader(io.StringIO(results_csv(results))))
        assert ("dpd/hate" in first) is (decides == "classes")
        assert ("Each class" in summary_text(results)) is (decides == "classes")

    def test_groups_of_every_model_and_class_are_shown(self, swept: SweepResults) -> None:
        table = groups_table(swept.report, "t")
        titles = [f"{point.label}, {name}" for point in swept.report for name in NAMES]
        assert [title for title, _ in table.sections] == titles

    def test_differences_are_a_section_a_baseline(self, swept: SweepResults) -> None:
        table = comparison_table(swept.comparison)
        [(title, rows)] = table.sections
        assert title == "minus fft"
        titles = ["accuracy", "macro DPD", "worst DPD", "macro EOD", "worst EOD"]
        assert [row.head for row in rows] == titles
        assert rows[2].cells[0].strong
        assert "p < 0.001" in rows[2].cells[0].note

    @pytest.mark.parametrize("is_sweep", [True, False])
    def test_card(self, swept: SweepResults, *, is_sweep: bool) -> None:
        about: dict[str, Any] = {"name": "m", "recipe": "", "config": {}}
        evaluation = swept.report[1].evaluation
        assert isinstance(evaluation, MultiEvaluation)
        card = (
            card_of_sweep(swept, **about, pictures=[])
            if is_sweep
            else card_of_evaluations([evaluation], **about)
        )
        _, front, body = card.split("---\n", 2)
        [found] = yaml.safe_load(front)["model-index"][0]["results"]
        values = {metric["type"]: metric["value"] for metric in found["metrics"]}
        assert set(values) == {"accuracy", "macro_dpd", "worst_dpd", "macro_eod", "worst_eod"}
        assert values["worst_eod"] == pytest.approx(evaluation.worst["eod"].value, abs=1e-6)
        assert "| worst DPD of | worst EOD of |" in body
        assert "t, report rows, each class or label by itself:" in body
        assert f"| {interval_text(evaluation.views['neither'].metrics['eod'])} |" in body
        dpds = {name: view.labels.dpd or 0.0 for name, view in evaluation.views.items()}
        worst = max(dpds, key=lambda name: dpds[name])
        assert f"their own worst DPD is {dpds[worst]:.3f}, that of {worst}." in body
        assert "threshold for everybody" not in body


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
        text = multi_comparison_text("t", compared)
        assert "  that of          hate  " in text
        assert "  between          a − b  " in text
