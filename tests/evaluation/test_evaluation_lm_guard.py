"""The guarded `hf`: stock lm-eval evaluates these with a random head, without a word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import make_adapter
from checkpoints import rewrite, tokenizer
from classifiers import TEXTS, lm_tokenizer, requests, text_model, write_causal, write_text
from lm_eval.api.registry import freeze_all, get_model, model_registry
from lm_eval.models.huggingface import HFLM

from mergekit_fair.errors import CheckpointError, ConfigError
from mergekit_fair.evaluation.lm.checked_hf import GuardedHFLM, guard_stock_models


@pytest.fixture
def registry() -> Iterator[dict[str, Any]]:
    """lm-eval's registry of models, put back afterwards."""
    before = dict(model_registry._objs)
    yield before
    model_registry._objs = before


@pytest.mark.parametrize("architecture", ["qwen2", "bert"])
def test_classifiers_are_refused_before_they_are_loaded(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_text(tmp_path, architecture)
    monkeypatch.delattr(HFLM, "_create_model")
    name = {"qwen2": "Qwen2", "bert": "Bert"}[architecture] + "ForSequenceClassification"
    with pytest.raises(CheckpointError) as caught:
        GuardedHFLM(str(folder), device="cpu")
    assert str(caught.value) == (
        f"{folder}: its architecture is a classifier; as a language model it would have a random "
        f"head; got '{name}'. Use --model fair-classifier."
    )
    with pytest.raises(CheckpointError, match=f"^{name}: its architecture is a classifier"):
        GuardedHFLM(text_model(architecture), tokenizer=tokenizer())


def test_stock_hf_does_evaluate_a_random_head(tmp_path: Path) -> None:
    """What the guard is for; if this fails, lm-eval has learned to refuse."""
    folder = write_text(tmp_path, "qwen2")
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        lm = HFLM(str(folder), device="cpu")
        found.append(lm.loglikelihood(requests(TEXTS[:2]), disable_tqdm=True))
    assert found[0] != found[1]


def test_a_missing_head_and_missing_layers_are_refused(tmp_path: Path) -> None:
    folder = write_causal(tmp_path, "qwen2", tie_word_embeddings=False)
    rewrite(folder, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"needs 1 weights .*'lm_head.weight'.* random numb"):
        GuardedHFLM(str(folder), device="cpu")
    text_model("qwen2", kind="Model").save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"needs 1 weights .*'lm_head.weight'"):
        GuardedHFLM(str(folder), device="cpu")


def test_an_adapter_of_a_classifier_is_refused(tmp_path: Path) -> None:
    base = write_text(tmp_path / "base", "qwen2")
    adapter = make_adapter(base, tmp_path / "a", seed=1, targets=["q_proj"], task_type="SEQ_CLS")
    folder = write_causal(tmp_path / "causal", "qwen2")
    with pytest.raises(CheckpointError, match=rf"peft={adapter}: its architecture is a classifier"):
        GuardedHFLM(str(folder), device="cpu", peft=str(adapter))


@pytest.mark.parametrize("changes", [{"tie_word_embeddings": True}, {"tie_word_embeddings": False}])
@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_a_language_model_is_evaluated_as_by_stock_hf(
    architecture: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    folder = write_causal(tmp_path, architecture, **changes)
    stock = HFLM(str(folder), "causal", device="cpu", batch_size=2)
    guarded = GuardedHFLM(str(folder), "causal", device="cpu", batch_size=2)
    made = requests(TEXTS[:5])
    assert guarded.loglikelihood(made, True) == stock.loglikelihood(made, True)
    assert guarded.get_model_info() == stock.get_model_info()
    assert guarded.AUTO_MODEL_CLASS is stock.AUTO_MODEL_CLASS
    model = GuardedHFLM(guarded.model, tokenizer=guarded.tokenizer, batch_size=2)
    assert model.loglikelihood(made, True) == stock.loglikelihood(made, True)


def test_adapters_and_encoder_decoders_as_by_stock_hf(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    base = write_causal(tmp_path / "base", "llama")
    adapter = make_adapter(base, tmp_path / "a", seed=1, targets=["q_proj"], task_type="CAUSAL_LM")
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=100, decoder_start_token_id=0, **sizes)
    t5 = tmp_path / "t5"
    T5ForConditionalGeneration(config).save_pretrained(t5)
    lm_tokenizer().save_pretrained(t5)
    made = requests(TEXTS[:3])
    for folder, options in ((base, {"peft": str(adapter)}), (t5, {})):
        answers = [
            kind(str(folder), device="cpu", **options).loglikelihood(made, disable_tqdm=True)
            for kind in (GuardedHFLM, HFLM)
        ]
        assert answers[0] == answers[1]


def test_the_stock_names_are_guarded_and_the_others_are_not(registry: dict[str, Any]) -> None:
    guard_stock_models()
    guard_stock_models()
    assert {get_model(name) for name in ("hf", "hf-auto", "huggingface")} == {GuardedHFLM}
    changed = {name for name in registry if model_registry._objs[name] != registry[name]}
    assert changed <= {"hf", "hf-auto", "huggingface"}
    assert model_registry._objs.keys() >= {"vllm", "hf-multimodal"}


@pytest.mark.usefixtures("registry")
def test_a_frozen_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.api.registry as module

    for name in vars(module):  # the other registries stay as they are
        value = getattr(module, name)
        if isinstance(value, module.Registry) and value is not model_registry:
            monkeypatch.setattr(value, "freeze", lambda: None)
    freeze_all()
    with pytest.raises(ConfigError, match=r"registry of models is frozen\. Call it before freeze"):
        guard_stock_models()
