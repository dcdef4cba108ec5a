"""mergekit's own recipes run through `merge` unchanged: the same tensors as mergekit itself."""

import json
import shutil

import pytest
import torch
from checkpoints import read, rewrite
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from rounding import same_bits

from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.progress import Silent

RECIPES = {
    "task_arithmetic": ({"weight": [0.2, 0.9]}, {"lambda": 0.7, "normalize": False}),
    "ties": ({"weight": 0.5, "density": [1, 0.5]}, {"normalize": True, "int8_mask": True}),
    "dare_linear": ({"weight": 0.6, "density": 0.53}, {"rescale": True}),
    "dare_ties": ({"weight": 0.6, "density": 0.53}, {}),
    "della": ({"weight": 0.6, "density": 0.5, "epsilon": 0.1}, {}),
    "model_stock": (None, {}),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", RECIPES)
def test_stock_recipes_give_mergekits_tensors(tiny, tmp_path, method, dtype):
    family = tiny("llama")
    own, shared = RECIPES[method]
    models = [
        {"model": str(path)} | ({"parameters": own} if own else {})
        for path in family.groups.values()
    ]
    raw = {
        "merge_method": method,
        "base_model": str(family.base),
        "models": models,
        "parameters": shared,
        "dtype": dtype,
    }
    options = MergeOptions(quiet=True, random_seed=7)
    made = Recipe.from_mapping(raw, "r.yml")
    merge_to_folder(made, tmp_path / "ours", options)
    run_merge(made.for_mergekit(), str(tmp_path / "stock"), options)
    ours, stock = read(tmp_path / "ours"), read(tmp_path / "stock")
    assert ours.keys() == stock.keys() == read(family.base).keys()
    assert all(same_bits(ours[name], stock[name]) for name in stock)
    assert not all(same_bits(stock[name], read(family.base)[name]) for name in stock)


def test_what_looks_like_a_mistake_is_said(tiny, tmp_path):
    """mergekit merges heads that were made apart, and classes in another order, without a word."""
    family = tiny("bert")
    one, other = (
        shutil.copytree(path, tmp_path / name) for name, path in list(family.groups.items())[:2]
    )
    random = torch.randn(2, 32, generator=torch.Generator().manual_seed(8))
    rewrite(one, lambda tensors: tensors.update({"classifier.weight": random}))
    config = json.loads((other / "config.json").read_text())
    config["id2label"] = {"0": "1", "1": "0"}
    (other / "config.json").write_text(json.dumps(config))
    raw = {
        "merge_method": "linear",
        "models": [
            {"model": str(path), "parameters": {"weight": 1}} for path in (family.base, one, other)
        ],
        "dtype": "float32",
    }
    notes = Notes()
    recipe = Recipe.from_mapping(raw, "r.yml")
    merge_to_folder(recipe, tmp_path / "out", MergeOptions(quiet=True), progress=notes)
    head, classes = (line for line in notes.lines if line.startswith("warning: "))
    assert f"the classification head of {one} is unrelated to the base's" in head
    assert f"{other}: its config.json names the classes otherwise" in classes
    assert (
        json.loads((tmp_path / "out" / "merge_manifest.json").read_text())["notes"] == notes.lines
    )


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)
