"""Sweeps of any number of any method: each point is the model that a merge to disk gives."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from adapters import make_adapter
from gaps import evaluated, logit_gaps
from mergekit.options import MergeOptions
from refusals import raises
from transformers import AutoModelForSequenceClassification

from mergekit_fair.data import load_rows
from mergekit_fair.errors import CheckpointError, ConfigError, RecipeError
from mergekit_fair.merging.in_memory import load_tensors
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.progress import Silent
from mergekit_fair.report.figures import draw_sweep
from mergekit_fair.report.sweep_axis import lines_over, number_on, swept_axis
from mergekit_fair.report.sweep_csv import results_csv
from mergekit_fair.report.sweep_tables import brief_points_table, points_table
from mergekit_fair.report.tables import as_text
from mergekit_fair.sweep.checked_folder import checked_results
from mergekit_fair.sweep.forecast import plan_sweep
from mergekit_fair.sweep.points import Planner
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import SweepResults
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.search.search_stage import _coordinates, space_of
from mergekit_fair.sweep.store import Store
from mergekit_fair.sweep.sweep_config import load_sweep

OPTIONS = MergeOptions(quiet=True)
ANY = {"minimize": "selection_rate", "subject_to": {"saturated": True}}


def recipe(family: Path, method: str, own: dict[str, Any], shared: dict[str, Any]) -> Any:
    """Over the groups' models; slerp takes one of them and the base."""
    groups = ("green",) if method == "slerp" else tiny.GROUPS
    return {
        "merge_method": method,
        "base_model": str(family / "run" / "base"),
        "models": [
            {"model": str(family / "run" / "groups" / name), "parameters": dict(own)}
            for name in groups
        ],
        "parameters": shared,
        "dtype": "float32",
    }


SWEEPS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "t": ("slerp", {}, {"t": 0.5}, {"t": [0.25, 0.75]}),
    "density": ("ties", {"weight": 1.0}, {}, {"density": [0.2, 0.8]}),
    "weights": ("linear", {"weight": 0.5}, {}, {"weight.green": [0.25, 2], "weight.blue": [0.5]}),
    "gradient": ("task_arithmetic", {"weight": [0, 0.5]}, {}, {"weight.green[1]": [0.25, 1]}),
    "random": ("dare_ties", {"weight": 1.0}, {}, {"density": [0.3, 0.6]}),
    "own": ("subgroup_task_addition", {}, {"lambda": [0, 1]}, {"lambda[0]": [0.25, 0.5]}),
}


@pytest.fixture(scope="module")
def swept_settings(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`swept_settings(case)` → the folder of that sweep, with its results in `out/`."""
    done: dict[str, Path] = {}

    def run(case: str) -> Path:
        if case not in done:
            method, own, shared, grid = SWEEPS[case]
            folder = done[case] = tmp_path_factory.mktemp(case)
            made = recipe(family, method, own, shared)
            if method == "linear":
                del made["base_model"]
            if case == "own":
                for item, name in zip(made["models"], tiny.GROUPS, strict=True):
                    item["parameters"]["group"] = name
            path = tiny.write_sweep(
                family,
                folder / "sweep.yml",
                recipe=made,
                grid=grid,
                inject=None,
                controls=["random"] if "base_model" in made else [],
                baselines={"fft": str(family / "run" / "fft")},
                select=ANY,
                seed=3,
            )
            run_sweep(load_sweep(path), folder / "out", Silent())
        return done[case]

    return run


@pytest.mark.parametrize("case", SWEEPS)
def test_every_point_predicts_what_its_merge_to_disk_predicts(
    swept_settings: Any, tmp_path: Path, case: str
) -> None:
    folder = swept_settings(case)
    sweep, store = load_sweep(folder / "sweep.yml"), Store(folder / "out")
    rows = evaluated(load_rows(sweep.config.evaluate.data), "validation")
    merges = [point for point in Planner(sweep, "").merges() if point.kind == "merge"]
    lines = {line.label: line for line in store.results("validation").values()}
    assert len(merges) == 2
    for number, point in enumerate(merges):
        assert point.recipe is not None
        out = tmp_path / str(number)
        merge_to_folder(point.recipe, out, OPTIONS)
        model = AutoModelForSequenceClassification.from_pretrained(out).eval()
        expected = logit_gaps(model, rows, out, 16)
        assert np.array_equal(store.scores(lines[point.label].id, "validation"), expected)
    scores = [store.scores(lines[point.label].id, "validation") for point in merges]
    assert not np.array_equal(*scores)
    store.close()


def test_what_a_method_does_not_have_is_left_out(swept_settings: Any) -> None:
    """No λ, and no sum of vectors, is made up for a `t`."""
    results = SweepResults.load(swept_settings("t") / "out")
    merges = [point for point in results.points if point.kind in ("merge", "control")]
    assert [p.label for p in merges[:2]] == ["t=0.25", "t=0.75"]
    assert {p.label for p in merges[2:]} == {"random t=0.25", "random t=0.75"}
    assert [p.settings for p in merges[:2]] == [{"t": 0.25}, {"t": 0.75}]
    for point in merges:
        assert point.lambda_ is point.lambda_eff is point.lambda_l1 is None
        assert not point.is_identity
    of_sum = SweepResults.load(swept_settings("gradient") / "out").points
    assert all(p.lambda_eff is None for p in of_sum)


@pytest.mark.parametrize(
    ("case", "axis", "columns"),
    [
        ("t", "t", ["t"]),
        ("density", "density", ["density"]),
        ("weights", "weight.green", ["weight.green", "weight.blue"]),
        ("own", "lambda[0]", ["lambda[0]"]),
    ],
)
def test_tables_and_pictures_show_the_numbers_that_are_swept(
    swept_settings: Any, tmp_path: Path, case: str, axis: str, columns: list[str]
) -> None:
    results = SweepResults.load(swept_settings(case) / "out")
    merges = [point for point in results.points if point.kind == "merge"]
    assert swept_axis(results.points) == axis
    assert [number_on(axis, p) for p in merges] == [p.settings[axis] for p in merges]
    assert all(number_on("lambda", p) is None for p in merges)
    assert [len(line) for _, line in lines_over(axis, merges)] == [2]
    lines = list(csv.DictReader(results_csv(results).splitlines()))
    assert list(lines[0])[-len(columns) :] == columns
    by_label = {line["label"]: line for line in lines if line["split"] == "validation"}
    for point in merges:
        line = by_label[point.label]
        assert [float(line[name]) for name in columns] == [point.settings[n] for n in columns]
        assert line["lambda"] == line["lambda_eff"] == ""
    table = points_table(results, results.points)
    assert "λ_eff" not in table.columns
    assert all(
        len(row.cells) in (1, len(table.columns)) for _, rows in table.sections for row in rows
    )
    assert {path.name for path in draw_sweep(results, tmp_path)} >= {"curves.png", "pareto.svg"}
    assert as_text(brief_points_table(results, results.points))


def test_lines_of_several_numbers_are_told_apart() -> None:
    def point(**settings: float) -> PointResult:
        about = {"id": str(settings), "kind": "merge", "label": str(settings), "error": "-"}
        numbers = {"lambda_": settings.get("lambda"), "lambda_eff": None}
        return PointResult(**about, **numbers, settings=settings, split="validation")

    few = [point(**{"lambda": x, "density": y}) for x in (0.1, 0.2, 0.3) for y in (0.5, 1.0)]
    assert swept_axis(few) == "lambda"
    assert [words for words, _ in lines_over("lambda", few)] == ["density=0.5", "density=1"]
    many = [point(t=x, epsilon=y) for x in (0.1, 0.2) for y in np.linspace(0, 1, 9)]
    assert swept_axis(many) == "epsilon"
    assert [words for words, _ in lines_over("t", many)] == ["", *[None] * 8]
    one = [point(**{"lambda": 0.5, "density": y}) for y in (0.5, 1.0)]
    assert swept_axis(one) == "density"


def test_random_vectors_stand_in_the_place_of_models_without_a_group(swept_settings: Any) -> None:
    """They used to stand nowhere: the control was the merge itself."""
    for case in ("t", "density"):
        folder = swept_settings(case)
        store = Store(folder / "out")
        by_label = {line.label: line for line in store.results("validation").values()}
        for label, line in by_label.items():
            if line.kind == "merge":
                own, control = (
                    store.scores(by_label[name].id, "validation")
                    for name in (label, f"random {label}")
                )
                assert not np.array_equal(own, control)
        store.close()


@pytest.mark.parametrize("case", SWEEPS)
def test_the_folder_proves_its_figures_and_its_recipe_gives_its_model(
    swept_settings: Any, tmp_path: Path, case: str
) -> None:
    folder = swept_settings(case)
    results, doubt = checked_results(folder / "out")
    assert doubt is None
    assert results.selected.id is not None
    chosen = Recipe.load(folder / "out" / "selected" / "recipe.yml")
    merge_to_folder(chosen, tmp_path / "model", OPTIONS)
    store = Store(folder / "out")
    rows = load_rows(load_sweep(folder / "sweep.yml").config.evaluate.data)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    found = logit_gaps(model, evaluated(rows, "report"), tmp_path / "model", 16)
    assert np.array_equal(store.scores(results.selected.id, "report"), found)
    store.close()


def test_a_random_method_is_merged_with_the_seed_that_was_measured(
    swept_settings: Any, tmp_path: Path
) -> None:
    chosen = Recipe.load(swept_settings("random") / "out" / "selected" / "recipe.yml")
    assert chosen.random_seed == 3
    with raises(RecipeError, got="--random-seed 4", allowed="3"):
        merge_to_folder(chosen, tmp_path / "other", MergeOptions(quiet=True, random_seed=4))
    changed = chosen.source.replace("random_seed: 3", "random_seed: 4")
    with raises(RecipeError, "changed after it was measured"):
        merge_to_folder(Recipe.from_text(changed, "r.yml"), tmp_path / "other", OPTIONS)
    again = Recipe.from_mapping(chosen.with_settings({"lambda": 1.0}).raw, "r.yml")
    assert again.random_seed == 3


def test_another_seed_is_another_point(family: Path, tmp_path: Path) -> None:
    made = recipe(family, "dare_ties", {"weight": 1.0}, {})
    ids = []
    for seed in (0, 1):
        path = tiny.write_sweep(
            family, tmp_path / "s.yml", recipe=made, grid={"density": [0.5]}, seed=seed, inject=None
        )
        planner = Planner(load_sweep(path), "")
        ids.append([p.id for p in planner.merges() if p.kind == "merge"])
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("method", "own", "grid", "shows"),
    [
        ("ties", {}, {"density": [0.5]}, "needs parameters.weight"),
        ("della", {"weight": 1.0, "density": 0.5}, {"epsilon": [0.1, 0.6]}, "Epsilon"),
        ("slerp", {}, {"t": [0.5]}, None),
        ("linear", {"weight": 1.0}, {"weight": [1.0]}, None),
    ],
)
def test_what_a_method_refuses_is_refused_before_the_first_pass(
    family: Path,
    tmp_path: Path,
    method: str,
    own: dict[str, Any],
    grid: dict[str, Any],
    shows: str | None,
) -> None:
    made = recipe(family, method, own, {})
    path = tiny.write_sweep(family, tmp_path / "s.yml", recipe=made, grid=grid, inject=None)
    if shows is None:
        assert plan_sweep(load_sweep(path)).points
        return
    with raises(RecipeError, shows):
        plan_sweep(load_sweep(path))


def test_ranges_that_a_method_refuses_are_refused_before_the_first_pass(
    family: Path, tmp_path: Path
) -> None:
    made = recipe(family, "della", {"weight": 1.0, "density": 0.5}, {})
    over = {"density": [0.1, 0.9], "epsilon": [0, 0.3]}
    search = {"method": "random", "budget": 4, "over": over}
    path = tiny.write_sweep(family, tmp_path / "s.yml", recipe=made, search=search, inject=None)
    with raises(RecipeError, "Epsilon"):
        plan_sweep(load_sweep(path))


@pytest.mark.parametrize(
    "changes",
    [
        {"slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}]}], "models": None},
        {"tokenizer_source": "union"},
        {"tokenizer": {"source": "base"}},
    ],
)
def test_what_is_merged_to_a_folder_only_is_not_swept(
    family: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    made = recipe(family, "ties", {"weight": 1.0}, {}) | changes
    if made["models"] is None:
        del made["models"]
    for settings in (
        {"grid": {"lambda": [1]}},
        {"search": {"over": {"lambda": [0, 1]}}, "grid": {}},
        {"candidates": [str(family / "run" / "groups" / "blue")], "grid": {}},
    ):
        path = tiny.write_sweep(family, tmp_path / "s.yml", recipe=made, **settings)
        with raises(RecipeError, got=next(iter(changes))):
            load_sweep(path)


def test_a_control_needs_a_base(family: Path, tmp_path: Path) -> None:
    made = recipe(family, "linear", {"weight": 1.0}, {})
    del made["base_model"]
    path = tiny.write_sweep(family, tmp_path / "s.yml", recipe=made, grid={"weight.blue": [1]})
    with raises(ConfigError, where="controls"):
        load_sweep(path)


SEARCHES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "t": ("slerp", {}, {"t": 0.5}, {"t": [0.1, 0.9]}),
    "λ kept": ("ties", {"weight": 1.0}, {"lambda": 0.3}, {"density": [0.1, 0.9]}),
    "λ is 1": ("ties", {"weight": 1.0}, {"lambda": 0.3}, {"weight.blue": [0.1, 0.9]}),
    "both": ("ties", {"weight": 1.0}, {}, {"lambda": [0.1, 0.9], "weight.blue": [0.1, 0.9]}),
}


@pytest.mark.parametrize("case", SEARCHES)
def test_searches_over_any_number(family: Path, tmp_path: Path, case: str) -> None:
    """Labels say all numbers that are searched; λ is 1 where weights are, and else the recipe's."""
    method, own, shared, over = SEARCHES[case]
    search = {"method": "random", "budget": 3, "over": over}
    path = tiny.write_sweep(
        family,
        tmp_path / "s.yml",
        recipe=recipe(family, method, own, shared),
        grid={},
        search=search,
        inject=None,
        controls=[],
        select=ANY,
    )
    results = run_sweep(load_sweep(path), tmp_path / "out", Silent())
    points = [point for point in results.points if point.kind == "search"]
    assert len({point.label for point in points}) == len({p.id for p in points}) == 3
    wanted = 1.0 if case == "λ is 1" else points[0].lambda_ if case == "both" else None
    assert points[0].lambda_ == wanted
    assert all(set(over) <= set(point.settings) for point in points)
    chosen = Recipe.load(tmp_path / "out" / "selected" / "recipe.yml").raw
    if case == "λ kept":
        assert chosen["parameters"]["lambda"] == 0.3


@pytest.mark.parametrize(
    ("method", "own", "over"),
    [
        ("slerp", {}, {"t": [0.2, 0.8]}),
        ("della", {"weight": 1.0, "density": 0.5}, {"epsilon": [0.05, 0.3]}),
        ("task_arithmetic", {"weight": 1.0}, {"weight.blue": [0.25, 3]}),
    ],
)
def test_a_search_starts_with_the_grid_and_asks_nothing_that_is_no_value(
    family: Path, tmp_path: Path, method: str, own: dict[str, Any], over: dict[str, Any]
) -> None:
    """Of weights that are divided by their sum λ_g is not linear: none is taken for another."""
    ((name, (low, high)),) = over.items()
    shared = {"normalize": True, "lambda": 1.0} if "weight" in name else {}
    made = recipe(family, method, own, shared)
    path = tiny.write_sweep(
        family,
        tmp_path / "s.yml",
        recipe=made,
        grid={name: [low, high]},
        search={"method": "surrogate", "budget": 1, "over": over},
        controls=[],
        inject=None,
        select=ANY,
    )
    sweep = load_sweep(path)
    plan = plan_sweep(sweep)
    assert plan.search_start == "starts over the whole ranges with up to 2 points"
    planner = Planner(sweep, "")
    space, points = space_of(sweep, planner), planner.merges()
    assert space.size is None
    assert [_coordinates(space, planner, point, None) for point in points] == [
        (point.planned.settings[name],) for point in points
    ]


@pytest.fixture(scope="module")
def chosen(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose candidates are the only points: one of them is chosen."""
    folder = tmp_path_factory.mktemp("candidates")
    models = [str(family / "run" / "groups" / name) for name in tiny.GROUPS]
    path = tiny.write_sweep(
        family,
        folder / "sweep.yml",
        grid={},
        candidates=models,
        controls=["random"],
        baselines={"fft": str(family / "run" / "fft")},
        inject=None,
        select=ANY,
    )
    run_sweep(load_sweep(path), folder / "out", Silent())
    return folder


def test_candidates_are_measured_as_they_are(chosen: Path, family: Path) -> None:
    sweep, store = load_sweep(chosen / "sweep.yml"), Store(chosen / "out")
    rows = evaluated(load_rows(sweep.config.evaluate.data), "validation")
    lines = {line.label: line for line in store.results("validation").values()}
    assert lines.keys() == {"fft", *tiny.GROUPS}
    for name in tiny.GROUPS:
        folder = family / "run" / "groups" / name
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        expected = logit_gaps(model, rows, folder, 16)
        assert np.array_equal(store.scores(lines[name].id, "validation"), expected)
        assert (lines[name].kind, lines[name].settings) == ("candidate", {})
    store.close()


def test_a_chosen_candidate_is_written_as_a_recipe_that_copies_it(
    chosen: Path, family: Path, tmp_path: Path
) -> None:
    results, doubt = checked_results(chosen / "out")
    assert doubt is None
    assert results.selected.label in tiny.GROUPS
    assert {point.label for point in results.report} == {"fft", results.selected.label}
    recipe = Recipe.load(chosen / "out" / "selected" / "recipe.yml")
    assert recipe.method == "passthrough"
    merge_to_folder(recipe, tmp_path / "model", OPTIONS)
    own = load_tensors(family / "run" / "groups" / str(results.selected.label))
    made = load_tensors(tmp_path / "model")
    assert made.keys() == own.keys()
    assert all(np.array_equal(made[name].numpy(), own[name].numpy()) for name in own)


def test_an_adapter_is_a_candidate(family: Path, tmp_path: Path) -> None:
    """It is the merge of it alone, in its scores and in the recipe that is written."""
    base, adapter = family / "run" / "base", tmp_path / "adapter"
    how: dict[str, Any] = {"targets": ["query", "value"], "modules_to_save": ["classifier"]}
    make_adapter(base, adapter, seed=1, task_type="SEQ_CLS", **how)
    path = tiny.write_sweep(
        family,
        tmp_path / "sweep.yml",
        grid={},
        candidates=[str(adapter)],
        controls=[],
        inject=None,
        select=ANY,
    )
    results = run_sweep(load_sweep(path), tmp_path / "out", Silent())
    assert results.selected.label == "adapter"
    assert checked_results(tmp_path / "out")[1] is None
    chosen = Recipe.load(tmp_path / "out" / "selected" / "recipe.yml")
    merge_to_folder(chosen, tmp_path / "model", OPTIONS)
    rows = load_rows(load_sweep(path).config.evaluate.data)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    store = Store(tmp_path / "out")
    for split in ("validation", "report"):
        found = logit_gaps(model, evaluated(rows, split), tmp_path / "model", 16)
        assert np.array_equal(store.scores(str(results.selected.id), split), found)
    store.close()


def test_beside_a_grid_candidates_stand_in_the_plan(family: Path, tmp_path: Path) -> None:
    model = str(family / "run" / "groups" / "blue")
    path = tiny.write_sweep(family, tmp_path / "s.yml", candidates=[model], inject=None)
    plan = plan_sweep(load_sweep(path))
    kinds = [point.kind for point in plan.points]
    assert kinds == [*["baseline"] * 2, *["merge"] * 3, *["control"] * 2, "candidate"]
    assert json.dumps(plan.to_dict())


@pytest.mark.parametrize(("twice", "got"), [("groups/blue", "groups/blue"), ("fft", "fft")])
def test_a_candidate_is_named_once(family: Path, tmp_path: Path, twice: str, got: str) -> None:
    models = [str(family / "run" / name) for name in ("groups/blue", twice)]
    path = tiny.write_sweep(family, tmp_path / "s.yml", candidates=models)
    with raises(ConfigError, where="candidates[1]", got=got):
        load_sweep(path)


def test_a_folder_without_a_model_is_refused(family: Path, tmp_path: Path) -> None:
    path = tiny.write_sweep(family, tmp_path / "s.yml", candidates=[str(tmp_path)])
    with raises(CheckpointError, where=tmp_path):
        plan_sweep(load_sweep(path))
