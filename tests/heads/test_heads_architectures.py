"""Kinds of classifiers: what is recorded for a moved last layer is what the merged model gives.

Fits, which are the same for all of them, are tested in the other files of this folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from biased import data_block, write_rows
from checkpoints import VOCABULARY, read, rewrite, tokenizer
from mergekit.options import MergeOptions
from pictures import write_pictures
from refusals import raises

from mergekit_fair.checkpoints.vector_folder import write_vector
from mergekit_fair.data import load_spec
from mergekit_fair.errors import CheckpointError
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
from mergekit_fair.heads.last_layer import LastLayer, read_features
from mergekit_fair.heads.written_head import merged_gaps, recipe_of_head
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.progress import Silent

BERT: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
BERT |= {"num_attention_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3}
NARROW = BERT | {"embedding_size": 16}
RELATIVE = BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
DISTILBERT = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "initializer_range": 0.3}
BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "init_std": 0.3}
BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64}
BART |= {"decoder_ffn_dim": 64, "max_position_embeddings": 64, "decoder_start_token_id": 3}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
LLAMA = BERT | {"num_key_value_heads": 1}
VIT = {name: BERT[name] for name in BERT if name != "max_position_embeddings"}
VIT |= {"image_size": 16, "patch_size": 8}
XLNET = {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "initializer_range": 0.3}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
T5 |= {"decoder_start_token_id": 0}

TEXT, IMAGE = "ForSequenceClassification", "ForImageClassification"
# The class → sizes of its configuration, and the layer that is found.
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    f"ViT{IMAGE}": (VIT, "classifier"),
    f"Electra{TEXT}": (NARROW, "classifier.out_proj"),
    f"Bart{TEXT}": (BART, "classification_head.out_proj"),
    f"DebertaV2{TEXT}": (RELATIVE, "classifier"),
    f"DistilBert{TEXT}": (DISTILBERT, "classifier"),
    f"GPT2{TEXT}": (GPT2, "score"),
    f"Llama{TEXT}": (LLAMA, "score"),
    f"Albert{TEXT}": (NARROW, "classifier"),
    f"MPNet{TEXT}": (BERT, "classifier.out_proj"),
    f"XLMRoberta{TEXT}": (BERT, "classifier.out_proj"),
    f"T5{TEXT}": (T5, "classification_head.out_proj"),
    f"FNet{TEXT}": (BERT, "classifier"),
    f"XLNet{TEXT}": (XLNET, "logits_proj"),
}
LABELS = {"label2id": {"no": 0, "yes": 1}, "id2label": {0: "no", 1: "yes"}}
TOKENS = {"vocab_size": len(VOCABULARY), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


def write_model(folder: Path, name: str, sizes: dict[str, Any]) -> Path:
    """A tiny seeded classifier with its tokenizer or image processor."""
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    if IMAGE in name:
        cls(cls.config_class(**sizes, **LABELS)).save_pretrained(folder)
        size = {"height": 16, "width": 16}
        transformers.ViTImageProcessorPil(size=size).save_pretrained(folder)
        return folder
    cls(cls.config_class(**{**sizes, **TOKENS, **LABELS})).save_pretrained(folder)
    tokenizer(model_input_names=["input_ids", "attention_mask"]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def evaluators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Evaluator]:
    """Of 30 training rows or so, texts and pictures."""
    folder = tmp_path_factory.mktemp("data")
    blocks = {
        TEXT: data_block(write_rows(folder / "rows.csv", 80)),
        IMAGE: write_pictures(folder / "pictures", 60),
    }
    found = {}
    for kind, block in blocks.items():
        path = folder / f"{kind}.yml"
        path.write_text(yaml.safe_dump(block))
        found[kind] = Evaluator(EvaluationRequest(tasks=load_spec(path)))
    return found


@pytest.mark.parametrize("name", KINDS)
def test_a_vector_of_the_last_layer(
    name: str, evaluators: dict[str, Evaluator], tmp_path: Path
) -> None:
    sizes, expected = KINDS[name]
    evaluator = evaluators[IMAGE if name.endswith(IMAGE) else TEXT]
    model = write_model(tmp_path / "model", name, sizes)
    require_the_same(evaluator, model, expected, tmp_path)


def test_a_head_that_is_stored_wider_than_the_model_is_run(
    evaluators: dict[str, Evaluator], tmp_path: Path
) -> None:
    """The vectors are added in float32, and rounded when the merged model is opened."""
    model = write_model(tmp_path / "model", f"Bert{TEXT}", BERT)
    rewrite(model, narrowed)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    require_the_same(evaluators[TEXT], model, "classifier", tmp_path, torch.bfloat16)


def narrowed(tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if not name.startswith("classifier"):
            tensors[name] = tensor.bfloat16()


def test_a_model_of_two_heads_is_refused(evaluators: dict[str, Evaluator], tmp_path: Path) -> None:
    """Its logits are the mean of both: without one of them it does not even run."""
    model = write_model(tmp_path / "model", f"DeiT{IMAGE}WithTeacher", VIT)
    with raises(CheckpointError, where=model, got="distillation_classifier"):
        features_of(evaluators[IMAGE], model)


def require_the_same(
    evaluator: Evaluator,
    model: Path,
    expected: str,
    folder: Path,
    dtype: torch.dtype | None = None,
) -> None:
    """The named layer alone moves, and what is recorded is what the merged model gives."""
    layer, features = features_of(evaluator, model)
    assert layer.name == expected
    direction = np.random.default_rng(0).standard_normal(layer.width)
    tensors = layer.vector(direction, 0.5 if layer.bias is not None else 0.0)
    vector = {key: torch.from_numpy(value) for key, value in tensors.items()}
    write_vector(folder / "vector", "a", vector, model)
    recipe = Recipe.from_mapping(
        recipe_of_head(str(model), {str(folder / "vector"): ("a", 0.7)}), "recipe"
    )
    merge_to_folder(recipe, folder / "merged", MergeOptions(quiet=True))
    before, after = read(model), read(folder / "merged")
    assert before.keys() == after.keys()
    moved = {key for key, tensor in before.items() if not torch.equal(tensor, after[key])}
    assert moved == {key for key in before if key.rpartition(".")[0] == expected}
    recorded = merged_gaps(recipe, layer, features, dtype=dtype)
    scorer = evaluator.open(str(folder / "merged"), "cpu")
    (own,) = scorer.score("train").values()
    # Rows of a batch and the same rows' features: other kernels of float32 on one machine.
    size = 1e-5 * (1 + float(np.abs(own).max()))
    assert recorded == pytest.approx(own, abs=size)
    assert np.abs(recorded - layer.gaps(features)).max() > 0.1


def features_of(evaluator: Evaluator, model: Path) -> tuple[LastLayer, Any]:
    layer, found = read_features(
        evaluator, evaluator.open(str(model), "cpu"), ["train"], model, Silent()
    )
    return layer, found["train"].features
