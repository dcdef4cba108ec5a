"""Vocabularies that differ: brought together, the model counts its tokens and loads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import rewrite
from mergekit.options import MergeOptions
from refusals import raises
from zoo import BY_NAME, VOCABULARY, Trio, loaded, write_trio

from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder

MORE = 2
ROWS = ("llama-lm", "llava", "gemma3", "t5-lm")
METHODS = ("subgroup_task_addition", "linear")


def grow(folder: Path) -> None:
    """Two more tokens, in every tensor that has a row for each."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if re.search("embed_tokens|lm_head|shared", name):
                tensors[name] = torch.cat([tensor, tensor[:MORE]])

    rewrite(folder, change)
    config = json.loads((folder / "config.json").read_text())
    config.get("text_config", config)["vocab_size"] = VOCABULARY + MORE
    (folder / "config.json").write_text(json.dumps(config))


def write_tokenizer(folder: Path, size: int) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{index}": index for index in range(size)}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="w0").save_pretrained(folder)


@pytest.fixture(scope="module", params=ROWS)
def trio(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """Two tokens more in the base, each folder with its tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    made = write_trio(folder, BY_NAME[request.param], (torch.float32,) * 3)
    grow(made.base)
    for path in made.folders:
        write_tokenizer(path, VOCABULARY + (MORE if path == made.base else 0))
    return made


def merged(trio: Trio, method: str, out: Path, *, truncates: bool) -> Path:
    raw: dict[str, Any] = trio.recipe() | {"merge_method": method}
    if method != METHODS[0]:
        raw["models"] = [
            {"model": str(path), "parameters": {"weight": 0.5}} for path in trio.folders
        ]
        raw["parameters"] = {}
    raw |= {} if truncates else {"tokenizer": {"source": "base"}}
    options = MergeOptions(quiet=True, unsafe_truncate_embeddings=truncates)
    merge_to_folder(Recipe.from_mapping(raw, "recipe.yml"), out, options)
    return out


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("truncates", [True, False], ids=["truncated", "aligned"])
def test_the_result_loads(trio: Trio, tmp_path: Path, method: str, truncates: bool) -> None:
    model, report = loaded(merged(trio, method, tmp_path / "out", truncates=truncates))
    assert not any(report.values()), report
    rows = VOCABULARY + (0 if truncates else MORE)
    assert model.get_input_embeddings().weight.shape[0] == rows
    assert model.config.get_text_config().vocab_size == rows


def test_an_embedding_and_a_head_of_two_sizes(tmp_path: Path) -> None:
    made = write_trio(tmp_path, BY_NAME["llama-lm"], (torch.float32,) * 3)
    for path in made.folders:
        grow(path)
    head = "lm_head.weight"
    rewrite(made.a, lambda tensors: tensors.update({head: tensors[head][:-1].clone()}))
    with raises(CheckpointError, "reshaped"):
        merged(made, "linear", tmp_path / "out", truncates=True)
