"""Adapters over a base whose embedding is its output layer, too."""

import pytest
import torch
from adapters import edit_weights, is_close, make_adapter, merged_by_peft, theta, tied_llama
from checkpoints import read
from refusals import raises

from mergekit_fair.checkpoints.lora import AdapterReader
from mergekit_fair.checkpoints.reader import open_folder
from mergekit_fair.errors import CheckpointError

TIED = ["model.embed_tokens.weight", "lm_head.weight"]


def equals_peft(base, adapter):
    return is_close(theta(base, adapter), merged_by_peft(base, adapter), rtol=1e-13, atol=1e-15)


def refused(base, adapter, *shows, **fields):
    with raises(CheckpointError, *shows, where=adapter, **fields):
        AdapterReader(open_folder(base), base, adapter)


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    return tied_llama(tmp_path_factory.mktemp("tied") / "base")


@pytest.mark.parametrize(
    "settings",
    [
        {"targets": ["embed_tokens"]},
        {"targets": ["lm_head"]},
        {"targets": ["embed_tokens", "lm_head"]},
        {"targets": ["embed_tokens"], "ensure_weight_tying": True},
        {"targets": ["embed_tokens"], "use_dora": True},
        {"targets": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"targets": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"targets": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    ],
)
def test_one_use_of_a_tied_tensor(tied, tmp_path, settings):
    """Over a base that was saved with both, as the message advises, the adapter is merged."""
    import transformers

    adapter = make_adapter(tied, tmp_path / "a", seed=9, **settings)
    refused(tied, adapter, *TIED, fix="model.config.tie_word_embeddings = False")
    model = transformers.LlamaForCausalLM.from_pretrained(tied)
    head = model.get_input_embeddings().weight.clone()
    model.get_output_embeddings().weight = torch.nn.Parameter(head)
    model.config.tie_word_embeddings = False
    model.save_pretrained(tmp_path / "both")
    if "ensure_weight_tying" not in settings:  # which peft can no longer do then
        assert equals_peft(tmp_path / "both", adapter)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"trainable_token_indices": [3, 5]},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {"bias": "all"},
    ],
)
def test_both_uses_of_a_tied_tensor(tied, tmp_path, settings):
    adapter = make_adapter(tied, tmp_path / "a", seed=9, targets=["q_proj"], **settings)
    assert equals_peft(tied, adapter)


def test_an_embedding_that_was_saved_and_not_trained(tied, tmp_path):
    """As `save_pretrained(save_embedding_layers=True)` does."""
    adapter = make_adapter(tied, tmp_path / "a", seed=9, targets=["q_proj"])
    before = theta(tied, adapter)
    embedding = {f"base_model.model.{TIED[0]}": read(tied)[TIED[0]]}
    edit_weights(adapter, lambda found: found.update(embedding))
    assert is_close(theta(tied, adapter), before, rtol=0, atol=0)
