"""mergekit's own recipes run through `merge` unchanged: the same tensors as mergekit itself."""

import pytest
from checkpoints import read
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from rounding import same_bits

from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder

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
    run_merge(made.configuration(), str(tmp_path / "stock"), options)
    ours, stock = read(tmp_path / "ours"), read(tmp_path / "stock")
    assert ours.keys() == stock.keys() == read(family.base).keys()
    assert all(same_bits(ours[name], stock[name]) for name in stock)
    assert not all(same_bits(stock[name], read(family.base)[name]) for name in stock)
