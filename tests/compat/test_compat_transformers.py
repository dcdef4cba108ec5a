"""Private names of transformers: each test says what breaks when the name moves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from checkpoints import read
from transformers import Qwen2Config

from mergekit_fair.compat import transformers as private


def test_attention_is_never_fetched_from_the_hub(tiny: Any, tmp_path: Path) -> None:
    """`_attn_implementation`: a config.json could have code downloaded while it is checked."""
    folder = shutil.copytree(tiny("bert").base, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["_attn_implementation"] = "someone/kernels"
    (folder / "config.json").write_text(json.dumps(config))
    made, kind = private.model_class(folder)
    assert made._attn_implementation == "eager"
    assert kind.__name__ == "BertForSequenceClassification"


def test_names_in_memory(tiny: Any) -> None:
    """`rename_source_key`: adapters on a ViT would not be found in its file."""
    model = private.meta_model(tiny("vit").base)
    names = private.loaded_names(model, read(tiny("vit").base))
    assert set(names.values()) == set(model.state_dict())
    assert any(memory != file for file, memory in names.items())


def test_what_would_not_load_is_reported(tiny: Any) -> None:
    """`from_pretrained(None, state_dict=…)` on meta: a damaged result would be written."""
    config, kind = private.model_class(tiny("bert").base)
    meta = {name: tensor.to("meta") for name, tensor in read(tiny("bert").base).items()}
    del meta["classifier.bias"]
    meta["more"] = torch.empty(1, device="meta")
    report = private.load_on_meta(kind, config, meta)
    assert list(report["missing_keys"]) == ["classifier.bias"]
    assert list(report["unexpected_keys"]) == ["more"]


def test_quiet_ends() -> None:
    """`logging`: the user's verbosity would be lost."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    with private.quiet():
        assert logging.get_verbosity() == logging.CRITICAL
    assert logging.get_verbosity() == before


def test_tied_tensors_are_known(tmp_path: Path) -> None:
    """`all_tied_weights_keys`: a head that one model saved, too, would be a stranger."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 96}
    config = Qwen2Config(num_hidden_layers=1, num_attention_heads=2, **sizes)
    config.architectures, config.tie_word_embeddings = ["Qwen2ForCausalLM"], True
    config.save_pretrained(tmp_path)
    model = private.meta_model(tmp_path)
    assert private.tied_names(model) == {"lm_head.weight": "model.embed_tokens.weight"}
    assert private.vocabulary_axes(model) == {"lm_head.weight": 0, "model.embed_tokens.weight": 0}


def test_pictures_have_no_vocabulary(tiny: Any) -> None:
    """`infer_vocabulary_axes` raises, or names nothing."""
    assert private.vocabulary_axes(private.meta_model(tiny("vit").base)) == {}


def test_defaults_are_filled_in(tiny: Any, tmp_path: Path) -> None:
    """A default that an old config.json leaves out would be a difference between models."""
    folder = shutil.copytree(tiny("bert").base, tmp_path / "old")
    config = json.loads((folder / "config.json").read_text())
    del config["layer_norm_eps"]
    (folder / "config.json").write_text(json.dumps(config))
    parsed = private.parsed_config(folder)
    assert parsed is not None
    assert parsed["layer_norm_eps"] == 1e-12
    (folder / "config.json").write_text("{}")
    assert private.parsed_config(folder) is None
