"""Sweeps need whole models: one message says so, however an adapter is named."""

import pytest
import tiny as rows_of
import yaml
from adapters import addition, make_adapter
from refusals import refusal

from mergekit_fair.errors import CheckpointError
from mergekit_fair.schema import dump_yaml


@pytest.mark.parametrize("spelled", ["folder", "base+folder", "baseline"])
def test_a_sweep_of_adapters(tiny, tmp_path, spelled):
    family = tiny("bert")
    adapter = make_adapter(family.base, tmp_path / "a", seed=1, targets=["query"])
    named = {
        "folder": adapter,
        "base+folder": f"{family.base}+{adapter}",
        "baseline": family.groups["Male"],
    }[spelled]
    recipe, sweep = tmp_path / "recipe.yml", tmp_path / "sweep.yml"
    recipe.write_text(dump_yaml(addition(family.base, {"Female": named})))
    data = rows_of.data_block(rows_of.write_rows(tmp_path / "rows.csv"))
    baseline = adapter if spelled == "baseline" else family.fft
    content = {
        "recipe": str(recipe),
        "grid": {"lambda": [0.5]},
        "evaluate": {"data": data, "max_length": 16, "device": "cpu", "min_group_size": 1},
        "baselines": {"fft": str(baseline)},
        "select": {"maximize": "acc"},
    }
    sweep.write_text(yaml.safe_dump(content))
    where = adapter if spelled == "baseline" else named
    arguments = ["sweep", sweep, "-o", tmp_path / "out", "--quiet"]
    error = refusal(arguments, CheckpointError, where=where, fix="merge it into its base first")
    assert "base+adapter" not in str(error)
