"""Bases of real checkpoints: what is written, merged from it, and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from checkpoints import Family, read
from click.testing import CliRunner

from mergekit_fair.cli import main
from mergekit_fair.vectors.basis_files import load_basis


def asked(*arguments: object, code: int = 0) -> Any:
    found = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert found.exit_code == code, found.output
    assert "Traceback" not in found.output
    return found


def written(path: Path, recipe: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(recipe))
    return path


def dense(family: Family, folder: Path, amounts: dict[str, float]) -> dict[str, torch.Tensor]:
    """θ₀ + Σ_t a_t v̂_t, in float64 from the tasks' own files and the coefficients."""
    basis = load_basis(folder)
    base = read(family.base)
    models = {"fft": family.fft, "target": family.fft, **family.groups}
    each = np.stack([basis.fit.coefficients(row) for row in np.eye(len(basis.tasks))], axis=1)
    shares = basis.fit.stored_mixing @ each  # (T, T): v̂_t by tasks
    a = np.array([amounts.get(name, 0.0) for name in basis.tasks])
    by_task = shares @ a
    found = {name: tensor.double() for name, tensor in base.items()}
    for task, weight in zip(basis.tasks, by_task, strict=True):
        for name, tensor in read(models[task]).items():
            if tensor.is_floating_point():
                found[name] += float(weight) * (tensor.double() - base[name].double())
    return found


@pytest.mark.parametrize("method", ["autoencoder", "pca", "pca-uncentred", "random", "sample"])
def test_merges_from_a_basis_are_sums_of_reconstructions(
    tiny: Any, tmp_path: Path, method: str
) -> None:
    family = tiny("bert")
    recipe = written(tmp_path / "r.yml", family.addition(lambda_=0.7))
    out = tmp_path / "basis"
    options = ("--size", 2, "--method", method, "--quiet", "--json")
    shown = json.loads(asked("basis", "build", recipe, "-o", out, *options).stdout)
    basis = load_basis(out)
    assert shown == basis.model_dump(mode="json")
    assert basis.tasks == ["Female", "Male", "Other"]
    assert len(basis.vectors) == 2 + (method == "pca")
    assert sum(basis.errors) >= basis.bound * (1 - 1e-9) - 1e-12
    # float32 files hold what was solved for, but for rounding.
    assert basis.stored_errors == pytest.approx(basis.errors, rel=1e-3, abs=1e-6)
    small = tmp_path / "small.yml"
    asked("basis", "apply", out, recipe, "-o", small)
    asked("merge", small, tmp_path / "merged", "--quiet")
    expected = dense(family, out, dict.fromkeys(basis.tasks, 0.7))
    merged = read(tmp_path / "merged")
    assert merged.keys() == expected.keys()
    for name, tensor in merged.items():
        assert torch.allclose(tensor.double(), expected[name], atol=2e-6), name
    # λ stays a knob: at 0 the merge is the base.
    zero = yaml.safe_load(small.read_text())
    assert zero["parameters"] == {"lambda": 0.7, "normalize": "sum", "head": "merge"}
    zero["parameters"]["lambda"] = 0.0
    asked("merge", written(tmp_path / "zero.yml", zero), tmp_path / "zero", "--quiet")
    for name, tensor in read(tmp_path / "zero").items():
        assert torch.equal(tensor, read(family.base)[name])


def test_a_basis_of_all_tasks_gives_the_merge_itself(tiny: Any, tmp_path: Path) -> None:
    family = tiny("vit")
    recipe = written(tmp_path / "r.yml", family.addition(lambda_=0.4, normalize="mean"))
    asked("basis", "build", recipe, "-o", tmp_path / "b", "--size", 3, "--method", "pca", "--quiet")
    asked("basis", "apply", tmp_path / "b", recipe, "-o", tmp_path / "small.yml")
    asked("merge", tmp_path / "small.yml", tmp_path / "small", "--quiet")
    asked("merge", recipe, tmp_path / "whole", "--quiet")
    whole = read(tmp_path / "whole")
    for name, tensor in read(tmp_path / "small").items():
        assert torch.allclose(tensor, whole[name], atol=2e-6), name


def test_injection_and_negation_go_through_it_by_name_in_any_order(
    tiny: Any, tmp_path: Path
) -> None:
    family = tiny("bert")
    raw = family.injection(lambda_=0.3, worst="Male")
    recipe = written(tmp_path / "r.yml", raw)
    out = tmp_path / "basis"
    asked("basis", "build", recipe, "-o", out, "--size", 2, "--quiet")
    basis = load_basis(out)
    assert basis.tasks == ["target", "Female", "Male", "Other"]
    turned = written(tmp_path / "t.yml", {**raw, "models": raw["models"][::-1]})
    for number, path in enumerate((recipe, turned)):
        asked("basis", "apply", out, path, "-o", tmp_path / f"small{number}.yml")
    one, other = ((tmp_path / f"small{number}.yml").read_text() for number in (0, 1))
    assert one == other
    asked("merge", tmp_path / "small0.yml", tmp_path / "m", "--quiet")
    expected = dense(family, out, {"target": 1.0, "Male": 0.3})
    for name, tensor in read(tmp_path / "m").items():
        assert torch.allclose(tensor.double(), expected[name], atol=2e-6), name
    negation = {
        "merge_method": "task_negation",
        "base_model": raw["base_model"],
        "models": [{"model": str(family.groups["Other"])}],
        "parameters": {"lambda": 0.5},
        "dtype": "float32",
    }
    asked(
        *("basis", "apply", out, written(tmp_path / "n.yml", negation)),
        *("-o", tmp_path / "small-n.yml"),
    )
    asked("merge", tmp_path / "small-n.yml", tmp_path / "n", "--quiet")
    expected = dense(family, out, {"Other": -0.5})
    for name, tensor in read(tmp_path / "n").items():
        assert torch.allclose(tensor.double(), expected[name], atol=2e-6), name


def test_the_tasks_models_are_not_needed_any_more(tiny: Any, tmp_path: Path) -> None:
    family = tiny("bert")
    raw = family.addition(lambda_=1.0)
    for item in raw["models"]:
        item["model"] = str(shutil.copytree(item["model"], tmp_path / Path(item["model"]).name))
    recipe = written(tmp_path / "r.yml", raw)
    asked("basis", "build", recipe, "-o", tmp_path / "b", "--size", 1, "--quiet")
    for item in raw["models"]:
        shutil.rmtree(item["model"])
    asked("basis", "apply", tmp_path / "b", recipe, "-o", tmp_path / "small.yml")
    asked("merge", tmp_path / "small.yml", tmp_path / "m", "--quiet")
    table = asked("basis", "info", tmp_path / "b").stdout
    assert "autoencoder: 3 task vectors kept as 1; " in table
    assert [line.split()[0] for line in table.splitlines()[2:6]] == [*family.groups, "all"]


def test_rounding_of_the_stored_vectors_is_measured(tiny: Any, tmp_path: Path) -> None:
    """bfloat16 checkpoints θ₀ + s keep little of a small s: the table says how little."""
    family = tiny("bert")
    recipe = written(tmp_path / "r.yml", {**family.addition(), "out_dtype": "bfloat16"})
    asked("basis", "build", recipe, "-o", tmp_path / "b", "--size", 3, "--quiet")
    basis = load_basis(tmp_path / "b")
    assert sum(basis.errors) < 1e-6 * basis.total
    base, whole = read(family.base), 0.0
    for tensor in base.values():
        if tensor.is_floating_point():
            whole += float((tensor.bfloat16().double() - tensor.double()).square().sum())
    assert sum(basis.stored_errors) > whole / 2


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"parameters": {"normalize": "norm"}}, "is not a sum of whole task vectors"),
        ({"parameters": {"density": 0.5}}, "is not a sum of whole task vectors"),
        ({"parameters": {"head": "base"}}, "another treatment of heads; got 'base'"),
        ({"parameters": {"lambda": [0, 1]}}, "is not a sum of whole task vectors"),
        ({"merge_method": "task_median"}, "is not a sum of whole task vectors"),
        ({"base_model": "elsewhere"}, "was built over another base; got 'elsewhere'"),
        ({"models": "Stranger"}, "the basis has no such task; got 'Stranger'"),
    ],
)
def test_recipes_that_a_basis_cannot_stand_for(
    tiny: Any, tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    family = tiny("bert")
    raw = family.addition()
    recipe = written(tmp_path / "r.yml", raw)
    asked("basis", "build", recipe, "-o", tmp_path / "b", "--method", "sample", "--quiet")
    if change.get("models"):
        raw["models"][0]["parameters"]["group"] = change["models"]
        change = {}
    changed = written(tmp_path / "c.yml", {**raw, **change})
    found = asked("basis", "apply", tmp_path / "b", changed, "-o", tmp_path / "s.yml", code=2)
    assert text in found.stderr
    assert not (tmp_path / "s.yml").exists()


def test_bad_input_leaves_nothing(tiny: Any, tmp_path: Path) -> None:
    family = tiny("bert")
    recipe = written(tmp_path / "r.yml", family.addition())
    out = tmp_path / "b"
    many = asked("basis", "build", recipe, "-o", out, "--size", 4, "--quiet", code=2)
    assert "no such number of basis vectors; got 4; allowed: 1 … 3" in many.stderr
    assert not out.exists()
    assert "has no basis.json" in asked("basis", "info", tmp_path, code=2).stderr
    asked("basis", "build", recipe, "-o", out, "--method", "sample", "--quiet")
    again = asked("basis", "build", recipe, "-o", out, "--quiet", code=2)
    assert "exists" in again.stderr
    content = json.loads((out / "basis.json").read_text())
    (out / "basis.json").write_text(json.dumps({**content, "weights": [[1.0]]}))
    assert "weights has another shape" in asked("basis", "info", out, code=2).stderr
    (out / "basis.json").write_text("{")
    assert "is damaged" in asked("basis", "info", out, code=2).stderr
