"""`purify` from a recipe to checkpoints that any merge takes, beside inputs read densely."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from checkpoints import Family, fine_tune, read, rewrite
from classifiers import write_causal, write_text
from click.testing import CliRunner
from pictures import write_pictures
from refusals import refusal
from tiny import data_block, write_rows

from mergekit_fair.checkpoints.trained_rows import TrainedRows, trained_rows
from mergekit_fair.cli import main
from mergekit_fair.data import load_rows, load_spec
from mergekit_fair.errors import CheckpointError, ConfigError, DataError, RecipeError
from mergekit_fair.evaluation.model_inputs import open_inputs
from mergekit_fair.purify.layer_inputs import input_covariances, linear_layers, open_model
from mergekit_fair.purify.low_rank import RIDGE
from mergekit_fair.purify.purify_results import read_purification

# What is no encoder's linear layer: heads, embeddings, normalisation, biases, convolutions.
HEADS = ("classifier", "score")
ENDS = ("bias", "LayerNorm.weight", "embeddings.weight")


def run(*words: object) -> Any:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


def recipe_of(base: Path, models: dict[str, Path], path: Path, **changes: Any) -> Path:
    items = [{"model": str(m), "parameters": {"group": name}} for name, m in models.items()]
    raw = {
        "merge_method": "subgroup_task_addition",
        "base_model": str(base),
        "models": items,
        "parameters": {"lambda": 0.5},
        "dtype": "float32",
        **changes,
    }
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data description of texts whose groups are called blue and green."""
    folder = tmp_path_factory.mktemp("texts")
    block = data_block(write_rows(folder / "rows.csv", n=60))
    (folder / "data.yml").write_text(yaml.safe_dump(block))
    return folder / "data.yml"


@pytest.fixture
def job(tiny: Any, texts: Path, tmp_path: Path) -> tuple[Family, Path, list[object]]:
    """A family, a recipe over two of its models called blue and green, and the command."""
    family = tiny("bert")
    models = {"blue": family.groups["Female"], "green": family.groups["Male"]}
    recipe = recipe_of(family.base, models, tmp_path / "recipe.yml")
    return family, recipe, ["purify", recipe, "--data", texts, "-o", tmp_path / "out", "--quiet"]


def dense_inputs(model: Any, inputs: Any, module: Any) -> torch.Tensor:
    """All that a layer takes, one row at a time and so without padding."""
    taken: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(
        lambda _, args: taken.append(args[0].reshape(-1, args[0].shape[-1]).double())
    )
    with torch.no_grad():
        for row in range(len(inputs.lengths)):
            batch = inputs.batch([row])
            if "llama" in type(model).__name__.lower() or "gpt" in type(model).__name__.lower():
                batch.pop("token_type_ids", None)
            model(**batch)
    handle.remove()
    return torch.cat(taken)


def opened(folder: Path, texts: Path, rows: int = 12) -> tuple[Any, list[Any], Any]:
    model = open_model(str(folder), "cpu")
    layers, _ = linear_layers(model, folder, {n: _info(t) for n, t in read(folder).items()})
    data = load_rows(load_spec(texts)).take(np.arange(rows))
    return model, layers, open_inputs(data, folder, 32)


def _info(tensor: torch.Tensor) -> Any:
    from mergekit_fair.checkpoints.headers import TensorInfo

    return TensorInfo("F32", tuple(tensor.shape))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2", "llama", "causal"])
def test_streamed_covariances_are_the_dense_ones(
    texts: Path, tmp_path: Path, architecture: str
) -> None:
    """Whatever the batches, whose padding is no input; and in several passes over few layers."""
    write = write_causal if architecture == "causal" else write_text
    folder = write(tmp_path / "m", "llama" if architecture == "causal" else architecture)
    model, layers, inputs = opened(folder, texts)
    assert len(layers) >= 8
    found = {}
    for batch_size, at_once in ((1, 1 << 30), (5, 1 << 30), (12, 3 * 8 * 32**2)):
        done: list[int] = []
        found[batch_size] = {
            layer.memory: (covariance, count)
            for layer, covariance, count in input_covariances(
                model, layers, inputs, batch_size, done.append, at_once
            )
        }
        assert sum(done) == (12 if at_once > 1 << 20 else 12 * (sum(done) // 12))
        assert (sum(done) > 12) == (at_once < 1 << 20)
    for layer in layers:
        x = dense_inputs(model, inputs, layer.module)
        expected = x.T @ x / len(x)
        for covariance, count in (found[size][layer.memory] for size in (1, 5, 12)):
            assert count == len(x)
            # In float32 other batches round otherwise, layer upon layer.
            most = float(expected.abs().max())
            assert torch.allclose(covariance, expected, rtol=0, atol=1e-4 * most)


@pytest.mark.parametrize("of", ["weights", "vectors"])
@pytest.mark.parametrize("architecture", ["bert", "llama", "vit", "gpt2"])
def test_written_weights_are_the_formula_and_all_else_is_as_it_was(
    tiny: Any, texts: Path, tmp_path: Path, architecture: str, of: str
) -> None:
    data = texts
    if architecture == "gpt2":  # whose files have weights of (inputs, outputs)
        base = write_text(tmp_path / "base", "gpt2")
        model = fine_tune(base, tmp_path / "blue", seed=1, size=0.1)
    else:
        family = tiny(architecture)
        base, model = family.base, family.groups["Male"]
    if architecture == "vit":
        data = tmp_path / "pictures.yml"
        data.write_text(yaml.safe_dump(write_pictures(tmp_path / "pictures", n=40)))
    recipe = recipe_of(base, {"blue": model}, tmp_path / "recipe.yml")
    # A row at a time, as the inputs below: where two σ are close, rounding decides much.
    words = ("--data", data, "-o", tmp_path / "out", "--rank", 5, "--of", of, "--quiet")
    run("purify", recipe, *words, "--batch-size", 1)
    result = read_purification(tmp_path / "out")
    found = result.models["blue"]
    before, after, start = read(model), read(tmp_path / "out" / "blue"), read(base)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {layer.tensor for layer in found.layers}
    assert len(moved) >= 8
    assert not any(name.endswith(ENDS) or name.startswith(HEADS) for name in moved)
    spec = load_spec(data)
    rows = load_rows(spec).of("train")
    rows = rows if found.group is None else rows.in_group(found.group)
    assert (found.rows, found.group) == (len(rows), "blue" if "blue" in rows.group_names else None)
    opened_model = open_model(str(model), "cpu")
    inputs = open_inputs(rows, model, 64)
    infos = {name: _info(tensor) for name, tensor in before.items()}
    layers, _ = linear_layers(opened_model, model, infos)
    by_name = {layer.tensor: layer for layer in layers}
    for record in found.layers:
        layer = by_name[record.tensor]
        x = dense_inputs(opened_model, inputs, layer.module)
        c = x.T @ x / len(x)
        regular = c + RIDGE * c.diagonal().mean() * torch.eye(len(c))
        w, w0, got = (t[record.tensor].double() for t in (before, start, after))
        if layer.is_transposed:
            w, w0, got = w.T, w0.T, got.T
        m = w if of == "weights" else w - w0
        u, sigma, v = torch.linalg.svd(m @ regular, full_matrices=False)
        cut = (u[:, :5] * sigma[:5]) @ v[:5] @ torch.linalg.inv(regular)
        expected = cut if of == "weights" else w0 + cut
        scale = float(m.abs().max())
        assert torch.allclose(got, expected, rtol=0, atol=1e-5 * scale)
        error = (x @ (w - got).T).norm() / (x @ (w - w0).T).norm()
        assert record.error == pytest.approx(float(error), rel=1e-4)
        assert record.energy == pytest.approx(float((sigma[:5] ** 2).sum() / (sigma**2).sum()))
        assert (record.rank, record.full_rank, record.inputs) == (5, min(m.shape), len(x))
    if architecture == "vit":
        assert any("convolutions" in note for note in found.notes)


def test_full_rank_is_the_checkpoint_itself(job: Any, tmp_path: Path) -> None:
    family, _, command = job
    run(*command, "--keep", 1)
    for name, model in (("blue", "Female"), ("green", "Male")):
        there = family.groups[model] / "model.safetensors"
        assert (tmp_path / "out" / name / "model.safetensors").read_bytes() == there.read_bytes()
    layers = read_purification(tmp_path / "out").models["blue"].layers
    assert {layer.error for layer in layers} == {0.0}
    assert {layer.energy for layer in layers} == {1.0}


def test_the_recipe_merges_what_was_written(job: Any, tmp_path: Path) -> None:
    """As its own numbers over its own base; and rows and files of the models are handed on."""
    family, _, command = job
    shown = json.loads(run(*command, "--rank", 8, "--json").stdout)
    out = tmp_path / "out"
    assert shown == read_purification(out).to_dict()
    raw = yaml.safe_load((out / "recipe.yml").read_text())
    assert raw["base_model"] == str(family.base)
    assert [item["model"] for item in raw["models"]] == [str(out / n) for n in ("blue", "green")]
    run("merge", out / "recipe.yml", tmp_path / "merged", "--quiet")
    merged, base = read(tmp_path / "merged"), read(family.base)
    parts = [read(out / name) for name in ("blue", "green")]
    for name, tensor in merged.items():
        start = base[name].double()
        expected = start + 0.5 * sum(part[name].double() - start for part in parts)
        assert torch.allclose(tensor.double(), expected, rtol=0, atol=1e-6)
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    AutoTokenizer.from_pretrained(out / "blue")
    model = AutoModelForSequenceClassification.from_pretrained(out / "blue")
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.linalg.matrix_rank(model.state_dict()[name]) == 8


@pytest.mark.parametrize("allocate", ["models", "layers"])
def test_budgets_are_shared_and_lose_less(job: Any, tmp_path: Path, allocate: str) -> None:
    _, _, command = job
    run(*command, "--keep", 0.5)
    even = read_purification(tmp_path / "out")
    run(*command, "--keep", 0.5, "--allocate", allocate, "--overwrite")
    found = read_purification(tmp_path / "out")

    def layers(result: Any) -> list[Any]:
        return [(name, each) for name, m in result.models.items() for each in m.layers]

    budgets: dict[str, list[int]] = {}
    for (name, one), (_, other) in zip(layers(even), layers(found), strict=True):
        pair = budgets.setdefault(one.tensor if allocate == "models" else name, [0, 0])
        pair[0] += one.rank
        pair[1] += other.rank
    assert all(before == after for before, after in budgets.values())
    kept = [sum(each.energy for _, each in layers(result)) for result in (even, found)]
    assert kept[1] > kept[0]


def test_a_layer_that_did_not_move_has_no_error(job: Any, texts: Path, tmp_path: Path) -> None:
    """And of vectors none is left: its weights are the base's."""
    family, _, _ = job
    name = "bert.encoder.layer.1.output.dense.weight"
    model = shutil.copytree(family.groups["Male"], tmp_path / "model")
    rewrite(model, lambda t: t.update({name: read(family.base)[name]}))
    recipe = recipe_of(family.base, {"green": model}, tmp_path / "one.yml")
    out = tmp_path / "one"
    words = ("--data", texts, "-o", out, "--rank", 3, "--of", "vectors", "--quiet")
    shown = run("purify", recipe, *words).stdout
    assert "ranks uniform" in shown
    (layer,) = (
        each for each in read_purification(out).models["green"].layers if each.tensor == name
    )
    assert (layer.energy, layer.error) == (None, None)
    assert torch.equal(read(out / "green")[name], read(family.base)[name])


def test_rows_that_models_were_trained_on_are_handed_on(
    job: Any, texts: Path, tmp_path: Path
) -> None:
    family, _, _ = job
    model = shutil.copytree(family.groups["Male"], tmp_path / "model")
    rows = load_rows(load_spec(texts)).of("train")
    TrainedRows.of(rows).write(model)
    (model / "pytorch_model.bin").write_bytes(b"of another format")
    recipe = recipe_of(family.base, {"other": model}, tmp_path / "one.yml")
    run("purify", recipe, "--data", texts, "-o", tmp_path / "one", "--rows", 7, "--quiet")
    known = trained_rows(tmp_path / "one" / "other")
    assert known is not None
    assert np.array_equal(known.keys, np.unique(rows.keys()))
    assert not (tmp_path / "one" / "other" / "pytorch_model.bin").exists()
    found = read_purification(tmp_path / "one").models["other"]
    assert (found.rows, found.group) == (7, None)


def test_causal_models_in_shards_of_bfloat16(texts: Path, tmp_path: Path) -> None:
    """Tensors are written where they lie, in their dtype; the output layer stays, tied or not."""
    from transformers import AutoModelForCausalLM

    base = write_causal(tmp_path / "base")
    model = fine_tune(base, tmp_path / "model", seed=1, size=0.1)
    for folder in (base, model):
        half = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        (folder / "model.safetensors").unlink()
        half.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(model.glob("model-*.safetensors"))) > 1
    recipe = recipe_of(base, {"x": model}, tmp_path / "recipe.yml", dtype="bfloat16")
    run("purify", recipe, "--data", texts, "-o", tmp_path / "out", "--rank", 4, "--quiet")
    before, after = read(model), read(tmp_path / "out" / "x")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.endswith("_proj.weight")}
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    sigma = torch.linalg.svdvals(after["model.layers.1.mlp.up_proj.weight"].double())
    assert sigma[4] < 0.01 * sigma[0]  # but for rounding
    run("check", tmp_path / "out" / "x")
    run("merge", tmp_path / "out" / "recipe.yml", tmp_path / "merged", "--quiet")


def test_a_group_without_train_rows_is_refused(job: Any, texts: Path, tmp_path: Path) -> None:
    _, recipe, _ = job
    block = yaml.safe_load(texts.read_text())
    lines = Path(block["source"]).read_text().splitlines()
    rows = [f"{line},{'report' if line.endswith('blue') else 'train'}" for line in lines[1:]]
    (tmp_path / "rows.csv").write_text("\n".join([f"{lines[0]},part", *rows]) + "\n")
    block["source"] = str(tmp_path / "rows.csv")
    block["splits"] = {"column": "part", "names": {"train": "train", "report": "report"}}
    (tmp_path / "data.yml").write_text(yaml.safe_dump(block))
    words = ["purify", recipe, "--data", tmp_path / "data.yml", "-o", tmp_path / "o", "--quiet"]
    refusal(words, DataError, "blue", where="--rows")


def test_what_is_refused(job: Any, texts: Path, tmp_path: Path) -> None:
    family, recipe, command = job
    refusal([*command, "--rank", 0], ConfigError, where="--rank", got=0)
    refusal([*command, "--keep", 1.5], ConfigError, where="--keep", got=1.5)
    refusal([*command, "--keep", 0.5, "--rank", 3], ConfigError, where="--keep, --rank")
    refusal([*command, "--rows", 10_000], DataError, "blue", where="--rows", got=10_000)
    inside = ["purify", recipe, "--data", texts, "-o", family.base / "out"]
    refusal(inside, ConfigError, where=family.base / "out")
    broken = shutil.copytree(family.groups["Male"], tmp_path / "broken")
    name = "bert.encoder.layer.0.output.dense.weight"
    rewrite(broken, lambda t: t[name][0, 0].fill_(float("nan")))
    words = ["purify", tmp_path / "bad.yml", "--data", texts, "-o", tmp_path / "bad", "--quiet"]
    recipe_of(family.base, {"x": broken}, tmp_path / "bad.yml")
    refusal(words, CheckpointError)
    (tmp_path / "bad.yml").write_text(f"merge_method: linear\nmodels:\n- model: {family.fft}\n"
                                      "  parameters: {weight: 1}\n")  # fmt: skip
    refusal(words, RecipeError, where="bad.yml")
    assert not (tmp_path / "bad").exists()
    run(*command)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    refusal([*command, "--overwrite"], ConfigError, where=tmp_path / "out", got=["notes.txt"])


def test_adapters_and_quantised_models_are_refused(job: Any, texts: Path, tmp_path: Path) -> None:
    from adapters import make_adapter

    family, _, _ = job
    adapter = make_adapter(family.base, tmp_path / "adapter", seed=0, targets=["query"])
    words = ["purify", tmp_path / "r.yml", "--data", texts, "-o", tmp_path / "o", "--quiet"]
    recipe_of(family.base, {"x": adapter}, tmp_path / "r.yml")
    refusal(words, CheckpointError, where=adapter)
    model = shutil.copytree(family.groups["Male"], tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (model / "config.json").write_text(json.dumps(config))
    recipe_of(family.base, {"x": model}, tmp_path / "r.yml")
    refusal(words, CheckpointError, where=model)
