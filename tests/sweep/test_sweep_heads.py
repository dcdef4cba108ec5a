"""Fair heads as points of a sweep: fitted once, chosen by the rule, checked again."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from biased import data_block, write_biased
from click.testing import CliRunner
from refusals import raises, refusal
from safetensors.torch import load_file, save_file

from mergekit_fair.checkpoints.vector_folder import write_vector
from mergekit_fair.cli import main
from mergekit_fair.errors import CheckpointError, ConfigError, RecipeError, SweepError
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.heads.unseen import unseen_scores
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.checked_folder import checked_results
from mergekit_fair.sweep.distances import _with_head
from mergekit_fair.sweep.forecast import plan_sweep
from mergekit_fair.sweep.point_runner import LocalExecutor, TimeBudget
from mergekit_fair.sweep.points import Planner
from mergekit_fair.sweep.results import SweepResults
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.store import ReadStore
from mergekit_fair.sweep.sweep_config import load_sweep

RULE = {"minimize": "eod", "subject_to": {"acc": ">= fft - 0.05"}}


def run(*words: object, code: int = 0) -> Any:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def write_family(folder: Path) -> None:
    """A biased model as FFT, a base that is near it, and a model of one group."""
    import torch

    model, _ = write_biased(folder, n=900)
    for name, size in {"base": 0.02, "man": 0.01}.items():
        shutil.copytree(model, folder / name)
        tensors = load_file(model / "model.safetensors")
        torch.manual_seed(len(name))
        moved = {key: value + size * torch.randn(value.shape) for key, value in tensors.items()}
        save_file(moved, folder / name / "model.safetensors", metadata={"format": "pt"})


def write_sweep(folder: Path, path: Path | None = None, **changes: Any) -> Path:
    sweep = {
        "recipe": {
            "merge_method": "subgroup_task_addition",
            "base_model": str(folder / "base"),
            "models": [{"model": str(folder / "man"), "parameters": {"group": "man"}}],
            "parameters": {"lambda": 1.0},
            "dtype": "float32",
        },
        "grid": {"lambda": [0.5]},
        "evaluate": {"data": str(folder / "data.yml"), "device": "cpu"},
        "baselines": {"fft": str(folder / "model")},
        "controls": ["random", "refit"],
        "select": RULE,
        "head": {"of": ["fft"], "mu": 4, "grid": {"mu": [2], "lambda": "0:1:0.5"}},
        **changes,
    }
    path = path or folder / "sweep.yml"
    path.write_text(yaml.safe_dump(sweep, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def headed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a family, `sweep.yml`, and its results and chosen model in `out/`."""
    folder = tmp_path_factory.mktemp("headed")
    write_family(folder)
    run("sweep", write_sweep(folder), "-o", folder / "out", "--quiet")
    return folder


def points_of(points: Any, kind: str) -> list[Any]:
    return [point for point in points if point.kind == kind]


def test_heads_and_their_controls_stand_beside_the_merges(headed: Path) -> None:
    results = SweepResults.load(headed / "out")
    heads = points_of(results.points, "head")
    assert {tuple(p.settings) for p in heads} == {("target", "mu", "lambda")}
    lambdas = [p.settings["lambda"] for p in heads]
    assert lambdas == [0.5, 1.0] * 2  # 0 is the target itself
    assert {p.settings["mu"] for p in heads} == {2.0, 4.0}
    chosen = next(p for p in results.points if p.id == results.selected.id)
    assert chosen.kind == "head"
    assert [p.kind for p in results.report] == ["baseline", "head", "control", "refit"]
    assert set(results.comparison) == {"fft", "random vectors", "fft + balanced refit"}
    eod = {p.label: p.value("eod") for p in results.report}
    assert eod[chosen.label] < eod["fft"] - 0.05
    assert not any(p.needs_groups for p in [*results.points, *results.report])
    assert any("Group labels were needed to fit" in text for text in results.warnings)


def test_report_scores_are_the_merged_models_own(headed: Path, tmp_path: Path) -> None:
    """By `eval` of what `merge` has written from `selected/recipe.yml` alone."""
    results = SweepResults.load(headed / "out")
    chosen = results.chosen
    assert chosen is not None
    recipe = yaml.safe_load((headed / "out" / "selected" / "recipe.yml").read_text())
    assert recipe["merge_method"] == "fair_head"
    assert recipe["base_model"] == str(headed / "model")
    run("merge", headed / "out" / "selected" / "recipe.yml", tmp_path / "merged", "--quiet")
    words = ["--data", headed / "data.yml", "--split", "report", "-o", tmp_path / "eval"]
    run("eval", "--model", tmp_path / "merged", *words, "--quiet")
    metrics = json.loads((tmp_path / "eval" / "biased.json").read_text())["metrics"]
    assert chosen.evaluation is not None
    assert metrics == chosen.evaluation.to_dict()["metrics"]


def test_validation_scores_are_of_coefficients_that_have_not_seen_the_row(headed: Path) -> None:
    """λ scales the move; and it is not the move of the coefficients in the recipe."""
    results, store = SweepResults.load(headed / "out"), ReadStore(headed / "out")
    (fft,) = points_of(results.points, "baseline")
    own = store.scores(fft.id, "validation").astype(float)
    half, whole = points_of(results.points, "head")[:2]
    moves = [store.scores(p.id, "validation") - own for p in (half, whole)]
    assert np.allclose(2 * moves[0], moves[1])
    assert np.abs(moves[1]).max() > 0.1


@pytest.mark.slow
def test_it_goes_on_without_any_pass(headed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill before any head was stored; features lie in the folder."""
    folder = headed / "out"
    sweep = load_sweep(headed / "sweep.yml")
    expected = (folder / "results.json").read_bytes()
    lines = (folder / "points.jsonl").read_text().splitlines(keepends=True)
    made = {"head", "refit"}
    kept = [
        line
        for line in lines
        if not (json.loads(line)["kind"] in made or "head" in json.loads(line)["label"])
    ]
    assert len(kept) == len(lines) - len(points_of(SweepResults.load(folder).points, "head")) - 5

    def no_model(*_: Any) -> Any:
        raise AssertionError("a model is run")

    monkeypatch.setattr(LocalExecutor, "worker", property(no_model))
    (folder / "points.jsonl").write_text("".join(kept))
    plan = plan_sweep(sweep, None, folder)
    assert plan.left is not None
    assert plan.left.forward_passes == 0
    run_sweep(sweep, folder, Silent(), no_model)
    assert (folder / "results.json").read_bytes() == expected


def test_the_plan_counts_one_pass_a_target(headed: Path, tmp_path: Path) -> None:
    sweep = load_sweep(headed / "sweep.yml")
    plan = plan_sweep(sweep, None, tmp_path / "none")
    without = load_sweep(write_sweep(headed, tmp_path / "none.yml", head=None, controls=["random"]))
    more = plan.forward_passes - plan_sweep(without, None).forward_passes
    lines = (headed / "rows.csv").read_text().splitlines()
    assert more == plan.head_rows == len(lines) - 1 - plan.rows["report"]
    assert plan.head_points == 4
    shown = run("sweep", headed / "sweep.yml", "-o", tmp_path / "none", "--dry-run", "--quiet")
    assert "4 at most of heads" in shown.output
    assert not (tmp_path / "none").exists()


def test_groups_that_no_text_tells_leave_the_head_alone(headed: Path, tmp_path: Path) -> None:
    """Drawn by lot: no head is measured, and a warning says why, at every μ."""
    head, *lines = (headed / "rows.csv").read_text().splitlines()
    groups = np.random.default_rng(0).permutation([line.rsplit(",", 1)[1] for line in lines])
    lines = [f"{line.rsplit(',', 1)[0]},{group}" for line, group in zip(lines, groups, strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join([head, *lines]) + "\n")
    evaluate = {"data": data_block(tmp_path / "rows.csv"), "device": "cpu"}
    path = write_sweep(headed, tmp_path / "sweep.yml", evaluate=evaluate, controls=[])
    results = run_sweep(load_sweep(path), tmp_path / "out", Silent())
    assert not points_of(results.points, "head")
    for mu in (4, 2):
        assert any(w.startswith(f"fft keeps its head at μ = {mu}: ") for w in results.warnings)
    assert not list((tmp_path / "out" / "heads").glob("fft-*"))


@pytest.mark.slow
def test_vectors_that_were_changed_are_written_anew_and_nothing_is_lost(
    headed: Path, tmp_path: Path
) -> None:
    sweep = load_sweep(write_sweep(headed, tmp_path / "sweep.yml", controls=[]))
    run_sweep(sweep, tmp_path / "out", Silent())
    expected = (tmp_path / "out" / "results.json").read_bytes()
    (vectors,) = (tmp_path / "out" / "heads").glob("fft-*")
    file = next(vectors.glob("00-*")) / "model.safetensors"
    weights = file.read_bytes()
    file.write_bytes(weights[:-4] + bytes(4))
    run_sweep(sweep, tmp_path / "out", Silent())
    assert file.read_bytes() == weights
    assert (tmp_path / "out" / "results.json").read_bytes() == expected
    (vectors / "mine.txt").write_text("kept")
    run_sweep(sweep, tmp_path / "out", Silent())
    file.write_bytes(weights[:-4] + bytes(4))
    with raises(ConfigError, where=vectors, got="mine.txt"):
        run_sweep(sweep, tmp_path / "out", Silent())
    assert (vectors / "mine.txt").read_text() == "kept"


@pytest.mark.slow
def test_a_spent_budget_leaves_heads_out(headed: Path, tmp_path: Path) -> None:
    """After the baseline, the merge and its control; more minutes finish it."""
    sweep = load_sweep(write_sweep(headed, tmp_path / "sweep.yml"))
    clock = itertools.chain([0.0] * 4, itertools.repeat(120.0))
    budget = TimeBudget(1.0, clock=lambda: next(clock))
    results = run_sweep(sweep, tmp_path / "out", Silent(), budget=budget)
    assert results.budget is not None
    assert results.budget.unfinished == ["heads of fft"]
    assert results.selected.kept is None
    results = run_sweep(sweep, tmp_path / "out", Silent())
    assert results.budget is None
    assert len(points_of(results.points, "head")) == 4


@pytest.mark.slow
def test_push_and_report_check_the_vectors(headed: Path, tmp_path: Path) -> None:
    shutil.copytree(headed / "out", tmp_path / "out")
    assert checked_results(tmp_path / "out")[1] is None
    card = run("push", tmp_path / "out", "me/fair", "--dry-run", "--quiet").output
    assert "of task vectors in the last layer, made and measured" in " ".join(card.split())
    assert "Group labels were needed to fit" in card
    recipe = yaml.safe_load((tmp_path / "out" / "selected" / "recipe.yml").read_text())
    edited = {**recipe, "models": [dict(item) for item in recipe["models"]]}
    edited["models"][0] = {**edited["models"][0], "parameters": {"group": "man, 0", "weight": 0.5}}
    path = tmp_path / "edited.yml"
    path.write_text(yaml.safe_dump(edited, sort_keys=False))
    refusal(["merge", path, tmp_path / "merged"], RecipeError, "changed after it was measured")
    name = Path(recipe["models"][0]["model"])
    vector = tmp_path / "out" / "heads" / name.parent.name / name.name
    (tensors,) = [load_file(vector / "model.safetensors")]
    save_file(
        {key: value * 2 for key, value in tensors.items()},
        vector / "model.safetensors",
        metadata={"format": "pt"},
    )
    for words in (["report", tmp_path / "out"], ["push", tmp_path / "out", "me/fair", "--dry-run"]):
        refusal([*words, "--quiet"], SweepError, where=vector)


@pytest.mark.slow
def test_the_head_of_the_chosen_merge_is_one_recipe(headed: Path, tmp_path: Path) -> None:
    """No intermediate model: the merge's own vectors and the head's, and it predicts as said."""
    changes = {"baselines": {}, "head": {"of": ["chosen"], "mu": 4}, "controls": ["random"]}
    rule = {"maximize": "eo_ratio", "subject_to": {"saturated": True}}  # of it nothing is noise
    path = write_sweep(headed, tmp_path / "sweep.yml", select=rule, **changes)
    run("sweep", path, "-o", tmp_path / "out", "--quiet")
    results = SweepResults.load(tmp_path / "out")
    chosen = results.chosen
    assert chosen is not None
    assert chosen.label == "λ=0.5 + head μ=4 λ=1"
    assert [p.kind for p in results.report] == ["merge", "head", "control"]
    assert set(results.comparison) == {"λ=0.5", "random vectors"}
    assert not results.report_opened_for_another_selection
    recipe = yaml.safe_load((tmp_path / "out" / "selected" / "recipe.yml").read_text())
    assert recipe["merge_method"] == "subgroup_task_addition"
    assert recipe["base_model"] == str(headed / "base")
    weights = {i["parameters"]["group"]: i["parameters"]["weight"] for i in recipe["models"]}
    assert weights.pop("man") == 0.5
    assert all(name.startswith("head: ") for name in weights)
    words = ["--data", headed / "data.yml", "--split", "report", "-o", tmp_path / "eval"]
    run("eval", "--model", tmp_path / "out" / "selected" / "model", *words, "--quiet")
    metrics = json.loads((tmp_path / "eval" / "biased.json").read_text())["metrics"]
    assert chosen.evaluation is not None
    assert metrics == chosen.evaluation.to_dict()["metrics"]
    before = (tmp_path / "out" / "results.json").read_bytes()
    run("sweep", path, "-o", tmp_path / "out", "--quiet")
    assert (tmp_path / "out" / "results.json").read_bytes() == before
    assert checked_results(tmp_path / "out")[1] is None


def test_the_recipe_of_an_injection_with_a_head(headed: Path, tmp_path: Path) -> None:
    """Its target is a member, too; the head's vectors are multiplied with λ."""
    inject = {"target": "fft", "groups": ["man"], "lambda": [0.2]}
    sweep = load_sweep(write_sweep(headed, tmp_path / "sweep.yml", inject=inject))
    planner = Planner(sweep, "data")
    (point,) = planner.injections(["man"], [0.2])
    recipe = planner.with_head(point, {"v": ("man, 0", 0.5)}, 0.5)
    assert recipe is not None
    weights = {i["model"]: i["parameters"]["weight"] for i in recipe["models"]}
    assert weights == {str(headed / "model"): 1.0, str(headed / "man"): 0.2, "v": 0.25}
    assert recipe["base_model"] == str(headed / "base")
    assert recipe["parameters"] == {"lambda": 1.0, "normalize": "sum"}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"head": {"of": ["chosen"]}, "baselines": {"chosen": "x", "fft": "y"}}, "otherwise"),
        ({"head": {"of": ["lora"]}}, "head.of"),
        ({"head": {"of": ["fft", "fft"]}}, "twice"),
        ({"head": {"of": []}}, "head.of"),
        ({"head": {"of": ["fft"], "mu": 0}}, "head.mu"),
        ({"head": {"of": ["fft"], "grid": {"mu": [0, 1]}}}, "μ"),
        ({"head": {"of": ["fft"], "grid": {"lambda": [0]}}}, "target itself"),
        ({"head": {"of": ["fft"], "grid": {"lambda": "1:101:0.01"}}}, "points"),
        ({"head": None}, "refit"),
        ({"select": {"split": "report", "force": True}}, "select.split"),
    ],
)
def test_what_cannot_be_asked_for(headed: Path, tmp_path: Path, changes: Any, text: str) -> None:
    path = write_sweep(headed, tmp_path / "sweep.yml", **changes)
    with raises(ConfigError, text):
        load_sweep(path)


def test_a_target_that_is_no_classifier(headed: Path, tmp_path: Path) -> None:
    """A task vector; said before anything is run."""
    (vector,) = list((headed / "out" / "heads").glob("fft-*/00-*"))
    baselines = {"fft": str(headed / "model"), "vector": str(vector)}
    path = write_sweep(headed, tmp_path / "s.yml", baselines=baselines, head={"of": ["vector"]})
    refusal(["sweep", path, "-o", tmp_path / "out", "--dry-run"], CheckpointError, where=vector)


def test_gaps_of_unseen_scores_are_as_noisy_as_those_of_new_rows() -> None:
    """Of a mean that is fitted: r = x − mean of what was seen. Ordinary folds give 0."""
    n, rng = 60, np.random.default_rng(0)
    labels = np.tile([0, 1], n // 2).astype(np.int8)
    rows = Predictions("t", tuple(range(n)), labels, labels, {}, ())
    found = []
    for seed in range(150):
        values = rng.normal(size=n)

        def fit(seen: Any, values: Any = values) -> Any:
            return lambda part: values[part] - values[seen].mean()

        found.append(unseen_scores(rows, fit, seed).mean())
    assert np.var(found) * n == pytest.approx(2, rel=0.35)  # 3 standard errors


def test_the_distance_of_a_head_is_exact(headed: Path, tmp_path: Path) -> None:
    base, man, fft = (
        {k: v.double() for k, v in load_file(headed / n / "model.safetensors").items()}
        for n in ("base", "man", "model")
    )
    head = {"classifier.weight": fft["classifier.weight"].float() * 0.3}
    write_vector(tmp_path / "v", "v", head, headed / "model")
    steps = {"man": 0.7, "model": -1.0}
    moved = {key: 0.7 * (man[key] - start) - (fft[key] - start) for key, start in base.items()}
    size = sum(float((part**2).sum()) for part in moved.values()) ** 0.5
    moved["classifier.weight"] = moved["classifier.weight"] + 2 * head["classifier.weight"].double()
    expected = sum(float((part**2).sum()) for part in moved.values()) ** 0.5
    step = {str(headed / name): value for name, value in steps.items()}
    found = _with_head(size, str(headed / "base"), step, {str(tmp_path / "v"): 2.0})
    assert found == pytest.approx(expected, rel=1e-6)
