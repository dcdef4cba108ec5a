"""Adapters merged to one adapter: what peft makes of it is the merge to a whole model."""

import json

import pytest
import torch
from adapters import (
    TARGETS,
    WEIGHTS,
    adapters_on,
    addition,
    expert_adapter,
    is_close,
    make_adapter,
    merged,
    merged_by_peft,
    mixtral,
)
from checkpoints import read
from refusals import raises

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.manifest import verify
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.schema import dump_yaml

WHOLE = "merge it to a whole model, without --adapter"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"


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


def unlike(base, folder):
    """Other ranks, modules, patterns and whole modules for each group."""
    how = {
        "Female": {"targets": ["query", "value"], "rank_pattern": {"value": 7}},
        "Male": {"targets": r".*layer\.1.*(query|key)", "r": 2, "use_rslora": True},
        "Other": {"targets": ["query", "word_embeddings", "pooler.dense"], "r": 9},
    }
    how["Female"] |= {"modules_to_save": ["classifier"], "task_type": "SEQ_CLS"}
    how["Male"] |= {"modules_to_save": ["pooler", "position_embeddings"]}
    how["Other"] |= {"alpha_pattern": {"query": 11}}
    return {
        name: make_adapter(base, folder / name, seed=index, **settings)
        for index, (name, settings) in enumerate(how.items())
    }


def test_adapters_that_are_unlike_each_other(bert, tmp_path, options):
    """A module that an adapter leaves alone gets nothing from it; Male holds one whole that Other
    adapts."""
    base, _ = bert
    adapters = unlike(base, tmp_path / "a")
    raw = addition(base, adapters)
    whole = read(merged(raw, tmp_path / "whole", options))
    out = merged(raw, tmp_path / "out", options, as_adapter=True)
    # Two roundings to float32, of numbers below 2.
    assert is_close(merged_by_peft(base, out, torch.float32), whole, rtol=0, atol=2.0**-22)
    config = json.loads((out / "adapter_config.json").read_text())
    modules = {name.rpartition(".")[0]: rank for name, rank in RANKS.items()}
    assert set(config["target_modules"]) == set(modules)
    assert config["alpha_pattern"] == config["rank_pattern"]
    found = {name: config["rank_pattern"].get(name, config["r"]) for name in modules}
    assert found == modules
    assert config["modules_to_save"] == ["classifier", "score", "pooler", "position_embeddings"]
    assert config["task_type"] == "SEQ_CLS"
    again = raw | {"models": [{"model": str(out), "parameters": {"group": "all"}}]}
    again["parameters"] = {"lambda": 1.0}
    assert is_close(read(merged(again, tmp_path / "again", options)), whole, rtol=0, atol=2.0**-22)


LAYER = "bert.encoder.layer.{}.attention.self.{}.weight"
RANKS = {
    LAYER.format(0, "query"): 4 + 9,
    LAYER.format(1, "query"): 4 + 2 + 9,
    LAYER.format(0, "value"): 7,
    LAYER.format(1, "value"): 7,
    LAYER.format(1, "key"): 2,
    "bert.embeddings.word_embeddings.weight": 9,
}


def test_equals_a_weighted_adapter_of_peft(bert, tmp_path, options):
    import peft
    import transformers

    base, _ = bert
    adapters = {
        "Female": make_adapter(base, tmp_path / "f", seed=0, targets=["query", "value"]),
        "Other": make_adapter(base, tmp_path / "o", seed=1, targets=["key", "query"], r=3),
    }
    out = merged(addition(base, adapters), tmp_path / "out", options, as_adapter=True)
    model = transformers.BertForSequenceClassification.from_pretrained(base)
    model = peft.PeftModel.from_pretrained(model, adapters["Female"], adapter_name="Female")
    model.load_adapter(adapters["Other"], "Other")
    weights = [0.3 * WEIGHTS[name] for name in adapters]
    model.add_weighted_adapter(list(adapters), weights, "both", combination_type="cat")
    model.set_adapter("both")
    expected = dict(model.merge_and_unload().named_parameters())
    found = merged_by_peft(base, out, torch.float32)
    # Sums of float32 products, weighted in another order.
    assert is_close(found, expected, rtol=0, atol=2.0**-22)


def test_experts_that_are_one_tensor_in_memory(tmp_path, options):
    """peft puts A and B of one rank on all of them, or on none."""
    base, modules = mixtral(tmp_path / "base"), ["q_proj", "w1", "w2", "w3"]
    adapters = {
        "Female": expert_adapter(base, tmp_path / "f", modules),
        "Other": expert_adapter(base, tmp_path / "o", modules, rank=3),
    }
    raw = addition(base, adapters)
    whole = read(merged(raw, tmp_path / "whole", options))
    out = merged(raw, tmp_path / "adapter", options, as_adapter=True)
    assert is_close(merged_by_peft(base, out, torch.float32), whole, rtol=0, atol=2.0**-22)
    adapters["Other"] = expert_adapter(base, tmp_path / "less", ["q_proj"])
    name = "model.layers.0.block_sparse_moe.experts.0.w1.weight"
    no_adapter(addition(base, adapters), tmp_path, options, "adapters of one rank", got=name)


def no_adapter(raw, tmp_path, options, allowed, **settings):
    """Asserts also that nothing was left."""
    before = sorted(path.name for path in tmp_path.iterdir())
    fields = {"where": "r.yml", "allowed": allowed, "fix": WHOLE}
    got = settings.pop("got", None)
    with raises(RecipeError, got=got, **fields):
        merged(raw, tmp_path / "out", options, as_adapter=True, **settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_what_cannot_be_an_adapter(bert, tiny, tmp_path, options):
    base, adapters = bert
    raw = addition(base, adapters)
    stock = raw | {"merge_method": "task_arithmetic"}
    stock["models"] = [{"model": each["model"]} for each in raw["models"]]
    no_adapter(stock, tmp_path, options, "methods of mergekit-fair", got="task_arithmetic")
    no_adapter(addition(base, adapters, lambda_=0.0), tmp_path, options, "adds something")
    median = raw | {"merge_method": "task_median"}
    no_adapter(median, tmp_path, options, "weighted sums", got={"task_median": QUERY})
    other = str(tiny("bert").groups["Other"])
    whole = addition(base, {**adapters, "Other": other})
    no_adapter(whole, tmp_path, options, f"adapters over base_model ({base})", got=other)
    adapted = f"{base}+{adapters['Female']}"
    male = f"{base}+{adapters['Male']}"
    raw = addition(adapted, {"Male": male})
    no_adapter(raw, tmp_path, options, f"adapters over base_model ({adapted})", got=male)
    large = addition(base, adapters, lambda_=1e39)
    large["parameters"]["head"] = "base"
    no_adapter(large, tmp_path, options, "numbers that float32 holds", got=QUERY)


@pytest.mark.parametrize(
    "settings",
    [{"use_dora": True}, {"bias": "all"}, {"lora_bias": True}, {"trainable_token_indices": [3]}],
    ids=lambda settings: "-".join(settings),
)
def test_more_than_plain_lora_cannot_be_an_adapter(bert, tmp_path, options, settings):
    base, adapters = bert
    more = make_adapter(base, tmp_path / "m", seed=1, targets=["query"], **settings)
    raw = addition(base, {"Female": adapters["Female"], "Male": more})
    got = {f"{base}+{more}": next(iter(settings))}
    no_adapter(raw, tmp_path, options, "adapters of plain LoRA", got=got)


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
