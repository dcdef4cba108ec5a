"""Merges of adapters equal float64 arithmetic on what peft merges, as models and as an adapter."""

import json
import shutil
import warnings

import pytest
import torch
import yaml
from adapters import HEADS, TARGETS, edit_config, edit_weights, gpt2, make_adapter, merged_by_peft
from checkpoints import read, rewrite
from mergekit.options import MergeOptions

from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.merging.in_memory import Composer
from mergekit_fair.merging.model_files import verify
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.schema import dump_yaml

WEIGHTS = {"Female": 1.0, "Male": -0.5, "Other": 2.0}
HEAD = "base_model.model.classifier.weight"
WHOLE = "Merge it to a whole model, without --adapter."


@pytest.fixture(scope="module")
def bases(tiny, tmp_path_factory):
    folder = gpt2(tmp_path_factory.mktemp("gpt2") / "base")
    return lambda architecture: folder if architecture == "gpt2" else tiny(architecture).base


@pytest.fixture(scope="module")
def bert(tiny, tmp_path_factory):
    """The base and three adapters on it; read only."""
    base = tiny("bert").base
    return base, adapters_on(base, tmp_path_factory.mktemp("adapters"), "bert")


@pytest.fixture
def mine(bert, tmp_path):
    """The same adapters, to be changed."""
    base, adapters = bert
    return base, {
        name: shutil.copytree(path, tmp_path / "mine" / name) for name, path in adapters.items()
    }


def adapters_on(base, folder, architecture, **settings):
    how = {"targets": TARGETS[architecture], "modules_to_save": HEADS[architecture]} | settings
    return {
        name: make_adapter(base, folder / name, seed=index, **how)
        for index, name in enumerate(WEIGHTS)
    }


def addition(base, adapters, *, lambda_=0.3, **more):
    """As subgroup_task_addition over adapter folders."""
    models = [
        {"model": str(path), "parameters": {"group": name, "weight": WEIGHTS[name]}}
        for name, path in adapters.items()
    ]
    return {
        "merge_method": "subgroup_task_addition",
        "base_model": str(base),
        "models": models,
        "parameters": {"lambda": lambda_},
        "dtype": "float32",
    } | more


def merged(raw, out, options, **settings):
    merge_to_folder(Recipe.from_mapping(raw, "r.yml"), out, options, MergeSettings(**settings))
    return out


def refused(raw, out, options, error, **settings):
    """The message; asserts that nothing was left beside `out`."""
    before = sorted(path.name for path in out.parent.iterdir())
    with pytest.raises(error) as caught:
        merged(raw, out, options, **settings)
    assert sorted(path.name for path in out.parent.iterdir()) == before
    return str(caught.value)


def added(base, adapters, scale=0.3, thetas=None):
    """θ₀ + λ Σ w (θ − θ₀) in float64, with θ by peft."""
    start = {name: tensor.double() for name, tensor in read(base).items()}
    thetas = thetas or {group: merged_by_peft(base, path) for group, path in adapters.items()}
    return {
        name: tensor + scale * sum(WEIGHTS[g] * (thetas[g][name] - tensor) for g in thetas)
        for name, tensor in start.items()
    }


def is_close(found, exact, rtol=2.0**-23, atol=1e-9):
    assert found.keys() == exact.keys()
    for name, tensor in exact.items():
        torch.testing.assert_close(found[name].double(), tensor.double(), rtol=rtol, atol=atol)
    return True


def equal(left, right):
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("architecture", TARGETS)
def test_addition_of_adapters(bases, tmp_path, options, architecture):
    base = bases(architecture)
    adapters = adapters_on(base, tmp_path, architecture)
    out = merged(addition(base, adapters), tmp_path / "out", options)
    assert is_close(read(out), added(base, adapters))
    assert {tensor.dtype for tensor in read(out).values()} == {torch.float32}


@pytest.mark.parametrize("architecture", TARGETS)
def test_adapters_to_an_adapter(bases, tmp_path, options, architecture):
    """What peft makes of the merged adapter is the merge to a whole model."""
    base = bases(architecture)
    adapters = adapters_on(base, tmp_path, architecture, use_rslora=True)
    raw = addition(base, adapters)
    whole = read(merged(raw, tmp_path / "whole", options))
    out = merged(raw, tmp_path / "out", options, as_adapter=True)
    found = merged_by_peft(base, out, torch.float32)
    assert is_close(found, whole, rtol=0, atol=2.0**-23 * 2)
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (12, 12, False)
    assert config["base_model_name_or_path"] == str(base)
    again = raw | {"models": [{"model": str(out), "parameters": {"group": "all"}}]}
    again["parameters"] = {"lambda": 1.0}
    assert is_close(read(merged(again, tmp_path / "again", options)), whole, rtol=0, atol=2.0**-22)


def test_the_folder_of_an_adapter(bert, tmp_path, options):
    base, adapters = bert
    text = "# mine\n" + dump_yaml(addition(base, adapters))
    out = tmp_path / "out"
    merge_to_folder(Recipe.from_text(text, "r.yml"), out, options, MergeSettings(as_adapter=True))
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "merge_manifest.json",
        "mergekit_config.yml",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (out / "mergekit_config.yml").read_text(encoding="utf-8") == text
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "library_name: peft\n" in card
    assert f"* {base} + {adapters['Male']}\n" in card
    manifest = verify(out)
    assert manifest["output"] == "adapter"
    assert set(manifest["inputs"][f"{base}+{adapters['Male']}"]["files"]) == {
        "model.safetensors",
        "adapter_model.safetensors",
        "adapter_config.json",
    }


def test_gradients_and_filters_in_an_adapter(bert, tmp_path, options):
    base, adapters = bert
    setting = [{"filter": "value", "value": [0.0, 1.0]}, {"filter": "classifier", "value": 0.25}]
    raw = addition(base, adapters, lambda_=[*setting, {"value": 0.5}])
    raw["models"][0]["parameters"]["weight"] = [{"filter": "query", "value": 0.0}, {"value": 1.0}]
    whole = read(merged(raw, tmp_path / "whole", options))
    out = merged(raw, tmp_path / "out", options, as_adapter=True)
    assert is_close(merged_by_peft(base, out, torch.float32), whole, rtol=0, atol=2.0**-22)
    name = "bert.encoder.layer.0.attention.self.value.weight"
    assert torch.equal(whole[name], read(base)[name])


def test_injection_of_adapters_into_an_adapter(bert, tmp_path, options):
    """θ_target + λ Δ_worst: the target's update enters with 1."""
    base, adapters = bert
    target, *others = adapters.values()
    raw = {
        "merge_method": "worst_group_injection",
        "base_model": str(base),
        "models": [
            {"model": str(target), "parameters": {"role": "target"}},
            *(
                {"model": str(path), "parameters": {"role": "candidate", "group": path.name}}
                for path in others
            ),
        ],
        "parameters": {"lambda": 0.4, "worst": "Male"},
        "dtype": "float32",
    }
    out = merged(raw, tmp_path / "out", options, as_adapter=True)
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 8  # Other does not enter
    whole = read(merged(raw, tmp_path / "whole", options))
    assert is_close(merged_by_peft(base, out, torch.float32), whole, rtol=0, atol=2.0**-22)
    start, first = read(base), merged_by_peft(base, target)
    worst = merged_by_peft(base, adapters["Male"])
    exact = {name: first[name] + 0.4 * (worst[name] - start[name].double()) for name in start}
    assert is_close(whole, exact)


def test_policies_for_the_head(bert, tmp_path, options):
    base, adapters = bert
    for policy, expected in (("base", base), ("first", None)):
        raw = addition(base, adapters)
        raw["parameters"]["head"] = policy
        out = merged(raw, tmp_path / policy, options, as_adapter=True)
        wanted = read(expected) if expected else merged_by_peft(base, adapters["Female"])
        name = "classifier.weight"
        found = merged_by_peft(base, out, torch.float32)
        assert torch.equal(found[name], wanted[name].float())


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
    exact = added(low, adapters, thetas=thetas)
    rounded = {
        group: {name: tensor.bfloat16().double() for name, tensor in theta.items()}
        for group, theta in thetas.items()
    }
    other = added(low, adapters, thetas=rounded)
    kind = torch.bfloat16 if dtype is None else torch.float32
    assert {tensor.dtype for tensor in found.values()} == {kind}
    assert equal(found, {name: tensor.float().to(kind) for name, tensor in exact.items()})
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
    text = refused(raw, tmp_path / "adapter", options, RecipeError, as_adapter=True)
    assert f"allowed: adapters over base_model ({base}+{first})" in text


def test_norms_of_adapters(mine, tmp_path, options):
    """`normalize: norm` and `cclip` see the task vectors; a retrained adapter is measured again."""
    base, adapters = mine
    thetas = {group: merged_by_peft(base, path) for group, path in adapters.items()}
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
    clipped = merged(raw, tmp_path / "clipped", options, as_adapter=True)
    whole = read(merged(raw, tmp_path / "whole", options))
    assert is_close(merged_by_peft(base, clipped, torch.float32), whole, rtol=0, atol=2.0**-22)
    moved = sum(float(((whole[n].double() - start[n]) ** 2).sum()) for n in start) ** 0.5
    assert 0 < moved < 0.3 * 0.5 * 3.5


def test_an_adapter_that_is_trained_again_at_the_same_path(mine, tmp_path, options):
    base, adapters = mine
    raw = addition(base, adapters)
    merged(raw, tmp_path / "first", options)
    make_adapter(
        base, adapters["Male"], seed=99, targets=TARGETS["bert"], modules_to_save=HEADS["bert"]
    )
    assert is_close(read(merged(raw, tmp_path / "second", options)), added(base, adapters))
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
    assert is_close(read(out), added(base, {"Male": adapters["Male"]}))


def test_an_adapter_without_a_base_in_the_recipe(bert, tmp_path, options):
    base, adapters = bert
    male = adapters["Male"]
    raw = {
        "merge_method": "linear",
        "models": [{"model": str(male), "parameters": {"weight": 1.0}}],
    }
    assert refused(raw, tmp_path / "out", options, RecipeError) == (
        f"r.yml: model {male}: is a LoRA adapter, and base_model is not a model that it can be put "
        f"on. Write BASE+{male}, with the model that it was trained on."
    )
    for other in (f"{base}+{male}", str(male)):
        raw = addition(other, {"Female": adapters["Female"]})
        text = refused(raw, tmp_path / "out", options, RecipeError)
        assert f"base_model is not a model that it can be put on; got '{other}'" in text


def test_adapters_that_are_refused(mine, tmp_path, options):
    base, adapters = mine
    edit_config(adapters["Male"], use_dora=True)
    assert refused(addition(base, adapters), tmp_path / "out", options, CheckpointError) == (
        f"{adapters['Male']}: is more than plain LoRA: its adapter_config.json sets use_dora; got "
        "True. Merge it with peft first, PeftModel.from_pretrained(base, adapter)"
        ".merge_and_unload(), and give the folder of the saved result."
    )
    edit_config(adapters["Male"], use_dora=False)
    edit_weights(adapters["Male"], lambda found: found[HEAD].fill_(float("nan")))
    assert refused(addition(base, adapters), tmp_path / "out", options, CheckpointError) == (
        f"{base}+{adapters['Male']}: tensor classifier.weight has NaN or Inf, first at element 0. "
        "Train or convert the model again."
    )


def test_heads_of_adapters_that_were_made_at_random(mine, tmp_path, options):
    base, adapters = mine
    head = torch.randn(2, 32, generator=torch.Generator().manual_seed(5))
    edit_weights(adapters["Male"], lambda found: found.update({HEAD: head}))
    text = refused(addition(base, adapters), tmp_path / "out", options, RecipeError)
    assert text.startswith(
        f"r.yml: the classification head of {base}+{adapters['Male']} is unrelated to the base's "
        f"({base}): their cosine is "
    )


def test_an_adapter_named_where_a_model_is_needed(bert):
    base, adapters = bert
    with pytest.raises(CheckpointError) as caught:
        Composer().tensors(str(adapters["Male"]))
    assert str(caught.value) == (
        f"{adapters['Male']}: is a LoRA adapter, without weights of its own. Name it as "
        "base+adapter, or as a model of a recipe over its base."
    )
    recipe = Recipe.from_mapping(addition(base, {"Male": adapters["Male"]}), "r.yml")
    with pytest.raises(RecipeError) as refusal:
        list(Composer().compose(recipe))
    assert str(refusal.value) == (
        f"r.yml: LoRA adapters are not composed in memory; got ['{base}+{adapters['Male']}']. "
        "Merge each into its base first, or merge the recipe to a folder."
    )


def no_adapter(raw, tmp_path, options, **settings):
    return refused(raw, tmp_path / "out", options, RecipeError, as_adapter=True, **settings)


def test_what_cannot_be_an_adapter(bert, tiny, tmp_path, options):
    base, adapters = bert
    begin = "r.yml: cannot be merged to an adapter"
    raw = addition(base, adapters)
    assert no_adapter(raw, tmp_path, options, lambdas=(0.1, 0.2)) == (
        f"{begin}; got [0.1, 0.2]; allowed: one λ, that of the recipe. {WHOLE}"
    )
    stock = stock_recipe(base, adapters)
    assert no_adapter(stock, tmp_path, options) == (
        f"{begin}; got 'task_arithmetic'; allowed: methods of mergekit-fair, tensor by tensor. "
        f"{WHOLE}"
    )
    assert no_adapter(addition(base, adapters, lambda_=0.0), tmp_path, options) == (
        f"{begin}; allowed: a recipe that adds something to base_model. {WHOLE}"
    )
    median = addition(base, adapters) | {"merge_method": "task_median"}
    assert no_adapter(median, tmp_path, options) == (
        f"{begin}; got {{'task_median': 'bert.encoder.layer.0.attention.self.query.weight'}}; "
        f"allowed: weighted sums of whole task vectors. {WHOLE}"
    )
    whole = addition(base, {**adapters, "Other": tiny("bert").groups["Other"]})
    assert no_adapter(whole, tmp_path, options) == (
        f"{begin}; got '{tiny('bert').groups['Other']}'; allowed: adapters over base_model "
        f"({base}). {WHOLE}"
    )
    large = addition(base, adapters, lambda_=1e39)
    large["parameters"]["head"] = "base"
    assert no_adapter(large, tmp_path, options) == (
        f"{begin}; got 'bert.encoder.layer.0.attention.self.query.weight'; allowed: numbers that "
        f"float32 holds. {WHOLE}"
    )


def test_adapters_that_differ_cannot_be_one(bert, tmp_path, options):
    base, adapters = bert
    begin = "r.yml: cannot be merged to an adapter"
    first = f"{base}+{adapters['Female']}"

    def with_male(**settings):
        how = {"targets": TARGETS["bert"], "modules_to_save": HEADS["bert"]} | settings
        shutil.rmtree(tmp_path / "male", ignore_errors=True)
        male = make_adapter(base, tmp_path / "male", seed=1, **how)
        return addition(base, {"Female": adapters["Female"], "Male": male})

    male = f"{base}+{tmp_path / 'male'}"
    assert no_adapter(with_male(r=2), tmp_path, options) == (
        f"{begin}; got {{'{male}': [2]}}; allowed: adapters of rank 4, as {first}. {WHOLE}"
    )
    key = "bert.encoder.layer.{}.attention.self.key.weight"
    assert no_adapter(with_male(targets=["query", "value", "key"]), tmp_path, options) == (
        f"{begin}; got {{'{male}': ['{key.format(0)}', '{key.format(1)}']}}; allowed: adapters of "
        f"the tensors that {first} adapts. {WHOLE}"
    )
    assert no_adapter(with_male(modules_to_save=None), tmp_path, options) == (
        f"{begin}; got {{'{male}': ['classifier.bias', 'classifier.weight']}}; allowed: adapters "
        f"of the tensors that {first} adapts. {WHOLE}"
    )
    raw = with_male(rank_pattern={"query": 2})
    raw["models"] = raw["models"][1:]
    assert no_adapter(raw, tmp_path, options) == (
        f"{begin}; got {{'{male}': [2, 4]}}; allowed: adapters of one rank. {WHOLE}"
    )


def stock_recipe(base, adapters, method="task_arithmetic"):
    models = [
        {"model": str(path), "parameters": {"weight": WEIGHTS[name]}}
        for name, path in adapters.items()
    ]
    return {
        "merge_method": method,
        "base_model": str(base),
        "models": models,
        "parameters": {"lambda": 0.3},
        "dtype": "float32",
    }


@pytest.fixture
def calm():
    """mergekit loads models with arguments that transformers and peft comment upon."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "vit"])
def test_methods_of_mergekit(bases, tmp_path, options, architecture):
    """Also where mergekit does not know all tensors (ViT); nothing stays beside the output."""
    base = bases(architecture)
    adapters = adapters_on(base, tmp_path / "a", architecture)
    found = read(merged(stock_recipe(base, adapters), tmp_path / "out", options))
    assert is_close(found, added(base, adapters), rtol=0, atol=2e-7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]


@pytest.mark.usefixtures("calm")
def test_the_cache_of_mergekit_is_kept_by_content(mine, tmp_path):
    base, adapters = mine
    cache = tmp_path / "cache"
    options = MergeOptions(quiet=True, lora_merge_cache=str(cache))
    raw = stock_recipe(base, adapters)
    first = read(merged(raw, tmp_path / "first", options))
    (kept,) = cache.iterdir()
    assert len(kept.name) == 64
    assert len(list(kept.iterdir())) == 3
    state = {path: path.stat().st_mtime_ns for path in kept.rglob("*")}
    assert equal(read(merged(raw, tmp_path / "second", options)), first)
    assert state == {path: path.stat().st_mtime_ns for path in kept.rglob("*")}
    edit_weights(adapters["Male"], lambda found: found[HEAD].add_(1.0))
    third = read(merged(raw, tmp_path / "third", options))
    change = third["classifier.weight"] - first["classifier.weight"]
    torch.testing.assert_close(change, torch.full_like(change, -0.15), rtol=0, atol=1e-6)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.usefixtures("calm")
def test_a_half_cache_is_not_used(mine, tmp_path, monkeypatch):
    from mergekit.common import ModelReference

    base, adapters = mine
    cache = tmp_path / "cache"
    options = MergeOptions(quiet=True, lora_merge_cache=str(cache))
    raw = stock_recipe(base, adapters)
    real, calls = ModelReference.merged, []

    def killed(self, cache_dir=None, **settings):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, cache_dir=cache_dir, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(ModelReference, "merged", killed)
        with pytest.raises(KeyboardInterrupt):
            merged(raw, tmp_path / "out", options)
    assert not list(cache.glob("*"))
    assert is_close(
        read(merged(raw, tmp_path / "out", options)), added(base, adapters), rtol=0, atol=2e-7
    )


@pytest.mark.usefixtures("calm")
def test_adapters_that_peft_cannot_merge(mine, tmp_path, options):
    base, adapters = mine
    male = adapters["Male"]
    raw = stock_recipe(base, {"Male": male})
    edit_weights(
        male, lambda found: found.update({k: v[:1] for k, v in found.items() if "A." in k})
    )
    text = refused(raw, tmp_path / "out", options, CheckpointError)
    assert text.startswith(f"{base}+{male}: peft cannot merge the adapter into its base (")
    assert text.endswith("). Give the base that it was trained on.")
    edit_weights(male, lambda found: [found.pop(key) for key in list(found) if "lora_" in key])
    text = refused(raw, tmp_path / "out", options, CheckpointError)
    assert "Found missing adapter keys" in text
    raw["models"][0]["model"] = f"{base}+{tmp_path / 'nothing'}"
    assert refused(raw, tmp_path / "out", options, CheckpointError) == (
        f"{tmp_path / 'nothing'}: no such model folder."
    )
    raw["models"][0]["model"] = f"{base}+{base}"
    text = refused(raw, tmp_path / "out", options, CheckpointError)
    assert text.startswith(f"{base}: holds no adapter_config.json; got [")


def test_on_the_command_line(bert, tmp_path):
    from click.testing import CliRunner

    from mergekit_fair.cli import main

    base, adapters = bert
    recipe, out = tmp_path / "r.yml", tmp_path / "out"
    recipe.write_text(dump_yaml(addition(base, adapters)))
    found = CliRunner().invoke(main, ["merge", "--adapter", str(recipe), str(out), "--quiet"])
    assert found.exit_code == 0, found.output
    assert (out / "adapter_model.safetensors").is_file()
    assert not (out / "model.safetensors").exists()
