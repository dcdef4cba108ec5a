"""One recipe: our engine, mergekit's graph and `merge_state_dicts` give the same bits."""

import itertools

import pytest
import torch
from checkpoints import GROUPS, read
from mergekit.merge import run_merge
from mergekit.merge_methods import merge_state_dicts
from refusals import raises
from rounding import same_bits
from safetensors.torch import load_file

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.grid import lambda_points
from mergekit_fair.merging.in_memory import Composer, load_tensors
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_grid, merge_to_folder

# Method → its own parameters in the recipe, parameters of each model by group.
WEIGHTS = dict(zip(GROUPS, (1.0, -0.5, 2.0), strict=True))
CASES = {
    "sum": ("subgroup_task_addition", {}, {"weight": WEIGHTS}),
    "mean": ("subgroup_task_addition", {"normalize": "mean"}, {}),
    "norm": ("subgroup_task_addition", {"normalize": "norm"}, {"weight": WEIGHTS}),
    "head": ("subgroup_task_addition", {"normalize": "norm", "head": "base"}, {}),
    "ties": (
        "subgroup_task_addition",
        {"sign_election": "sum", "normalize": "mean"},
        {"density": dict.fromkeys(GROUPS, 0.3)},
    ),
    "dare": ("subgroup_task_addition", {"sparsify": "random"}, {"density": {**WEIGHTS, "Male": 1}}),
    "fedgma": ("fedgma", {"rho": 0.7}, {"weight": WEIGHTS}),
    "median": ("task_median", {}, {}),
    "cclip": ("cclip", {"rho": 1.0}, {}),
    "awd": ("awd", {}, {"weight": WEIGHTS}),
    "awd_head": ("awd", {"alpha": 0.01, "head": "base"}, {}),
    "fednova": ("fednova", {}, {"steps": {"Female": 10, "Male": 25, "Other": 3}}),
}
CASES["dare"][2]["density"] = {"Female": 0.5, "Male": 1.0, "Other": 0.25}


def recipe(family, case, scale, **top):
    method, shared, own = CASES[case]
    models = [
        {
            "model": str(path),
            "parameters": {"group": name} | {key: values[name] for key, values in own.items()},
        }
        for name, path in family.groups.items()
    ]
    parameters = {**shared, "lambda": scale}
    raw = {"merge_method": method, "base_model": str(family.base), "models": models}
    return Recipe.from_mapping(raw | {"parameters": parameters} | top, "r.yml")


def equal(left, right):
    assert left.keys() == right.keys()
    return all(same_bits(left[name], right[name]) for name in left)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [0.3, 0.0])
def test_every_route_gives_the_same_bits(tiny, tmp_path, options, case, scale):
    family = tiny("bert")
    made = recipe(family, case, scale, dtype="float32")
    merge_to_folder(made, tmp_path / "ours", options)
    ours = read(tmp_path / "ours")
    run_merge(made.for_mergekit(), str(tmp_path / "stock"), options)
    assert equal(ours, read(tmp_path / "stock"))
    assert equal(ours, dict(Composer().compose(made)))
    method, shared, own = CASES[case]
    states = {"base": read(family.base)} | {n: read(p) for n, p in family.groups.items()}
    parameters = shared | own | {"lambda": scale, "group": {name: name for name in GROUPS}}
    assert equal(ours, merge_state_dicts(states, method, base="base", parameters=parameters))
    assert equal(ours, read(family.base)) is (scale == 0)


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
@pytest.mark.parametrize("out_dtype", [None, "bfloat16", "float32"])
def test_dtypes_mean_what_they_mean_in_mergekit(tiny, tmp_path, options, dtype, out_dtype):
    """`dtype` converts inputs and rounds the result, `out_dtype` converts that for the file."""
    made = recipe(tiny("bert"), "sum", 0.3, dtype=dtype, out_dtype=out_dtype)
    merge_to_folder(made, tmp_path / "ours", options)
    run_merge(made.for_mergekit(), str(tmp_path / "stock"), options)
    ours = read(tmp_path / "ours")
    assert equal(ours, read(tmp_path / "stock"))
    expected = getattr(torch, out_dtype or dtype or "float32")
    assert {tensor.dtype for tensor in ours.values()} == {expected}


@pytest.mark.parametrize(
    "case", ["sum", "norm", "ties", "dare", "fedgma", "median", "cclip", "awd"]
)
def test_slices_threads_and_shards_change_no_bit(tiny, tmp_path, options, case, monkeypatch):
    made = recipe(tiny("distilbert"), case, 0.3, dtype="bfloat16")
    merge_to_folder(made, tmp_path / "whole", options)
    whole = read(tmp_path / "whole")
    sizes = itertools.cycle([1_000_000, 30_000])
    before = torch.get_num_threads()
    try:
        for threads, elements in ((1, 13), (2, 64), (5, 1000), (3, 17)):
            torch.set_num_threads(threads)
            monkeypatch.setattr("mergekit_fair.merging.stream.SLICE", elements)
            out = tmp_path / f"{threads}-{elements}"
            merge_to_folder(made, out, options.model_copy(update={"out_shard_size": next(sizes)}))
            assert torch.get_num_threads() == threads
            assert equal(load_tensors(out), whole)
    finally:
        torch.set_num_threads(before)
    assert len(list((tmp_path / "2-64").glob("model-*.safetensors"))) > 1


LAMBDAS = (0.0, 0.25, 1.0, -0.5)


@pytest.mark.parametrize("case", ["sum", "mean", "norm", "ties", "median", "awd"])
def test_a_grid_in_one_pass_equals_single_merges(tiny, tmp_path, options, case):
    family = tiny("distilbert")
    made = recipe(family, case, 0.7, dtype="bfloat16")
    merge_grid(lambda_points(made, LAMBDAS), tmp_path / "grid", options)
    names = ["lambda_-0.5", "lambda_0", "lambda_0.25", "lambda_1"]
    assert sorted(path.name for path in (tmp_path / "grid").iterdir()) == names
    for value in LAMBDAS:
        alone, place = tmp_path / f"{value}", tmp_path / "grid" / f"lambda_{value:g}"
        merge_to_folder(made.with_settings({"lambda": value}), alone, options)
        for name in ("model.safetensors", "mergekit_config.yml", "config.json"):
            assert (alone / name).read_bytes() == (place / name).read_bytes(), (value, name)
        assert load_file(place / "model.safetensors").keys() == read(family.base).keys()


@pytest.mark.parametrize("case", ["sum", "norm", "ties", "median", "awd"])
def test_recipes_of_one_family_in_one_pass_equal_single_merges(tiny, tmp_path, options, case):
    """Weights that differ are other directions, one with a weight of 0 is without a model."""
    made = recipe(tiny("bert"), case, 0.7, dtype="bfloat16")
    points = {
        "same": made,
        "half": made.with_settings({"lambda": 0.35}),
        "other": made.with_settings({"weight.Female": -0.5, "weight.Male": 2.0}),
        "without": made.with_settings({"weight.Male": 0.0}),
        "none": made.with_settings({"lambda": 0.0}),
    }
    merge_grid(points, tmp_path / "grid", options)
    assert {path.name for path in (tmp_path / "grid").iterdir()} == points.keys()
    for name, point in points.items():
        merge_to_folder(point, tmp_path / name, options)
        for file in ("model.safetensors", "mergekit_config.yml", "config.json"):
            one, other = (folder / name / file for folder in (tmp_path, tmp_path / "grid"))
            assert one.read_bytes() == other.read_bytes(), (name, file)
    with raises(RecipeError, "differs in more than numbers"):
        other = recipe(tiny("bert"), "mean", 0.7, dtype="bfloat16")
        merge_grid({"a": made, "b": other}, tmp_path / "two", options)
    assert not (tmp_path / "two").exists()


def test_a_grid_over_an_injection(tiny, tmp_path, options):
    family = tiny("vit")
    made = Recipe.from_mapping(family.injection(worst="Male", lambda_=0.5), "r.yml")
    merge_grid(lambda_points(made, (0.0, 0.5)), tmp_path / "grid", options)
    merge_to_folder(made, tmp_path / "half", options)
    assert equal(read(tmp_path / "grid" / "lambda_0"), read(family.fft))
    assert equal(read(tmp_path / "grid" / "lambda_0.5"), read(tmp_path / "half"))
