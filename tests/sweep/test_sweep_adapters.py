"""Sweeps over LoRA adapters: the numbers of merging to disk, an adapter chosen, one base held."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from adapters import edit_weights, make_adapter
from checkpoints import read
from classifiers import write_causal
from click.testing import CliRunner
from mergekit.options import MergeOptions
from refusals import refusal
from rounding import same_bits

from mergekit_fair.checkpoints.vector_folder import write_vector
from mergekit_fair.cli import main
from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.merging.methods.subgroup_task_addition import adapter_alone, addition_recipe
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.point_runner import LocalExecutor
from mergekit_fair.sweep.preparation import prepared
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.store import ReadStore
from mergekit_fair.sweep.sweep_config import load_sweep

MOVED = ("query.weight", "value.weight", "classifier.weight", "classifier.bias")


def storages() -> dict[int, int]:
    """Where every storage of a tensor lies → bytes."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    found = (tensor.untyped_storage() for tensor in tensors if tensor.device.type == "cpu")
    return {each.data_ptr(): each.nbytes() for each in found}


def run(*words: object, code: int = 0) -> Any:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def write_sweep(family: Path, folder: Path, **changes: Any) -> Path:
    """Of three adapters with heads of their own over the family's base, one of them a baseline."""
    base = family / "run" / "base"
    how: dict[str, Any] = {"targets": ["query", "value"], "modules_to_save": ["classifier"]}
    for seed, name in enumerate(("blue", "green", "lora")):
        if not (folder / name).is_dir():
            make_adapter(base, folder / name, seed=seed, task_type="SEQ_CLS", **how)
    vectors = {str(folder / name): (name, 1.0) for name in ("blue", "green")}
    sweep = {
        "recipe": addition_recipe(str(base), vectors, None, lambda_=1.0),
        "grid": {"lambda": [0, 0.3, 0.6]},
        "baselines": {"lora": str(folder / "lora"), "fft": str(family / "run" / "fft")},
        "inject": {"target": "lora", "groups": "worst", "lambda": [0.2]},
        "select": tiny.FEWEST,
        **changes,
    }
    return tiny.write_sweep(family, folder / "sweep.yml", **sweep)


@pytest.fixture(scope="module")
def swept(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    run("sweep", write_sweep(family, folder), "-o", folder / "out", "--quiet")
    return folder


def scores_on_disk(folder: Path, out: Path, scratch: Path) -> dict[str, tuple[Any, Any]]:
    """Label → a sweep's validation scores, and those of the same merge from a folder."""
    sweep, found = load_sweep(folder / "sweep.yml"), {}
    evaluator, planner = prepared(sweep, Silent())
    results = json.loads((out / "results.json").read_text())
    worst, store = results["worst_group"], ReadStore(out)
    points = [*planner.baselines(), *planner.merges()]
    points += planner.injections([worst["name"]], sweep.inject_grid) if worst else []
    for point in points:
        if point.kind == "control":
            continue
        recipe, model = point.recipe, scratch / point.id
        if point.model is not None and (Path(point.model) / "adapter_config.json").is_file():
            recipe = Recipe.from_mapping(adapter_alone(planner.models()[0], point.model), "r.yml")
        if recipe is not None:
            merge_to_folder(recipe, model, MergeOptions(quiet=True))
        scorer = evaluator.open(str(model if recipe else point.model), "cpu")
        (expected,) = scorer.score("validation").values()
        found[point.label] = store.scores(point.id, "validation"), expected
    return found


def test_every_point_has_the_scores_of_the_merged_folder(swept: Path, tmp_path: Path) -> None:
    """Row by row, to the bit: adapters and a whole model as baselines, merges, an injection."""
    found = scores_on_disk(swept, swept / "out", tmp_path)
    assert {*found} > {"lora", "fft", "λ=0", "λ=0.3", "λ=0.6"}
    assert len(found) == 6
    for label, (stored, expected) in found.items():
        assert stored.tolist() == expected.tolist(), label
    lines = json.loads((swept / "out" / "results.json").read_text())["points"]
    shares = {line["label"]: line["lambda_eff"] for line in lines}
    assert (shares["lora"], shares["λ=0.3"]) == (None, 0.6)
    distinct = {tuple(stored.tolist()) for stored, _ in found.values()}
    assert len(distinct) == len(found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of transformers and peft about each other
def test_a_method_of_mergekit_over_adapters(family: Path, tmp_path: Path) -> None:
    """Merged by peft, as `merge` has them; the choice is a whole model."""
    path = write_sweep(family, tmp_path, inject=None, controls=[], grid={"density": [0.5, 0.9]})
    content = yaml.safe_load(path.read_text())
    models = [{"model": str(tmp_path / name)} for name in ("blue", "green")]
    content["recipe"] |= {"merge_method": "ties", "models": models, "dtype": "float32"}
    content["recipe"]["parameters"] = {"weight": 0.5, "density": 1.0}
    path.write_text(yaml.safe_dump(content))
    run("sweep", path, "-o", tmp_path / "out", "--quiet")
    found = scores_on_disk(tmp_path, tmp_path / "out", tmp_path / "merged")
    assert {*found} == {"lora", "fft", "density=0.5", "density=0.9"}
    for label, (stored, expected) in found.items():
        assert stored.tolist() == expected.tolist(), label
    assert (tmp_path / "out" / "selected" / "model" / "config.json").is_file()


def test_the_model_is_its_base_but_for_what_a_point_changes(family: Path, tmp_path: Path) -> None:
    """Points in any order, whole models between them: the weights of each, and the base's own
    memory untouched; over adapters alone one base is in memory, and not a model and a base."""
    sweep = load_sweep(write_sweep(family, tmp_path, inject=None))
    evaluator, planner = prepared(sweep, Silent())
    base = planner.models()[0]
    lora, fft, *points = [*planner.baselines(), *planner.merges()]
    before = storages()
    worker = LocalExecutor(sweep, evaluator, base, Silent()).worker
    for point in (lora, *points):
        worker._become(point)
    start, model = read(Path(base)), worker._scorer.model
    size = sum(tensor.nbytes for tensor in start.values())
    changed = sum(start[name].nbytes for name in start if name.endswith(MOVED))
    files = sum(each.stat().st_size for each in tmp_path.glob("*/adapter_model.safetensors"))
    held = sum(found for place, found in storages().items() if place not in before)
    # Of what is changed: the model's own, the kept sums in float64, two random vectors. A and B
    # lie in plans and in composers; buffers of slices.
    assert size < held < size + changed * (1 + 2 * 2 + 2) + 6 * files + 2**16
    shares = [name for name, slot in model.state_dict().items() if slot.data_ptr() in before]
    assert shares == []
    base_held = worker._composer.tensors(base)
    for point in (points[2], fft, points[1], points[0], fft, lora, points[2]):
        worker._become(point)
        fresh = LocalExecutor(sweep, evaluator, base, Silent()).worker._weights(point)
        own = model.state_dict()
        assert all(same_bits(own[name], tensor) for name, tensor in dict(fresh).items())
        assert all(same_bits(base_held[name], tensor) for name, tensor in start.items())
    vector = tmp_path / "v"
    write_vector(vector, "blue, 1", {"classifier.weight": torch.eye(2, 32)}, base)
    head = planner.with_head(planner.baselines()[0], {str(vector): ("blue, 1", 0.5)}, 2.0)
    assert head is not None
    head_point = replace(points[1], recipe=Recipe.from_mapping(head, "r.yml"))
    expected: tuple[tuple[str, ...], ...] = ((), MOVED, MOVED)  # λ = 0 moves nothing
    for point, ends in zip((points[0], points[1], head_point), expected, strict=True):
        made = dict(worker._weights(point))
        touched = {name for name in made if made[name].data_ptr() != base_held[name].data_ptr()}
        assert touched == {name for name in start if name.endswith(ends)}


def test_a_causal_model_with_adapters(tmp_path: Path, family: Path) -> None:
    """A tiny Llama; the adapters spelled with their base."""
    base = write_causal(tmp_path / "base", "llama")
    models = {}
    for seed, name in enumerate(("blue", "green")):
        adapter = make_adapter(base, tmp_path / name, seed=seed, targets=["q_proj", "down_proj"])
        models[f"{base}+{adapter}"] = (name, 1.0)
    evaluate = {"data": tiny.data_block(family / "rows.csv"), "question": "Is it good?"}
    write = {"evaluate": {**evaluate, "device": "cpu", "limit": 40, "min_group_size": 1}}
    recipe = addition_recipe(str(base), models, "float32", lambda_=1.0)
    sweep = tiny.write_sweep(
        family,
        tmp_path / "sweep.yml",
        recipe=recipe,
        **write,
        grid={"lambda": [0.5, 1]},
        baselines={"one": str(tmp_path / "blue")},
        controls=["random"],
        inject=None,
        select={},
    )
    run_sweep(load_sweep(sweep), tmp_path / "out", Silent())
    found = scores_on_disk(tmp_path, tmp_path / "out", tmp_path / "merged")
    for label, (stored, expected) in found.items():
        assert stored.tolist() == expected.tolist(), label


def test_the_chosen_merge_is_an_adapter(swept: Path, family: Path, tmp_path: Path) -> None:
    """With its recipe, by which it is made again; `push` takes it, and says what it is."""
    selected = swept / "out" / "selected"
    model = selected / "model"
    assert (model / "mergekit_config.yml").read_bytes() == (selected / "recipe.yml").read_bytes()
    assert not (model / "config.json").exists()
    config = json.loads((model / "adapter_config.json").read_text())
    assert (config["r"], config["modules_to_save"]) == (8, ["classifier", "score"])  # as peft says
    run("check", model)
    shown = run("push", swept / "out", "me/m", "--dry-run", "--quiet").stdout
    assert "library_name: peft\n" in shown
    assert f"It is a LoRA adapter of {family / 'run' / 'base'}" in shown
    whole = run("merge", selected / "recipe.yml", tmp_path / "whole", "--quiet")
    assert whole.exit_code == 0
    before = (swept / "out" / "results.json").read_bytes()
    run("sweep", swept / "sweep.yml", "-o", swept / "out", "--quiet")
    assert (swept / "out" / "results.json").read_bytes() == before


@pytest.mark.slow
def test_a_chosen_merge_of_another_dtype_is_a_whole_model(family: Path, tmp_path: Path) -> None:
    """What was measured is no adapter of the base as it is."""
    sweep = write_sweep(family, tmp_path, inject=None, controls=[])
    content = yaml.safe_load(sweep.read_text())
    content["recipe"]["dtype"] = "bfloat16"
    content["grid"] = {"lambda": [0.3]}
    sweep.write_text(yaml.safe_dump(content))
    run("sweep", sweep, "-o", tmp_path / "out", "--quiet")
    assert (tmp_path / "out" / "selected" / "model" / "config.json").is_file()


@pytest.mark.slow
def test_an_adapter_that_was_trained_again_is_not_what_was_measured(
    family: Path, tmp_path: Path
) -> None:
    """The chosen recipe refuses it."""
    write_sweep(family, tmp_path, inject=None, controls=[], grid={"lambda": [0.3]})
    run("sweep", tmp_path / "sweep.yml", "-o", tmp_path / "out", "--quiet")
    recipe = tmp_path / "out" / "selected" / "recipe.yml"
    edit_weights(
        tmp_path / "blue", lambda tensors: next(iter(tensors.values())).mul_(torch.tensor(2.0))
    )
    merge = ["merge", recipe, tmp_path / "again", "--quiet"]
    for options in ([], ["--adapter"]):
        refusal([*merge, *options], RecipeError, where="blue", fix="run the sweep again")


def test_an_adapter_over_another_model_than_the_sweeps_base(family: Path, tmp_path: Path) -> None:
    base = write_sweep(family, tmp_path, inject=None, controls=[])
    content = yaml.safe_load(base.read_text())
    fft = family / "run" / "fft"
    other = make_adapter(fft, tmp_path / "other", seed=5, targets=["query"])
    content["recipe"]["models"][0]["model"] = named = f"{fft}+{other}"
    base.write_text(yaml.safe_dump(content))
    sweep = ["sweep", base, "-o", tmp_path / "out", "--quiet"]
    refusal(sweep, CheckpointError, where=named, got=str(fft), fix="merge it into its base first")


def test_a_fair_head_of_an_adapter_moves_its_head_alone(family: Path, tmp_path: Path) -> None:
    """The backbone is that of the adapter on the base, to the bit."""
    head = {"of": ["lora", "chosen"], "mu": 1, "grid": {"lambda": [1]}}
    sweep = load_sweep(write_sweep(family, tmp_path, inject=None, controls=[], head=head))
    _, planner = prepared(sweep, Silent())
    base, vector = family / "run" / "base", tmp_path / "v"
    moved = {"classifier.weight": torch.eye(2, 32)}
    write_vector(vector, "blue, 1", moved, base)
    lora, *_ = planner.baselines()
    for point in (lora, planner.merges()[1]):
        raw = planner.with_head(point, {str(vector): ("blue, 1", 0.5)}, 2.0)
        assert raw is not None
        assert point.recipe is not None
        recipes = {"own": point.recipe, "head": Recipe.from_mapping(raw, "r.yml")}
        for name, recipe in recipes.items():
            merge_to_folder(recipe, tmp_path / point.id / name, MergeOptions(quiet=True))
        own, fair = (read(tmp_path / point.id / name) for name in recipes)
        for name, tensor in own.items():
            expected = tensor + moved.get(name, torch.zeros(1))
            assert torch.allclose(fair[name], expected, rtol=0, atol=1e-6)
            assert same_bits(fair[name], tensor) is (name not in moved), name


def test_heads_are_fitted_on_adapters(family: Path, tmp_path: Path) -> None:
    """On a baseline that is one, and on a merge of some; each moves, or is said to stay."""
    head = {"of": ["lora", "chosen"], "mu": 1, "grid": {"lambda": [1]}}
    sweep = write_sweep(family, tmp_path, inject=None, controls=[], head=head, grid={"lambda": [1]})
    results = run_sweep(load_sweep(sweep), tmp_path / "out", Silent())
    moved = {point.label.split(" + head")[0] for point in results.points if point.kind == "head"}
    stays = {text.split(" keeps")[0] for text in results.warnings if " keeps its head" in text}
    assert moved | stays == {"lora", "λ=1"}
