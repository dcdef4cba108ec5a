"""Classes and labels: samples, evaluations, paired models, and what `compare` says of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from multi_samples import NAMES, multi_samples, three_classes
from refusals import raises

from mergekit_fair.cli import main
from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.compare_runs import compare_folders
from mergekit_fair.evaluation.eval_run import level_of
from mergekit_fair.evaluation.evaluate import MultiEvaluation, evaluate, read_evaluation
from mergekit_fair.evaluation.evidence import evaluation_text, fingerprinted, require_proof
from mergekit_fair.evaluation.levels import Level, MultiLevel, require_level
from mergekit_fair.evaluation.multi_predictions import (
    MultiPredictions,
    margins,
    predicted_of,
    read_samples_of,
)
from mergekit_fair.evaluation.paired_models import paired_models
from mergekit_fair.evaluation.saved_rows import read_rows_text, rows_text
from mergekit_fair.fairness import MetricSettings, measure_classes, measure_labels
from mergekit_fair.fairness.labels import UNANSWERED
from mergekit_fair.schema import sealed

SETTINGS = MetricSettings(draws=200)
ABOUT = {"model": "m", "split": "report"}


def predictions(**options: Any) -> MultiPredictions:
    found = read_samples_of("t", three_classes(**options))
    assert isinstance(found, MultiPredictions)
    return found


@pytest.fixture(scope="module")
def fair() -> MultiPredictions:
    return predictions(skill=2.0, seed=1)


@pytest.fixture(scope="module")
def biased() -> MultiPredictions:
    return predictions(skill=2.0, bias=2.0, seed=2)


def labels_of(seed: int = 0) -> MultiPredictions:
    rng = np.random.default_rng(seed)
    labels, groups = rng.integers(0, 2, (300, 2)), rng.integers(0, 2, 300)
    logits = 2.0 * (2 * labels - 1) + 2 * rng.normal(size=labels.shape)
    log_probs = -np.log1p(np.exp(-logits))
    listed = [["ab"[code]] for code in groups]
    samples = multi_samples("labels", labels, log_probs, listed, ("toxic", "threat"))
    found = read_samples_of("t", samples)
    assert isinstance(found, MultiPredictions)
    return found


class TestPredictions:
    def test_views_predict_what_the_row_predicts(self, biased: MultiPredictions) -> None:
        for number, view in enumerate(biased.views.values()):
            assert view.logit_gaps is not None
            assert np.array_equal(view.logit_gaps > 0, biased.predicted[:, number] == 1)

    def test_of_equals_the_first_is_predicted(self) -> None:
        tied = np.log([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]])
        assert predicted_of("classes", tied).argmax(axis=1).tolist() == [0, 1]
        assert np.array_equal(margins("classes", tied) > 0, predicted_of("classes", tied) == 1)

    def test_labels_are_predicted_where_their_logit_is_above_0(self) -> None:
        logits = np.array([[-3.0, 1e-3], [40.0, -1e-3]])
        log_probs = -np.log1p(np.exp(-logits))
        assert margins("labels", log_probs) == pytest.approx(logits, rel=1e-6)
        assert predicted_of("labels", log_probs).tolist() == [[0, 1], [1, 0]]

    @pytest.mark.parametrize("row", [[np.nan, -1.0, -1.0], [-np.inf] * 3])
    def test_a_row_without_an_answer_has_none_in_any_view(self, row: list[float]) -> None:
        assert predicted_of("classes", np.array([row])).tolist() == [[UNANSWERED] * 3]
        assert np.isnan(margins("classes", np.array([row]))).all()

    def test_scores_come_back(self, fair: MultiPredictions) -> None:
        again = fair.without_predictions().with_scores(fair.scores)
        assert np.array_equal(again.predicted, fair.predicted)
        assert np.array_equal(again.scores, fair.scores)

    def test_predictions_alone_come_back_without_scores(self, fair: MultiPredictions) -> None:
        alone = replace(fair, log_probs=None)
        again = fair.without_predictions().with_scores(alone.scores)
        assert np.array_equal(again.predicted, fair.predicted)
        assert again.log_probs is None

    def test_rows_come_back_from_their_file(self, fair: MultiPredictions) -> None:
        [again] = read_rows_text(rows_text({"t": fair})).values()
        assert isinstance(again, MultiPredictions)
        assert (again.kind, again.names) == (fair.kind, fair.names)
        assert np.array_equal(again.labels, fair.labels)
        assert rows_text({"t": again}) == rows_text({"t": fair})

    @pytest.mark.parametrize(
        "item", [[3, 0, ["a"], NAMES], [0, -1, ["a"], NAMES], [True, 0, ["a"], NAMES],
                 [[1, 0, 0], 0, ["a"], NAMES], [0, 0, ["a"], ["x", "y", "z"]], [0, 0, ["a"]]]
    )  # fmt: skip
    def test_damaged_samples_are_refused(self, item: list[Any]) -> None:
        samples = three_classes(6)
        samples[3]["macro_dpd"] = item
        with raises(MeasurementError, where="t"):
            read_samples_of("t", samples)

    @pytest.mark.parametrize("kind", ["classes", "labels"])
    def test_at_wanted_selection_rates(self, kind: str, biased: MultiPredictions) -> None:
        rows = biased if kind == "classes" else labels_of()
        wanted = rows.base_rates
        moved = rows.at_level(wanted)
        assert moved is not None
        assert moved.selection_rates == pytest.approx(wanted, abs=2 / len(rows))
        if kind == "classes":
            assert (moved.predicted.sum(axis=1) == 1).all()


class TestEvaluations:
    def test_figures_are_those_of_measure_classes(self, biased: MultiPredictions) -> None:
        names = np.array(NAMES)
        measured = measure_classes(
            names[biased.labels.argmax(axis=1)],
            names[biased.predicted.argmax(axis=1)],
            biased.groups,
            classes=NAMES,
            draws=200,
        )
        evaluation = evaluate(biased, SETTINGS, **ABOUT)
        assert evaluation.metrics == measured.metrics
        assert evaluation.views == measured.views

    def test_figures_are_those_of_measure_labels(self) -> None:
        rows = labels_of()
        truth, predicted = (
            dict(zip(rows.names, columns.T, strict=True))
            for columns in (rows.labels, rows.predicted)
        )
        measured = measure_labels(truth, predicted, rows.groups, draws=200)
        assert evaluate(rows, SETTINGS, **ABOUT).metrics == measured.metrics

    def test_the_file_can_be_checked(self, tmp_path: Path) -> None:
        samples = three_classes(120)
        text = "".join(json.dumps(each) + "\n" for each in samples)
        rows = read_samples_of("t", samples)
        assert isinstance(rows, MultiPredictions)
        level = MultiLevel("labels", rows.base_rates)
        evaluation = evaluate(rows, MetricSettings(), level=level, **ABOUT)
        whole = fingerprinted(evaluation, text, {}, MetricSettings())
        (tmp_path / "samples_t.jsonl").write_text(text)
        (tmp_path / "t.json").write_text(evaluation_text(whole))
        again = require_proof(tmp_path / "t.json")
        assert isinstance(again, MultiEvaluation)
        assert again.to_dict() == read_evaluation(tmp_path / "t.json").to_dict()
        assert again.level is not None
        assert again.level.to == "labels"

    def test_a_changed_figure_is_found(self, tmp_path: Path) -> None:
        samples = three_classes(120)
        text = "".join(json.dumps(each) + "\n" for each in samples)
        evaluation = evaluate(read_samples_of("t", samples), MetricSettings(), **ABOUT)
        worse = evaluation.model_copy(
            update={"acc": evaluation.acc.model_copy(update={"value": 0.99})}
        )
        (tmp_path / "samples_t.jsonl").write_text(text)
        whole = fingerprinted(worse, text, {}, MetricSettings())
        (tmp_path / "t.json").write_text(evaluation_text(whole))
        with raises(MeasurementError, where=tmp_path / "t.json", got=0.99):
            require_proof(tmp_path / "t.json")

    @pytest.mark.parametrize("kind", ["classes", "labels"])
    def test_figures_at_other_selection_rates(self, kind: str, biased: MultiPredictions) -> None:
        rows = biased if kind == "classes" else labels_of()
        level = MultiLevel("labels", rows.base_rates)
        found = evaluate(rows, SETTINGS, level=level, **ABOUT).level_matched
        moved = rows.at_level(rows.base_rates)
        assert found is not None
        assert moved is not None
        expected = evaluate(moved, SETTINGS, **ABOUT)
        assert found.__pydantic_extra__ == expected.metrics
        assert np.array_equal(rows.moved(found.offsets).predicted, moved.predicted)
        kept = {name: 2.5 * number for number, name in enumerate(rows.names)}
        again = evaluate(rows, SETTINGS, level=level, threshold=kept, **ABOUT).level_matched
        assert again is not None
        assert again.offsets == kept
        by_hand = evaluate(rows.moved(kept), SETTINGS, **ABOUT)
        assert again.__pydantic_extra__ == by_hand.metrics

    def test_predictions_alone_have_none(self, biased: MultiPredictions) -> None:
        alone = replace(biased, log_probs=None)
        level = MultiLevel("labels", biased.base_rates)
        found = evaluate(alone, SETTINGS, level=level, **ABOUT)
        assert found.level_matched is None
        assert "level_matched" not in found.to_dict()
        with raises(MeasurementError, where="t"):
            alone.moved(dict.fromkeys(NAMES, 0.0))

    def test_unanswered_rows_stay_so(self, biased: MultiPredictions) -> None:
        assert biased.log_probs is not None
        scores = biased.log_probs.copy()
        scores[0], scores[1] = np.nan, -np.inf
        moved = biased.with_scores(scores.reshape(-1)).at_level(biased.base_rates)
        assert moved is not None
        assert (moved.predicted[:2] == UNANSWERED).all()
        assert not (moved.predicted[2:] == UNANSWERED).any()

    def test_what_was_set_on_validation_rows_holds_on_others(
        self, biased: MultiPredictions, tmp_path: Path
    ) -> None:
        """As `eval --level` of the model's own validation file."""
        level = MultiLevel("labels", biased.base_rates)
        about = {"model": "m", "split": "validation"}
        said = evaluate(biased, SETTINGS, level=level, **about)
        assert said.level_matched is not None
        (tmp_path / "t.json").write_text(json.dumps(sealed(said.to_dict())))
        own = level_of(tmp_path / "t.json", "m")
        assert own == (level, {"t": said.level_matched.offsets})
        assert level_of(tmp_path / "t.json", "other")[1] == {}

    def test_saturation_is_that_of_any_class(self, biased: MultiPredictions) -> None:
        level = MultiLevel("fft", biased.selection_rates)
        assert evaluate(biased, SETTINGS, level=level, **ABOUT).saturated is False
        rates = {**level.rates, "hate": level.rates["hate"] - 0.2}
        apart = evaluate(biased, SETTINGS, level=MultiLevel("fft", rates), **ABOUT)
        assert apart.saturated is True

    @pytest.mark.parametrize("level", [Level("fft", 0.5), MultiLevel("fft", {"toxic": 0.5})])
    def test_levels_of_another_task_are_refused(self, level: Any, biased: MultiPredictions) -> None:
        with raises(MeasurementError, where="t"):
            require_level(level, biased)


class TestPairs:
    def test_a_smaller_bias_is_claimed_and_only_it(
        self, fair: MultiPredictions, biased: MultiPredictions
    ) -> None:
        from mergekit_fair.fairness.claims import claims

        paired = paired_models(
            {"biased": biased, "fair": fair}, {"fair": ("biased", "fair")}, SETTINGS
        )
        found = claims(paired.evidence, 0.95)["fair"]
        assert list(found) == ["acc", "macro_dpd", "worst_dpd", "macro_eod", "worst_eod"]
        assert found["worst_dpd"].claimed
        assert found["macro_dpd"].claimed
        difference = paired.evidence["fair"].own["worst_dpd"]
        assert difference.value is not None
        assert difference.value < 0

    def test_the_opposite_is_the_exact_opposite(
        self, fair: MultiPredictions, biased: MultiPredictions
    ) -> None:
        models = {"x": biased, "y": fair}
        one, other = (
            paired_models(models, {"pair": pair}, SETTINGS).evidence["pair"].own
            for pair in (("x", "y"), ("y", "x"))
        )
        for name, difference in one.items():
            turned = other[name]
            assert None not in (difference.value, turned.value, turned.high)
            assert difference.value == -float(turned.value or 0)
            assert difference.low == -float(turned.high or 0)
            assert difference.p_value == turned.p_value

    def test_a_model_and_itself_do_not_differ(self, biased: MultiPredictions) -> None:
        paired = paired_models({"x": biased, "y": biased}, {"y": ("x", "y")}, SETTINGS)
        for difference in paired.evidence["y"].own.values():
            assert difference.value == 0
            assert difference.p_value == 1

    def test_the_macro_gap_of_one_label_is_its_gap(self) -> None:
        rows, other = (labels_of(seed).views["toxic"] for seed in (0, 0))
        other = other.predict_at(1.0)
        one, two = (
            MultiPredictions(
                task="t",
                keys=each.keys,
                kind="labels",
                names=("toxic",),
                labels=each.labels[:, np.newaxis],
                predicted=each.predicted[:, np.newaxis],
                groups=each.groups,
                excluded=(),
            )
            for each in (rows, other)
        )
        multi = paired_models({"x": one, "y": two}, {"y": ("x", "y")}, SETTINGS)
        binary = paired_models({"x": rows, "y": other}, {"y": ("x", "y")}, SETTINGS)
        found, expected = multi.evidence["y"].own, binary.evidence["y"].own
        for gap in ("dpd", "eod"):
            assert multi.views["y"]["toxic"][gap] == expected[gap]
            assert found[f"macro_{gap}"].value == found[f"worst_{gap}"].value == expected[gap].value
            assert found[f"macro_{gap}"].low == expected[gap].low
        assert found["acc"].value == pytest.approx(expected["acc"].value, abs=1e-12)

    def test_never_naming_a_class_is_no_gain(self, biased: MultiPredictions) -> None:
        """Its gap vanishes; at equal selection rates it does not."""
        from mergekit_fair.fairness.claims import claims

        assert biased.log_probs is not None
        silenced = biased.log_probs.copy()
        silenced[:, 0] -= 50.0
        silent = biased.with_scores(silenced.reshape(-1))
        paired = paired_models(
            {"biased": biased, "silent": silent}, {"silent": ("biased", "silent")}, SETTINGS
        )
        found = claims(paired.evidence, 0.95)["silent"]
        own = paired.evidence["silent"].own["worst_dpd"].value
        assert own is not None
        assert own < 0
        assert not found["worst_dpd"].claimed
        assert found["worst_dpd"].withheld is not None


class TestCompare:
    @pytest.fixture
    def folders(self, tmp_path: Path) -> list[Path]:
        for name, options in (("a", {"bias": 2.0, "seed": 2}), ("b", {"seed": 1})):
            folder = tmp_path / name
            folder.mkdir()
            samples = three_classes(skill=2.0, **options)  # type: ignore[arg-type]
            (folder / "samples_t.jsonl").write_text(
                "".join(json.dumps(each) + "\n" for each in samples)
            )
        return [tmp_path / "a", tmp_path / "b"]

    def test_folders(self, folders: list[Path]) -> None:
        found = compare_folders(folders[0], folders[1:], MetricSettings())["t"]
        assert found["models"]["b"]["worst_dpd"]["claimed"]
        assert list(found["views"]["b"]) == list(NAMES)
        assert found["views"]["b"]["hate"]["dpd"]["value"] < 0
        assert set(found["marks"]["a"]["selection_rates"]) == set(NAMES)

    def test_the_command(self, folders: list[Path]) -> None:
        result = CliRunner().invoke(main, ["compare", *map(str, folders)])
        assert result.exit_code == 0, result.output
        assert "worst_dpd" in result.output
        assert "selects hate" in result.output

    def test_another_kind_of_task_is_refused(self, folders: list[Path]) -> None:
        rng = np.random.default_rng(0)
        samples = multi_samples(
            "labels", rng.integers(0, 2, (600, 3)), -rng.random((600, 3)) - 0.1, [["a"]] * 600
        )
        (folders[1] / "samples_t.jsonl").write_text(
            "".join(json.dumps(each) + "\n" for each in samples)
        )
        with raises(MeasurementError, where="t: b and a"):
            compare_folders(folders[0], folders[1:], MetricSettings())
