"""A race on real, tiny models: the full grid's choice, fewer passes, resumed to the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from mergekit_fair.errors import ConfigError
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.config import load_sweep
from mergekit_fair.sweep.race import standings as racing
from mergekit_fair.sweep.run import run_sweep
from mergekit_fair.sweep.store import Store

GRID = {"lambda": "0:1:0.1"}


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny validation split has 120 rows, less than the smallest rung."""
    monkeypatch.setattr(racing.row_blocks, "__defaults__", (racing.RUNGS, 20))


def swept(family: Path, folder: Path, name: str, **changes: Any) -> tuple[dict[str, Any], Path]:
    settings = {"grid": GRID, "controls": ["random"], "inject": None, "select": {}, **changes}
    path = tiny.write_sweep(family, folder / f"{name}.yml", **settings)
    return run_sweep(load_sweep(path), folder / name, Silent()), folder / name


@pytest.mark.usefixtures("few_rows")
def test_a_race_makes_the_full_grids_choice_with_fewer_passes(family: Path, tmp_path: Path) -> None:
    full, full_out = swept(family, tmp_path, "full")
    raced, out = swept(family, tmp_path, "raced", race=True)
    assert raced["selected"]["label"] == full["selected"]["label"]
    race = raced["race"]
    assert race["full_passes"] == 10 * race["rows"] == 1200
    assert race["passes"] < race["full_passes"]
    assert 0 < len(race["stopped"]) < 10
    labels = [line["label"] for line in raced["points"]]
    merges = [f"λ={x / 10:g}" for x in range(1, 11)]
    assert set(race["stopped"]) | set(labels) >= set(merges)
    assert not set(race["stopped"]) & set(labels)
    controls = [label for label in labels if label.startswith("random")]
    assert controls == [f"random {label}" for label in merges if label in labels]
    stores = Store(full_out), Store(out)
    for label in set(labels) & set(merges):
        ids = [
            next(line["id"] for line in results["points"] if line["label"] == label)
            for results in (full, raced)
        ]
        whole, parts = (
            store.scores(point, "validation") for store, point in zip(stores, ids, strict=True)
        )
        np.testing.assert_allclose(whole, parts, atol=1e-5)
    for store in stores:
        store.close()
    before = (out / "results.json").read_bytes()
    lines = (out / "points.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (4, 14, len(lines) - 5):
        (out / "points.jsonl").write_bytes(b"".join(lines[:kept]))
        run_sweep(load_sweep(tmp_path / "raced.yml"), out, Silent())
        assert (out / "results.json").read_bytes() == before


def test_a_race_of_one_block_is_the_grid(family: Path, tmp_path: Path) -> None:
    """120 rows are fewer than the smallest rung: nobody is stopped, nothing is lost."""
    raced, out = swept(family, tmp_path, "raced", race=True, controls=[])
    assert raced["race"]["stopped"] == {}
    assert raced["race"]["passes"] == raced["race"]["full_passes"]
    assert (out / "points.jsonl").read_text().count('"part"') == 10
    json.dumps(raced, allow_nan=False)


def test_a_race_over_two_tasks_is_refused(family: Path, tmp_path: Path) -> None:
    import yaml

    data = tmp_path / "data.yml"
    data.write_text(yaml.safe_dump(tiny.data_block(family / "rows.csv")))
    evaluate = {"tasks": ["fair_adult_sex", "fair_adult_race"], "data": str(data), "max_length": 16}
    with pytest.raises(ConfigError, match="a race knows the rows of one task only"):
        swept(family, tmp_path, "raced", race=True, evaluate=evaluate)
