"""The search over λ_g on real, tiny models: every method, resumed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import yaml
from safetensors.torch import load_file
from search_landscape import evaluation, result

from mergekit_fair.errors import ConfigError, FairError
from mergekit_fair.merging.in_memory import Composer
from mergekit_fair.merging.plan_cache import PlanCache
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.distances import Distances
from mergekit_fair.sweep.forecast import plan_sweep
from mergekit_fair.sweep.limits import Limit
from mergekit_fair.sweep.points import Planner
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.search.search_stage import _known, space_of
from mergekit_fair.sweep.selection import Rule
from mergekit_fair.sweep.sweep_config import load_sweep

BUDGETS = {"random": 4, "optuna": 8, "surrogate": 8}


def searching(family: Path, path: Path, method: str, **changes: Any) -> Path:
    return tiny.write_sweep(
        family,
        path,
        **{
            "grid": {},
            "controls": [],
            "inject": None,
            "search": {"method": method, "budget": BUDGETS[method], "batch": 2},
            "select": {"maximize": "acc", "subject_to": {"dpd": "<= 0.5", "eod": "<= 0.6"}},
            **changes,
        },
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", BUDGETS)
def test_a_search_stays_in_its_budget_and_resumes_to_the_same_bytes(
    family: Path, tmp_path: Path, method: str
) -> None:
    """points.jsonl is cut at several places: what is asked depends on the history alone."""
    if method == "optuna":
        pytest.importorskip("optuna")
    path = searching(family, tmp_path / "sweep.yml", method)
    out = tmp_path / "out"
    results = run_sweep(load_sweep(path), out, Silent()).to_dict()
    found = [line for line in results["points"] if line["kind"] == "search"]
    assert len({line["id"] for line in found}) == len(found) > 2
    assert len(found) <= BUDGETS[method]
    for line in found:
        assert set(line["settings"]) == {"lambda", "weight.blue", "weight.green"}
        assert line["settings"]["lambda"] == 1
        assert all(-0.5 <= line["settings"][f"weight.{name}"] <= 1 for name in tiny.GROUPS)
        total = line["settings"]["weight.blue"] + line["settings"]["weight.green"]
        assert line["lambda_eff"] == pytest.approx(total)
    before = (out / "results.json").read_bytes()
    lines = (out / "points.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (3, len(lines) - 4) if method == "surrogate" else (4,):
        (out / "points.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:20])
        (out / "results.json").unlink()
        run_sweep(load_sweep(path), out, Silent())
        assert (out / "results.json").read_bytes() == before
    assert (out / "optuna.log").is_file() == (method == "optuna")
    if method == "optuna":
        assert "soft dpd" in (out / "optuna.log").read_text()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"search": {"method": "annealing"}}, "search.method"),
        ({"search": {"method": "gradient"}}, "search.method"),
        ({"race": True}, "race is gone since version 0.2"),
        ({"search": {"budget": 0}}, "search.budget"),
        ({"search": {"over": {"weight.red": [0, 1]}}}, "got 'red'; allowed: blue, green"),
        ({"search": {"over": {"weight.blue": [1, 0]}}}, "got [1, 0]; allowed: [low, high]"),
        ({"search": {"over": {"weight.blue": [0, float("nan")]}}}, "search.over"),
        (
            {
                "search": {"method": "surrogate"},
                "select": {"subject_to": {"level_matched.dpd": "<= 0.1"}},
            },
            "surrogate models gaps between groups at the model's own threshold; got "
            "'level_matched.dpd'. Use method: optuna",
        ),
        ({"search": {"around": "sft"}}, "search.around names no baseline; got 'sft'"),
        (
            {"search": {"around": "fft", "over": {"lambda": [0, 1]}}},
            "around a baseline vectors of groups are added, each with its own λ; got 'lambda'",
        ),
        ({"search": None}, "grid is empty"),
    ],
)
def test_bad_searches(family: Path, tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    path = searching(family, tmp_path / "sweep.yml", "random", **changes)
    with pytest.raises(FairError) as caught:
        run_sweep(load_sweep(path), tmp_path / "out", Silent())
    assert text in str(caught.value)


def test_a_search_over_lambda_alone_names_its_points(family: Path, tmp_path: Path) -> None:
    search = {"method": "random", "budget": 3, "over": {"lambda": [0, 1]}}
    path = searching(family, tmp_path / "sweep.yml", "random", search=search)
    results = run_sweep(load_sweep(path), tmp_path / "out", Silent()).to_dict()
    found = [line for line in results["points"] if line["kind"] == "search"]
    assert [line["label"] for line in found] == [f"λ={line['lambda']:g}" for line in found]


def test_optuna_that_is_not_installed_is_said(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    path = searching(family, tmp_path / "sweep.yml", "optuna")
    with pytest.raises(ConfigError, match=r"pip install 'mergekit-fair\[search\]'"):
        run_sweep(load_sweep(path), tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()  # said before anything is measured


def test_equal_levels_are_searched_by_optuna(family: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    limits = {"level_matched.dpd": "<= 0.9", "saturated": True}
    rule = {"maximize": "acc", "subject_to": limits}
    path = searching(family, tmp_path / "sweep.yml", "optuna", select=rule)
    results = run_sweep(load_sweep(path), tmp_path / "out", Silent()).to_dict()
    assert results["selected"]["candidates"][0] == BUDGETS["optuna"]
    text = (tmp_path / "out" / "optuna.log").read_text()
    assert "level_matched.dpd" in text
    assert "soft" not in text  # rates of groups do not compose it
    json.dumps(results, allow_nan=False)


def test_a_search_says_its_start_and_begins_with_the_grid(family: Path, tmp_path: Path) -> None:
    search = {"method": "surrogate", "budget": 4}
    grid = {"lambda": [0.0, 0.25, 0.5]}
    # Every selection rate is near enough here, so that every point of the grid is known.
    evaluate = tiny.write_sweep(family, tmp_path / "plain.yml")
    block = yaml.safe_load(evaluate.read_text())["evaluate"] | {"saturation": 0.9}
    path = searching(
        family, tmp_path / "sweep.yml", "surrogate", search=search, grid=grid, evaluate=block
    )
    plan = plan_sweep(load_sweep(path))
    assert plan.search_start is not None
    assert "up to 3 points" in plan.search_start  # two settings
    assert any("search.budget: of 4 points up to 3 are the start" in w for w in plan.warnings)
    said = Recorded()
    results = run_sweep(load_sweep(path), tmp_path / "out", said)
    lines = "\n".join(said.texts)
    assert "with 3 points of the grid" in lines
    assert "search.budget" in lines
    found = [point for point in results.points if point.kind == "search"]
    assert len(found) == 4
    # The grid spans one direction of two; what the first point adds is near the target.
    assert 0.49 <= (found[0].lambda_l1 or 0) <= 1.26
    known = {(0.0, 0.0), (0.25, 0.25), (0.5, 0.5)}
    assert not known & {(p.settings["weight.blue"], p.settings["weight.green"]) for p in found}


def test_a_budget_that_is_enough_is_not_warned_of(family: Path, tmp_path: Path) -> None:
    for method, budget, is_warned in (("surrogate", 7, True), ("surrogate", 8, False),
                                      ("random", 1, False)):  # fmt: skip
        search = {"method": method, "budget": budget}
        path = searching(family, tmp_path / "sweep.yml", method, search=search)
        plan = plan_sweep(load_sweep(path))
        assert any("search.budget" in text for text in plan.warnings) == is_warned


@pytest.mark.parametrize(("normalize", "unit"), [("sum", 1.0), ("mean", 0.5)])
def test_points_of_a_grid_are_points_of_the_search(
    family: Path, tmp_path: Path, normalize: str, unit: float
) -> None:
    recipe = yaml.safe_load((family / "run" / "addition.yml").read_text())
    recipe["base_model"] = str(family / "run" / recipe["base_model"])
    for model in recipe["models"]:
        model["model"] = str(family / "run" / model["model"])
    recipe["parameters"] |= {"normalize": normalize}
    recipe["models"][0]["parameters"]["weight"] = 0.5  # of blue, wherever the grid does not say it
    grid = {"lambda": [0.2, 1.0], "weight.green": [0.5, 2.0]}
    path = searching(family, tmp_path / "sweep.yml", "surrogate", grid=grid, recipe=recipe)
    sweep = load_sweep(path)
    planner = Planner(sweep, "")
    space = space_of(sweep, planner)
    assert space.size == pytest.approx((unit, unit))
    measured = {point.id: result(evaluation((0.3, 0.6, 0.4))) for point in planner.merges()}
    store = SimpleNamespace(results=lambda split: measured)  # noqa: ARG005
    runner: Any = SimpleNamespace(store=store, split="validation")
    found = {seen.x for seen in _known(space, planner, runner, Rule())}
    assert found == {(0.1, 0.1), (0.1, 0.4), (0.5, 0.5), (0.5, 2.0)}
    strict = Rule("acc", (Limit("selection_rate", "<=", 0.01),))
    assert _known(space, planner, runner, strict) == []  # none is at this level


def test_around_a_baseline_its_own_figures_are_known_and_vectors_have_both_signs(
    family: Path, tmp_path: Path
) -> None:
    search = {"method": "surrogate", "budget": 4, "around": "fft"}
    path = searching(family, tmp_path / "sweep.yml", "surrogate", search=search)
    sweep, said = load_sweep(path), Recorded()
    assert sweep.ranges == {f"weight.{name}": (-1.0, 1.0) for name in tiny.GROUPS}
    results = run_sweep(sweep, tmp_path / "out", said)
    assert "starts with fft near the target" in "\n".join(said.texts)
    found = [point for point in results.points if point.kind == "search"]
    assert len(found) == 4
    values = [[float(v) for v in point.settings.values()] for point in found]
    assert [0.0, 0.0] not in values  # the baseline itself
    assert min(min(each) for each in values) < 0 < max(max(each) for each in values)
    for point, each in zip(found, values, strict=True):
        assert point.label == f"fft + blue={each[0]:g} green={each[1]:g}"
        assert point.lambda_eff == pytest.approx(sum(each))
        assert point.lambda_l1 == pytest.approx(sum(map(abs, each)))


def test_points_around_a_baseline_are_its_weights_and_what_is_added(
    family: Path, tmp_path: Path
) -> None:
    """In memory, as a written recipe, and as a distance: three routes to one sum."""
    search = {"method": "random", "budget": 2, "around": "fft"}
    path = searching(family, tmp_path / "sweep.yml", "random", search=search)
    planner = Planner(load_sweep(path), "")
    point = planner.searched({"weight.blue": 0.5, "weight.green": -0.25})
    assert point.recipe is not None
    (tmp_path / "recipe.yml").write_text(point.recipe.text())
    recipe = Recipe.load(tmp_path / "recipe.yml")
    merge_to_folder(recipe, tmp_path / "merged", planner.options)
    weights = {Path(n).name: load_file(Path(n) / "model.safetensors") for n in planner.models()}
    base, blue, green, fft = (weights[name] for name in ("base", "blue", "green", "fft"))
    composed = dict(Composer(torch.device("cpu"), plans=PlanCache(planner.options)).compose(recipe))
    away = 0.0
    for name, tensor in load_file(tmp_path / "merged" / "model.safetensors").items():
        assert torch.equal(composed[name], tensor)
        if not tensor.is_floating_point():
            continue
        added = (
            0.5 * (blue[name] - base[name]).double() - 0.25 * (green[name] - base[name]).double()
        )
        assert torch.allclose(tensor.double(), fft[name].double() + added, atol=1e-6)
        away += float((added**2).sum())
    fft_point = next(each for each in planner.baselines() if each.label == "fft")
    near = Distances(planner, [point], fft_point, Silent())
    result = PointResult(**vars(point.planned), split="validation", error="not measured")
    found = near([result])
    assert found.distances[point.id] == pytest.approx(away**0.5, rel=1e-6)
    assert found.words == "is the nearest to fft in weights"


class Recorded(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        self.texts.append(text)
