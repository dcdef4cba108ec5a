"""LoRA targets are found for the architectures that people fine-tune."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from refusals import raises

from mergekit_fair.errors import TrainingError
from mergekit_fair.training.kinds import Lora, lora_targets

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
DECODER: dict[str, Any] = {**SMALL, "intermediate_size": 64, "vocab_size": 50, "num_labels": 2}


def _model(name: str) -> Any:
    if name == "bert":
        return tf.BertForSequenceClassification(tf.BertConfig(**DECODER))
    if name == "distilbert":
        config = tf.DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=64, vocab_size=50)
        return tf.DistilBertForSequenceClassification(config)
    if name == "llama":
        return tf.LlamaForSequenceClassification(tf.LlamaConfig(**DECODER, pad_token_id=0))
    if name == "qwen2":
        return tf.Qwen2ForSequenceClassification(
            tf.Qwen2Config(**DECODER, num_key_value_heads=2, pad_token_id=0)
        )
    return tf.ViTForImageClassification(
        tf.ViTConfig(**SMALL, intermediate_size=64, image_size=16, patch_size=8)
    )


@pytest.mark.parametrize(
    ("name", "targets", "head"),
    [
        ("bert", ["query", "value"], ["classifier"]),
        ("distilbert", ["q_lin", "v_lin"], ["classifier", "pre_classifier"]),
        ("llama", ["q_proj", "v_proj"], ["score"]),
        ("qwen2", ["q_proj", "v_proj"], ["score"]),
        ("vit", ["query", "value"], ["classifier"]),
    ],
)
def test_targets_and_merged_weights(name: str, targets: list[str], head: list[str]) -> None:
    model = _model(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = lora_targets(model)
    if name == "vit":  # transformers names ViT's projections q_proj, v_proj since 5.10 or so
        assert found in (targets, ["q_proj", "v_proj"])
        targets = found
    assert found == targets
    material: Any = None  # it looks at no rows
    adapted = Lora().prepare(model, material)
    assert sorted(adapted.peft_config["default"].modules_to_save) == head
    with torch.no_grad():
        for key, weight in adapted.named_parameters():
            if "lora_B" in key:
                weight.fill_(0.01)
    merged = adapted.merge_and_unload().state_dict()
    assert merged.keys() == before.keys()
    changed = {key for key in before if not torch.equal(before[key], merged[key])}
    assert changed == {k for k in before if k.endswith(tuple(f"{t}.weight" for t in targets))}


def test_unknown_targets_list_the_linear_layers() -> None:
    with raises(TrainingError, "q_lin", fix="lora.targets") as caught:
        lora_targets(_model("distilbert"), ["query"])
    assert "query" in str(caught.value.got)
