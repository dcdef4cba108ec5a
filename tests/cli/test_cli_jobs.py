"""`train`, `sweep` and `demo` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner

from mergekit_fair.cli import main
from mergekit_fair.merging.in_memory import load_tensors
from mergekit_fair.training.base_model import file_sha256


def test_sweep_writes_everything_and_the_merge_of_its_recipe_is_the_same_file(
    swept: Path, tmp_path: Path
) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(swept / "out", out)
    run = CliRunner().invoke(main, ["sweep", str(swept / "sweep.yml"), "-o", str(out), "--quiet"])
    assert run.exit_code == 0, run.output
    for name in (
        *("plan.json", "points.jsonl", "results.csv", "results.json", "selected/recipe.yml"),
        *("curves.png", "curves.svg", "pareto.png", "pareto.svg", "selected/model/config.json"),
    ):
        assert (out / name).is_file(), name
    assert "Rule: maximise acc" in run.output
    assert "Report rows, opened once" in run.output
    merged = CliRunner().invoke(
        main, ["merge", str(out / "selected" / "recipe.yml"), str(tmp_path / "again"), "--quiet"]
    )
    assert merged.exit_code == 0, merged.output
    first = out / "selected" / "model" / "model.safetensors"
    assert file_sha256(tmp_path / "again" / "model.safetensors") == file_sha256(first)
    again = CliRunner().invoke(main, ["sweep", str(swept / "sweep.yml"), "-o", str(out), "--json"])
    assert json.loads(again.stdout) == json.loads((out / "results.json").read_text())


def test_without_matplotlib_everything_but_the_pictures_is_written(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    import sys

    out = tmp_path / "out"
    shutil.copytree(swept / "out", out)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    command = ["sweep", str(swept / "sweep.yml"), "-o", str(out)]
    run = CliRunner().invoke(main, command)
    assert run.exit_code == 0, run.output
    assert "no pictures: pictures need matplotlib" in run.stderr
    assert (out / "selected" / "model" / "model.safetensors").is_file()
    assert (out / "results.csv").is_file()
    assert not (out / "curves.png").exists()
    again = CliRunner().invoke(main, [*command, "--no-write"])
    assert "an earlier run" not in again.stderr  # the model is of this choice
    assert (out / "selected" / "model" / "model.safetensors").is_file()


def test_dry_run_prints_the_plan_and_makes_nothing(swept: Path, tmp_path: Path) -> None:
    arguments = ["sweep", str(swept / "sweep.yml"), "-o", str(tmp_path / "out"), "--dry-run"]
    run = CliRunner().invoke(main, arguments)
    assert run.exit_code == 0, run.output
    assert "7 points, 2 of the worst group" in run.output
    assert "114 validation rows a point, 113 report rows" in run.output
    assert not (tmp_path / "out").exists()
    plan = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert len({point["id"] for point in plan["points"]}) == 7
    assert "The smallest gap that these rows can show" in run.output
    shown = plan["detectable"]
    assert (shown["validation"]["n"], shown["report"]["n"]) == (114, 113)
    assert {one["group"] for one in shown["report"]["dpd"]} <= {"blue", "green"}
    assert shown["report"]["assumed"]["agreement"] == 0.9


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_missing_file_is_one_message_and_exit_2(tmp_path: Path, command: str) -> None:
    run = CliRunner().invoke(main, [command, str(tmp_path / "no.yml"), "-o", str(tmp_path / "o")])
    assert run.exit_code == 2
    assert run.stderr.splitlines() == [
        f"Error: {tmp_path / 'no.yml'}: cannot be read (No such file or directory). Check the path."
    ]
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_the_demo_job_on_the_real_model_and_real_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo's own files with fewer rows: everything else is as a user gets it."""
    from mergekit_fair.cli import cmd_demo as demo

    copied = demo.copy_recipes

    def small(out: Path) -> None:
        copied(out)
        data = out / "data.yml"
        text = data.read_text()
        assert "{train: 1600, validation: 2000, report: 3000}" in text
        data.write_text(
            text.replace(
                "1600, validation: 2000, report: 3000", "192, validation: 160, report: 160"
            )
        )
        sweep = out / "sweep.yml"
        text = sweep.read_text()
        for old, new in {
            "lambda: [0, 0.1, 0.2, 0.4, 1]": "lambda: [0, 0.5, 1]",
            "lambda: [0.2, 1]": "lambda: [0.2]",
            "max_length: 64}": "max_length: 64, min_group_size: 1}",  # 6 women are positive
            # On any processor a merge is within noise of FFT, but not within FFT's gaps.
            'subject_to: {dpd: "<= fft", eod: "<= fft"}': "subject_to: {saturated: true}",
        }.items():
            assert old in text
            text = text.replace(old, new)
        sweep.write_text(text)

    monkeypatch.setattr(demo, "copy_recipes", small)
    out = tmp_path / "demo"
    run = CliRunner().invoke(main, ["demo", "-o", str(out)])
    assert run.exit_code == 0, run.output
    assert "1994 US census" in run.stderr
    assert " left] fft: fft, 192 rows, 12 steps" in run.stderr
    results = json.loads((out / "sweep" / "results.json").read_text())
    assert {line["label"] for line in results["points"]} >= {"fft", "lora", "λ=0", "λ=0.5", "λ=1"}
    base = load_tensors(out / "models" / "base")
    assert set(load_tensors(out / "sweep" / "selected" / "model")) == set(base)
    heads = json.loads((out / "heads" / "heads.json").read_text())
    assert run.output.splitlines()[-1].startswith(
        "fair head:" if heads["mu"] else "keep the target"
    )
    assert (out / "fair" / "model.safetensors").is_file() == bool(heads["mu"])
    assert (out / "heads" / "report.html").is_file()


def test_train_reports_bad_groups_on_one_line(tmp_path: Path) -> None:
    path = tiny.write_training(tmp_path, subgroups={"min_rows": 9999})
    run = CliRunner().invoke(main, ["train", str(path), "-o", str(tmp_path / "run")])
    assert run.exit_code == 2
    assert "'blue' has 118 training rows; 'green' has 135 training rows" in run.stderr
    assert "Traceback" not in run.stderr
