"""An adapter read over its base equals peft's merge in float64; what cannot be read is refused."""

import json
import shutil

import pytest
import torch
from adapters import (
    HEADS,
    TARGETS,
    edit_config,
    edit_weights,
    gpt2,
    make_adapter,
    merged_by_peft,
)
from checkpoints import read, rewrite
from safetensors.torch import load_file, save_file

from mergekit_fair.checkpoints.adapter_config import is_adapter_folder
from mergekit_fair.checkpoints.lora import AdapterReader
from mergekit_fair.checkpoints.reader import Buffer, open_folder, read_whole
from mergekit_fair.errors import CheckpointError

MERGE_WITH_PEFT = (
    "merge it with peft first, PeftModel.from_pretrained(base, adapter).merge_and_unload(), and "
    "give the folder of the saved result."
)
AGAIN = "Copy or train the model again."
QUERY = "bert.encoder.layer.0.attention.self.query"
PREFIX = "base_model.model."


@pytest.fixture(scope="module")
def bases(tiny, tmp_path_factory):
    folder = gpt2(tmp_path_factory.mktemp("gpt2") / "base")
    return lambda architecture: folder if architecture == "gpt2" else tiny(architecture).base


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory):
    """A BERT adapter with a classifier of its own; read only."""
    folder = tmp_path_factory.mktemp("plain") / "adapter"
    return make_adapter(
        tiny("bert").base,
        folder,
        seed=0,
        targets=["query", "value"],
        modules_to_save=["classifier"],
    )


@pytest.fixture
def adapter(plain, tmp_path):
    """The same to be damaged."""
    return shutil.copytree(plain, tmp_path / "adapter")


def opened(base, adapter):
    return AdapterReader(open_folder(base), base, adapter)


def tensors(base, adapter):
    reader = opened(base, adapter)
    found = {name: read_whole(reader, name).double() for name in reader.tensors}
    reader.close()
    return found


def is_close(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor.double(), rtol=1e-14, atol=1e-15)
    return True


def refused(base, adapter):
    with pytest.raises(CheckpointError) as caught:
        opened(base, adapter)
    return str(caught.value)


@pytest.mark.parametrize("architecture", TARGETS)
def test_equals_merge_and_unload(bases, tmp_path, architecture):
    """Linear, Conv1D (also square ones), renamed modules (ViT) and `modules_to_save`."""
    base, targets = bases(architecture), TARGETS[architecture]
    adapter = make_adapter(
        base, tmp_path / "a", seed=1, targets=targets, modules_to_save=HEADS[architecture]
    )
    found, before = tensors(base, adapter), read(base)
    assert is_close(found, merged_by_peft(base, adapter))
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
    ],
    ids=lambda settings: "-".join(settings),
)
def test_what_a_configuration_can_say(tiny, tmp_path, settings):
    base = tiny("bert").base
    adapter = make_adapter(base, tmp_path / "a", seed=2, targets=["query", "value"], **settings)
    assert is_close(tensors(base, adapter), merged_by_peft(base, adapter))


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [
        ("bert", ["word_embeddings", "position_embeddings", "query"]),
        ("llama", ["embed_tokens", "q_proj"]),  # here peft saves the embedding itself, too
        ("gpt2", ["wte", "c_attn"]),
    ],
)
def test_embeddings(bases, tmp_path, architecture, targets):
    base = bases(architecture)
    adapter = make_adapter(base, tmp_path / "a", seed=3, targets=targets)
    assert is_close(tensors(base, adapter), merged_by_peft(base, adapter))


def test_the_module_decides_whether_a_square_weight_is_transposed(bases, tmp_path):
    """As in peft, where the flag of adapter_config.json is corrected."""
    base = bases("gpt2")
    adapter = make_adapter(base, tmp_path / "a", seed=4, targets=["c_proj"])
    assert json.loads((adapter / "adapter_config.json").read_text())["fan_in_fan_out"] is True
    before = tensors(base, adapter)
    edit_config(adapter, fan_in_fan_out=False)
    assert is_close(tensors(base, adapter), before)
    config = json.loads((base / "config.json").read_text())
    remote = shutil.copytree(base, tmp_path / "remote")
    (remote / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "m.M"}}))
    edit_config(adapter, base_model_name_or_path=None)
    other = tensors(remote, adapter)  # of code that is not transformers' own, the flag is believed
    name = "transformer.h.0.attn.c_proj.weight"
    assert not torch.equal(other[name], before[name])
    assert is_close(tensors(remote, edit_config(adapter, fan_in_fan_out=True)), before)


def test_modules_may_have_the_names_in_the_file(tiny, tmp_path):
    """Of ViT, adapters older than transformers 5 name modules as the file does."""
    base = tiny("vit").base
    adapter = make_adapter(base, tmp_path / "a", seed=5, targets=["q_proj"])
    expected = tensors(base, adapter)

    def rename(found):
        for name in list(found):
            old = name.replace("vit.layers.", "vit.encoder.layer.")
            found[old.replace("attention.q_proj", "attention.attention.query")] = found.pop(name)

    assert is_close(tensors(base, edit_weights(adapter, rename)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targets", [["query", "intermediate.dense"], ["word_embeddings"]])
def test_slices(tiny, tmp_path, dtype, targets):
    """A slice is the part of the whole, in float64, whatever the dtypes of W, A and B."""
    base = shutil.copytree(tiny("bert").base, tmp_path / "base")
    rewrite(base, lambda found: found.update({k: v.to(dtype) for k, v in found.items()}))
    adapter = make_adapter(tiny("bert").base, tmp_path / "a", seed=6, targets=targets)
    edit_config(adapter, base_model_name_or_path=None)
    edit_weights(adapter, lambda found: found.update({k: v.to(dtype) for k, v in found.items()}))
    reader, weights = opened(base, adapter), read(base)
    for name, factors in reader.factors.items():
        a, b = factors.a.double(), factors.b.double()
        delta = (b @ a).T if factors.is_embedding else b @ a
        exact = (weights[name].double() + 6 / 4 * delta).flatten()
        for start, stop in [(0, 1), (5, 5), (31, 33), (7, 1000), (100, 164), (0, len(exact))]:
            found = reader.read(name, start, stop, Buffer((stop - start) * dtype.itemsize))
            assert found.dtype == torch.float64
            torch.testing.assert_close(found, exact[start:stop], rtol=1e-14, atol=1e-15)
    untouched = reader.read("bert.pooler.dense.bias", 3, 9, Buffer(48))
    assert untouched.dtype == dtype
    assert reader.tensors == open_folder(base).tensors


def test_the_base_declares_the_dtype_of_what_the_adapter_holds_whole(tiny, tmp_path, plain):
    base = shutil.copytree(tiny("bert").base, tmp_path / "base")
    rewrite(base, lambda found: found.update({k: v.bfloat16() for k, v in found.items()}))
    adapter = edit_config(shutil.copytree(plain, tmp_path / "a"), base_model_name_or_path="org/x")
    reader = opened(base, adapter)
    assert reader.tensors["classifier.weight"].dtype == "BF16"
    found = read_whole(reader, "classifier.weight")
    assert found.dtype == torch.float32
    own = load_file(adapter / "adapter_model.safetensors")[PREFIX + "classifier.weight"]
    assert torch.equal(found, own)


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


def test_files_that_are_missing(tiny, adapter, tmp_path):
    base = tiny("bert").base
    assert refused(base, tmp_path / "adaptr") == (
        f"{tmp_path / 'adaptr'}: no such model folder; did you mean 'adapter'?"
    )
    file = adapter / "adapter_model.safetensors"
    file.rename(adapter / "adapter_model.bin")
    assert refused(base, adapter) == (
        f"{adapter}: holds pickled weights only, and reading a pickle can run code; got "
        "['README.md', 'adapter_config.json', 'adapter_model.bin']. Load the adapter with peft and "
        "save it again (safe_serialization=True)."
    )
    (adapter / "adapter_model.bin").unlink()
    assert refused(base, adapter) == (
        f"{adapter}: holds no adapter_model.safetensors; got ['README.md', 'adapter_config.json']. "
        "Give the folder of an adapter that was saved with peft."
    )
    (adapter / "adapter_config.json").unlink()
    assert refused(base, adapter) == (
        f"{adapter}: holds no adapter_config.json; got ['README.md']. "
        "Give the folder of an adapter that was saved with peft."
    )


def test_files_that_are_damaged(tiny, adapter):
    base, file = tiny("bert").base, adapter / "adapter_model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-4])
    assert refused(base, adapter) == (
        f"{file}: is truncated or damaged; got '{len(data) - 4} bytes'; allowed: {len(data)} "
        f"bytes, as its header says. {AGAIN}"
    )
    file.unlink()
    file.symlink_to(base / "model.safetensors")
    assert refused(base, adapter) == (
        f"{file}: is a link out of the model folder; got '{base / 'model.safetensors'}'. "
        "Copy the file into the folder."
    )


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 100_000, '"a"', '{"r": 1' + "0" * 5000 + "}"]
)
def test_a_configuration_that_is_no_json_mapping(tiny, adapter, text):
    (adapter / "adapter_config.json").write_text(text)
    found = refused(tiny("bert").base, adapter)
    assert found.startswith(f"{adapter}: its adapter_config.json cannot be read (")
    assert found.endswith(f"). {AGAIN}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("lora_bias", True),
        ("target_parameters", ["experts.gate_up_proj"]),
        ("trainable_token_indices", [1, 2]),
        ("layer_replication", [[0, 1], [0, 1]]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "loftq"),
        ("use_qalora", True),
        ("alora_invocation_tokens", [5]),
        ("velora_config", {"num_groups": 2}),
        ("megatron_config", {"a": 1}),
        ("use_something_new", 1),
    ],
)
def test_more_than_plain_lora(tiny, adapter, key, value):
    assert refused(tiny("bert").base, edit_config(adapter, **{key: value})) == (
        f"{adapter}: is more than plain LoRA: its adapter_config.json sets {key}; got {value!r}. "
        f"M{MERGE_WITH_PEFT[1:]}"
    )


def test_other_kinds_of_adapters(tiny, adapter):
    for kind in ("IA3", "LOHA", None, 3):
        assert refused(tiny("bert").base, edit_config(adapter, peft_type=kind)) == (
            f"{adapter}: is not a LoRA adapter"
            + ("" if kind is None else f"; got {kind!r}")
            + f"; allowed: LORA. M{MERGE_WITH_PEFT[1:]}"
        )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 0),
        ("r", -4),
        ("r", True),
        ("r", 4.0),
        ("r", 10**20),
        ("r", None),
        ("lora_alpha", "16"),
        ("lora_alpha", float("inf")),
        ("lora_alpha", 10**400),
        ("lora_alpha", [16]),
        ("rank_pattern", [4]),
        ("rank_pattern", {"query": "4"}),
        ("alpha_pattern", {"query": None}),
        ("modules_to_save", "classifier"),
        ("modules_to_save", [1]),
        ("base_model_name_or_path", 5),
    ],
)
def test_values_that_peft_would_not_take(tiny, adapter, key, value):
    edit_config(adapter, **{key: value})
    got = value
    if isinstance(value, dict):
        got = value["query"]
    assert refused(tiny("bert").base, adapter) == (
        f"{adapter}: its adapter_config.json has a value of {key} that peft would not take"
        + ("" if got is None else f"; got {got!r}")
        + f". {AGAIN}"
    )


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(a*)*", "too many repetitions"),
        (".*a.*b.*c.*d", "too many repetitions"),
        ("a?" * 30, "too many repetitions"),
        ("(query", "missing ), unterminated subpattern at position 7"),
        ("(?i)query", "global flags not at the start of the expression at position 8"),
    ],
)
def test_patterns_that_cannot_be_matched(tiny, adapter, pattern, reason):
    edit_config(adapter, alpha_pattern={pattern: 1})
    assert refused(tiny("bert").base, adapter) == (
        f"{adapter}: its adapter_config.json has a pattern in alpha_pattern that cannot be matched "
        f"({reason}); got {pattern!r}. Write the names of the modules."
    )


def test_another_base(tiny, adapter, tmp_path):
    """A folder that exists is another model; names of the Hub are not known."""
    base, fft = tiny("bert").base, tiny("bert").fft
    assert refused(fft, adapter) == (
        f"{adapter}: was trained on another base than the one given ({fft}); got '{base}'. Write "
        f"{base}+{adapter} if that is its base, or correct base_model_name_or_path in its "
        "adapter_config.json."
    )
    (tmp_path / "link").symlink_to(base)
    for named in (str(base), str(tmp_path / "link"), "org/model", "", None, "\0", "a" * 5000):
        opened(base, edit_config(adapter, base_model_name_or_path=named)).close()


def with_tensors(adapter, **changes):
    """Replace, or by None remove, tensors; `__` stands for a dot."""

    def change(found):
        for name, tensor in changes.items():
            key = PREFIX + name.replace("__", ".")
            found.pop(key, None)
            if tensor is not None:
                found[key] = tensor

    return edit_weights(adapter, change)


A = f"{QUERY}.lora_A.weight".replace(".", "__")
B = f"{QUERY}.lora_B.weight".replace(".", "__")


def test_numbers_that_are_not_finite(tiny, adapter):
    for value in (float("nan"), float("inf")):
        with_tensors(adapter, **{B: torch.full((32, 4), value)})
        assert refused(tiny("bert").base, adapter) == (
            f"{adapter}: {QUERY}.lora_B.weight has NaN or Inf. Train it again."
        )


def test_half_a_pair(tiny, adapter):
    with_tensors(adapter, **{B: None})
    assert refused(tiny("bert").base, adapter) == (
        f"{adapter}: module {QUERY} has no pair of lora_A and lora_B; got ['lora_A']. {AGAIN}"
    )


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((4, 31), (32, 4)),
        ((4, 32), (33, 4)),
        ((4, 32), (32, 3)),
        ((5, 32), (32, 5)),  # another rank than adapter_config.json says
        ((4, 32, 1), (32, 4, 1)),
        ((4,), (32, 4)),
    ],
)
def test_factors_that_do_not_fit(tiny, adapter, a, b):
    base = tiny("bert").base
    with_tensors(adapter, **{A: torch.ones(a), B: torch.ones(b)})
    assert refused(base, adapter) == (
        f"{adapter}: lora_A and lora_B of module {QUERY} do not fit the base's tensor "
        f"{QUERY}.weight, which is F32 [32, 32]; got 'A {list(a)}, B {list(b)}, r 4'. Give the "
        f"base that it was trained on, or {MERGE_WITH_PEFT}"
    )


def test_factors_of_integers(tiny, adapter):
    with_tensors(adapter, **{A: torch.ones(4, 32, dtype=torch.int32)})
    assert "do not fit the base's tensor" in refused(tiny("bert").base, adapter)
    with_tensors(adapter, **{A: torch.ones(4, 32).to(torch.float8_e4m3fn)})
    assert refused(tiny("bert").base, adapter) == (
        f"{adapter}: tensor {PREFIX}{QUERY}.lora_A.weight has a dtype that cannot be merged; got "
        "'F8_E4M3'; allowed: F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL. Save the model in "
        "bfloat16, float16 or float32 first."
    )


def test_a_module_that_the_base_has_not(tiny, adapter):
    base = tiny("bert").base
    other = A.replace("query", "queri"), B.replace("query", "queri")
    with_tensors(adapter, **{other[0]: torch.ones(4, 32), other[1]: torch.ones(32, 4)})
    assert refused(base, adapter) == (
        f"{adapter}: adapts a module that the base ({base}) does not have; got '{QUERY[:-1]}i'. "
        f"Did you mean '{QUERY}'? Give the base that it was trained on, or {MERGE_WITH_PEFT}"
    )


def test_a_module_under_two_names(tiny, tmp_path):
    base = tiny("vit").base
    adapter = make_adapter(base, tmp_path / "a", seed=7, targets=["q_proj"])
    old = "vit__encoder__layer__0__attention__attention__query__lora_"
    changes = {f"{old}A__weight": torch.ones(4, 32), f"{old}B__weight": torch.ones(32, 4)}
    assert refused(base, with_tensors(adapter, **changes)) == (
        f"{adapter}: adapts tensor vit.encoder.layer.0.attention.attention.query.weight twice, "
        "under two names; got ['vit.encoder.layer.0.attention.attention.query', "
        f"'vit.layers.0.attention.q_proj']. {AGAIN}"
    )


def test_tensors_that_plain_lora_does_not_have(tiny, adapter):
    for name in (f"{QUERY}.lora_magnitude_vector", f"{QUERY}.lora_A.default.weight"):
        folder = with_tensors(adapter, **{name.replace(".", "__"): torch.ones(32)})
        assert refused(tiny("bert").base, folder) == (
            f"{folder}: tensor {PREFIX}{name} is none of a plain LoRA. M{MERGE_WITH_PEFT[1:]}"
        )
        with_tensors(adapter, **{name.replace(".", "__"): None})
    edit_weights(adapter, lambda found: found.update({"lora_A.weight": torch.ones(4, 32)}))
    assert refused(tiny("bert").base, adapter) == (
        f"{adapter}: tensor lora_A.weight is none of a plain LoRA. M{MERGE_WITH_PEFT[1:]}"
    )
    save_file({}, adapter / "adapter_model.safetensors")
    assert refused(tiny("bert").base, adapter) == f"{adapter}: adapts nothing. {AGAIN}"


def test_modules_to_save(tiny, adapter):
    base = tiny("bert").base
    with_tensors(adapter, classifier__bias=None)
    assert refused(base, adapter) == (
        f"{adapter}: its modules_to_save hold classifier, but adapter_model.safetensors has no "
        f"tensor classifier.bias; got ['classifier']. {AGAIN}"
    )
    with_tensors(adapter, classifier__bias=torch.ones(3))
    assert refused(base, adapter) == (
        f"{adapter}: its own tensor classifier.bias does not fit the base's ({base}); got "
        f"'F32 [3]'; allowed: F32 [2]. Give the base that it was trained on, or {MERGE_WITH_PEFT}"
    )
    with_tensors(adapter, classifier__bias=None, clasifier__bias=torch.ones(2))
    assert refused(base, adapter) == (
        f"{adapter}: holds a tensor of a module that the base ({base}) does not have; got "
        "'clasifier'. Did you mean 'classifier'? Give the base that it was trained on, or "
        + MERGE_WITH_PEFT
    )


def test_an_embedding_that_is_the_output_layer_too(tmp_path):
    """peft merges it with a warning; the result is another model than the one that was trained."""
    base = gpt2(tmp_path / "base", "GPT2LMHeadModel")
    for settings in ({"targets": ["wte"]}, {"targets": ["c_attn"], "modules_to_save": ["wte"]}):
        adapter = make_adapter(base, tmp_path / "a", seed=9, **settings)
        assert refused(base, adapter) == (
            f"{adapter}: changes transformer.wte.weight, which the base ({base}) ties to "
            "lm_head.weight: merged, it would change that, too. Train it again without that "
            "module, or on a base that was saved with both (tie_word_embeddings: false)."
        )
    adapter = make_adapter(base, tmp_path / "b", seed=9, targets=["c_attn"])
    assert is_close(tensors(base, adapter), merged_by_peft(base, adapter))


def test_an_embedding_of_another_base(tiny, tmp_path):
    """peft saves the embedding that it adapts, and would put it into the base."""
    base, fft = tiny("llama").base, tiny("llama").fft
    adapter = make_adapter(base, tmp_path / "a", seed=8, targets=["embed_tokens"])
    edit_config(adapter, base_model_name_or_path="org/base")
    assert refused(fft, adapter) == (
        f"{adapter}: was trained on another model.embed_tokens.weight than the base's ({fft}). "
        f"Give the base that it was trained on, or {MERGE_WITH_PEFT}"
    )
    low = shutil.copytree(base, tmp_path / "low")
    rewrite(low, lambda found: found.update({k: v.bfloat16() for k, v in found.items()}))
    key = PREFIX + "model.embed_tokens.base_layer.weight"
    edit_weights(adapter, lambda found: found.update({key: found[key].bfloat16()}))
    opened(base, adapter).close()  # loaded in bfloat16 for the training
    opened(low, adapter).close()
