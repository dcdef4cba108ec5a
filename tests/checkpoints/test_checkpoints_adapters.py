"""An adapter read over its base equals peft's merge in float64."""

import json
import shutil

import pytest
import torch
from adapters import (
    HEADS,
    TARGETS,
    edit_config,
    edit_weights,
    expert_adapter,
    gpt2,
    is_close,
    make_adapter,
    merged_by_peft,
    mixtral,
    theta,
)
from checkpoints import read, rewrite
from safetensors.torch import load_file

from mergekit_fair.checkpoints.adapter_config import is_adapter_folder
from mergekit_fair.checkpoints.lora import AdapterReader
from mergekit_fair.checkpoints.reader import Buffer, open_folder, read_whole

PREFIX = "base_model.model."


@pytest.fixture(scope="module")
def bases(tiny, tmp_path_factory):
    folder = gpt2(tmp_path_factory.mktemp("gpt2") / "base")
    return lambda architecture: folder if architecture == "gpt2" else tiny(architecture).base


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory):
    """A BERT adapter with a classifier of its own; read only."""
    folder = tmp_path_factory.mktemp("plain") / "adapter"
    how = {"targets": ["query", "value"], "modules_to_save": ["classifier"]}
    return make_adapter(tiny("bert").base, folder, seed=0, **how)


@pytest.fixture
def adapter(plain, tmp_path):
    """The same to be changed."""
    return shutil.copytree(plain, tmp_path / "adapter")


def opened(base, adapter):
    return AdapterReader(open_folder(base), base, adapter)


def equals_peft(base, adapter):
    # Products of the same float64 numbers, added up in another order.
    return is_close(theta(base, adapter), merged_by_peft(base, adapter), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("architecture", TARGETS)
def test_equals_merge_and_unload(bases, tmp_path, architecture):
    """Linear, Conv1D (also square ones), renamed modules (ViT) and `modules_to_save`."""
    base, targets = bases(architecture), TARGETS[architecture]
    adapter = make_adapter(
        base, tmp_path / "a", seed=1, targets=targets, modules_to_save=HEADS[architecture]
    )
    assert equals_peft(base, adapter)
    found, before = theta(base, adapter), read(base)
    changed = {name for name in before if not torch.equal(found[name], before[name].double())}
    reader = opened(base, adapter)
    assert changed == {*reader.factors, *reader.saved}
    modules = [factors.module for factors in reader.factors.values()]
    assert all(module.endswith(tuple(targets)) for module in modules)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"rank_pattern": {"query": 2, "layer.1.attention.self.value": 3}},
        {"alpha_pattern": {"^bert.encoder.layer.0.attention.self.query": 40, "value": 1.5}},
        {"rank_pattern": {"query": 2}, "alpha_pattern": {"query": 3}, "use_rslora": True},
        {"layers_to_transform": [1], "layers_pattern": "layer"},
        {"init_lora_weights": "gaussian", "lora_dropout": 0.1},
        {"modules_to_save": ["classifier", "pooler.dense"], "task_type": "SEQ_CLS"},
        {"use_dora": True, "use_rslora": True},
        {"bias": "all"},
        {"bias": "all", "task_type": "SEQ_CLS"},
        {"bias": "lora_only", "modules_to_save": ["classifier"]},
        {"lora_bias": True},
        {"lora_bias": True, "bias": "all"},
        {"trainable_token_indices": [7, 3]},
        {"trainable_token_indices": {"word_embeddings": [3, 9], "position_embeddings": [0]}},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_what_a_configuration_can_say(tiny, tmp_path, settings):
    base = tiny("bert").base
    adapter = make_adapter(base, tmp_path / "a", seed=2, targets=["query", "value"], **settings)
    assert equals_peft(base, adapter)


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}], ids=["lora", "dora"])
@pytest.mark.parametrize(
    ("architecture", "targets"),
    [
        ("bert", ["word_embeddings", "position_embeddings", "query"]),
        ("llama", ["embed_tokens", "q_proj"]),  # here peft saves the embedding itself, too
        ("gpt2", ["wte", "c_attn", "c_proj"]),
        ("vit", ["projection", "q_proj"]),  # a convolution
    ],
)
def test_embeddings_and_convolutions(bases, tmp_path, architecture, targets, settings):
    base = bases(architecture)
    adapter = make_adapter(base, tmp_path / "a", seed=3, targets=targets, **settings)
    assert equals_peft(base, adapter)


def test_the_module_decides_whether_a_square_weight_is_transposed(bases, tmp_path):
    """As in peft, where the flag of adapter_config.json is corrected."""
    base = bases("gpt2")
    adapter = make_adapter(base, tmp_path / "a", seed=4, targets=["c_proj"])
    assert json.loads((adapter / "adapter_config.json").read_text())["fan_in_fan_out"] is True
    before = theta(base, adapter)
    edit_config(adapter, fan_in_fan_out=False)
    assert is_close(theta(base, adapter), before, rtol=0, atol=0)
    config = json.loads((base / "config.json").read_text())
    remote = shutil.copytree(base, tmp_path / "remote")
    (remote / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "m.M"}}))
    other = theta(remote, adapter)  # of code that is not transformers' own, the flag is believed
    name = "transformer.h.0.attn.c_proj.weight"
    assert not torch.equal(other[name], before[name])
    edit_config(adapter, fan_in_fan_out=True)
    assert is_close(theta(remote, adapter), before, rtol=0, atol=0)


def test_modules_may_have_the_names_in_the_file(tiny, tmp_path):
    """Of ViT, adapters older than transformers 5 name modules as the file does."""
    base = tiny("vit").base
    adapter = make_adapter(base, tmp_path / "a", seed=5, targets=["q_proj"])
    expected, modules = theta(base, adapter), opened(base, adapter).factors

    def rename(found):
        for name in list(found):
            old = name.replace("vit.layers.", "vit.encoder.layer.")
            found[old.replace("attention.q_proj", "attention.attention.query")] = found.pop(name)

    edit_weights(adapter, rename)
    assert is_close(theta(base, adapter), expected, rtol=0, atol=0)
    again = opened(base, adapter).factors
    assert [each.module for each in again.values()] == [each.module for each in modules.values()]


def test_experts_that_are_one_tensor_in_memory(tmp_path):
    base = mixtral(tmp_path / "base")
    assert equals_peft(base, expert_adapter(base, tmp_path / "a", ["q_proj", "w1", "w2", "w3"]))


def test_a_file_without_the_name_of_the_encoder(bases, tmp_path):
    """As GPT-2's own and BLOOM's; transformers adds it."""
    base = shutil.copytree(bases("gpt2"), tmp_path / "base")
    plain = {name.removeprefix("transformer."): tensor for name, tensor in read(base).items()}
    rewrite(base, lambda found: (found.clear(), found.update(plain)))
    how = {"targets": ["c_attn", "c_proj", "wte"], "modules_to_save": ["score"]}
    adapter = make_adapter(bases("gpt2"), tmp_path / "a", seed=1, **how)
    expected = merged_by_peft(base, adapter)
    found = {
        name if name.startswith("score") else f"transformer.{name}": tensor
        for name, tensor in theta(base, adapter).items()
    }
    assert is_close(found, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("targets", "settings"),
    [
        (["query", "intermediate.dense"], {"lora_bias": True}),
        (["word_embeddings"], {}),
        (["query", "word_embeddings"], {"use_dora": True}),
        (["value"], {"trainable_token_indices": [0, 4, 99]}),
    ],
)
def test_slices(tiny, tmp_path, dtype, targets, settings):
    """A slice is the part of the whole, in float64, whatever the dtypes of W, A and B."""
    base = shutil.copytree(tiny("bert").base, tmp_path / "base")
    rewrite(base, lambda found: found.update({k: v.to(dtype) for k, v in found.items()}))
    adapter = make_adapter(tiny("bert").base, tmp_path / "a", seed=6, targets=targets, **settings)
    edit_weights(adapter, lambda found: found.update({k: v.to(dtype) for k, v in found.items()}))
    reader = opened(base, adapter)
    for name in reader.updates:
        exact = read_whole(reader, name).flatten()
        for start, stop in [(0, 1), (5, 5), (1, 3), (31, 33), (7, 1000), (100, 164)]:
            start, stop = min(start, len(exact)), min(stop, len(exact))
            found = reader.read(name, start, stop, Buffer((stop - start) * dtype.itemsize))
            assert found.dtype == torch.float64
            torch.testing.assert_close(found, exact[start:stop], rtol=1e-14, atol=1e-15)
    untouched = reader.read("bert.pooler.dense.bias", 3, 9, Buffer(48))
    assert untouched.dtype == dtype
    assert reader.tensors == open_folder(base).tensors


def test_low_ranks_in_bfloat16_are_not_rounded(tiny, tmp_path):
    base = shutil.copytree(tiny("bert").base, tmp_path / "base")
    rewrite(base, lambda found: found.update({k: v.bfloat16() for k, v in found.items()}))
    adapter = make_adapter(tiny("bert").base, tmp_path / "a", seed=6, targets=["query"])
    reader, weights = opened(base, adapter), read(base)
    for name, factors in reader.factors.items():
        exact = weights[name].double() + 6 / 4 * (factors.b.double() @ factors.a.double())
        torch.testing.assert_close(read_whole(reader, name), exact, rtol=1e-14, atol=1e-15)


def test_the_base_declares_the_dtype_of_what_the_adapter_holds_whole(tiny, tmp_path, plain):
    base = shutil.copytree(tiny("bert").base, tmp_path / "base")
    rewrite(base, lambda found: found.update({k: v.bfloat16() for k, v in found.items()}))
    reader = opened(base, plain)
    assert reader.tensors["classifier.weight"].dtype == "BF16"
    found = read_whole(reader, "classifier.weight")
    assert found.dtype == torch.float32
    own = load_file(plain / "adapter_model.safetensors")[PREFIX + "classifier.weight"]
    assert torch.equal(found, own)


def test_pickled_weights(tiny, adapter, plain):
    base, file = tiny("bert").base, adapter / "adapter_model.safetensors"
    torch.save(load_file(file), adapter / "adapter_model.bin")
    file.unlink()
    reader = AdapterReader(open_folder(base), base, adapter, allow_pickle=True)
    found = {name: read_whole(reader, name).double() for name in reader.tensors}
    assert is_close(found, theta(base, plain), rtol=0, atol=0)
    assert reader.files[-2:] == (adapter / "adapter_model.bin", adapter / "adapter_config.json")


@pytest.mark.parametrize("place", ["_orig_mod.{}", "module.{}", "base_model.model._orig_mod.{}"])
def test_names_with_the_prefix_of_a_wrapper(tiny, adapter, plain, place):
    base, start = tiny("bert").base, "base_model.model." if "base_model" in place else ""

    def rename(found):
        for name in list(found):
            found[place.format(name.removeprefix(start))] = found.pop(name)

    edit_weights(adapter, rename)
    assert is_close(theta(base, adapter), theta(base, plain), rtol=0, atol=0)


def test_identity_is_that_of_the_content(tiny, adapter):
    base = tiny("bert").base
    reader = opened(base, adapter)
    assert reader.name == f"{base}+{adapter}"
    assert [file.name for file in reader.files] == [
        "model.safetensors",
        "adapter_model.safetensors",
        "adapter_config.json",
    ]
    first = reader.identity()
    file = adapter / "adapter_model.safetensors"
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data)  # another time of change, the same content
    assert opened(base, adapter).identity() == first
    edit_weights(adapter, lambda found: found[PREFIX + "classifier.bias"].add_(1e-3))
    second = opened(base, adapter).identity()
    edit_config(adapter, lora_alpha=7)
    assert len({first, second, opened(base, adapter).identity()}) == 3
    reader.close()
    with pytest.raises(KeyError):
        reader.read("classifier.bias", 0, 1, Buffer(8))


def test_an_adapter_folder(tiny, adapter):
    assert is_adapter_folder(adapter)
    assert not is_adapter_folder(tiny("bert").base)
    shutil.copy(tiny("bert").base / "model.safetensors", adapter)
    assert not is_adapter_folder(adapter)


def test_adapters_with_names(tiny, tmp_path):
    """peft saves every adapter that is not called `default` in a folder of its own."""
    import peft
    from transformers import BertForSequenceClassification

    base = tiny("bert").base
    config = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    model = BertForSequenceClassification.from_pretrained(base)
    model = peft.get_peft_model(model, config, adapter_name="women")
    model.save_pretrained(tmp_path / "run")
    assert not is_adapter_folder(tmp_path / "run")
    assert is_adapter_folder(tmp_path / "run" / "women")
    assert equals_peft(base, tmp_path / "run" / "women")
