"""`check` and `grid`, and what the documents and the packaged recipes promise."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from checkpoints import GROUPS, read, tiny_family
from click.testing import CliRunner
from refusals import refusal
from rounding import same_bits

from mergekit_fair.checkpoints.vector_folder import write_vector
from mergekit_fair.cli import main
from mergekit_fair.errors import ConfigError, RecipeError
from mergekit_fair.merging.methods.registry import METHODS
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.resources import recipes_folder
from mergekit_fair.schema import dump_yaml

ROOT = Path(__file__).parents[2]


def run(*args, code=0):
    result = CliRunner().invoke(main, [str(arg) for arg in args], prog_name="mergekit-fair")
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return tiny_family(tmp_path_factory.mktemp("family"), "bert")


@pytest.fixture
def recipe(family, tmp_path):
    path = tmp_path / "r.yml"
    path.write_text(dump_yaml(family.addition(lambda_=0.3, normalize="norm")), encoding="utf-8")
    return path


def test_check_says_what_a_merge_would_do(family, recipe):
    found = json.loads(run("check", recipe, "--json").stdout)
    size = sum(tensor.numel() * 4 for tensor in read(family.base).values())
    assert found["method"] == "subgroup_task_addition"
    assert found["engine"] == "streamed by mergekit-fair"
    assert found["models"] == [str(path) for path in (family.base, *family.groups.values())]
    assert found["architecture"] == "mergekit's"
    assert found["loads"] == "whole"
    assert found["tensors"] == {"merged": len(read(family.base)), "copied": 0}
    assert found["bytes_read"] == 4 * size
    assert found["files"] == ["model.safetensors"]
    assert size < found["bytes_written"] < size + 20_000
    assert found["norms"].keys() == set(map(str, family.groups.values()))
    assert found["memory_bytes"] > 0
    text = run("check", recipe).stdout
    assert f"{recipe}: subgroup_task_addition, streamed by mergekit-fair\n" in text
    assert "architecture  mergekit's; loads whole" in text
    assert text.count("  norm ") == 3
    assert run("check", recipe, "--quiet").output == ""


def test_check_counts_what_a_merge_does_not_read(family, tmp_path):
    """λ = 0 reads the base only; an injection, the base, the target and one candidate."""
    size = sum(tensor.numel() * 4 for tensor in read(family.base).values())
    for raw, models in (
        (family.addition(lambda_=0.0), 1),
        (family.injection(lambda_=0.5, worst="Male"), 3),
        (family.injection(lambda_=0.0, worst="Male"), 1),
    ):
        path = tmp_path / "r.yml"
        path.write_text(dump_yaml(raw), encoding="utf-8")
        assert json.loads(run("check", path, "--json").stdout)["bytes_read"] == models * size


def test_check_of_a_stock_recipe(family, tmp_path):
    raw = {
        "merge_method": "task_arithmetic",
        "base_model": str(family.base),
        "models": [{"model": str(family.fft), "parameters": {"weight": 0.3}}],
    }
    path = tmp_path / "r.yml"
    path.write_text(dump_yaml(raw), encoding="utf-8")
    text = run("check", path).stdout
    assert "task_arithmetic, run by mergekit" in text
    assert "the rest is mergekit's to check" in text


def test_check_refuses_what_merge_refuses(recipe, tmp_path):
    raw = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    raw["models"][0]["model"] = str(tmp_path / "nothing")
    recipe.write_text(dump_yaml(raw), encoding="utf-8")
    result = run("check", recipe, code=2)
    assert result.stderr == f"Error: {tmp_path / 'nothing'}: no such model folder.\n"
    assert run("check", tmp_path, code=2).stderr.startswith(
        f"Error: {tmp_path / 'merge_manifest.json'}: is no manifest of a merge"
    )


def test_check_of_a_merged_model(recipe, tmp_path):
    run("merge", recipe, tmp_path / "out", "--quiet")
    text = run("check", tmp_path / "out").stdout
    first, digest = text.splitlines()
    assert first == f"{tmp_path / 'out'}: all 6 files that its manifest lists are what was merged"
    found = json.loads(run("check", tmp_path / "out", "--json").stdout)
    assert found["norms"]
    assert digest.endswith(f" {found['fingerprint']}")
    with (tmp_path / "out" / "config.json").open("a") as stream:
        stream.write(" ")
    assert "['config.json']" in run("check", tmp_path / "out", code=2).stderr


def test_grid_writes_plain_recipes(family, recipe, tmp_path):
    result = run("grid", recipe, "--lambda", "0:1:0.5", "-o", tmp_path / "grid")
    names = ["lambda_0.yml", "lambda_0.5.yml", "lambda_1.yml"]
    assert result.stdout.splitlines() == [str(tmp_path / "grid" / name) for name in names]
    manifest = json.loads((tmp_path / "grid" / "manifest.json").read_text())
    assert [entry["recipe"] for entry in manifest["points"]] == names
    assert [entry["settings"] for entry in manifest["points"]] == [
        {"lambda": value} for value in (0.0, 0.5, 1.0)
    ]
    assert {path.name for path in (tmp_path / "grid").iterdir()} == {*names, "manifest.json"}
    half = Recipe.load(tmp_path / "grid" / "lambda_0.5.yml")
    assert half.raw["parameters"]["lambda"] == 0.5
    assert half.groups() == {name: str(path) for name, path in family.groups.items()}


def test_a_grid_of_any_numbers(family, tmp_path):
    """Of a method of mergekit, too; every file is the recipe with these numbers."""
    models = [
        {"model": str(path), "parameters": {"weight": 1.0}} for path in family.groups.values()
    ]
    raw = {"merge_method": "ties", "base_model": str(family.base), "models": models}
    path, out = tmp_path / "ties.yml", tmp_path / "grid"
    path.write_text(dump_yaml(raw), encoding="utf-8")
    grid = ("--set", "density=0.2,0.5", "--set", f"weight.{family.groups['Male']}=0:1:1")
    run("grid", path, *grid, "-o", out, "--quiet")
    manifest = json.loads((out / "manifest.json").read_text())
    assert len(manifest["points"]) == len({entry["recipe"] for entry in manifest["points"]}) == 4
    for entry in manifest["points"]:
        made = Recipe.load(out / entry["recipe"])
        assert made.raw == Recipe.load(path).with_settings(entry["settings"]).raw
        assert entry["recipe"].startswith(f"density_{entry['settings']['density']}_weight.")


@pytest.mark.parametrize(
    ("settings", "shows", "fields"),
    [
        (["--set", "lamda=1"], ["did you mean 'lambda'"], {"got": "lamda"}),
        (["--set", "lambda"], [], {"where": "--set", "got": "lambda"}),
        (["--set", "lambda=1", "--lambda", "0"], ["twice"], {"where": "--set"}),
        (["--set", "lambda=1,x"], [], {"where": "--set lambda", "got": "x"}),
        (["--set", "density=1.5"], [], {"where": "the grid.density", "got": "1.5"}),
        ([], ["--lambda GRID or --set"], {}),
    ],
)
def test_grids_of_what_is_no_number(recipe, tmp_path, settings, shows, fields):
    kind = RecipeError if {"lamda=1", "density=1.5"} & {*settings} else ConfigError
    refusal(["grid", recipe, *settings, "-o", tmp_path / "out"], kind, *shows, **fields)
    assert [path.name for path in tmp_path.iterdir()] == ["r.yml"]


def test_a_grid_of_models_in_one_pass_is_that_of_its_recipes(recipe, tmp_path):
    run("grid", recipe, "--lambda", "0.5", "-o", tmp_path / "grid", "--quiet")
    run("merge", tmp_path / "grid" / "lambda_0.5.yml", tmp_path / "alone", "--quiet")
    run("merge", recipe, tmp_path / "all", "--lambda", "0:1:0.5", "--quiet")
    first, second = read(tmp_path / "all" / "lambda_0.5"), read(tmp_path / "alone")
    assert all(same_bits(first[name], second[name]) for name in second)


@pytest.mark.parametrize(
    ("grid", "text"),
    [
        ("0:1", "--lambda: is not a grid; got '0:1'; allowed: a number, a list of numbers, or"),
        ("0:1:0", "--lambda: the step does not lead from START to STOP; got '0:1:0'."),
        ("half", "--lambda: is not a finite number; got 'half'; allowed: a number,"),
    ],
)
def test_grids_that_are_none(recipe, tmp_path, grid, text):
    for command in (
        ("grid", recipe, "-o", tmp_path / "out"),
        ("merge", recipe, tmp_path / "out"),
    ):
        assert text in run(*command, "--lambda", grid, "--quiet", code=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["r.yml"]


def test_a_grid_over_a_gradient_or_a_stock_method(family, tmp_path):
    path = tmp_path / "r.yml"
    path.write_text(dump_yaml(family.addition(lambda_=[0, 1])), encoding="utf-8")
    for args in (("grid", path, "-o"), ("merge", path)):
        text = run(*args, tmp_path / "out", "--lambda", "0:1:0.5", code=2).stderr
        assert "lambda is a gradient or filter; a number in its place would erase it" in text
    raw = {
        "merge_method": "task_arithmetic",
        "base_model": str(family.base),
        "models": [{"model": str(family.fft), "parameters": {"weight": 0.3}}],
    }
    path.write_text(dump_yaml(raw), encoding="utf-8")
    run("merge", path, tmp_path / "out", "--lambda", "0:1:0.5", "--quiet")
    raw["parameters"] = {"lambda": 0.5}
    path.write_text(dump_yaml(raw), encoding="utf-8")
    run("merge", path, tmp_path / "alone", "--quiet")
    one, other = (tmp_path / name / "model.safetensors" for name in ("alone", "out/lambda_0.5"))
    assert one.read_bytes() == other.read_bytes()
    raw["merge_method"] = "linear"
    del raw["parameters"]
    path.write_text(dump_yaml(raw), encoding="utf-8")
    text = run("merge", path, tmp_path / "none", "--lambda", "0:1:0.5", code=2).stderr
    assert "linear has no parameter 'lambda'" in text
    assert not (tmp_path / "none").exists()


def test_the_table_of_methods_is_that_of_the_registered_methods():
    made = run("methods", "--markdown").stdout
    assert (ROOT / "docs" / "methods.md").read_text(encoding="utf-8") == made


def test_every_method_has_a_recipe_and_every_recipe_merges(family, tmp_path):
    """The packaged recipes, with the tiny family in the place of runs/adult_sex."""
    place = tmp_path / "family"
    shutil.copytree(family.base.parent, place)
    steps = {f"groups/{name}": {"steps": 10 + index} for index, name in enumerate(GROUPS)}
    (place / "train.json").write_text(json.dumps({"runs": steps}))
    gaps = {name: {"dpd": 0.1, "eod": 0.1 * index} for index, name in enumerate(GROUPS)}
    sizes = {name: {"n": 100, "n_pos": 50} for name in GROUPS}
    evaluation = {"n": 200, "n_pos": 100, "groups": sizes, "one_vs_rest": {"groups": gaps}}
    line = {"kind": "baseline", "label": "fft", "evaluation": evaluation}
    (place / "sweep").mkdir()
    (place / "sweep" / "results.json").write_text(json.dumps({"points": [line]}))
    for cell in ("00-Female-1", "01-Male-1"):
        vector = {"classifier.bias": torch.ones(2)}
        write_vector(place / "heads" / "vectors" / cell, cell, vector, place / "fft")
    files = sorted(recipes_folder("methods").glob("*.yml"))
    assert {method.spec.name for method in METHODS} <= {path.stem for path in files}
    for path in files:
        text = path.read_text(encoding="utf-8").replace("runs/adult_sex", str(place))
        (tmp_path / path.name).write_text(text, encoding="utf-8")
        if (method := path.stem) in {method.spec.name for method in METHODS}:
            assert Recipe.load(tmp_path / path.name).method == method
        run("merge", tmp_path / path.name, tmp_path / path.stem, "--quiet")
        merged, base = read(tmp_path / path.stem), read(family.base)
        assert merged.keys() == base.keys()
        assert not all(same_bits(merged[name], base[name]) for name in base)
