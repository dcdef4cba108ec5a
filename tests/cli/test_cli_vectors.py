"""`mergekit-fair vectors`: the numbers of a merge, before it is made."""

import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from adapters import adapters_on, addition, merged, theta
from checkpoints import read, rewrite
from click.testing import CliRunner
from mergekit.options import MergeOptions
from refusals import refusal

from mergekit_fair.cli import main
from mergekit_fair.errors import CheckpointError, ConfigError, RecipeError
from mergekit_fair.schema import dump_yaml


def run(*args, code=0):
    result = CliRunner().invoke(main, [str(arg) for arg in args], prog_name="mergekit-fair")
    assert result.exit_code == code, result.output
    return result


def written(tmp_path, raw):
    path = tmp_path / "r.yml"
    path.write_text(dump_yaml(raw), encoding="utf-8")
    return path


def measured(tmp_path, raw):
    return json.loads(run("vectors", written(tmp_path, raw), "--json").stdout)


def distance(one, other):
    """‖θ − θ'‖ of two state dictionaries."""
    parts = [(one[name].double() - other[name].double()).flatten() for name in one]
    return float(torch.cat(parts).norm())


@pytest.fixture(scope="module")
def models(tiny):
    return tiny("bert")


@pytest.mark.parametrize("normalize", ["sum", "mean", "norm"])
def test_displacement_is_that_of_the_merged_model(models, tmp_path, normalize):
    raw = models.addition(lambda_=0.3, normalize=normalize)
    raw["models"][0]["parameters"]["weight"] = -0.5
    raw["dtype"] = "float64"
    found = measured(tmp_path, raw)
    run("merge", tmp_path / "r.yml", tmp_path / "out", "--quiet")
    merged, base = read(tmp_path / "out"), read(models.base)
    away = found["at"]["from"]["base"]
    assert away["displacement"] == pytest.approx(distance(merged, base), rel=1e-9)
    assert away["displacement"] < away["bound"]
    balanced = {
        name: base[name].double()
        + sum(read(path)[name].double() - base[name].double() for path in models.groups.values())
        for name in base
    }
    away = found["at"]["from"]["balanced"]
    assert away["displacement"] == pytest.approx(distance(merged, balanced), rel=1e-9)
    lambdas = np.array(list(found["at"]["lambda"].values()))
    relative = 2 * np.abs(lambdas - 1) @ np.array(found["norms"])
    assert found["at"]["relative_bound"] == pytest.approx(relative)


def test_injection_is_seen_from_its_target_and_screened(models, tmp_path):
    found = measured(tmp_path, models.injection(lambda_=0.5, worst="Male"))
    assert found["names"] == ["target", "Female", "Male", "Other"]
    assert found["at"]["lambda"] == {"target": 1.0, "Female": 0.0, "Male": 0.5, "Other": 0.0}
    assert found["at"]["lambda_eff"] == 0.5
    assert found["at"]["relative_bound"] is None
    away = found["at"]["from"]["target"]
    assert away["displacement"] == pytest.approx(0.5 * found["norms"][2])
    assert found["norm_over_target"][0] == 1
    cosines = [one["cosine"] for one in found["screening"]]
    assert cosines == sorted(cosines, reverse=True)
    assert {one["group"] for one in found["screening"]} == {"Female", "Male", "Other"}
    text = run("vectors", tmp_path / "r.yml").stdout
    assert "norm/target" in text
    assert "screening: an order in which to measure injections, not a verdict on them" in text


def test_table_says_what_json_says(models, tmp_path):
    raw = models.addition(lambda_=0.3)
    found = measured(tmp_path, raw)
    text = run("vectors", tmp_path / "r.yml").stdout
    first, *_ = text.splitlines()
    count = sum(t.numel() for t in read(models.base).values() if t.is_floating_point())
    assert first == (
        f"{tmp_path / 'r.yml'}: subgroup_task_addition, 3 task vectors over {count:,} elements "
        f"in {found['tensors']} tensors"
    )
    for name, norm in zip(found["names"], found["norms"], strict=True):
        assert f"{name} " in text
        assert f"{norm:.6g}" in text
    assert "λ_eff             0.9" in text
    assert "relative: it bounds no DPD" in text


def test_out_holds_json_and_pictures(models, tmp_path):
    path = written(tmp_path, models.addition(lambda_=0.3))
    result = run("vectors", path, "-o", tmp_path / "new" / "out", "--quiet")
    assert result.output == ""
    out = tmp_path / "new" / "out"
    assert {file.name for file in out.iterdir()} == {"vectors.json", "vectors.png", "vectors.svg"}
    assert json.loads((out / "vectors.json").read_text()) == measured(
        tmp_path, models.addition(lambda_=0.3)
    )
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    run("vectors", path, "-o", out, "--quiet")  # the same again, byte for byte
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    from PIL import Image

    with Image.open(out / "vectors.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 50  # not blank


def test_what_is_no_sum_has_no_displacement(models, tmp_path):
    for raw in (
        {**models.addition(lambda_=[0.0, 1.0]), "merge_method": "subgroup_task_addition"},
        {**models.addition(lambda_=0.5), "merge_method": "task_median"},
    ):
        found = measured(tmp_path, raw)
        assert found["at"] is None
        assert found["notes"] == [
            "no displacement: the merge is not a sum of λ_g Δ_g with one λ_g per vector"
        ]
        assert len(found["norms"]) == 3
    assert "note: no displacement" in run("vectors", tmp_path / "r.yml").stdout


def test_heads_count_as_the_merge_takes_them(models, tmp_path):
    whole = measured(tmp_path, models.addition(lambda_=0.5))
    found = measured(tmp_path, models.addition(lambda_=0.5, head="base"))
    heads = sum(t.numel() for name, t in read(models.base).items() if "classifier" in name)
    assert heads
    assert found["elements"] == whole["elements"] - heads
    assert found["notes"] == ["heads are left out, because the merge copies them (head: base)"]
    run("merge", tmp_path / "r.yml", tmp_path / "out", "--quiet")
    away = found["at"]["from"]["base"]["displacement"]
    assert away == pytest.approx(distance(read(tmp_path / "out"), read(models.base)), rel=1e-5)


def test_a_stock_recipe_has_vectors_too(models, tmp_path):
    raw = {
        "merge_method": "task_arithmetic",
        "base_model": str(models.base),
        "models": [
            {"model": str(path), "parameters": {"weight": 0.3}}
            for path in (models.fft, models.groups["Male"])
        ],
    }
    found = measured(tmp_path, raw)
    assert found["names"] == ["fft", "Male"]
    assert found["at"] is None
    assert all(math.isfinite(norm) for norm in found["norms"])


def test_bad_input_is_one_line_and_code_2(models, tmp_path):
    def refuses(raw, kind, *shows, **fields):
        command = ["vectors", written(tmp_path, raw), "-o", tmp_path / "out"]
        refusal(command, kind, *shows, **fields)
        assert not (tmp_path / "out").exists()

    raw = models.addition(lambda_=0.5)
    raw["models"][0]["model"] = str(tmp_path / "nothing")
    refuses(raw, CheckpointError, where=tmp_path / "nothing")
    raw = models.addition(lambda_=0.5)
    del raw["base_model"]
    refuses(raw, RecipeError, "base_model", where=tmp_path / "r.yml")
    raw = {"merge_method": "linear", "models": raw["models"]}
    for item in raw["models"]:
        item["parameters"] = {"weight": 1.0}
    refuses(raw, RecipeError, where=tmp_path / "r.yml", fix="base_model: FOLDER")
    raw["base_model"] = str(models.base)
    other = shutil.copytree(models.fft, tmp_path / "other")
    rewrite(other, lambda t: t.update({"classifier.bias": torch.zeros(3)}))
    raw["models"][0]["model"] = str(other)
    refuses(raw, CheckpointError, "classifier.bias", "shape", where=other)
    gone = tmp_path / "none.yml"
    refusal(["vectors", gone], ConfigError, "(No such file", where=gone)


def test_pictures_need_matplotlib_and_say_so_first(models, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = written(tmp_path, models.addition(lambda_=0.3))
    command = ["vectors", path, "-o", tmp_path / "out"]
    refusal(command, ConfigError, "matplotlib", fix="'mergekit-fair[plot]'")
    assert not (tmp_path / "out").exists()
    run("vectors", path)  # the table does not need it


def test_help_is_light():
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from mergekit_fair.cli import main\n"
        "found = CliRunner().invoke(main, ['vectors', '--help'])\n"
        "assert 'mergekit-fair vectors runs/adult_sex/addition.yml' in found.output\n"
        "heavy = {'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_vectors_of_adapters(tiny, tmp_path):
    """Named by their folders, or with their base; what the merge moves is what is measured."""
    base = tiny("bert").base
    adapters = adapters_on(base, tmp_path / "a", "bert")
    raw = addition(base, adapters)
    raw["models"][0]["model"] = f"{base}+{raw['models'][0]['model']}"
    found, start = measured(tmp_path, raw), read(base)
    norms = {name: distance(theta(base, path), start) for name, path in adapters.items()}
    assert dict(zip(found["names"], found["norms"], strict=True)) == pytest.approx(norms, rel=1e-6)
    file = read(merged(raw, tmp_path / "out", MergeOptions(quiet=True)))
    moved = found["at"]["from"]["base"]["displacement"]
    assert moved == pytest.approx(distance(file, start), rel=1e-5)
