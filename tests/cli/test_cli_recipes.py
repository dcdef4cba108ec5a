"""`merge`, `exec`, `methods` and the help of every command, as a shell sees them."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from checkpoints import read, tiny_family
from click.testing import CliRunner
from refusals import refusal

import mergekit_fair
from mergekit_fair.cli import COMMANDS, main
from mergekit_fair.errors import CheckpointError, ConfigError, RecipeError
from mergekit_fair.merging.methods.registry import METHODS
from mergekit_fair.schema import dump_yaml

HEAVY = ("torch", "transformers", "mergekit", "pandas", "numpy", "sklearn", "matplotlib")


def run(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args], prog_name="mergekit-fair")


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return tiny_family(tmp_path_factory.mktemp("family"), "bert")


@pytest.fixture
def recipe(family, tmp_path):
    path = tmp_path / "r.yml"
    path.write_text(dump_yaml(family.addition(lambda_=0.3)), encoding="utf-8")
    return path


def python(*args, cwd, **environment):
    return subprocess.Popen(
        [sys.executable, *args],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


BOTH = """
import sys
from mergekit_fair.cli import main
main(["merge", "r.yml", sys.argv[1]], standalone_mode=False)
main(["exec", "mergekit-yaml", "r.yml", sys.argv[2], "--no-write-model-card"])
"""


def test_merge_and_the_stock_program_in_a_process_of_their_own(family, tmp_path, monkeypatch):
    """Every byte is the same under another hash seed, every tensor through mergekit-yaml."""
    root = family.base.parent
    text = dump_yaml(family.addition(lambda_=0.3)).replace(f"{root}/", "")
    (root / "r.yml").write_text(text, encoding="utf-8")
    outs = [tmp_path / name / "merged" for name in ("one", "two", "stock")]
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    process = python("-c", BOTH, *map(str, outs[1:]), cwd=root, PYTHONHASHSEED=seed)
    monkeypatch.chdir(root)
    assert run("merge", "r.yml", outs[0]).exit_code == 0
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    names = sorted(path.name for path in outs[0].iterdir())
    assert "model.safetensors" in names
    assert "README.md" in names
    assert names == sorted(path.name for path in outs[1].iterdir())
    for name in names:
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes(), name
    ours, theirs = read(outs[0]), read(outs[2])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (outs[0] / "mergekit_config.yml").read_text(encoding="utf-8") == text


def test_help_and_version_import_nothing_heavy(tmp_path):
    code = f"""
import sys
from mergekit_fair.cli import main
sys.argv = ["mergekit-fair", sys.argv[1]]
try:
    main()
finally:
    print("LOADED", sorted(set(sys.modules) & set({HEAVY!r})))
"""
    for option in ("--help", "--version"):
        process = python("-c", code, option, cwd=tmp_path)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert output.endswith("LOADED []\n")
    assert f"version {mergekit_fair.__version__}" in output


def test_the_help_lists_every_command():
    for option in ("--help", "-h"):
        result = run(option)
        assert result.exit_code == 0
        for name, text in COMMANDS.items():
            assert f"  {name} " in result.output
            assert text.split(".")[0] in " ".join(result.output.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_an_example(name):
    result = run(name, "--help")
    assert result.exit_code == 0, result.output
    assert f"Usage: mergekit-fair {name}" in result.output
    assert re.search(rf"Examples?:\n    mergekit-fair {name}", result.output)


def test_an_unknown_command():
    result = run("marge")
    assert result.exit_code == 2
    assert "No such command 'marge'" in result.stderr
    assert "Traceback" not in result.output


def test_merge(recipe, tmp_path):
    result = run("merge", recipe, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'out'}\n"
    assert (tmp_path / "out" / "model.safetensors").is_file()
    again = ("merge", recipe, tmp_path / "out")
    refusal(again, ConfigError, where=tmp_path / "out", fix="--overwrite")
    result = run("merge", recipe, tmp_path / "out", "--overwrite", "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""


def test_merge_takes_the_options_of_mergekit_yaml(recipe, tmp_path):
    from mergekit.options import MergeOptions

    text = run("merge", "--help").output
    for option in MergeOptions.model_fields.keys() - {"verbosity", "num_threads"}:
        assert f"--{option.replace('_', '-')}" in text
    options = ("--no-write-model-card", "--no-copy-tokenizer", "--out-shard-size", "20K")
    result = run("merge", recipe, tmp_path / "out", *options, "--quiet")
    assert result.exit_code == 0, result.output
    names = [path.name for path in (tmp_path / "out").iterdir()]
    assert "README.md" not in names
    assert "tokenizer.json" not in names
    assert len([name for name in names if name.startswith("model-")]) > 2


def test_merge_of_bad_input(family, recipe, tmp_path):
    out = tmp_path / "out"
    gone = tmp_path / "gone.yml"
    refusal(["merge", gone, out], ConfigError, "(No such file or directory)", where=gone)
    recipe.write_text(dump_yaml(family.addition(lamda=0.3)), encoding="utf-8")
    merge = ("merge", recipe, out)
    refusal(merge, RecipeError, "parameters", "'lamda'", "mean 'lambda'?", where=recipe)
    recipe.write_text("a: [", encoding="utf-8")
    refusal(merge, ConfigError, "YAML", where=recipe)
    raw = family.addition()
    raw["models"][0]["model"] = f"{family.base.parent}/groups/Femal"
    recipe.write_text(dump_yaml(raw), encoding="utf-8")
    where = f"{family.base.parent}/groups/Femal"
    refusal(merge, CheckpointError, "mean 'Female'?", where=where)
    raw["models"][0]["model"] = str(family.fft)
    raw["base_model"] = "nobody/nothing"
    recipe.write_text(dump_yaml(raw), encoding="utf-8")
    refusal(merge, CheckpointError, where="nobody/nothing")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.yml"]


def test_merge_that_cannot_write(recipe):
    refusal(["merge", recipe, recipe / "out"], ConfigError, where=recipe, fix="another place")


def test_merge_without_arguments():
    result = run("merge")
    assert result.exit_code == 2
    assert "Missing argument 'RECIPE'" in result.stderr


def test_methods():
    result = run("methods", "--json")
    assert result.exit_code == 0
    methods = {method["name"]: method for method in json.loads(result.stdout)}
    assert list(methods) == [method.spec.name for method in METHODS]
    addition = methods["subgroup_task_addition"]
    assert addition["pretty_name"] == "Subgroup Task Addition"
    assert addition["reference"] == "https://arxiv.org/abs/2505.24262"
    assert addition["base_model"] == "required"
    found = {parameter["name"]: parameter for parameter in addition["parameters"]}
    assert found["group"]["scope"] == "per model"
    assert found["group"]["required"] is True
    assert found["group"]["default"] is None
    assert found["lambda"]["scope"] == "recipe"
    assert found["lambda"]["default"] == "1.0"
    assert found["normalize"]["default"] == "sum"
    assert all(parameter["description"] for parameter in addition["parameters"])
    text = run("methods").output
    for method in methods.values():
        assert f"{method['name']}  {method['pretty_name']}  {method['reference']}\n" in text
        assert all(f"  {parameter['name']} " in text for parameter in method["parameters"])


def test_all_methods():
    names = [method["name"] for method in json.loads(run("methods", "--all", "--json").stdout)]
    assert {"linear", "ties", "task_arithmetic", "worst_group_injection"} <= set(names)
    assert "ties" in run("methods", "--all").output


def test_exec_of_an_unknown_program():
    fields = {"where": "exec", "got": "mergekit-yml"}
    error = refusal(
        ["exec", "mergekit-yml", "--help"], ConfigError, "mean 'mergekit-yaml'?", **fields
    )
    assert {"lm_eval", "mergekit-multi"} <= set(error.allowed)


def test_exec_passes_options_on_and_registers_the_methods(monkeypatch, recipe, tmp_path):
    monkeypatch.setattr(sys, "argv", ["mergekit-fair"])
    result = run("exec", "mergekit-yaml", "--help")
    assert result.exit_code == 0
    assert "CONFIG_FILE OUT_PATH" in result.output
    result = run("exec", "mergekit-yaml", recipe, tmp_path / "out", "--quiet")
    assert result.exit_code == 0, result.output
    assert sys.argv == ["mergekit-yaml", str(recipe), str(tmp_path / "out"), "--quiet"]
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_quiet_merge_says_nothing_and_leaves_the_loggers_as_they_were(tmp_path):
    """mergekit warns of architectures that it infers."""
    import logging

    family = tiny_family(tmp_path / "vit", "vit")
    models = [{"model": str(path), "parameters": {"weight": 1}} for path in family.groups.values()]
    recipe = tmp_path / "r.yml"
    recipe.write_text(dump_yaml({"merge_method": "linear", "models": models, "dtype": "float32"}))
    level = logging.getLogger().level
    result = CliRunner().invoke(main, ["merge", str(recipe), str(tmp_path / "out"), "--quiet"])
    assert (result.exit_code, result.output) == (0, "")
    assert logging.getLogger().level == level
