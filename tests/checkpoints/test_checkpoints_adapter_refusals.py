"""Adapters that cannot be read, with the option, module or tensor that is the reason."""

import shutil

import pytest
import torch
from adapters import edit_config, edit_weights, make_adapter
from checkpoints import read, rewrite
from refusals import raises
from safetensors.torch import save_file

from mergekit_fair.checkpoints.adapter_config import MERGE_WITH_PEFT
from mergekit_fair.checkpoints.headers import COPY_AGAIN
from mergekit_fair.checkpoints.lora import AdapterReader
from mergekit_fair.checkpoints.reader import open_folder
from mergekit_fair.errors import CheckpointError
from mergekit_fair.evaluation.classifier import backend_of

QUERY = "bert.encoder.layer.0.attention.self.query"
PREFIX = "base_model.model."
A, B = f"{QUERY}.lora_A.weight", f"{QUERY}.lora_B.weight"
BESIDE = "beside the model"


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "adapter"
    how = {"targets": ["query", "value"], "modules_to_save": ["classifier"]}
    return make_adapter(tiny("bert").base, folder, seed=0, **how)


@pytest.fixture
def adapter(plain, tmp_path):
    """A BERT adapter with a classifier of its own, to be damaged."""
    return shutil.copytree(plain, tmp_path / "adapter")


def refused(base, adapter, *shows, **fields):
    with raises(CheckpointError, *shows, where=adapter, **fields):
        AdapterReader(open_folder(base), base, adapter)


def opens(base, adapter):
    AdapterReader(open_folder(base), base, adapter).close()
    return True


def with_tensors(adapter, changes):
    """Replace, or by None remove, tensors."""

    def change(found):
        for name, tensor in changes.items():
            found.pop(PREFIX + name, None)
            if tensor is not None:
                found[PREFIX + name] = tensor

    return edit_weights(adapter, change)


def test_files_that_are_missing(tiny, adapter, tmp_path):
    base = tiny("bert").base
    refused(base, tmp_path / "adaptr", "did you mean 'adapter'?")
    file = adapter / "adapter_model.safetensors"
    file.rename(adapter / "adapter_model.bin")
    left = ["README.md", "adapter_config.json", "adapter_model.bin"]
    refused(base, adapter, "pickled", got=left, fix="--allow-pickle")
    (adapter / "adapter_model.bin").unlink()
    refused(base, adapter, "adapter_model.safetensors", got=left[:2], fix="saved with peft")
    (adapter / "adapter_config.json").unlink()
    refused(base, adapter, "adapter_config.json", got=left[:1], fix="saved with peft")


def test_adapters_in_folders_of_their_own(tiny, plain, tmp_path):
    """As peft saves those with names, and a Trainer those of its checkpoints."""
    run = tmp_path / "run"
    for name in ("women", "men"):
        shutil.copytree(plain, run / name)
    refused(tiny("bert").base, run, got=["men", "women"], fix=f"{run}/men")
    with raises(CheckpointError, where=run, got=["men", "women"], fix=f"{run}/men"):
        open_folder(run)
    with raises(CheckpointError, where=run, got=["men", "women"], fix=f"{run}/men"):
        backend_of(str(run))
    assert opens(tiny("bert").base, run / "women")


def test_files_that_are_damaged(tiny, adapter):
    base, file = tiny("bert").base, adapter / "adapter_model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-4])
    refused(base, adapter, "truncated", got=f"{len(data) - 4} bytes", fix=COPY_AGAIN)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 100_000, '"a"', '{"r": 1' + "0" * 5000 + "}"]
)
def test_a_configuration_that_is_no_json_mapping(tiny, adapter, text):
    (adapter / "adapter_config.json").write_text(text)
    refused(tiny("bert").base, adapter, "adapter_config.json", fix=COPY_AGAIN)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bias", "some"),
        ("target_parameters", ["experts.gate_up_proj"]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "loftq"),
        ("use_qalora", True),
        ("velora_config", {"num_groups": 2}),
        ("megatron_config", {"a": 1}),
        ("use_something_new", 1),
    ],
)
def test_more_than_lora(tiny, adapter, key, value):
    edit_config(adapter, **{key: value})
    refused(tiny("bert").base, adapter, key, got=value, fix=MERGE_WITH_PEFT)


@pytest.mark.parametrize(
    ("key", "value", "fix"),
    [
        ("alora_invocation_tokens", [5], BESIDE),
        ("arrow_config", {"top_k": 2}, BESIDE),
        ("layer_replication", [[0, 1], [0, 1]], "slices"),
    ],
)
def test_what_no_weights_can_do(tiny, adapter, key, value, fix):
    """The way out is not a merge by peft, which cannot do it either."""
    refused(tiny("bert").base, edit_config(adapter, **{key: value}), key, got=value, fix=fix)


def test_kinds_that_change_no_weights(tiny, adapter):
    for kind in ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"):
        refused(tiny("bert").base, edit_config(adapter, peft_type=kind), got=kind, fix=BESIDE)


def test_other_kinds_of_adapters(tiny, adapter):
    for kind in ("IA3", "LOHA", None, 3):
        edit_config(adapter, peft_type=kind)
        refused(tiny("bert").base, adapter, got=kind, allowed="LORA", fix=MERGE_WITH_PEFT)


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
        ("trainable_token_indices", 5),
        ("trainable_token_indices", {"word_embeddings": [-1]}),
    ],
)
def test_values_that_peft_would_not_take(tiny, adapter, key, value):
    edit_config(adapter, **{key: value})
    got = next(iter(value.values())) if isinstance(value, dict) else value
    refused(tiny("bert").base, adapter, key, got=got, fix=COPY_AGAIN)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(a*)*", "too many repetitions"),
        (".*a.*b.*c.*d", "too many repetitions"),
        ("a?" * 30, "too many repetitions"),
        ("(query", "unterminated subpattern"),
        ("(?i)query", "global flags"),
    ],
)
def test_patterns_that_cannot_be_matched(tiny, adapter, pattern, reason):
    edit_config(adapter, alpha_pattern={pattern: 1})
    refused(tiny("bert").base, adapter, "alpha_pattern", reason, got=pattern)


def test_another_base(tiny, adapter, tmp_path, monkeypatch):
    """A folder that is still there is compared; one that is gone, or a name, says nothing."""
    base, fft = tiny("bert").base, tiny("bert").fft
    refused(fft, adapter, str(fft), f"{QUERY}.weight", got=str(base), fix=f"{base}+{adapter}")
    (tmp_path / "link").symlink_to(base)
    copy = shutil.copytree(base, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    said = (base, tmp_path / "link", copy, "copy", tmp_path / "gone", "org/model", "\0", "a" * 5000)
    for named in (*map(str, said), "", None):
        assert opens(base, edit_config(adapter, base_model_name_or_path=named))
    rewrite(copy, lambda found: found.update({k: v.bfloat16() for k, v in found.items()}))
    assert opens(base, edit_config(adapter, base_model_name_or_path=str(copy)))
    assert opens(copy, edit_config(adapter, base_model_name_or_path=str(base)))


def test_numbers_that_are_not_finite(tiny, adapter):
    for value in (float("nan"), float("inf")):
        with_tensors(adapter, {B: torch.full((32, 4), value)})
        refused(tiny("bert").base, adapter, B, fix="train it again")


def test_half_a_pair(tiny, adapter):
    refused(tiny("bert").base, with_tensors(adapter, {B: None}), QUERY, got=["lora_A"])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((4, 31), (32, 4)),
        ((4, 32), (33, 4)),
        ((4, 32), (32, 3)),
        ((5, 32), (32, 5)),  # another rank than adapter_config.json says
        ((4, 32, 1), (32, 4, 1)),
        ((4,), (32, 4)),
        ((), ()),
    ],
)
def test_factors_that_do_not_fit(tiny, adapter, a, b):
    with_tensors(adapter, {A: torch.ones(a), B: torch.ones(b)})
    got = f"A {list(a)}, B {list(b)}, r 4"
    refused(tiny("bert").base, adapter, f"{QUERY}.weight", "F32 [32, 32]", got=got)


def test_factors_whose_shards_were_not_gathered(tiny, adapter):
    with_tensors(adapter, {A: torch.ones(0)})
    refused(tiny("bert").base, adapter, QUERY, got="A [0]", fix="gathered")


def test_kernels_that_do_not_fit(tiny, tmp_path):
    base = tiny("vit").base
    adapter = make_adapter(base, tmp_path / "a", seed=0, targets=["projection"])
    a = "vit.embeddings.patch_embeddings.projection.lora_A.weight"
    refused(base, with_tensors(adapter, {a: torch.ones(4, 3, 8, 4)}), got="A [4, 3, 8, 4]")


def test_factors_of_integers(tiny, adapter):
    with_tensors(adapter, {A: torch.ones(4, 32, dtype=torch.int32)})
    refused(tiny("bert").base, adapter, f"{QUERY}.weight")
    with_tensors(adapter, {A: torch.ones(4, 32).to(torch.float8_e4m3fn)})
    refused(tiny("bert").base, adapter, PREFIX + A, got="F8_E4M3")


def test_a_module_that_the_base_has_not(tiny, adapter):
    base = tiny("bert").base
    wrong = {name.replace("query", "queri"): torch.ones(4, 32) for name in (A, B)}
    fix = f"did you mean '{QUERY}'?"
    refused(base, with_tensors(adapter, wrong), str(base), got=f"{QUERY[:-1]}i", fix=fix)


def test_a_module_under_two_names(tiny, tmp_path):
    base = tiny("vit").base
    adapter = make_adapter(base, tmp_path / "a", seed=7, targets=["q_proj"])
    old = "vit.encoder.layer.0.attention.attention.query"
    pair = {f"{old}.lora_A.weight": torch.ones(4, 32), f"{old}.lora_B.weight": torch.ones(32, 4)}
    refused(base, with_tensors(adapter, pair), f"{old}.weight", fix=COPY_AGAIN)


def test_tensors_that_lora_does_not_have(tiny, adapter):
    base = tiny("bert").base
    for name in (f"{QUERY}.lora_diag", f"{QUERY}.lora_A.default.weight"):
        with_tensors(adapter, {name: torch.ones(32)})
        refused(base, adapter, PREFIX + name, fix=MERGE_WITH_PEFT)
        with_tensors(adapter, {name: None})
    edit_weights(adapter, lambda found: found.update({"lora_A.weight": torch.ones(4, 32)}))
    refused(base, adapter, "lora_A.weight", fix=MERGE_WITH_PEFT)
    save_file({}, adapter / "adapter_model.safetensors")
    refused(base, adapter, "adapts nothing", fix=COPY_AGAIN)


def test_a_magnitude_and_its_option(tiny, adapter, tmp_path):
    base, name = tiny("bert").base, f"{QUERY}.lora_magnitude_vector"
    with_tensors(adapter, {name: torch.ones(32)})
    refused(base, adapter, "use_dora", QUERY, fix=COPY_AGAIN)
    dora = make_adapter(base, tmp_path / "d", seed=1, targets=["query"], use_dora=True)
    refused(base, with_tensors(dora, {name: torch.ones(31)}), name, got="F32 [31]")
    refused(base, with_tensors(dora, {name: None}), "use_dora", QUERY)


def test_a_bias_that_the_base_has_not(tiny, tmp_path):
    base = tiny("llama").base
    adapter = make_adapter(base, tmp_path / "a", seed=1, targets=["q_proj"], lora_bias=True)
    refused(base, adapter, "model.layers.0.self_attn.q_proj", "lora_bias", fix=BESIDE)


def test_rows_that_do_not_fit(tiny, tmp_path):
    base = tiny("bert").base
    adapter = make_adapter(
        base, tmp_path / "a", seed=1, targets=["query"], trainable_token_indices=[3, 5]
    )
    for indices in ([3], [3, 10_000], []):
        edit_config(adapter, trainable_token_indices=indices)
        got = f"{len(indices)} indices"
        refused(base, adapter, "bert.embeddings.word_embeddings.weight", got=got)


def test_modules_to_save(tiny, adapter):
    base = tiny("bert").base
    with_tensors(adapter, {"classifier.bias": None})
    refused(base, adapter, "tensor classifier.bias", got=["classifier"], fix=COPY_AGAIN)
    with_tensors(adapter, {"classifier.bias": torch.ones(3)})
    fix = "give the base that it was trained on"
    refused(base, adapter, "classifier.bias", got="F32 [3]", allowed="F32 [2]", fix=fix)
    with_tensors(adapter, {"classifier.bias": None, "clasifier.bias": torch.ones(2)})
    refused(base, adapter, str(base), got="clasifier", fix="did you mean 'classifier'?")


def test_a_vocabulary_of_another_size(tiny, tmp_path):
    """peft saves the embedding, too, where tokens were added."""
    base = tiny("llama").base
    adapter = make_adapter(
        base, tmp_path / "a", seed=1, targets=["q_proj"], modules_to_save=["embed_tokens"]
    )
    rows, width = read(base)["model.embed_tokens.weight"].shape
    with_tensors(adapter, {"model.embed_tokens.weight": torch.ones(rows + 2, width)})
    fix = f"resize_token_embeddings({rows + 2})"
    refused(base, adapter, got=f"F32 [{rows + 2}, {width}]", fix=fix)


def test_an_embedding_of_another_base(tiny, tmp_path):
    """peft saves the embedding that it adapts, and would put it into the base."""
    base, fft = tiny("llama").base, tiny("llama").fft
    adapter = make_adapter(base, tmp_path / "a", seed=8, targets=["embed_tokens"])
    edit_config(adapter, base_model_name_or_path="org/base")
    refused(fft, adapter, "model.embed_tokens.weight", str(fft))
    low = shutil.copytree(base, tmp_path / "low")
    rewrite(low, lambda found: found.update({k: v.bfloat16() for k, v in found.items()}))
    key = PREFIX + "model.embed_tokens.base_layer.weight"
    edit_weights(adapter, lambda found: found.update({key: found[key].bfloat16()}))
    assert opens(base, adapter)  # loaded in bfloat16 for the training
    assert opens(low, adapter)
