"""What `fair-classifier` refuses, with what the message says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from adapters import edit_weights, make_adapter
from checkpoints import rewrite, tokenizer
from classifiers import requests, text_model, write_text

from mergekit_fair.errors import CheckpointError, ConfigError, DataError, FairError
from mergekit_fair.evaluation.lm.text_classifier import FairClassifier


def load(folder: Any, **options: Any) -> FairClassifier:
    return FairClassifier(folder if isinstance(folder, str) else str(folder), **options)


def refusal(kind: type[FairError], folder: Any, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        load(folder, device="cpu", **options)
    return str(caught.value)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def classifier(bert: Path) -> FairClassifier:
    return load(bert, device="cpu")


@pytest.mark.parametrize(
    ("architecture", "kind"), [("bert", "Model"), ("bert", "ForMaskedLM"), ("qwen2", "ForCausalLM")]
)
def test_architectures_without_a_head(architecture: str, kind: str, tmp_path: Path) -> None:
    model = text_model(architecture, kind=kind)
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert refusal(CheckpointError, tmp_path) == (
        f"{tmp_path}: its architecture has no classification head; got ['{type(model).__name__}']; "
        "allowed: …ForSequenceClassification. Use a fine-tuned or merged classifier."
    )
    with pytest.raises(CheckpointError, match=r"^[A-Za-z0-9]+: its architecture has no classific"):
        FairClassifier(model, tokenizer=tokenizer())


@pytest.mark.parametrize(
    ("architecture", "missing"), [("bert", "classifier.weight"), ("qwen2", "score.weight")]
)
def test_a_head_of_random_numbers(architecture: str, missing: str, tmp_path: Path) -> None:
    folder = write_text(tmp_path, architecture)
    rewrite(folder, lambda tensors: tensors.pop(missing))
    assert refusal(CheckpointError, folder) == (
        f"{folder}: needs 1 weights that its files do not have, such as ['{missing}']; they would "
        "be random numbers. Use a checkpoint that was saved with all its weights, head included."
    )


def test_a_head_of_another_number_of_classes(bert: Path) -> None:
    text = refusal(CheckpointError, bert, num_labels=3, ignore_mismatched_sizes=True)
    assert "needs 2 weights that its files do not have, such as ['classifier.bias'" in text


def test_an_adapter_without_the_head_that_its_base_lacks(bert: Path, tmp_path: Path) -> None:
    text_model("bert", kind="Model").save_pretrained(tmp_path / "bare")
    tokenizer().save_pretrained(tmp_path / "bare")
    adapter = make_adapter(bert, tmp_path / "adapter", seed=1, targets=["query"])
    assert "has no classification head; got ['BertModel']" in refusal(
        CheckpointError, tmp_path / "bare", peft=str(adapter)
    )
    # It says that it brings one, and does not.
    named = make_adapter(
        bert, tmp_path / "named", seed=1, targets=["query"], modules_to_save=["classifier"]
    )
    edit_weights(named, lambda t: t.pop("base_model.model.classifier.weight"))
    text = refusal(CheckpointError, tmp_path / "bare", peft=str(named))
    assert text.startswith(
        f"{tmp_path / 'bare'} with peft={named}: needs 1 weights that neither it nor the adapter "
        "has, such as ['classifier.weight']"
    )


def test_adapters_that_are_none(bert: Path, tmp_path: Path) -> None:
    text = refusal(CheckpointError, bert, peft=str(tmp_path))
    assert text.startswith(f"peft={tmp_path}: is no adapter that peft can read (")
    adapter = make_adapter(bert, tmp_path / "adapter", seed=1, targets=["query"])
    assert refusal(CheckpointError, adapter) == (
        f"{adapter}: is an adapter, without a model. Pass pretrained=BASE,peft={adapter}."
    )
    with pytest.raises(ConfigError, match="cannot be put on a model that is already loaded"):
        FairClassifier(text_model("bert"), tokenizer=tokenizer(), peft=str(adapter))


def test_no_model_and_no_tokenizer(tmp_path: Path) -> None:
    assert refusal(CheckpointError, tmp_path / "none").startswith(
        f"{tmp_path / 'none'}: no model here ("
    )
    text_model("bert").save_pretrained(tmp_path)
    assert refusal(CheckpointError, tmp_path) == (
        f"{tmp_path}: has no tokenizer (none of its files is there). Save the tokenizer beside the "
        "model."
    )


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"labels": {"score": 0}}, "'1 class'"),
        ({"problem_type": "regression"}, "'regression'"),
    ],
)
def test_heads_that_softmax_does_not_fit(changes: Any, got: str, tmp_path: Path) -> None:
    folder = write_text(tmp_path, "bert", **changes)
    assert refusal(CheckpointError, folder) == (
        f"{folder}: its head gives no distribution over classes; got {got}; allowed: two classes "
        "or more, of which a document has one."
    )


def test_options_that_do_not_fit(bert: Path) -> None:
    text = refusal(ConfigError, bert, txt_field="x")
    assert "model_args: an option that neither lm-eval nor the model knows" in text
    assert "'txt_field'" in text
    assert "max_length: is more than the model has positions for; got 65; allowed: 3 to 64" in (
        refusal(ConfigError, bert, max_length=65)
    )
    assert "choice_map: yes: is no class of the model; got '2'" in refusal(
        ConfigError, bert, choice_map="no:0;yes:2"
    )


def test_choices_that_are_no_labels_cost_no_forward_pass(
    classifier: FairClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(FairClassifier, "logits")
    with pytest.raises(ConfigError, match=r"choices are not the model's labels; got \['No', 'Yes'"):
        classifier.loglikelihood(requests(["a"], choices=[" No", " Yes"]), disable_tqdm=True)


def test_documents_without_text(classifier: FairClassifier) -> None:
    with pytest.raises(ConfigError) as caught:
        classifier.loglikelihood(requests(["a"], field="comment", label=1), disable_tqdm=True)
    assert str(caught.value) == (
        "task a_task: its documents lack the field that the text is taken from; got 'text'; "
        "allowed: comment, label. Name the field: --model_args pretrained=…,text_field=…."
    )
    for value, kind in ((2016, "int"), (None, "NoneType")):
        with pytest.raises(DataError, match=f"of document 1 is no text but of type {kind}"):
            classifier.loglikelihood(requests(["a", value]), disable_tqdm=True)


def test_tasks_that_are_not_multiple_choice(classifier: FairClassifier) -> None:
    for method in (classifier.generate_until, classifier.loglikelihood_rolling):
        made = requests(["a"])
        made[0].request_type = method.__name__
        with pytest.raises(ConfigError) as caught:
            method(made)
        assert str(caught.value) == (
            f"task a_task: a classifier answers multiple-choice tasks only; got '{method.__name__}'"
            "; allowed: output_type: multiple_choice. Leave the task out, or use a language model."
        )
    with pytest.raises(ConfigError, match="--apply_chat_template: a classifier takes the document"):
        classifier.apply_chat_template([{"role": "user", "content": "a"}])


def test_a_configuration_without_architectures(tmp_path: Path) -> None:
    folder = write_text(tmp_path, "bert")
    file = folder / "config.json"
    config = json.loads(file.read_text())
    del config["architectures"]
    file.write_text(json.dumps(config))
    assert "has no classification head; got []" in refusal(CheckpointError, folder)
