"""Adapters in recipes that mergekit runs: peft merges them first, and is watched."""

import shutil
import warnings

import pytest
import torch
from adapters import (
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
    stock,
    tied_llama,
)
from checkpoints import read
from click.testing import CliRunner
from mergekit.options import MergeOptions
from refusals import raises
from safetensors.torch import load_file

from mergekit_fair.cli import main
from mergekit_fair.compat.mergekit import forget_models
from mergekit_fair.errors import CheckpointError
from mergekit_fair.schema import dump_yaml

HEAD = "base_model.model.classifier.weight"
pytestmark = pytest.mark.usefixtures("_calm")
# mergekit multiplies and adds in float32.
ROUNDED = {"rtol": 0, "atol": 2e-7}


@pytest.fixture
def _calm():
    """mergekit loads models with arguments that transformers and peft comment upon."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def by_peft(base, adapters):
    return {group: merged_by_peft(base, path) for group, path in adapters.items()}


def refused(raw, out, options, *shows, **fields):
    """Asserts also that nothing was left beside `out`."""
    before = sorted(path.name for path in out.parent.iterdir())
    with raises(CheckpointError, *shows, **fields):
        merged(raw, out, options)
    assert sorted(path.name for path in out.parent.iterdir()) == before


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "vit"])
def test_methods_of_mergekit(bases, tmp_path, options, architecture):
    """Also where mergekit does not know all tensors (ViT); nothing stays beside the output."""
    base = bases(architecture)
    adapters = adapters_on(base, tmp_path / "a", architecture)
    found = read(merged(stock(base, adapters), tmp_path / "out", options))
    assert is_close(found, added(base, by_peft(base, adapters)), **ROUNDED)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]


@pytest.mark.parametrize(
    "settings",
    [{"use_dora": True}, {"bias": "all"}, {"lora_bias": True}, {"trainable_token_indices": [3]}],
    ids=lambda settings: "-".join(settings),
)
def test_what_peft_merges_is_merged(bert, tmp_path, options, settings):
    base, _ = bert
    adapters = {"Female": make_adapter(base, tmp_path / "f", seed=1, targets=["query"], **settings)}
    found = read(merged(stock(base, adapters), tmp_path / "out", options))
    assert is_close(found, added(base, by_peft(base, adapters)), **ROUNDED)


def test_pickled_adapters(mine, tmp_path, options):
    """peft unpickles tensors only, as mergekit does with models."""
    base, adapters = mine
    expected = added(base, by_peft(base, adapters))
    for path in adapters.values():
        file = path / "adapter_model.safetensors"
        torch.save(load_file(file), path / "adapter_model.bin")
        file.unlink()
    found = read(merged(stock(base, adapters), tmp_path / "out", options))
    assert is_close(found, expected, **ROUNDED)


def test_the_cache_of_mergekit_is_kept_by_content(mine, tmp_path):
    base, adapters = mine
    cache = tmp_path / "cache"
    options = MergeOptions(quiet=True, lora_merge_cache=str(cache))
    raw = stock(base, adapters)
    first = read(merged(raw, tmp_path / "first", options))
    assert [len(path.name) for path in cache.iterdir()] == [64] * 3
    state = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert is_close(read(merged(raw, tmp_path / "second", options)), first, rtol=0, atol=0)
    assert state == {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    edit_weights(adapters["Male"], lambda found: found[HEAD].add_(1.0))
    third = read(merged(raw, tmp_path / "third", options))
    change = third["classifier.weight"] - first["classifier.weight"]
    torch.testing.assert_close(change, torch.full_like(change, -0.15), rtol=0, atol=1e-6)
    assert len(list(cache.iterdir())) == 4


def test_a_half_cache_is_not_used(mine, tmp_path, monkeypatch):
    import peft

    base, adapters = mine
    cache = tmp_path / "cache"
    options = MergeOptions(quiet=True, lora_merge_cache=str(cache))
    raw = stock(base, adapters)
    real, calls = peft.LoraModel.merge_and_unload, []

    def killed(self):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(peft.LoraModel, "merge_and_unload", killed)
        with pytest.raises(KeyboardInterrupt):
            merged(raw, tmp_path / "out", options)
    assert len(list(cache.iterdir())) == 1
    found = read(merged(raw, tmp_path / "out", options))
    assert is_close(found, added(base, by_peft(base, adapters)), **ROUNDED)


def test_an_adapter_that_is_trained_again_through_exec(mine, tmp_path):
    """mergekit's own command knows it by its path alone."""
    base, adapters = mine
    recipe, cache = tmp_path / "r.yml", tmp_path / "cache"
    recipe.write_text(dump_yaml(stock(base, {"Male": f"{base}+{adapters['Male']}"})))
    found = []
    for out in ("first", "second"):
        command = ["exec", "mergekit-yaml", recipe, tmp_path / out, "--lora-merge-cache", cache]
        result = CliRunner().invoke(main, [str(word) for word in (*command, "--quiet")])
        assert result.exit_code == 0, result.output
        found.append(read(tmp_path / out)["classifier.weight"])
        edit_weights(adapters["Male"], lambda weights: weights[HEAD].add_(1.0))
        forget_models()  # as in a process of its own
    change = found[1] - found[0]
    torch.testing.assert_close(change, torch.full_like(change, -0.15), rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [stock, addition])
def test_an_adapter_without_a_base_through_exec(bert, tmp_path, make):
    base, adapters = bert
    recipe = tmp_path / "r.yml"
    recipe.write_text(dump_yaml(make(base, {"Male": adapters["Male"]})))
    command = ["exec", "mergekit-yaml", recipe, tmp_path / "out", "--quiet"]
    result = CliRunner().invoke(main, [str(word) for word in command])
    assert result.exit_code == 2
    assert f"BASE+{adapters['Male']}" in result.stderr


def test_adapters_that_peft_cannot_merge(mine, tmp_path, options):
    base, adapters = mine
    male, out = adapters["Male"], tmp_path / "out"
    raw = stock(base, {"Male": male})
    shorten = {"lora_A": lambda found: {k: v[:1] for k, v in found.items() if "A." in k}}
    edit_weights(male, lambda found: found.update(shorten["lora_A"](found)))
    fix = "give the base that it was trained on"
    refused(raw, out, options, "peft cannot merge", where=f"{base}+{male}", fix=fix)
    edit_weights(male, lambda found: [found.pop(key) for key in list(found) if "lora_" in key])
    refused(raw, out, options, "Found missing adapter keys", where=f"{base}+{male}")


def test_folders_that_are_no_adapters(bert, tmp_path, options):
    base, adapters = bert
    raw, out = stock(base, adapters), tmp_path / "out"
    raw["models"] = raw["models"][:1]

    def over(adapter):
        raw["models"][0]["model"] = f"{base}+{adapter}"
        return raw

    refused(over(tmp_path / "nothing"), out, options, where=tmp_path / "nothing")
    refused(over(base), out, options, "adapter_config.json", where=base)
    shutil.copytree(adapters["Male"], tmp_path / "run" / "men")
    refused(over(tmp_path / "run"), out, options, where=tmp_path / "run", got=["men"])
    found = read(merged(over(tmp_path / "run" / "men"), out, options))
    theta = merged_by_peft(base, adapters["Male"])
    start = {name: tensor.double() for name, tensor in read(base).items()}
    exact = {name: start[name] + 0.3 * (theta[name] - start[name]) for name in start}
    assert is_close(found, exact, **ROUNDED)


def test_what_peft_would_leave_out(tiny, tmp_path, options):
    """peft says nothing of an adapter's layers, or head, that the base does not have."""
    import transformers

    base = tiny("bert").base
    adapter = make_adapter(
        base, tmp_path / "a", seed=1, targets=["query"], modules_to_save=["classifier"]
    )
    config = transformers.AutoConfig.from_pretrained(base)
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(config)
    model.save_pretrained(tmp_path / "mlm")
    config.num_hidden_layers = 1
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "short")
    key = "base_model.model.{}"
    lora = key.format("bert.encoder.layer.1.attention.self.query.lora_A.weight")
    for folder, name in (("mlm", key.format("classifier.bias")), ("short", lora)):
        raw = stock(tmp_path / folder, {"Male": adapter})
        where = f"{tmp_path / folder}+{adapter}"
        refused(raw, tmp_path / "out", options, name, "leaves out 2", where=where)


@pytest.mark.parametrize(
    "settings", [{"layer_replication": [[0, 1]]}, {"peft_type": "PREFIX_TUNING"}]
)
def test_what_no_weights_can_do(mine, tmp_path, options, settings):
    base, adapters = mine
    male = edit_config(adapters["Male"], **settings)
    refused(stock(base, {"Male": male}), tmp_path / "out", options, where=male)


def test_what_another_base_would_not_help(tiny, tmp_path, options):
    base = tiny("llama").base
    adapter = make_adapter(base, tmp_path / "a", seed=1, targets=["q_proj"], lora_bias=True)
    refused(stock(base, {"Male": adapter}), tmp_path / "out", options, "lora_bias=True", fix=None)


def test_other_kinds_of_adapters_are_merged_by_peft(tiny, tmp_path, options):
    import peft
    import transformers

    base = tiny("bert").base
    model = transformers.BertForSequenceClassification.from_pretrained(base)
    model = peft.get_peft_model(
        model, peft.LoHaConfig(target_modules=["query"], init_weights=False)
    )
    model.save_pretrained(tmp_path / "loha")
    adapters = {"Female": tmp_path / "loha"}
    found = read(merged(stock(base, adapters), tmp_path / "out", options))
    assert is_close(found, added(base, by_peft(base, adapters)), **ROUNDED)


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"ensure_weight_tying": True}])
def test_factors_of_a_tied_tensor(tmp_path, options, settings):
    """peft adds them to both uses, or twice: another model than the one that was trained."""
    base = tied_llama(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "a", seed=1, targets=["embed_tokens"], **settings)
    shows = ("model.embed_tokens.weight", "lm_head.weight")
    fix = "tie_word_embeddings = False"
    raw = stock(base, {"Male": adapter})
    refused(raw, tmp_path / "out", options, *shows, where=adapter, fix=fix)


@pytest.mark.parametrize("whole", [["embed_tokens", "lm_head"], ["embed_tokens"], ["lm_head"]])
def test_a_head_apart_from_the_embedding(tmp_path, options, whole):
    """As peft merges it; config.json says so, or transformers would read one tensor for both."""
    import transformers

    base = tied_llama(tmp_path / "base")
    adapters = {
        name: make_adapter(base, tmp_path / name, seed=seed, targets=["q_proj"], **how)
        for seed, (name, how) in enumerate((("Male", {"modules_to_save": whole}), ("Other", {})))
    }
    out = merged(stock(base, adapters), tmp_path / "out", options)
    thetas = by_peft(base, adapters)
    start = {name: tensor.double() for name, tensor in read(base).items()}
    for model in (start, thetas["Other"]):
        model["lm_head.weight"] = model["model.embed_tokens.weight"]
    exact = {
        name: start[name]
        + 0.3 * sum(WEIGHTS[group] * (theta[name] - start[name]) for group, theta in thetas.items())
        for name in start
    }
    assert is_close(read(out), exact, **ROUNDED)
    loaded = dict(transformers.AutoModelForCausalLM.from_pretrained(out).named_parameters())
    assert is_close(loaded, exact, **ROUNDED)


def test_a_head_apart_from_the_embedding_through_exec(tmp_path):
    """mergekit copies the base's config.json: the head would be lost when the model is loaded."""
    base = tied_llama(tmp_path / "base")
    adapter = make_adapter(
        base, tmp_path / "a", seed=1, targets=["q_proj"], modules_to_save=["lm_head"]
    )
    recipe, out = tmp_path / "r.yml", tmp_path / "out"
    recipe.write_text(dump_yaml(stock(base, {"Male": f"{base}+{adapter}"})))
    command = ["exec", "mergekit-yaml", recipe, out, "--lora-merge-cache", tmp_path / "c"]
    result = CliRunner().invoke(main, [str(word) for word in (*command, "--quiet")])
    assert (result.exit_code, out.exists()) == (2, False)
    assert "lm_head.weight and model.embed_tokens.weight" in result.stderr


def test_a_head_that_mergekit_would_leave_out(tmp_path, options):
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 8}
    config = transformers.GemmaConfig(vocab_size=64, num_attention_heads=4, **sizes)
    base = tmp_path / "base"
    transformers.GemmaForCausalLM(config).save_pretrained(base)
    adapter = make_adapter(
        base, tmp_path / "a", seed=1, targets=["q_proj"], modules_to_save=["lm_head"]
    )
    raw = stock(base, {"Male": adapter})
    refused(
        raw, tmp_path / "out", options, "lm_head.weight", where=base, fix="model.save_pretrained"
    )
