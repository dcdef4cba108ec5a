"""Merges of adapters to a whole model equal float64 arithmetic on what peft merges."""

import shutil

import pytest
import torch
import yaml
from adapters import (
    HEADS,
    TARGETS,
    WEIGHTS,
    adapters_on,
    added,
    addition,
    edit_config,
    edit_weights,
    is_close,
    make_adapter,
    merged,
    merged_by_peft,
)
from checkpoints import read, rewrite
from refusals import raises
from safetensors.torch import load_file

from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.merging.in_memory import Composer
from mergekit_fair.merging.manifest import verify
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.schema import dump_yaml

HEAD = "base_model.model.classifier.weight"


def by_peft(base, adapters):
    return {group: merged_by_peft(base, path) for group, path in adapters.items()}


def refused(raw, out, options, kind, *shows, **fields):
    """Asserts also that nothing was left beside `out`."""
    before = sorted(path.name for path in out.parent.iterdir())
    with raises(kind, *shows, **fields):
        merged(raw, out, options)
    assert sorted(path.name for path in out.parent.iterdir()) == before


@pytest.mark.parametrize("architecture", TARGETS)
def test_addition_of_adapters(bases, tmp_path, options, architecture):
    base = bases(architecture)
    adapters = adapters_on(base, tmp_path, architecture)
    out = merged(addition(base, adapters), tmp_path / "out", options)
    assert is_close(read(out), added(base, by_peft(base, adapters)))
    assert {tensor.dtype for tensor in read(out).values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_a_bfloat16_base_does_not_round_the_adapters(bert, tmp_path, options, dtype):
    """θ = W + sBA enters in float64; rounded to bfloat16 first, it would give another result."""
    base, _ = bert
    low = shutil.copytree(base, tmp_path / "low")
    rewrite(low, lambda found: found.update({k: v.bfloat16() for k, v in found.items()}))
    adapters = adapters_on(low, tmp_path / "a", "bert", r=2, lora_alpha=1)
    found = read(merged(addition(low, adapters, dtype=dtype), tmp_path / "out", options))
    start = read(low)
    thetas = {name: dense(start, path) for name, path in adapters.items()}
    exact = added(low, thetas)
    rounded = {
        group: {name: tensor.bfloat16().double() for name, tensor in theta.items()}
        for group, theta in thetas.items()
    }
    other = added(low, rounded)
    kind = torch.bfloat16 if dtype is None else torch.float32
    assert {tensor.dtype for tensor in found.values()} == {kind}
    expected = {name: tensor.float().to(kind) for name, tensor in exact.items()}
    assert is_close(found, expected, rtol=0, atol=0)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(found[name], other[name].float().to(kind))


def dense(start, adapter):
    """W + 1/2 BA and the saved head in float64; the adapter is of rank 2 and alpha 1."""
    from safetensors.torch import load_file

    found = {name: tensor.double() for name, tensor in start.items()}
    parts = load_file(adapter / "adapter_model.safetensors")
    for key, tensor in parts.items():
        name = key.removeprefix("base_model.model.")
        if name.endswith(".lora_A.weight"):
            b = parts[key.replace("lora_A", "lora_B")].double()
            found[name.replace("lora_A.", "")] += 0.5 * (b @ tensor.double())
        elif ".lora_" not in name:
            found[name] = tensor.double()
    return found


def test_a_dtype_that_is_narrower_than_the_base_rounds_its_inputs(bert, tmp_path, options):
    """As for whole models, and as in mergekit."""
    base, adapters = bert
    raw = addition(base, adapters, dtype="bfloat16", out_dtype="float32")
    found = read(merged(raw, tmp_path / "out", options))
    low = {name: tensor.bfloat16().double() for name, tensor in read(base).items()}
    thetas = {
        group: {k: v.bfloat16().double() for k, v in merged_by_peft(base, path).items()}
        for group, path in adapters.items()
    }
    for name, tensor in low.items():
        vectors = sum(WEIGHTS[group] * (theta[name] - tensor) for group, theta in thetas.items())
        exact = (tensor + 0.3 * vectors).float().bfloat16().float()
        torch.testing.assert_close(found[name], exact, rtol=2.0**-8, atol=0)
        assert float((found[name] != exact).double().mean()) < 0.01


def test_an_adapter_on_the_base_itself(bert, tmp_path, options):
    """`base_model: base+adapter`: the task vectors begin at the adapted base."""
    base, adapters = bert
    first, second = adapters["Female"], adapters["Male"]
    raw = addition(f"{base}+{first}", {"Male": f"{base}+{second}"}, lambda_=0.4)
    found = read(merged(raw, tmp_path / "out", options))
    start, end = merged_by_peft(base, first), merged_by_peft(base, second)
    exact = {name: start[name] - 0.2 * (end[name] - start[name]) for name in start}
    assert is_close(found, exact)


def test_norms_of_adapters(mine, tmp_path, options):
    """`normalize: norm` and `cclip` see the task vectors; a retrained adapter is measured again."""
    base, adapters = mine
    thetas = by_peft(base, adapters)
    raw = addition(base, adapters)
    raw["parameters"]["normalize"] = "norm"
    file = tmp_path / "recipe.yml"
    file.write_text(dump_yaml(raw))
    merge_to_folder(Recipe.load(file), tmp_path / "out", options)
    start = {name: tensor.double() for name, tensor in read(base).items()}
    norms = {
        f"{base}+{adapters[group]}": sum(
            float(((theta[name] - start[name]) ** 2).sum()) for name in start
        )
        ** 0.5
        for group, theta in thetas.items()
    }
    assert verify(tmp_path / "out")["norms"] == pytest.approx(norms, rel=1e-6)
    edit_config(adapters["Male"], lora_alpha=12)
    merge_to_folder(Recipe.load(file), tmp_path / "out", options, MergeSettings(overwrite=True))
    second = verify(tmp_path / "out")["norms"]
    changed = {name for name in second if second[name] != pytest.approx(norms[name], rel=1e-6)}
    assert changed == {f"{base}+{adapters['Male']}"}
    raw["parameters"] = {"lambda": 0.3, "rho": 0.5}
    raw["merge_method"] = "cclip"
    whole = read(merged(raw, tmp_path / "whole", options))
    moved = sum(float(((whole[n].double() - start[n]) ** 2).sum()) for n in start) ** 0.5
    assert 0 < moved < 0.3 * 0.5 * 3.5


def test_an_adapter_that_is_trained_again_at_the_same_path(mine, tmp_path, options):
    base, adapters = mine
    raw = addition(base, adapters)
    merged(raw, tmp_path / "first", options)
    make_adapter(
        base, adapters["Male"], seed=99, targets=TARGETS["bert"], modules_to_save=HEADS["bert"]
    )
    assert is_close(
        read(merged(raw, tmp_path / "second", options)), added(base, by_peft(base, adapters))
    )
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(read(tmp_path / "first")[name], read(tmp_path / "second")[name])


def test_relative_paths_and_the_text_for_mergekit(bert, tmp_path, options, monkeypatch):
    base, adapters = bert
    shutil.copytree(base, tmp_path / "models" / "base")
    shutil.copytree(adapters["Male"], tmp_path / "models" / "male")
    edit_config(tmp_path / "models" / "male", base_model_name_or_path="models/base")
    monkeypatch.chdir(tmp_path)
    raw = addition("models/base", {"Male": "models/male"})
    recipe = Recipe.from_mapping(raw, "r.yml")
    models = [str(model) for model in recipe.configuration().referenced_models()]
    assert models == ["./models/base", "./models/base+./models/male"]
    assert yaml.safe_load(recipe.text())["models"][0]["model"] == models[1]
    assert recipe.groups() == {"Male": "models/male"}
    out = merged(raw, tmp_path / "out", options)
    assert is_close(read(out), added(base, by_peft(base, {"Male": adapters["Male"]})))


@pytest.mark.parametrize(
    "settings",
    [{"use_dora": True}, {"bias": "lora_only"}, {"trainable_token_indices": [3, 8]}],
    ids=lambda settings: "-".join(settings),
)
def test_adapters_that_are_more_than_plain_lora(bert, tmp_path, options, settings):
    base, _ = bert
    adapters = adapters_on(base, tmp_path / "a", "bert", **settings)
    out = merged(addition(base, adapters), tmp_path / "out", options)
    assert is_close(read(out), added(base, by_peft(base, adapters)))


def test_pickled_adapters(mine, tmp_path, options):
    base, adapters = mine
    expected = read(merged(addition(base, adapters), tmp_path / "first", options))
    for path in adapters.values():
        file = path / "adapter_model.safetensors"
        torch.save(load_file(file), path / "adapter_model.bin")
        file.unlink()
    raw = addition(base, adapters)
    kind, fix = CheckpointError, "--allow-pickle"
    refused(raw, tmp_path / "out", options, kind, where=adapters["Female"], fix=fix)
    found = read(merged(raw, tmp_path / "out", options, allow_pickle=True))
    assert is_close(found, expected, rtol=0, atol=0)


def test_adapters_in_the_cache_of_the_hub(bert, tmp_path, options, monkeypatch):
    """Offline; alone, as the folder of an adapter, or with the base."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    base, adapters = bert
    named = {"Female": "org/women", "Male": "org/men"}
    for group, name in {**named, "base": "org/base"}.items():
        folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        shutil.copytree(adapters.get(group, base), folder / "snapshots" / ("a" * 40))
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("a" * 40)
    raw = addition("org/base", {"Female": "org/women", "Male": "org/base+org/men"})
    models = Recipe.from_mapping(raw, "r.yml").configuration().referenced_models()
    assert [str(model) for model in models] == [
        "org/base",
        "org/base+org/women",
        "org/base+org/men",
    ]
    found = read(merged(raw, tmp_path / "out", options))
    exact = added(base, by_peft(base, {group: adapters[group] for group in named}))
    assert is_close(found, exact)


def test_an_adapter_without_a_base_in_the_recipe(bert, tmp_path, options):
    base, adapters = bert
    male, out = adapters["Male"], tmp_path / "out"
    models = [{"model": str(male), "parameters": {"weight": 1.0}}]
    raw = {"merge_method": "linear", "models": models}
    refused(raw, out, options, RecipeError, where=f"model {male}", fix=f"write BASE+{male}")
    for other in (f"{base}+{male}", str(male)):
        raw = addition(other, {"Female": adapters["Female"]})
        refused(raw, out, options, RecipeError, "base_model", got=other)


def test_adapters_that_are_refused(mine, tmp_path, options):
    base, adapters = mine
    male, out, raw = adapters["Male"], tmp_path / "out", addition(base, adapters)
    edit_config(male, layer_replication=[[0, 1]])
    refused(raw, out, options, CheckpointError, "layer_replication", where=male)
    edit_config(male, layer_replication=None)
    edit_weights(male, lambda found: found[HEAD].fill_(float("nan")))
    refused(raw, out, options, CheckpointError, "classifier.weight", where=f"{base}+{male}")


def test_heads_of_adapters_that_were_made_at_random(mine, tmp_path, options):
    base, adapters = mine
    head = torch.randn(2, 32, generator=torch.Generator().manual_seed(5))
    edit_weights(adapters["Male"], lambda found: found.update({HEAD: head}))
    raw, model = addition(base, adapters), f"{base}+{adapters['Male']}"
    refused(raw, tmp_path / "out", options, RecipeError, model, "cosine", where="r.yml")


def test_an_adapter_named_where_a_model_is_needed(bert):
    """Without a base it is no model."""
    _, adapters = bert
    with raises(CheckpointError, where=adapters["Male"], fix="merge it into its base first"):
        Composer().tensors(str(adapters["Male"]))
