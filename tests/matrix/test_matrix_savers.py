"""What transformers loads alike is merged alike, whoever saved it; what it loads otherwise is not.

A case changes how one model lies on the disk. The merge must give the tensors of the merge of the
unchanged models, on disk and in memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import read, rewrite
from mergekit.options import MergeOptions
from refusals import raises
from safetensors.torch import save_file
from zoo import BY_NAME, Architecture, Tensors, Trio, loaded, write_trio

from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.in_memory import Composer
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.progress import Silent

OPTIONS: Any = MergeOptions(quiet=True)
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
INDEX = "model.safetensors.index.json"
FP32 = (torch.float32,) * 3


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def merged(trio: Trio, out: Path) -> tuple[Tensors, list[str]]:
    notes = Notes()
    recipe = Recipe.from_mapping(trio.recipe(dtype="float32"), "recipe.yml")
    merge_to_folder(recipe, out, OPTIONS, progress=notes)
    on_disk = read(out)
    composed = dict(Composer().compose(recipe))
    assert composed.keys() == on_disk.keys()
    assert all(torch.equal(composed[name], on_disk[name]) for name in composed)
    _, report = loaded(out)
    assert not report["missing_keys"]
    return on_disk, notes.lines


def renamed(change: Callable[[str], str]) -> Callable[[Path], Any]:
    def rename(tensors: Tensors) -> None:
        names = {name: change(name) for name in tensors}
        changed = {names[name]: tensor for name, tensor in tensors.items()}
        tensors.clear()
        tensors.update(changed)

    return lambda folder: rewrite(folder, rename)


def with_tensors(**more: Callable[[Tensors], torch.Tensor]) -> Callable[[Path], Any]:
    def add(tensors: Tensors) -> None:
        tensors |= {name: make(tensors).clone() for name, make in more.items()}

    return lambda folder: rewrite(folder, add)


def config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        change(content)
        (folder / "config.json").write_text(json.dumps(content))

    return edit


def unindexed(folder: Path) -> None:
    """One shard that holds more than its index says."""
    tensors = read(folder)
    (folder / "model.safetensors").unlink()
    shard = "model-00001-of-00001.safetensors"
    save_file(tensors, folder / shard, metadata={"format": "pt"})
    named = dict.fromkeys(list(tensors)[1:], shard)
    (folder / INDEX).write_text(json.dumps({"weight_map": named}))


def linked(folder: Path) -> None:
    for file in list(folder.iterdir()):
        elsewhere = folder.parent / "store" / file.name
        elsewhere.parent.mkdir(exist_ok=True)
        shutil.move(file, elsewhere)
        file.symlink_to(elsewhere)


def without_defaults(content: dict[str, Any]) -> None:
    """As versions wrote it that did not know these settings yet."""
    for key in ("rope_parameters", "attention_bias", "mlp_bias", "pretraining_tp", "head_dim"):
        content.pop(key, None)


def nulls(content: dict[str, Any]) -> None:
    content |= dict.fromkeys(("quantization_config", "id2label", "problem_type", "pruned_heads"))


def buffers(tensors: Tensors) -> torch.Tensor:
    del tensors
    return torch.ones(4)


def before_bert_was_renamed(name: str) -> str:
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    return name.replace("LayerNorm.bias", "LayerNorm.beta")


ROTARY = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": buffers for layer in range(2)}

# Name → family, whose file changes, how, whether a note tells of it.
SAVERS: dict[str, tuple[str, str, Callable[[Path], Any], str]] = {
    "a tied head, too": ("qwen2-lm-tied", "a", with_tensors(**{HEAD: lambda t: t[EMBEDDING]}), ""),
    "old buffers": ("llama-lm", "a", with_tensors(**ROTARY), "are left out"),
    "the base's old buffers": ("llama-lm", "base", with_tensors(**ROTARY), "are the base's"),
    "positions": (
        "bert",
        "b",
        with_tensors(**{"bert.embeddings.position_ids": lambda _: torch.arange(32)}),
        "are left out",
    ),
    "causal masks": (
        "gpt2",
        "a",
        with_tensors(**{"transformer.h.0.attn.masked_bias": buffers}),
        "are left out",
    ),
    "old names of norms": (
        "bert",
        "a",
        renamed(before_bert_was_renamed),
        "",
    ),
    "no prefix of the encoder": (
        "distilbert",
        "b",
        renamed(lambda n: n.removeprefix("distilbert.")),
        "",
    ),
    "torch.compile": ("bert", "a", renamed(lambda n: f"_orig_mod.{n}"), "'_orig_mod.'"),
    "data parallel": ("bert", "b", renamed(lambda n: f"module.{n}"), "'module.'"),
    "FSDP": (
        "bert",
        "a",
        renamed(lambda n: n.replace(".layer.", ".layer._fsdp_wrapped_module.")),
        "'_fsdp_wrapped_module.'",
    ),
    "a tensor that the index leaves out": ("bert", "a", unindexed, ""),
    "links": ("bert", "b", linked, ""),
    "an old configuration": ("llama-lm", "a", config(without_defaults), ""),
    "nulls": ("llama-lm", "b", config(nulls), ""),
}


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Trio, Tensors]]:
    """Family → its models, and the merge of the unchanged ones."""
    made = {}
    for name in {family for family, *_ in SAVERS.values()}:
        folder = tmp_path_factory.mktemp(name)
        trio = write_trio(folder, BY_NAME[name], FP32)
        made[name] = trio, merged(trio, folder / "out")[0]
    return made


def copied(trio: Trio, folder: Path) -> Trio:
    return Trio(*(shutil.copytree(path, folder / path.name) for path in trio.folders))


@pytest.mark.parametrize("name", SAVERS)
def test_who_saved_a_model_is_no_difference(name: str, families: Any, tmp_path: Path) -> None:
    family, which, change, note = SAVERS[name]
    original, expected = families[family]
    trio = copied(original, tmp_path)
    change(getattr(trio, which))
    result, notes = merged(trio, tmp_path / "out")
    assert all(torch.equal(result[name], expected[name]) for name in expected)
    more = set(result) - set(expected)
    assert more == (set(ROTARY) if which == "base" else set())
    assert bool(notes) == bool(note), notes
    assert not note or any(note in line for line in notes), notes


def beyond(tensors: Tensors) -> torch.Tensor:
    return tensors["model.layers.1.mlp.up_proj.weight"]


STRANGERS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "a head of its own over a tied base": (
        "qwen2-lm-tied",
        with_tensors(**{HEAD: lambda t: t[EMBEDDING] + 1}),
        f"1 more ['{HEAD}']",
    ),
    "a layer that config.json does not count": (
        "llama-lm",
        with_tensors(**{"model.layers.2.mlp.up_proj.weight": beyond}),
        "1 more ['model.layers.2.mlp.up_proj.weight']",
    ),
    "a tensor less": (
        "llama-lm",
        lambda folder: rewrite(folder, lambda t: t.pop("model.norm.weight")),
        "1 missing ['model.norm.weight']",
    ),
    "with and without a prefix": (
        "llama-lm",
        with_tensors(**{"module.model.norm.weight": lambda t: t["model.norm.weight"]}),
        "'module.'",
    ),
    "other heads of attention": (
        "llama-lm",
        config(lambda c: c.update(num_attention_heads=4, head_dim=8)),
        "head_dim",
    ),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_transformers_would_load_otherwise_is_refused(
    name: str, families: Any, tmp_path: Path
) -> None:
    family, change, shows = STRANGERS[name]
    trio = copied(families[family][0], tmp_path)
    change(trio.a)
    recipe = Recipe.from_mapping(trio.recipe(dtype="float32"), "recipe.yml")
    with raises(CheckpointError, shows, where=trio.a):
        merge_to_folder(recipe, tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


def test_settings_that_differ_are_told(families: Any, tmp_path: Path) -> None:
    """They change no tensor; the merged model has the base's."""
    trio = copied(families["llama-lm"][0], tmp_path)
    config(lambda c: c.update(rms_norm_eps=0.5))(trio.a)
    result, notes = merged(trio, tmp_path / "out")
    assert all(torch.equal(result[n], t) for n, t in families["llama-lm"][1].items())
    (note,) = notes
    assert note.startswith(str(trio.a))
    assert "rms_norm_eps: 0.5 for 1e-06" in note


HEADS = {
    "deberta-v2": {
        "pooler.dense.weight",
        "pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    },
    "roberta": {
        *("classifier.dense.weight", "classifier.dense.bias"),
        *("classifier.out_proj.weight", "classifier.out_proj.bias"),
    },
    "bert": {"classifier.weight", "classifier.bias"},
}


@pytest.mark.parametrize("family", HEADS)
def test_a_head_is_all_between_the_encoder_and_the_logits(family: str, tmp_path: Path) -> None:
    trio = write_trio(tmp_path, BY_NAME[family], FP32)
    raw = trio.recipe(dtype="float32")
    raw["parameters"]["head"] = "base"
    merge_to_folder(Recipe.from_mapping(raw, "r.yml"), tmp_path / "out", OPTIONS)
    base, result = read(trio.base), read(tmp_path / "out")
    assert {name for name in base if torch.equal(result[name], base[name])} == HEADS[family]


def other_classes(row: Architecture, folder: Path) -> None:
    model = row.cls.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)
    model.save_pretrained(folder)


@pytest.mark.parametrize(("policy", "which"), [("base", "ab"), ("base", "a"), ("first", "b")])
def test_heads_that_are_not_merged_need_not_fit(policy: str, which: str, tmp_path: Path) -> None:
    row = BY_NAME["roberta"]
    trio = write_trio(tmp_path, row, FP32)
    raw = trio.recipe(dtype="float32")
    raw["parameters"]["head"] = policy
    recipe = Recipe.from_mapping(raw, "r.yml")
    merge_to_folder(recipe, tmp_path / "before", OPTIONS)
    for group in which:
        other_classes(row, getattr(trio, group))
    merge_to_folder(recipe, tmp_path / "after", OPTIONS)
    before, after = read(tmp_path / "before"), read(tmp_path / "after")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    composed = dict(Composer().compose(recipe))
    assert all(torch.equal(composed[name], after[name]) for name in after)


def test_a_head_that_is_taken_has_to_fit(tmp_path: Path) -> None:
    trio = write_trio(tmp_path, BY_NAME["roberta"], FP32)
    other_classes(BY_NAME["roberta"], trio.a)
    for policy in ("merge", "first"):
        raw = trio.recipe(dtype="float32")
        raw["parameters"]["head"] = policy
        with raises(CheckpointError, "classifier.out_proj.bias", where=trio.a):
            merge_to_folder(Recipe.from_mapping(raw, "r.yml"), tmp_path / "out", OPTIONS)
