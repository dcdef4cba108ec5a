"""A merge to a folder equals dense float64 arithmetic, tensor by tensor, and loads whole."""

import itertools
import shutil

import pytest
import torch
from checkpoints import ARCHITECTURES, GROUPS, Family, read, rewrite
from mergekit.architecture.json_definitions import NAME_TO_ARCH
from safetensors import safe_open

from mergekit_fair.errors import CheckpointError, ConfigError
from mergekit_fair.merging.in_memory import load_tensors
from mergekit_fair.merging.parameters import bound_tensors
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.schema import dump_yaml


def merged(raw, out, options, **more):
    merge_to_folder(Recipe.from_mapping(raw, "r.yml"), out, options, MergeSettings(**more))
    return out


def copied(family, folder, change=None):
    """The family in `folder`, so that a test may damage it; `change` edits every checkpoint."""
    folders = {"base": family.base, "fft": family.fft, **family.groups}
    made = {name: shutil.copytree(path, folder / name) for name, path in folders.items()}
    if change:
        for path in made.values():
            rewrite(path, change)
    return Family(made["base"], made["fft"], {name: made[name] for name in GROUPS})


def same(left, right):
    """Same names, dtypes and bits."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and torch.equal(left[name].contiguous().view(torch.uint8), right[name].view(torch.uint8))
        for name in left
    )


def loaded(folder, architecture):
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    auto = (
        AutoModelForImageClassification
        if architecture == "vit"
        else AutoModelForSequenceClassification
    )
    model, report = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_addition_equals_dense_arithmetic_and_loads(tiny, tmp_path, options, architecture):
    family = tiny(architecture)
    raw = family.addition(lambda_=0.3)
    weights = dict(zip(GROUPS, (1.0, -0.5, 2.0), strict=True))
    for item in raw["models"]:
        item["parameters"]["weight"] = weights[item["parameters"]["group"]]
    out = merged(raw, tmp_path / "out", options)
    base, found = read(family.base), read(out)
    groups = {name: read(path) for name, path in family.groups.items()}
    assert found.keys() == base.keys()
    for name, start in base.items():
        vectors = [w * (groups[g][name].double() - start.double()) for g, w in weights.items()]
        exact = start.double() + 0.3 * sum(vectors)
        bound = 2.0**-24 * (exact.abs() + 9 * 0.3 * sum(vector.abs() for vector in vectors))
        assert found[name].dtype == torch.float32
        assert bool(((found[name].double() - exact).abs() <= bound).all()), name
    # transformers 5.23 names ViT's weights otherwise than its file does; saved again, they agree.
    loaded(out, architecture).save_pretrained(tmp_path / "again")
    assert same(read(tmp_path / "again"), found)


@pytest.mark.parametrize("architecture", ["bert", "vit"])
def test_injection_equals_dense_arithmetic(tiny, tmp_path, options, architecture):
    family = tiny(architecture)
    out = merged(family.injection(worst="Male", lambda_=0.4), tmp_path / "out", options)
    base, target = read(family.base), read(family.fft)
    worst = read(family.groups["Male"])
    for name, tensor in read(out).items():
        exact = target[name].double() + 0.4 * (worst[name].double() - base[name].double())
        torch.testing.assert_close(tensor.double(), exact, rtol=2e-7, atol=1e-8)
    loaded(out, architecture)


def test_the_folder_holds_what_a_user_needs(tiny, tmp_path, options):
    family = tiny("bert")
    text = "# mine\n" + dump_yaml(family.addition(lambda_=0.3))
    merge_to_folder(Recipe.from_text(text, "r.yml"), tmp_path / "out", options)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        "README.md",
        "config.json",
        "merge_manifest.json",
        "mergekit_config.yml",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (tmp_path / "out" / "mergekit_config.yml").read_text(encoding="utf-8") == text
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "# out\n" in card
    assert "[Subgroup Task Addition](https://arxiv.org/abs/2505.24262)" in card
    assert text.strip() in card
    places = [card.index(f"* {path}") for path in family.groups.values()]
    assert places == sorted(places)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as stream:
        assert stream.metadata()["format"] == "pt"


def test_a_picture_model_keeps_its_processor(tiny, tmp_path, options, caplog):
    family = tiny("vit")
    out = merged(family.addition(lambda_=0.1), tmp_path / "out", options)
    assert "tokenizer" not in caplog.text
    name = "preprocessor_config.json"
    assert (out / name).read_bytes() == (family.base / name).read_bytes()
    from transformers import AutoImageProcessor

    AutoImageProcessor.from_pretrained(out)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_lambda_zero_keeps_every_bit_in_the_dtype_of_the_base(tiny, tmp_path, options, dtype):
    def narrow(tensors):
        for name, tensor in tensors.items():
            tensors[name] = tensor.to(dtype)
        tensors["classifier.bias"][0] = -0.0

    family = copied(tiny("bert"), tmp_path, narrow)
    raw = family.addition(lambda_=0.0)
    del raw["dtype"]
    assert same(read(merged(raw, tmp_path / "added", options)), read(family.base))
    raw = family.injection(worst="Male", lambda_=0.0)
    del raw["dtype"]
    assert same(read(merged(raw, tmp_path / "injected", options)), read(family.fft))


def test_dtype_is_for_arithmetic_and_out_dtype_for_the_file(tiny, tmp_path, options):
    family = tiny("bert")
    raw = family.addition(lambda_=0.3)
    wide = read(merged(raw, tmp_path / "wide", options))
    narrow = read(merged(raw | {"out_dtype": "bfloat16"}, tmp_path / "narrow", options))
    assert same(narrow, {name: tensor.bfloat16() for name, tensor in wide.items()})


def test_the_order_of_the_models_changes_no_byte(tiny, tmp_path, options):
    family = tiny("distilbert")
    raw = family.addition(lambda_=0.3)
    files = set()
    for index, order in enumerate(itertools.permutations(raw["models"])):
        out = merged(raw | {"models": list(order)}, tmp_path / str(index), options)
        files.add((out / "model.safetensors").read_bytes())
    listed = [*reversed(raw["models"]), {"model": raw["base_model"]}]
    out = merged(raw | {"models": listed}, tmp_path / "with-base", options)
    files.add((out / "model.safetensors").read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("architecture", ["bert", "vit"])
def test_shards_in_and_out(tiny, tmp_path, options, architecture):
    family = tiny(architecture)
    whole = read(merged(family.addition(lambda_=0.3), tmp_path / "whole", options))
    model = loaded(family.base, architecture)
    shutil.copytree(family.base, tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    assert len(list((tmp_path / "base").glob("model-*.safetensors"))) > 2
    raw = family.addition(lambda_=0.3) | {"base_model": str(tmp_path / "base")}
    small = options.model_copy(update={"out_shard_size": 20_000})
    out = merged(raw, tmp_path / "out", small)
    assert len(list(out.glob("model-*.safetensors"))) > 2
    assert same(load_tensors(out), whole)
    loaded(out, architecture)


def test_stock_methods_and_slices_run_too(tiny, tmp_path, options, monkeypatch):
    family = tiny("bert")
    monkeypatch.chdir(family.base.parent)  # with relative paths of the form a/b
    weights = {"Female": 1.0, "Male": -0.5}
    raw = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [
            {"model": f"groups/{name}", "parameters": {"weight": w}} for name, w in weights.items()
        ],
        "parameters": {"lambda": 0.3},
        "dtype": "float32",
    }
    out = merged(raw, tmp_path / "stock", options)
    ours = family.addition(lambda_=0.3)
    ours["models"] = ours["models"][:2]
    ours["models"][1]["parameters"]["weight"] = -0.5
    expected = read(merged(ours, tmp_path / "ours", options))
    for name, tensor in read(out).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
    slices = [{"sources": [{"model": "groups/Male", "layer_range": [0, 1]}]} for _ in range(3)]
    raw = {"merge_method": "passthrough", "slices": slices, "dtype": "float32"}
    assert loaded(merged(raw, tmp_path / "deep", options), "bert").config.num_hidden_layers == 3


def test_mergekit_itself_is_left_as_it_was(tiny, tmp_path, options):
    before = dict(NAME_TO_ARCH)
    merged(tiny("vit").addition(lambda_=0.3), tmp_path / "out", options)
    assert before == NAME_TO_ARCH


def test_a_second_merge_sees_changed_files(tiny, tmp_path, options):
    family = copied(tiny("distilbert"), tmp_path)
    first = read(merged(family.addition(lambda_=0.5), tmp_path / "first", options))
    rewrite(family.groups["Male"], lambda tensors: tensors["classifier.bias"].add_(1.0))
    second = read(merged(family.addition(lambda_=0.5), tmp_path / "second", options))
    change = second["classifier.bias"] - first["classifier.bias"]
    torch.testing.assert_close(change, torch.full_like(change, 0.5))


def refused(raw, out, options, error):
    """The message; asserts that nothing was left beside `out`."""
    before = sorted(path.name for path in out.parent.iterdir())
    with pytest.raises(error) as caught:
        merged(raw, out, options)
    assert sorted(path.name for path in out.parent.iterdir()) == before
    return str(caught.value)


def test_a_layer_gradient_over_an_architecture_that_mergekit_does_not_know(tiny, tmp_path, options):
    """The place of a layer among its module's is the place in the gradient, as in mergekit."""
    family = tiny("vit")
    whole = read(merged(family.addition(lambda_=1.0), tmp_path / "whole", options))
    base = read(family.base)
    for index, setting in enumerate(([0, 1], [{"filter": "vit", "value": [0, 1]}, {"value": 0}])):
        raw = family.addition(lambda_=setting)
        result = read(merged(raw, tmp_path / f"out{index}", options))
        for name, tensor in result.items():
            is_second = name.startswith("vit.encoder.layer.1.")
            assert torch.equal(tensor, whole[name] if is_second else base[name]), name


def test_filters_on_numbers_in_names_say_the_same(tiny, tmp_path, options):
    family = tiny("vit")
    setting = [{"filter": ".0.", "value": 0.0}, {"value": 1.0}]
    found = read(merged(family.addition(lambda_=setting), tmp_path / "out", options))
    whole = read(merged(family.addition(lambda_=1.0), tmp_path / "whole", options))
    base = read(family.base)
    first = {name for name in base if ".0." in name}
    assert 0 < len(first) < len(base)
    assert same(found, {name: (base if name in first else whole)[name] for name in base})


def test_models_that_do_not_fit(tiny, tmp_path, options):
    family = copied(tiny("bert"), tmp_path)
    male, raw = family.groups["Male"], family.addition(lambda_=0.5)
    rewrite(male, lambda tensors: tensors.pop("classifier.bias"))
    assert refused(raw, tmp_path / "out", options, CheckpointError) == (
        f"{male}: its tensors are not the base's ({family.base}): 1 missing ['classifier.bias'], "
        "0 more []. Merge models of one architecture, fine-tuned from this base."
    )
    raw["models"][1]["model"] = str(tmp_path / "Mal")
    assert refused(raw, tmp_path / "out", options, CheckpointError) == (
        f"{tmp_path / 'Mal'}: no such model folder; did you mean 'Male'?"
    )
    (family.base / "config.json").unlink()
    raw = family.injection(worst="Other")
    raw["models"] = [item for item in raw["models"] if "Male" not in item["model"]]
    text = refused(raw, tmp_path / "out", options, CheckpointError)
    assert text.startswith(f"{family.base}: its config.json cannot be read (")


def test_a_model_that_is_nowhere(tiny, tmp_path, options):
    raw = tiny("bert").addition(lambda_=0.5)
    raw["models"][1]["model"] = "nobody/nothing"
    text = refused(raw, tmp_path / "out", options, CheckpointError)
    assert text.startswith("nobody/nothing: neither a folder here nor found on the Hub (")
    assert text.endswith("). Check the path.")
    raw["models"][1]["model"] = f"{tiny('bert').fft}+{tmp_path}/adapter"
    text = refused(raw, tmp_path / "out", options, CheckpointError)
    assert text.startswith(f"{tmp_path}/adapter: ")


POSITIONS = "bert.embeddings.position_ids"


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_integer_buffers_are_copied(tiny, tmp_path, options, dtype):
    def count(tensors):
        tensors[POSITIONS] = torch.arange(64)

    family = copied(tiny("bert"), tmp_path, count)
    raw = family.addition(lambda_=0.5) | {"dtype": dtype}
    found = read(merged(raw, tmp_path / "out", options))[POSITIONS]
    assert found.dtype == torch.int64
    assert found.tolist() == list(range(64))
    male = rewrite(family.groups["Male"], lambda tensors: tensors[POSITIONS].add_(1))
    assert refused(raw, tmp_path / "differ", options, CheckpointError) == (
        f"{male}: integer tensor {POSITIONS} differs from the base's. Integers are copied, not "
        "merged: make them equal first."
    )
    rewrite(male, lambda tensors: tensors.update({POSITIONS: torch.arange(64).float()}))
    assert refused(raw, tmp_path / "differ", options, CheckpointError) == (
        f"{male}: tensor {POSITIONS} has another kind of dtype than the base's ({family.base}); "
        "got 'F32'; allowed: I64. Merge models of one architecture, fine-tuned from this base."
    )


def test_a_merge_that_loses_tensors_is_refused(tiny, tmp_path, options, monkeypatch):
    monkeypatch.setattr(
        "mergekit_fair.merging.plan.bound_tensors", lambda *given: bound_tensors(*given)[32:]
    )
    raw = tiny("vit").addition(lambda_=0.5)
    text = refused(raw, tmp_path / "out", options, CheckpointError)
    assert "the merge would lose 32 tensors ['" in text
    assert "nothing was written" in text


def test_a_tokenizer_that_is_not_copied_is_refused(tiny, tmp_path, options, monkeypatch):
    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    raw = tiny("bert").addition(lambda_=0.5)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.read_bytes", fail)
        text = refused(raw, tmp_path / "out", options, CheckpointError)
    assert text == (
        f"{tiny('bert').base}: its tokenizer.json could not be copied (Input/output error). "
        "Make the file readable, or pass --no-copy-tokenizer."
    )
    without = options.model_copy(update={"copy_tokenizer": False})
    assert not (merged(raw, tmp_path / "out", without) / "tokenizer.json").exists()


def test_an_existing_output_is_kept_unless_overwritten(tiny, tmp_path, options):
    raw = tiny("distilbert").addition(lambda_=0.5)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    text = refused(raw, out, options, ConfigError)
    assert text == f"{out}: exists already. Choose another folder or pass --overwrite."
    assert (out / "mine.txt").read_text() == "mine"
    (out / "mine.txt").unlink()
    merged(raw, out, options, overwrite=True)
    merged(raw, out, options, overwrite=True)
    assert (out / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_overwrite_keeps_the_old_model(tiny, tmp_path, options):
    out = merged(tiny("distilbert").addition(lambda_=0.5), tmp_path / "out", options)
    before = (out / "model.safetensors").read_bytes()
    raw = tiny("vit").addition(lambda_=0.5) | {"base_model": str(tiny("bert").base)}
    with pytest.raises(CheckpointError):
        merged(raw, out, options, overwrite=True)
    assert (out / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_leftovers_of_a_killed_run_are_removed(tiny, tmp_path, options):
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    (partial / "model-00001-of-00009.safetensors").write_bytes(b"half")
    merged(tiny("distilbert").addition(lambda_=0.5), tmp_path / "out", options)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not list((tmp_path / "out").glob("model-*"))
