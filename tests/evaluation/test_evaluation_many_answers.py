"""Classes and labels as lm-eval tasks: documents, heads, samples, metrics, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import many_answers
import numpy as np
import pytest
import torch
from classifiers import write_causal
from many_answers import CLASSES, LABELS
from refusals import raises

from mergekit_fair.data import DataSpec, load_rows, load_spec
from mergekit_fair.errors import CheckpointError, ConfigError
from mergekit_fair.evaluation.aggregations import view_aggregation
from mergekit_fair.evaluation.eval_run import EvaluationRun, run_tasks
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.evaluation.multi_predictions import (
    MultiPredictions,
    predicted_of,
    read_samples_of,
)
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
from mergekit_fair.evaluation.tasks import (
    LabelAnswer,
    likely_labels,
    process_results,
    process_scored_results,
)
from mergekit_fair.fairness import measure_classes, measure_labels
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS

GAPS = ("macro_dpd", "worst_dpd", "macro_eod", "worst_eod")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """many.csv, and a head of classes and one of labels."""
    path = tmp_path_factory.mktemp("many")
    many_answers.write_many(path)
    many_answers.write_head(path / "classes")
    many_answers.write_label_head(path / "labels")
    return path


@pytest.fixture(scope="module")
def speech(folder: Path) -> DataSpec:
    return load_spec(many_answers.classes_block(folder / "many.csv"))


@pytest.fixture(scope="module")
def comments(folder: Path) -> DataSpec:
    return load_spec(many_answers.labels_block(folder / "many.csv"))


def request(spec: DataSpec, **changes: Any) -> EvaluationRequest:
    """One row a batch, so that nothing is padded."""
    return EvaluationRequest(spec, **{"batch_size": 1, "min_group_size": 1} | changes)


def run(spec: DataSpec, model: Path, **changes: Any) -> EvaluationRun:
    return run_tasks(request(spec, **changes), str(model), "validation", "cpu")


def logits(model: Path, texts: list[str]) -> torch.Tensor:
    """(texts, classes) by transformers alone."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    network = AutoModelForSequenceClassification.from_pretrained(model).eval()
    encode = AutoTokenizer.from_pretrained(model)
    with torch.no_grad():
        return torch.stack(
            [
                network(**encode(text, return_tensors="pt", truncation=True, max_length=64)).logits[
                    0
                ]
                for text in texts
            ]
        )


def in_order(samples: list[dict[str, Any]], column: str = "text") -> list[Any]:
    return [sample["doc"][column] for sample in samples]


def test_a_head_of_classes_is_the_softmax_of_transformers(folder: Path, speech: DataSpec) -> None:
    """Row by row to the bit; and lm-eval's figures are those of `measure_classes`."""
    finished = run(speech, folder / "classes")
    (samples,) = finished.samples.values()
    rows = load_rows(speech).of("validation")
    assert sorted(in_order(samples, "id")) == rows.ids.tolist()
    expected = torch.log_softmax(logits(folder / "classes", in_order(samples)), dim=-1)
    found = [[answer[0] for answer in sample["filtered_resps"]] for sample in samples]
    assert found == expected.tolist()
    predicted = expected.argmax(dim=-1).tolist()
    labels = dict(zip(rows.ids.tolist(), rows.labels.tolist(), strict=True))
    for sample, prediction in zip(samples, predicted, strict=True):
        doc = sample["doc"]
        label = labels[doc["id"]]
        assert (doc["classes"], doc["label"], sample["acc"]) == (
            *(list(CLASSES), label),
            int(prediction == label),
        )
        item = (prediction, label, doc["groups"], list(CLASSES))
        assert [sample[name] for name in GAPS] == [item] * 4
        assert "dpd" not in sample
    assert len(set(predicted)) == 3  # else there is nothing to see
    measured = measure_classes(
        [CLASSES[sample["doc"]["label"]] for sample in samples],
        [CLASSES[number] for number in predicted],
        in_order(samples, "groups"),
        classes=CLASSES,
        min_group_size=1,
        draws=1,
    )
    results = finished.results["results"]["speech"]
    for name in MULTI_METRICS:
        assert results[f"{name},none"] == measured.metrics[name].value, name
    assert results["unanswered,none"] == 0


def test_a_head_of_labels_is_the_sigmoid_of_transformers(folder: Path, comments: DataSpec) -> None:
    finished = run(comments, folder / "labels")
    (samples,) = finished.samples.values()
    rows = load_rows(comments).of("validation")
    outputs = logits(folder / "labels", in_order(samples))
    found = [[answer[0] for answer in sample["filtered_resps"]] for sample in samples]
    assert found == torch.nn.functional.logsigmoid(outputs).tolist()
    predicted = (torch.sigmoid(outputs) > 0.5).int().tolist()
    labels = dict(zip(rows.ids.tolist(), rows.labels.tolist(), strict=True))
    for sample, prediction in zip(samples, predicted, strict=True):
        doc = sample["doc"]
        assert (doc["labels"], doc["label"]) == (list(LABELS), labels[doc["id"]])
        assert sample["macro_dpd"] == (prediction, doc["label"], doc["groups"], list(LABELS))
        assert sample["acc"] == int(prediction == doc["label"])
        assert [bool(answer[1]) for answer in sample["filtered_resps"]] == prediction
    assert 0 < np.mean(predicted) < 1
    truth, answers = (np.array([s["macro_dpd"][at] for s in samples]).T for at in (1, 0))
    measured = measure_labels(
        dict(zip(LABELS, truth, strict=True)),
        dict(zip(LABELS, answers, strict=True)),
        in_order(samples, "groups"),
        min_group_size=1,
        draws=1,
    )
    for name in MULTI_METRICS:
        value = measured.metrics[name].value
        assert finished.results["results"]["comments"][f"{name},none"] == value, name


@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_scores_are_the_numbers_of_the_samples(
    kind: str, folder: Path, speech: DataSpec, comments: DataSpec
) -> None:
    """To the bit, row by row; the rows of both routes are the same."""
    spec, names = (speech, CLASSES) if kind == "classes" else (comments, LABELS)
    (samples,) = run(spec, folder / kind, batch_size=7).samples.values()
    evaluator = Evaluator(request(spec, batch_size=7))
    scores = evaluator.open(str(folder / kind), "cpu").score("validation")[spec.name]
    written = json.loads(json.dumps([[a[0] for a in s["filtered_resps"]] for s in samples]))
    assert scores.tolist() == np.array(written).reshape(-1).tolist()
    labels = evaluator.labels("validation")[spec.name]
    read = read_samples_of(spec.name, json.loads(json.dumps(samples)))
    assert isinstance(labels, MultiPredictions)
    assert isinstance(read, MultiPredictions)
    assert (labels.kind, labels.names, read.kind) == (kind, names, kind)
    assert np.array_equal(labels.labels, read.labels)
    assert {n: m.tolist() for n, m in labels.groups.items()} == {
        n: m.tolist() for n, m in read.groups.items()
    }
    answered = labels.with_scores(scores)
    assert np.array_equal(answered.predicted, read.predicted)
    some = np.array([5, 3])
    again = Evaluator(request(spec)).open(str(folder / kind), "cpu")
    np.testing.assert_allclose(
        again.score("validation", some)[spec.name],
        scores.reshape(-1, len(names))[some].reshape(-1),
        atol=1e-5,  # padded otherwise
    )


def test_weighted_documents_count_for_their_weights(folder: Path) -> None:
    weighted = load_spec(many_answers.classes_block(folder / "many.csv", weight="weight"))
    finished = run(weighted, folder / "classes")
    (samples,) = finished.samples.values()
    weights = in_order(samples, "weight")
    assert set(weights) == {1.0, 2.5}
    truth, predicted = zip(*(sample["acc"][1::-1] for sample in samples), strict=True)
    measured = measure_classes(
        truth,
        predicted,
        in_order(samples, "groups"),
        classes=range(3),
        weights=weights,
        min_group_size=1,
        draws=1,
    )
    for name in MULTI_METRICS:
        value = measured.metrics[name].value
        assert finished.results["results"]["speech"][f"{name},none"] == value, name


def test_documents_without_an_answer() -> None:
    """A log-probability is NaN, of classes and of labels; of classes, all are −inf, too."""
    doc = {"classes": list(CLASSES), "label": 1, "groups": ["a", "b"], "excluded": ["b"]}
    silent = [(math.nan, False), (-1.0, False), (-2.0, True)]
    for results in (silent, [(-math.inf, False)] * 3):
        found = process_results(doc, results)
        assert found["macro_dpd"] == (None, 1, ["a"], list(CLASSES))
        assert (found["acc"], found["unanswered"]) == (0, 1)
    tied = process_results(doc, [(-2.0, False), (-1.0, True), (-1.0, False)])
    assert tied["macro_dpd"][0] == 1  # the first of equals
    assert likely_labels([LabelAnswer(-0.1, True), LabelAnswer(math.nan, False)]) is None
    assert view_aggregation("acc")([(None, 1, ["a"], CLASSES), (1, 1, ["b"], CLASSES)]) == 0.5
    gaps = [view_aggregation(name, least=1)([(None, 1, ["a"], CLASSES)] * 3) for name in GAPS]
    assert all(math.isnan(value) for value in gaps)


def test_a_label_is_predicted_where_its_probability_is_more_than_one_half() -> None:
    """The same by samples and by scores, next to one half, too."""
    half = np.float32(-math.log(2))
    near = [half]
    for _ in range(3):
        near = [np.nextafter(near[0], np.float32(-1)), *near, np.nextafter(near[-1], np.float32(0))]
    values = [float(value) for value in (*near, np.float32(0), np.float32(-90))]
    by_samples = [likely_labels([LabelAnswer(value, False)]) for value in values]
    assert by_samples == predicted_of("labels", np.array(values)[:, None]).tolist()
    assert by_samples == [[0]] * 4 + [[1]] * 4 + [[0]]


@pytest.mark.parametrize("batch", [1, 3, 8, 50])
def test_log_probabilities_do_not_depend_on_the_batch(batch: int) -> None:
    from mergekit_fair.evaluation.lm.scoring import log_probs

    drawn = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) * 20
    for independent in (False, True):
        whole = log_probs(drawn, is_multi_label=independent)
        parts = [log_probs(part, is_multi_label=independent) for part in drawn.split(batch)]
        assert torch.equal(torch.cat(parts), whole)
    drawn[3, 1] = torch.inf
    assert torch.isnan(log_probs(drawn, is_multi_label=True)[3]).all()  # no complete answer


def test_choices_are_the_names(speech: DataSpec, comments: DataSpec) -> None:
    for spec, names in ((speech, CLASSES), (comments, LABELS)):
        (task,) = Evaluator(request(spec)).prepared("validation").tasks.values()
        assert task.task.config.doc_to_choice == list(names)
        assert [instance.args[1] for instance in task.requests[0]] == [f" {n}" for n in names]
        assert list(task.task.aggregation()) == ["acc", *GAPS, "unanswered"]
        assert task.task.higher_is_better() == {
            "acc": True,
            **dict.fromkeys((*GAPS, "unanswered"), False),
        }
        assert task.has_groups
        assert task.group_names() == set(many_answers.GROUPS)


def test_classes_have_names_of_the_model_or_a_choice_map(
    folder: Path, speech: DataSpec, tmp_path: Path
) -> None:
    """Another order, and other names: the same predictions; a head that lacks one is refused."""
    expected = Evaluator(request(speech)).open(str(folder / "classes"), "cpu").score("validation")
    from safetensors.torch import load_file, save_file

    turned = many_answers.write_head(tmp_path / "turned", (*CLASSES[1:], CLASSES[0]))
    tensors = load_file(folder / "classes" / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name].roll(-1, 0).contiguous()
    save_file(tensors, turned / "model.safetensors", {"format": "pt"})
    ours = Evaluator(request(speech))
    found = ours.open(str(turned), "cpu").score("validation")
    np.testing.assert_allclose(found["speech"], expected["speech"], atol=1e-6)
    with raises(CheckpointError, where=turned, got={"hate": 2, "offensive": 0, "neither": 1}):
        ours.require_classes(str(folder / "classes"), [str(turned)], [])
    nameless = many_answers.write_head(tmp_path / "nameless", ("LABEL_0", "LABEL_1", "LABEL_2"))
    with raises(ConfigError, where=nameless, got=list(CLASSES), fix="choice_map"):
        ours.classes_of(str(nameless))
    options = {"choice_map": dict(zip(CLASSES, range(3), strict=True))}
    by_map = Evaluator(request(speech, model_args=options))
    again = by_map.open(str(nameless), "cpu").score("validation")
    assert np.array_equal(again["speech"], expected["speech"])
    few = many_answers.write_head(tmp_path / "few", CLASSES[:2])
    with raises(ConfigError, got=list(CLASSES)):
        ours.open(str(few), "cpu").score("validation")


@pytest.mark.parametrize(
    ("head", "data", "got"),
    [("labels", "speech", "multi_label_classification"), ("classes", "comments", None)],
)
def test_heads_that_answer_otherwise_are_refused(
    head: str, data: str, got: str | None, folder: Path, request_of: Any
) -> None:
    """Before the first forward pass, and in sweeps by the configuration alone."""
    spec = request_of(data)
    names = CLASSES if data == "speech" else LABELS
    model = folder / f"{head}_as_{data}"
    write = many_answers.write_head if head == "classes" else many_answers.write_label_head
    write(model, names)
    with raises(CheckpointError, data, where=model, got=got):
        run(spec, model)
    with raises(CheckpointError, where=model, got=got):
        Evaluator(request(spec)).require_classes(str(model), [], [])


@pytest.fixture
def request_of(speech: DataSpec, comments: DataSpec) -> Any:
    return {"speech": speech, "comments": comments}.__getitem__


def test_language_models_choose_a_class(tmp_path: Path, speech: DataSpec) -> None:
    """By the log-likelihood of its name after text and question."""
    model = write_causal(tmp_path / "lm")
    with raises(ConfigError, where="--question", fix="hate, offensive, neither"):
        run(speech, model)
    finished = run(speech, model, question="Which is it?", limit=12)
    (samples,) = finished.samples.values()
    for sample in samples:
        assert [arguments[1] for arguments in sample["arguments"]] == [f" {n}" for n in CLASSES]
        assert sample["arguments"][0][0] == f"{sample['doc']['text']}\nWhich is it?\nAnswer:"
        values = [answer[0] for answer in sample["filtered_resps"]]
        assert sample["macro_dpd"][0] == int(np.argmax(values))
    evaluator = Evaluator(request(speech, question="Which is it?", limit=12))
    scores = evaluator.open(str(model), "cpu").score("validation")["speech"]
    assert scores.reshape(-1, 3).tolist() == [
        [answer[0] for answer in sample["filtered_resps"]] for sample in samples
    ]


def test_language_models_are_not_asked_for_labels(tmp_path: Path, comments: DataSpec) -> None:
    model = write_causal(tmp_path / "lm")
    with raises(ConfigError, where="task comments", fix="one data set per label"):
        run(comments, model, question="Is it toxic?")
    doc = {"labels": list(LABELS), "label": [0, 1], "groups": [], "excluded": []}
    with raises(ConfigError, fix="one data set per label"):  # by any program that runs the task
        process_results(doc, [(-1.0, True), (-2.0, False)])


def test_what_needs_yes_and_no_is_refused(
    folder: Path, speech: DataSpec, comments: DataSpec
) -> None:
    from mergekit_fair.evaluation.cutoff import Cutoff

    with raises(ConfigError, where="task speech"):
        run_tasks(request(speech), str(folder / "classes"), "validation", "cpu", None, Cutoff(0.5))
    doc = {"classes": list(CLASSES), "label": 1, "groups": [], "excluded": []}
    with raises(ConfigError, "classes"):
        process_scored_results(doc, [(-1.0, True), (-2.0, False), (-3.0, False)])
    with raises(ConfigError, where="task comments", got=LABELS):
        Evaluator(request(comments)).binary_labels("validation")
    with raises(ConfigError, where="task comments: num_fewshot", got=2):
        run(comments, folder / "labels", num_fewshot=2)
