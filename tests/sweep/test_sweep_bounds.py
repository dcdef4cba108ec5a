"""Bounds beside a finished sweep: what must hold holds; another recipe is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from click.testing import CliRunner
from refusals import refusal

from mergekit_fair.cli import main
from mergekit_fair.errors import SweepError
from mergekit_fair.report.bounds_report import pairs
from mergekit_fair.sweep.bounds import _largest_pair
from mergekit_fair.sweep.results import SweepResults
from mergekit_fair.sweep.store import ReadStore, read_rows


def shown(recipe: Path, sweep: Path, *words: object) -> Any:
    command = ["vectors", str(recipe), "--sweep", str(sweep), *map(str, words)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def folder(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over λ with the base and the balanced point, and a plain sum as its recipe."""
    place = tmp_path_factory.mktemp("bounds")
    recipe = yaml.safe_load((family / "run" / "addition.yml").read_text())
    recipe["base_model"] = str(family / "run" / recipe["base_model"])
    for each in recipe["models"]:
        each["model"] = str(family / "run" / each["model"])
    recipe["parameters"] = {"lambda": 0.5, "normalize": "sum"}
    (place / "recipe.yml").write_text(yaml.safe_dump(recipe))
    changes: dict[str, Any] = {"recipe": str(place / "recipe.yml"), "inject": None, "controls": []}
    tiny.write_sweep(family, place / "sweep.yml", **changes, grid={"lambda": [0, 0.5, 1]})
    command = ["sweep", str(place / "sweep.yml"), "-o", str(place / "out"), "--quiet"]
    assert CliRunner().invoke(main, command).exit_code in (0, 3)  # keeps a baseline, perhaps
    return place


def test_bounds_hold_and_are_what_they_say(folder: Path) -> None:
    """Against scores and distances that are looked up here; nothing of the models is run."""
    found = json.loads(shown(folder / "recipe.yml", folder / "out", "--json").stdout)
    bounds, gram = found["bounds"], np.array(found["gram"])
    results, store = SweepResults.load(folder / "out"), ReadStore(folder / "out")
    by_label = {point.label: point for point in results.points}
    assert [point["label"] for point in bounds["points"]] == ["λ=0", "λ=0.5", "λ=1"]
    assert (bounds["reference"], bounds["is_balanced"]) == ("λ=1", True)

    def chance(label: str) -> Any:
        return 1 / (1 + np.exp(-store.scores(by_label[label].id, "validation").astype(float)))

    slopes = []
    for point in bounds["points"]:
        step = np.array([point["lambdas"][name] - 1 for name in found["names"]])
        assert point["displacement"] == pytest.approx(math.sqrt(step @ gram @ step), rel=1e-9)
        assert point["displacement"] <= point["triangle"] * (1 + 1e-12)
        evaluation = by_label[point["label"]].evaluation
        assert evaluation is not None
        assert point["dpd"] == evaluation.metrics["dpd"].value
        assert point["dpd"] <= point["dpd_flips"] + 1e-12
        assert point["eod"] <= point["eod_flips"] + 1e-12
        assert point["dpd_exact"] <= point["dpd_triangle"] + 1e-12
        if point["displacement"]:
            moved = np.abs(chance(point["label"]) - chance("λ=1")).max()
            slopes.append(moved / point["displacement"])
            assert point["lipschitz"] == pytest.approx(slopes[-1], rel=1e-9)
    assert bounds["lipschitz"] == pytest.approx(max(slopes), rel=1e-9)
    last = bounds["points"][-1]
    assert last["dpd"] == last["dpd_flips"] == last["dpd_exact"] == last["dpd_triangle"]
    assert set(last["flips"].values()) == {0.0}


def test_a_table_and_a_picture(folder: Path, tmp_path: Path) -> None:
    text = shown(folder / "recipe.yml", folder / "out", "-o", tmp_path / "v").stdout
    assert "bounds from λ=1 (every λ_g is 1)" in text
    assert (tmp_path / "v" / "bounds.png").stat().st_size > 5000
    assert (tmp_path / "v" / "bounds.svg").is_file()
    assert "bounds" in json.loads((tmp_path / "v" / "vectors.json").read_text())


def test_what_is_not_of_this_recipe_is_refused(folder: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((folder / "recipe.yml").read_text())
    path = tmp_path / "r.yml"

    def refuses(kind: type, *said: str, **fields: Any) -> None:
        path.write_text(yaml.safe_dump(recipe))
        refusal(["vectors", path, "--sweep", folder / "out"], kind, *said, **fields)

    recipe["parameters"]["normalize"] = "mean"
    refuses(SweepError, "another recipe", where="λ=0")
    recipe["parameters"]["normalize"] = "sum"
    recipe["models"][0]["model"] = str(Path(recipe["base_model"]).parent / "fft")  # a baseline
    refuses(SweepError, "another recipe", where="λ=0")
    refusal(["vectors", folder / "recipe.yml", "--sweep", tmp_path], SweepError, where=tmp_path)


def test_pairs_of_shares() -> None:
    assert _largest_pair([0.1, 0.4, 0.3]) == pytest.approx(0.7)
    assert _largest_pair([0.1, float("nan")]) == 0.0


def test_vectors_that_disturb_each_others_groups(folder: Path, family: Path) -> None:
    """ξ from the predictions themselves; of the sweep over λ there is none: no vector is alone."""
    assert not json.loads(shown(folder / "recipe.yml", folder / "out", "--json").stdout)["bounds"][
        "disentanglement"
    ]
    grid = {"weight.blue": [0, 1], "weight.green": [0, 0.5, 1]}
    changes: dict[str, Any] = {"recipe": str(folder / "recipe.yml"), "inject": None, "controls": []}
    file, out = folder / "pairs.yml", folder / "pairs"
    tiny.write_sweep(family, file, **changes, grid={"lambda": [1], **grid})
    assert CliRunner().invoke(main, ["sweep", str(file), "-o", str(out), "--quiet"]).exit_code in (
        0,
        3,
    )
    pictures = folder / "pictures"
    text = shown(folder / "recipe.yml", out, "-o", pictures).stdout
    bounds = json.loads((pictures / "vectors.json").read_text())["bounds"]
    results, store = SweepResults.load(out), ReadStore(out)
    groups = read_rows(out, results.points[0])["tiny"].groups
    by_label = {point.label: point for point in results.points}

    def predicted(blue: float, green: float) -> Any:
        lambdas = {"blue": blue, "green": green}
        (label,) = (at["label"] for at in bounds["points"] if at["lambdas"] == lambdas)
        return store.scores(by_label[label].id, "validation") > 0

    found = bounds["disentanglement"]
    assert len(found) == 2
    for each, green in zip(found, (0.5, 1), strict=True):
        both = predicted(1, green)
        of_blue = (predicted(1, 0) != both)[groups["blue"]]
        of_green = (predicted(0, green) != both)[groups["green"]]
        assert each["groups"] == pytest.approx({"blue": of_blue.mean(), "green": of_green.mean()})
        assert each["error"] == pytest.approx(of_blue.mean() + of_green.mean())
        assert each["label"] in text
    assert (pictures / "disentanglement.png").is_file()
    blue, green = (np.mean([each["groups"][name] for each in found]) for name in ("blue", "green"))
    (nothing, mean), (other, none) = pairs(bounds)
    assert (nothing, none) == (None, None)
    assert (mean, other) == pytest.approx((blue, green))
