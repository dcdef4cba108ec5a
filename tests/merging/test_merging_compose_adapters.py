"""Adapters composed in memory: the bits of the merged file, over one base that is held once."""

from __future__ import annotations

import gc

import pytest
import torch
from adapters import adapters_on, addition, make_adapter, merged, stock
from checkpoints import read
from classifiers import write_text
from refusals import raises
from rounding import same_bits

from mergekit_fair.checkpoints.headers import SIZES
from mergekit_fair.checkpoints.reader import open_folder
from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.in_memory import Composer, RandomControl
from mergekit_fair.merging.methods.arithmetic import SLICE
from mergekit_fair.merging.recipe import Recipe


def recipe(raw):
    return Recipe.from_mapping(raw, "r.yml")


def injected(base, adapters, lambda_=0.4):
    target, *others = adapters.values()
    candidates = [
        {"model": f"{base}+{path}", "parameters": {"role": "candidate", "group": path.name}}
        for path in others
    ]
    return {
        "merge_method": "worst_group_injection",
        "base_model": str(base),
        "models": [{"model": str(target), "parameters": {"role": "target"}}, *candidates],
        "parameters": {"lambda": lambda_, "worst": "Male"},
    }


def sparse(base, adapters):
    raw = addition(base, adapters)
    for item in raw["models"]:
        item["parameters"]["density"] = 0.5
    raw["parameters"] |= {"sparsify": "magnitude", "sign_election": "sum"}
    return raw


FILTER = [{"filter": "query", "value": [0.0, 1.0]}, {"filter": "classifier", "value": 0.25}]
RECIPES = {
    "scalar": addition,
    "identity": lambda *on: addition(*on, lambda_=0),
    "bfloat16": lambda *on: addition(*on, dtype="bfloat16"),
    "out_dtype": lambda *on: addition(*on, out_dtype="float16"),
    "filters": lambda *on: addition(*on, lambda_=[*FILTER, {"value": 0.5}]),
    "head": lambda *on: addition(*on, parameters={"lambda": 0.5, "head": "base"}),
    "median": lambda *on: addition(*on, merge_method="task_median"),
    "awd": lambda *on: addition(*on, merge_method="awd"),
    "sparse": sparse,
    "injection": injected,
    "target": lambda *on: injected(*on, lambda_=0.0),
}
CASES = [
    *(("bert", name) for name in RECIPES),
    *((architecture, "scalar") for architecture in ("llama", "gpt2", "vit")),
]


@pytest.mark.parametrize(("architecture", "name"), CASES)
def test_equals_the_merged_file_bit_for_bit(bases, tmp_path, options, architecture, name):
    """Held or read from disk; and again, by the direction that was kept."""
    base = bases(architecture)
    adapters = adapters_on(base, tmp_path, architecture, use_dora=architecture == "llama")
    raw = RECIPES[name](base, adapters)
    file = read(merged(raw, tmp_path / "out", options))
    for room in (0, None, None):
        composed = dict(Composer(room=room).compose(recipe(raw), reuse_direction=True))
        assert composed.keys() == file.keys()
        assert all(same_bits(composed[key], file[key]) for key in file)


@pytest.mark.parametrize(
    ("architecture", "method"), [("llama", "ties"), ("bert", "task_arithmetic")]
)
@pytest.mark.filterwarnings("ignore")  # of transformers and peft about each other
def test_methods_of_mergekit_equal_the_merged_file(bases, tmp_path, options, architecture, method):
    """peft merges an adapter in other steps than we do: what it has merged is held, as far as it
    differs from the base."""
    base = bases(architecture)
    adapters = adapters_on(base, tmp_path / "a", architecture)
    raw = stock(base, adapters) | {"merge_method": method}
    if method == "ties":
        raw["parameters"] = {"density": 0.6}
    file, composer = read(merged(raw, tmp_path / "out", options)), Composer()
    composed = dict(composer.compose(recipe(raw)))
    assert composed.keys() == file.keys()
    assert all(same_bits(composed[key], file[key]) for key in file)
    held = composer.tensors(str(base))
    for found in composer._merged_by_peft.values():
        others = [name for name, tensor in found.items() if tensor is not held[name]]
        assert 0 < len(others) < len(found) / 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]


def test_slices_that_cut_rows(tmp_path, options):
    """More elements than a slice has, in rows that it does not hold a whole number of."""
    base = write_text(tmp_path / "base", "bert", num_hidden_layers=1, intermediate_size=9000)
    adapter = make_adapter(base, tmp_path / "a", seed=1, targets=["dense"])
    (wide,) = (info for name, info in read(base).items() if name.endswith("0.output.dense.weight"))
    assert wide.numel() > SLICE
    assert SLICE % wide.shape[1]
    raw = addition(base, {"Female": adapter}, lambda_=0.7)
    file, composer = read(merged(raw, tmp_path / "out", options)), Composer()
    for _ in range(2):
        composed = dict(composer.compose(recipe(raw), reuse_direction=True))
        assert all(same_bits(composed[key], file[key]) for key in file)


def test_what_no_adapter_changes_is_the_base_itself(bert, tmp_path, options):
    """To the bit, −0.0 too, on disk and in memory: nothing is computed, kept or copied there."""
    base, adapters = bert
    raw = addition(base, adapters)
    start, file = read(base), read(merged(raw, tmp_path / "out", options))
    changed = {key for key in start if "query" in key or "value" in key or "classifier" in key}
    changed -= {key for key in start if key.endswith(("query.bias", "value.bias"))}
    composer = Composer()
    found = dict(composer.compose(recipe(raw), reuse_direction=True))
    held = composer.tensors(str(base))
    for name in start:
        assert same_bits(file[name], start[name]) is (name not in changed), name
        assert (found[name] is held[name]) is (name not in changed), name
    assert composer._kept is not None
    assert composer._kept[2] == 8 * sum(start[name].numel() for name in changed)


def test_one_base_is_held_and_no_second_model(bert):
    """Bytes of every storage that is there after composing over three adapters, and not before."""
    base, adapters = bert
    before = storages()
    composer = Composer()
    for lambda_ in (0.3, 0.6):
        for _ in composer.compose(recipe(addition(base, adapters, lambda_=lambda_))):
            pass
    gc.collect()
    held = sum(size for place, size in storages().items() if place not in before)
    whole = open_folder(base)
    one = sum(info.count * SIZES[info.dtype] for info in whole.tensors.values())
    whole.close()
    files = sum((path / "adapter_model.safetensors").stat().st_size for path in adapters.values())
    # The plan and the composer hold A and B each; a reader its last slice.
    assert one < held < one + 3 * files, (one, held, files)
    assert len(adapters) * one > held


def storages():
    """Where every storage of a tensor lies → bytes."""
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    found = (tensor.untyped_storage() for tensor in tensors if tensor.device.type == "cpu")
    return {each.data_ptr(): each.nbytes() for each in found}


def test_the_random_control_of_an_adapter_moves_what_it_moves(bert):
    """As far, also where the base's dtype is too short for θ − θ₀; the rest is the base's own."""
    base, adapters = bert
    composer = Composer(base=str(base))
    start, trained = composer.tensors(str(base)), composer.tensors(str(adapters["Male"]))
    control = RandomControl(start, trained, seed=1, name="Male")
    for name in start:
        if name in trained.changed:
            moved, noise = trained[name] - start[name], control[name] - start[name]
            torch.testing.assert_close(noise.norm(), moved.norm(), rtol=1e-4, atol=0)
        else:
            assert control[name] is start[name]


@pytest.mark.parametrize("spelled", ["relative", "absolute", "link"])
def test_however_its_base_is_spelled_an_adapter_is_one_model(bert, tmp_path, monkeypatch, spelled):
    """What stands for it is found, and the base is held once."""
    base, adapters = bert
    monkeypatch.chdir(base.parent)
    (tmp_path / "link").symlink_to(base)
    path = {"relative": f"./{base.name}", "absolute": base, "link": tmp_path / "link"}[spelled]
    named = f"{path}+{adapters['Male']}"
    raw = addition(base.name, {"Male": named}, lambda_=1.0)
    composer = Composer(base=base.name)
    composer.replace(named, start := composer.tensors(base.name))
    made = dict(composer.compose(recipe(raw)))
    assert all(torch.equal(made[name], start[name]) for name in start)
    assert [name for name in composer._checkpoints._models if "+" not in name] == [f"./{base.name}"]


def test_a_base_that_is_an_adapter(bert):
    base, adapters = bert
    first, *others = adapters.values()
    raw = addition(f"{base}+{first}", {"Male": f"{base}+{others[0]}"})
    with raises(RecipeError, where="r.yml", got=f"{base}+{first}", fix="merge it into its base"):
        list(Composer().compose(recipe(raw)))
