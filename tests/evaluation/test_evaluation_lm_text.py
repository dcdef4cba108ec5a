"""`fair-classifier` against a plain transformers loop: padding, adapters, NaN."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import make_adapter
from checkpoints import rewrite, tokenizer
from classifiers import (
    LABELS,
    TEXTS,
    as_tensor,
    model_log_probs,
    plain_log_probs,
    requests,
    text_model,
    write_text,
)

from mergekit_fair.evaluation.lm.text_classifier import FairClassifier, padding_id


def run(folder: Path, made: Any = None, **options: Any) -> torch.Tensor:
    lm = FairClassifier(str(folder), device="cpu", **options)
    return as_tensor(lm.loglikelihood(made or requests(TEXTS), disable_tqdm=True))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2", "llama", "qwen2"])
def test_equal_to_a_plain_loop(architecture: str, tmp_path: Path) -> None:
    """In batches of any size, with padding, truncated to the positions that the model has."""
    folder = write_text(tmp_path, architecture)
    length = 63 if architecture == "roberta" else 64  # RoBERTa counts positions from the padding on
    expected = plain_log_probs(folder, TEXTS, length)
    assert float(expected.std(0)[0]) > 0.1
    for batch_size in (1, 3, 64, "auto"):
        lm = FairClassifier(str(folder), device="cpu", batch_size=batch_size)
        answers = lm.loglikelihood(requests(TEXTS), disable_tqdm=True)
        torch.testing.assert_close(as_tensor(answers), expected, atol=1e-5, rtol=0)
        greedy = torch.tensor([is_greedy for _, is_greedy in answers]).reshape(-1, 2)
        assert torch.equal(greedy.int().argmax(1), expected.argmax(1))
        assert greedy.sum(1).tolist() == [1] * len(TEXTS)
        assert lm.max_length == length
    assert lm.batch_sizes == {0: 64}


def test_a_given_length_truncates(tmp_path: Path) -> None:
    folder = write_text(tmp_path, "bert")
    expected = plain_log_probs(folder, TEXTS, 8)
    torch.testing.assert_close(run(folder, max_length=8), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize(
    ("configured", "tokenizers"), [(None, "[SEP]"), (7, "[PAD]"), (None, None)]
)
def test_padding_is_never_taken_for_text(
    architecture: str, configured: int | None, tokenizers: str | None, tmp_path: Path
) -> None:
    """Texts end with [SEP]; such a head reads the last token that is not the padding.

    Without padding in the configuration, a plain loop reads the last token of a single text. The
    tokenizer's padding would be taken for it, or lie outside the vocabulary; on the left it would
    shift GPT-2's positions.
    """
    folder = write_text(tmp_path, architecture, pad_token_id=configured)
    settings = {"pad_token": tokenizers, "model_input_names": ["input_ids", "attention_mask"]}
    if tokenizers is None:
        settings |= {"unk_token": None, "eos_token": None}
    tokenizer(padding_side="left", **settings).save_pretrained(folder)
    texts = [text for text in TEXTS if "☃" not in text]
    found = run(folder, requests(texts), batch_size=5)
    torch.testing.assert_close(found, plain_log_probs(folder, texts), atol=1e-5, rtol=0)


def test_what_the_model_does_not_take_is_left_out(tmp_path: Path) -> None:
    """A tokenizer that gives token types, and a model that has none."""
    folder = write_text(tmp_path, "llama")
    expected = plain_log_probs(folder, TEXTS)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer(model_input_names=names).save_pretrained(folder)
    lm = FairClassifier(str(folder), device="cpu", batch_size=4)
    assert "token_type_ids" in lm.tokenizer("good")
    taken: list[set[str]] = []
    lm.model.register_forward_pre_hook(lambda *call: taken.append(set(call[2])), with_kwargs=True)
    found = as_tensor(lm.loglikelihood(requests(TEXTS), disable_tqdm=True))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert set().union(*taken) == {"input_ids", "attention_mask"}


def test_the_token_to_pad_with() -> None:
    assert padding_id(7, 0, 10, {7}) == 7
    assert padding_id(None, 3, 10, {2}) == 3
    assert padding_id(None, 3, 10, {0, 1, 3}) == 2
    assert padding_id(-1, 99, 10, {1}) == 0


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_an_adapter(architecture: str, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    folder = write_text(tmp_path / "base", architecture)
    targets = {"bert": ["query", "value"], "llama": ["q_proj", "v_proj"]}[architecture]
    adapter = make_adapter(folder, tmp_path / "adapter", seed=1, targets=targets)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model = PeftModel.from_pretrained(model, adapter).eval()
    expected = model_log_probs(model, tokenizer(), TEXTS) if architecture == "bert" else None
    if expected is None:
        encode = tokenizer(model_input_names=["input_ids", "attention_mask"])
        expected = model_log_probs(model, encode, TEXTS)
    found = run(folder, peft=str(adapter), batch_size=4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert float((found - run(folder)).abs().max()) > 0.01


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_an_adapter_that_brings_the_head(architecture: str, tmp_path: Path) -> None:
    """The base is a bare encoder or a language model; its head would be random numbers."""
    from transformers import AutoModelForSequenceClassification

    classifier = write_text(tmp_path / "classifier", architecture)
    kind = {"bert": "Model", "llama": "ForCausalLM"}[architecture]
    bare = text_model(architecture, kind=kind)
    model = AutoModelForSequenceClassification.from_pretrained(classifier)
    inner = model.base_model.state_dict()
    (bare if kind == "Model" else bare.model).load_state_dict(inner)
    bare.save_pretrained(tmp_path / "bare")
    names = ["input_ids", "attention_mask"]
    tokenizer(model_input_names=names).save_pretrained(tmp_path / "bare")
    tokenizer(model_input_names=names).save_pretrained(classifier)
    targets, head = {"bert": (["query"], "classifier"), "llama": (["q_proj"], "score")}[
        architecture
    ]
    adapter = make_adapter(
        classifier, tmp_path / "a", seed=1, targets=targets, modules_to_save=[head]
    )
    found = run(tmp_path / "bare", peft=str(adapter), choice_map="no:0;yes:1")
    torch.testing.assert_close(found, run(classifier, peft=str(adapter)), atol=1e-6, rtol=0)


def test_a_model_in_memory(tmp_path: Path) -> None:
    folder = write_text(tmp_path, "bert")
    model = text_model("bert")
    lm = FairClassifier(model, tokenizer=tokenizer(), batch_size=4)
    answers = as_tensor(lm.loglikelihood(requests(TEXTS), disable_tqdm=True))
    torch.testing.assert_close(answers, plain_log_probs(folder, TEXTS), atol=1e-5, rtol=0)


def test_bfloat16_is_computed_in_bfloat16_and_answered_in_float32(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = write_text(tmp_path, "bert")
    lm = FairClassifier(str(folder), device="cpu", dtype="bfloat16")
    assert lm.model.dtype == torch.bfloat16
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).eval()
    expected = model_log_probs(model, tokenizer(), TEXTS)
    answers = as_tensor(lm.loglikelihood(requests(TEXTS), disable_tqdm=True))
    torch.testing.assert_close(answers, expected, atol=1e-6, rtol=0)


def test_one_forward_pass_a_text_the_longest_first(tmp_path: Path) -> None:
    lm = FairClassifier(str(write_text(tmp_path, "bert")), device="cpu", batch_size=4)
    shapes = []
    lm.model.register_forward_pre_hook(
        lambda *call: shapes.append(tuple(call[2]["input_ids"].shape)), with_kwargs=True
    )
    lm.loglikelihood(requests(TEXTS), disable_tqdm=True)
    assert sum(rows for rows, _ in shapes) == len(set(TEXTS)) == len(TEXTS) - 1
    widths = [width for _, width in shapes]
    assert widths == sorted(widths, reverse=True)
    assert max(rows for rows, _ in shapes) == 4


def test_auto_starts_over_with_what_is_left_when_memory_is_short(tmp_path: Path) -> None:
    folder = write_text(tmp_path, "bert")
    lm = FairClassifier(str(folder), device="cpu", batch_size="auto", max_batch_size=8)
    forward, calls = lm.logits, []

    def short_of_memory(batch: Any) -> torch.Tensor:
        calls.append(len(batch["input_ids"]))
        if calls[-1] > 5 or len(calls) == 5:
            raise RuntimeError("CUDA out of memory. Tried")
        return forward(batch)

    lm.logits = short_of_memory
    answers = as_tensor(lm.loglikelihood(requests(TEXTS), disable_tqdm=True))
    torch.testing.assert_close(answers, plain_log_probs(folder, TEXTS), atol=1e-5, rtol=0)
    # 8, 7 and 6 fail; 5 goes well until the second batch; four of 13 texts are left after 5 + 4.
    assert calls == [8, 7, 6, 5, 5, 4, 4]
    assert lm.batch_sizes == {0: 4}


def test_nan_weights_give_no_answer(tmp_path: Path) -> None:
    """One text in three holds the word whose embedding is NaN."""
    folder = write_text(tmp_path, "bert")
    word = tokenizer().convert_tokens_to_ids("nurse")

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["bert.embeddings.word_embeddings.weight"][word] = float("nan")

    rewrite(folder, spoil)
    lm = FairClassifier(str(folder), device="cpu", batch_size=2)
    texts = ["a nurse", "a clerk", "good"]
    answers = lm.loglikelihood(requests(texts), disable_tqdm=True)
    assert all(math.isnan(value) and not is_greedy for value, is_greedy in answers[:2])
    assert all(math.isfinite(value) for value, _ in answers[2:])

    # Softmax alone would turn an infinite logit of one class into certainty about the others.
    def infinite(tensors: dict[str, torch.Tensor]) -> None:
        spoil(tensors)
        tensors["classifier.bias"][0] = float("-inf")

    rewrite(folder, infinite)
    assert bool(run(folder, requests(texts)).isnan().all())


def test_a_text_without_tokens_has_no_answer(tmp_path: Path) -> None:
    folder = write_text(tmp_path, "llama")
    lm = FairClassifier(str(folder), device="cpu", batch_size=4)
    bare = lm.tokenizer
    lm.tokenizer = _NoSpecial(bare)
    answers = as_tensor(lm.loglikelihood(requests(["", "good", ""]), disable_tqdm=True))
    assert answers.isnan().any(1).tolist() == [True, False, True]


class _NoSpecial:
    """A tokenizer that adds nothing, as GPT-2's and Qwen's."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __call__(self, texts: list[str], **options: Any) -> Any:
        return self._real(texts, add_special_tokens=False, **options)


def test_the_text_is_the_documents_and_not_the_prompt(tmp_path: Path) -> None:
    folder = write_text(tmp_path, "bert")
    made = requests(TEXTS, field="comment", text="something else")
    found = run(folder, made, text_field="comment")
    torch.testing.assert_close(found, plain_log_probs(folder, TEXTS), atol=1e-5, rtol=0)


def test_three_classes_in_the_order_that_the_map_gives(tmp_path: Path) -> None:
    folder = write_text(tmp_path, "bert", labels={"x": 0, "y": 1, "z": 2})
    made = requests(TEXTS, choices=["c", "a", "b"])
    lm = FairClassifier(str(folder), device="cpu", choice_map={"a": 0, "b": "y", "c": 2})
    answers = as_tensor(lm.loglikelihood(made, disable_tqdm=True), classes=3)
    expected = plain_log_probs(folder, TEXTS)[:, [2, 0, 1]]
    torch.testing.assert_close(answers, expected, atol=1e-5, rtol=0)
    assert LABELS == {"no": 0, "yes": 1}
