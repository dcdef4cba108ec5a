"""Private names of transformers: each test says what breaks when the name moves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from checkpoints import read

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
