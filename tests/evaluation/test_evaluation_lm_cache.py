"""lm-eval's cache belongs to one model; the stock one gives a second model the first's answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import make_adapter
from checkpoints import fine_tune, rewrite, tokenizer
from classifiers import (
    TEXTS,
    as_tensor,
    lm_tokenizer,
    requests,
    text_model,
    with_prompt,
    write_causal,
    write_text,
)
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM

from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.lm.answer_cache import KEY
from mergekit_fair.evaluation.lm.checked_hf import GuardedHFLM
from mergekit_fair.evaluation.lm.text_classifier import FairClassifier


def cached(lm: Any, file: Path) -> Any:
    """As `simple_evaluate(use_cache=…)` does it; the file is written when this returns."""
    wrapped = CachingLM(lm, str(file))
    wrapped.dbdict.commit()
    return wrapped


def asked() -> list[Any]:
    return with_prompt(requests(TEXTS), lambda doc: f"Is it? {doc['text']}\nAnswer:")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_text(tmp_path / "model", "bert")


def load(folder: Path, **options: Any) -> FairClassifier:
    return FairClassifier(str(folder), device="cpu", batch_size=8, **options)


def test_the_same_model_finds_its_answers(folder: Path, tmp_path: Path) -> None:
    first = cached(load(folder), tmp_path / "c.db").loglikelihood(asked())
    again = load(folder)
    again.logits = None  # nothing is computed
    assert cached(again, tmp_path / "c.db").loglikelihood(asked()) == first
    # Nor do place, speed and a given default make another model.
    same = FairClassifier(str(folder), device="cpu", batch_size=1, max_length=64, dtype="float32")
    assert cached(same, tmp_path / "c.db").loglikelihood(asked()) == first


def test_other_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.db"
    cached(load(folder), file).loglikelihood(asked())
    other = fine_tune(folder, tmp_path / "other", seed=3, size=0.5)
    with pytest.raises(ConfigError) as caught:
        cached(load(other), file)
    assert str(caught.value) == (
        f"--use_cache {file}: this cache holds answers of another model, or of one with other "
        f"options ({folder}; not the same: weights); got '{other}'. Give --use_cache another path, "
        "or delete this file."
    )
    # The next λ, merged into the same folder.
    rewrite(folder, lambda tensors: tensors["classifier.weight"].mul_(2))
    with pytest.raises(ConfigError, match="not the same: weights"):
        cached(load(folder), file)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"max_length": 8}, "max_length"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"choice_map": "no:0;yes:1"}, "choice_map"),
        ({"text_field": "comment"}, "text_field"),
        ({"add_bos_token": True}, "add_bos_token"),
    ],
)
def test_other_options_are_refused(
    options: dict[str, Any], name: str, folder: Path, tmp_path: Path
) -> None:
    cached(load(folder), tmp_path / "c.db")
    with pytest.raises(ConfigError, match=rf"not the same: {name}\)"):
        cached(load(folder, **options), tmp_path / "c.db")


def test_another_adapter_or_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    def adapter(name: str, seed: int) -> Callable[[], FairClassifier]:
        made = make_adapter(folder, tmp_path / name, seed=seed, targets=["query"])
        return lambda: load(folder, peft=str(made))

    cached(adapter("one", 1)(), tmp_path / "c.db")
    for other in (adapter("two", 2), lambda: load(folder)):
        with pytest.raises(ConfigError, match=r"not the same: peft\)"):
            cached(other(), tmp_path / "c.db")
    cached(load(folder), tmp_path / "d.db")
    tokenizer(do_lower_case=False).save_pretrained(tmp_path / "cased")
    with pytest.raises(ConfigError, match=r"not the same: tokenizer\)"):
        cached(load(folder, tokenizer=str(tmp_path / "cased")), tmp_path / "d.db")


def test_a_model_in_memory_is_known_by_its_tensors(tmp_path: Path) -> None:
    def lm(change: float = 0.0) -> FairClassifier:
        model = text_model("llama", pad_token_id=None)
        with torch.no_grad():
            model.score.weight += change
        encode = tokenizer(model_input_names=["input_ids", "attention_mask"])
        return FairClassifier(model, tokenizer=encode, batch_size=4)

    used = lm()
    used.loglikelihood(requests(TEXTS), disable_tqdm=True)
    first = cached(used, tmp_path / "c.db").loglikelihood(asked())
    assert cached(lm(), tmp_path / "c.db").loglikelihood(asked()) == first
    with pytest.raises(ConfigError, match=r"LlamaForSequenceClassification; not the same: weights"):
        cached(lm(1e-3), tmp_path / "c.db")


def test_a_cache_of_nobody_knows_whom(folder: Path, tmp_path: Path) -> None:
    """What stock lm-eval has written."""
    causal = text_model("llama", kind="ForCausalLM")
    stock = HFLM(causal, tokenizer=lm_tokenizer())
    cached(stock, tmp_path / "c.db").loglikelihood(asked()[:2])
    for lm in (load(folder), GuardedHFLM(causal, tokenizer=lm_tokenizer())):
        with pytest.raises(ConfigError, match="holds answers, and nothing says of which model"):
            cached(lm, tmp_path / "c.db")


def test_nan_survives(folder: Path, tmp_path: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["classifier.bias"][0] = float("nan")

    rewrite(folder, spoil)
    for _ in range(2):
        found = cached(load(folder), tmp_path / "c.db").loglikelihood(asked())
        assert all(math.isnan(value) and is_greedy is False for value, is_greedy in found)


def test_a_run_that_is_cut_off_goes_on(folder: Path, tmp_path: Path) -> None:
    """Answers are written batch by batch."""
    lm = load(folder)
    forward, calls = lm.logits, []

    def cut_off(batch: Any) -> torch.Tensor:
        calls.append(len(batch["input_ids"]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(batch)

    lm.logits = cut_off
    with pytest.raises(KeyboardInterrupt):
        cached(lm, tmp_path / "c.db").loglikelihood(asked())
    second = load(folder)
    forward, rows = second.logits, []
    second.logits = lambda batch: (rows.append(len(batch["input_ids"])), forward(batch))[1]
    found = cached(second, tmp_path / "c.db").loglikelihood(asked())
    assert calls == [8, 5]
    assert rows == [5]
    expected = as_tensor(load(folder).loglikelihood(requests(TEXTS), disable_tqdm=True))
    torch.testing.assert_close(as_tensor(found), expected, atol=1e-5, rtol=0)


def test_a_prompt_without_the_text_cannot_be_a_key(folder: Path, tmp_path: Path) -> None:
    """All documents of such a task would be given the first one's answer."""
    lm = cached(load(folder), tmp_path / "c.db")
    with pytest.raises(ConfigError) as caught:
        lm.loglikelihood(requests(TEXTS))
    assert str(caught.value) == (
        "task a_task: --use_cache finds answers by the prompt, which does not hold the document's "
        "text (text). Leave --use_cache out, or let the task's prompt hold the text (text)."
    )
    assert list(lm.dbdict) == [KEY]


def test_the_guarded_hf_ties_its_cache_too(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        write_causal(folder)
    rewrite(folders[1], lambda tensors: tensors["lm_head.weight"].mul_(2))
    first = cached(GuardedHFLM(str(folders[0]), device="cpu"), tmp_path / "c.db")
    answers = first.loglikelihood(asked()[:4])
    again = cached(GuardedHFLM(str(folders[0]), device="cpu"), tmp_path / "c.db")
    assert again.loglikelihood(asked()[:4]) == answers
    with pytest.raises(ConfigError, match="not the same: weights"):
        cached(GuardedHFLM(str(folders[1]), device="cpu"), tmp_path / "c.db")
    lm = GuardedHFLM(str(folders[0]), device="cpu", prefix_token_id=5)
    with pytest.raises(ConfigError, match="not the same: prefix_token_id"):
        cached(lm, tmp_path / "c.db")
    assert (tmp_path / "c.db").stat().st_size > 0
