"""How scores are read is no part of a point: other settings read them again and run no model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from click.testing import CliRunner
from refusals import raises
from seals import edited_line

from mergekit_fair.cli import main
from mergekit_fair.errors import SweepError
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.progress import Silent
from mergekit_fair.sweep.checked_folder import require_proof
from mergekit_fair.sweep.forecast import plan_sweep
from mergekit_fair.sweep.point_runner import LocalExecutor
from mergekit_fair.sweep.points import Planner
from mergekit_fair.sweep.results import SweepResults
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.store import POINTS, ReadStore
from mergekit_fair.sweep.sweep_config import load_sweep

# All that can be said of reading; the seed is also of random vectors, where there are some.
OTHERS = {"reference": "one_vs_rest", "min_group_size": 20, "confidence": 0.9, "saturation": 0.03}
STAGES: dict[str, dict[str, Any]] = {
    "grid, controls, search, the worst group": {
        "grid": {"lambda": [0.5]},
        "search": {"method": "optuna", "budget": 1},
    },
    "safe groups, and another seed": {
        "grid": {"lambda": [0.3]},
        "controls": [],
        "inject": {"target": "fft", "groups": "safe", "lambda": [0.2], "tolerance": 0.99},
    },
}


class Idle(LocalExecutor):
    """Runs no model."""

    def run(self, jobs: Any) -> Iterator[Any]:
        raise AssertionError(f"a model is run: {[job.point.label for job in jobs]}")


@pytest.fixture(scope="module")
def rows(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family's rows, some of which are in a third group."""
    head, *lines = (family / "rows.csv").read_text().splitlines()
    third = [
        line.rpartition(",")[0] + ",grey" if number % 5 == 0 else line
        for number, line in enumerate(lines)
    ]
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_text("\n".join([head, *third]) + "\n")
    return path


def write(path: Path, family: Path, rows: Path, *, others: bool = False, **changes: Any) -> Path:
    """A sweep file; with other settings of reading, if they are asked for."""
    data = tiny.data_block(rows)
    data["groups"]["exclude"] = ["grey"] if others else []
    evaluate = {"data": data, "max_length": 16, "device": "cpu", "min_group_size": 1}
    evaluate |= OTHERS if others else {}
    settings = {"evaluate": evaluate, "thresholds": "fft", "select": tiny.FEWEST, **changes}
    if "inject" not in changes:  # of the worst group: by any setting the only one that there is
        recipe = yaml.safe_load((family / "run" / "addition.yml").read_text())
        one = family / "run" / "one_group.yml"
        one.write_text(yaml.safe_dump({**recipe, "models": recipe["models"][:1]}))
        settings["recipe"] = str(one)
    return tiny.write_sweep(family, path, **settings)


def run(path: Path, out: Path, executor: Any = LocalExecutor) -> SweepResults:
    return run_sweep(load_sweep(path), out, Silent(), executor)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_other_settings_end_as_if_they_had_been_the_first_ones(
    family: Path, rows: Path, tmp_path: Path, stage: str
) -> None:
    """To the byte, on both splits, with every setting changed at once; and after a kill."""
    if "search" in stage:
        pytest.importorskip("optuna")
    changes, out = STAGES[stage], tmp_path / "out"
    path = write(tmp_path / "sweep.yml", family, rows, **changes)
    before = run(path, out)
    lines = (out / POINTS).read_bytes().splitlines(keepends=True)
    seed = {"seed": 3} if "seed" in stage else {}
    write(path, family, rows, others=True, **changes, **seed)
    again = run(path, out, Idle)
    read = (out / POINTS).read_bytes().splitlines(keepends=True)
    assert read[: len(lines)] == lines
    # Each once more; thresholds by group are fitted anew, for groups that may be others.
    assert measured(read[len(lines) :]) == measured(lines)
    assert {split for _, split in measured(lines)} == {"validation", "report"}
    run(path, tmp_path / "whole")
    whole = (tmp_path / "whole" / "results.json").read_bytes()
    assert (out / "results.json").read_bytes() == whole
    for results, settings in ((before, {"confidence": 0.95}), (again, OTHERS)):
        figures = results.points[0].evaluations["tiny"]
        assert figures.confidence == settings["confidence"]
    assert figures.reference == OTHERS["reference"]
    require_proof(out)
    (out / POINTS).write_bytes(b"".join(read[: len(lines) + 5]) + read[-1][:30])
    run(path, out, Idle)
    assert (out / "results.json").read_bytes() == whole
    files = times(out)
    left = plan_sweep(load_sweep(path), out=out).left
    assert left is not None
    assert (left.points, left.forward_passes) == (0, 0)
    assert times(out) == files


@pytest.mark.slow
def test_a_search_that_reads_other_figures_keeps_what_is_right(
    family: Path, rows: Path, tmp_path: Path
) -> None:
    """It asks as if these figures had been the first ones; what is no part of it is not shown."""
    search = {"method": "surrogate", "budget": 16}
    changes = {"grid": {}, "controls": [], "inject": None, "search": search}
    path = tmp_path / "sweep.yml"
    evaluate = {"data": tiny.data_block(rows), "max_length": 16, "device": "cpu"}
    found = {}
    for size in (1, 30):  # the third group has about 23 rows
        evaluate["min_group_size"] = size
        write(path, family, rows, evaluate=evaluate, **changes)
        found[size] = run(path, tmp_path / "out")
    whole, ended = run(path, tmp_path / "whole").to_dict(), found[30].to_dict()
    flag = "report_opened_for_another_selection"  # it was, unless the choice is the same
    is_other = found[1].selected.id not in (None, found[30].selected.id)
    assert (whole.pop(flag), ended.pop(flag)) == (False, is_other)
    assert ended == whole
    asked = {size: {p.id for p in results.points} for size, results in found.items()}
    assert asked[1] & asked[30]
    assert asked[1] != asked[30]


def measured(lines: list[bytes]) -> list[tuple[str, str]]:
    """Ids and splits of the points that a model was run for."""
    found = [json.loads(line) for line in lines]
    return sorted((line["id"], line["split"]) for line in found if line["kind"] != "thresholds")


def times(folder: Path) -> dict[Path, int]:
    """File → when it was written."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*")}


def test_another_level_is_read_from_the_scores(family: Path, rows: Path, tmp_path: Path) -> None:
    """Of a baseline that comes first from now on: it alone is run."""
    models = family / "run"
    changes = {"grid": {"lambda": [0.5]}, "inject": None, "controls": [], "thresholds": None}
    path, out = tmp_path / "sweep.yml", tmp_path / "out"
    write(path, family, rows, baselines={"lora": str(models / "lora")}, **changes)
    run(path, out)
    both = {name: str(models / name) for name in ("lora", "fft")}
    write(path, family, rows, baselines=both, **changes)
    ran: list[str] = []

    class Listed(LocalExecutor):
        def run(self, jobs: Any) -> Iterator[Any]:
            for job, outcome in super().run(jobs):
                ran.append(job.point.label)
                yield job, outcome

    results = run(path, out, Listed)
    assert ran == ["fft", "fft"]
    matched = [p.evaluations["tiny"].level_matched for p in (*results.points, *results.report)]
    assert {each.to for each in matched if each} == {"fft"}
    run(path, tmp_path / "whole")
    whole = (tmp_path / "whole" / "results.json").read_bytes()
    assert (out / "results.json").read_bytes() == whole


def test_the_seed_tells_random_vectors_apart_and_nothing_else(
    family: Path, rows: Path, tmp_path: Path
) -> None:
    path, ids = tmp_path / "sweep.yml", []
    for seed in (0, 1):
        write(path, family, rows, seed=seed)
        planner = Planner(load_sweep(path), "the same rows")
        ids.append({point.id: point.kind for point in [*planner.baselines(), *planner.merges()]})
    first, second = ids
    assert {first[name] for name in first.keys() & second.keys()} == {"baseline", "merge"}
    assert {first[name] for name in first.keys() - second.keys()} == {"control"}


def test_what_another_release_has_read_is_read_again(swept: Path, tmp_path: Path) -> None:
    """Its intervals may be others; what ran the model stays said."""
    shutil.copytree(swept / "out", tmp_path / "out")

    def older(line: dict[str, Any]) -> None:
        line["evaluation"]["versions"] |= {"mergekit-fair": "0.1.9", "torch": "1.0"}
        line["evaluation"]["metrics"]["acc"]["low"] = 0.0

    edited_line(tmp_path / "out" / POINTS, 2, older, sealed_again=True)
    results = run(swept / "sweep.yml", tmp_path / "out", Idle)
    before = SweepResults.load(swept / "out")
    point = json.loads((tmp_path / "out" / POINTS).read_text().splitlines()[2])["id"]
    found, expected = (next(p for p in r.points if p.id == point) for r in (results, before))
    assert found.interval("acc") == expected.interval("acc")
    assert found.evaluation is not None
    assert expected.evaluation is not None
    assert found.evaluation.versions == {**expected.evaluation.versions, "torch": "1.0"}


def test_lines_of_an_earlier_version_are_refused(swept_before: Path) -> None:
    """Whose ids digested settings, too: they are neither used nor silently measured again."""
    with raises(SweepError, "earlier version", where=f"{POINTS}:1", fix="another folder"):
        ReadStore(swept_before)


@pytest.fixture(params=["no digest", "not all settings"])
def swept_before(swept: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The folder of a sweep of version 0.1, or of one on the way to 0.2."""
    shutil.copy(swept / "out" / POINTS, tmp_path)
    if request.param == "no digest":
        first = json.loads((tmp_path / POINTS).read_text().splitlines()[0])
        del first["digest"]
        (tmp_path / POINTS).write_text(json.dumps(first) + "\n")
    else:
        edited_line(
            tmp_path / POINTS,
            0,
            lambda line: [line["measured_with"].pop(key) for key in ("reference", "confidence")],
            sealed_again=True,
        )
    return tmp_path


def test_a_dry_run_counts_what_is_there(swept: Path, tmp_path: Path) -> None:
    """At any moment of a sweep, as it would go on."""
    out, sweep = tmp_path / "out", load_sweep(swept / "sweep.yml")
    shutil.copytree(swept / "out", out)
    lines = (out / POINTS).read_bytes().splitlines(keepends=True)
    splits = [json.loads(line)["split"] for line in lines]
    selected = splits.count("validation")
    assert plan_sweep(sweep, out=tmp_path / "nothing").left is None
    for done in (1, 4, selected - 1, selected, len(lines) - 1):
        (out / POINTS).write_bytes(b"".join(lines[:done]))
        plan = plan_sweep(sweep, out=out)
        left = plan.left
        assert left is not None
        assert len(left.finished) == min(done, selected)
        passes = sum(plan.rows[split] for split in splits[done:])
        assert left.at_most == (done < selected - 1)  # the last is the control of what is chosen
        assert left.points >= selected - done
        is_right = left.forward_passes >= passes if left.at_most else left.forward_passes == passes
        assert is_right, (done, left.forward_passes, passes)
        assert left.forward_passes < plan.forward_passes


@pytest.mark.parametrize("confidence", [0.95, 0.9])
def test_a_dry_run_of_a_finished_sweep_runs_and_writes_nothing(
    family: Path, swept: Path, tmp_path: Path, confidence: float
) -> None:
    """Nor where figures will be read in another way."""
    evaluate = {"data": tiny.data_block(family / "rows.csv"), "max_length": 16, "device": "cpu"}
    path = tiny.write_sweep(
        family,
        tmp_path / "sweep.yml",
        evaluate={**evaluate, "confidence": confidence, "min_group_size": 1},
    )
    out = swept / "out"
    before = times(out)
    command = ["sweep", str(path), "-o", str(out), "--dry-run", "--quiet"]
    plan = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    points = json.loads((out / "results.json").read_text())["points"]
    assert plan["left"] == {
        "finished": sorted(point["id"] for point in points),
        **{"points": 0, "forward_passes": 0, "at_most": False, "minutes": 0.0},
    }
    assert "seconds_per_point" not in plan  # no model was loaded
    shown = CliRunner().invoke(main, command).stdout
    assert "no forward pass is left" in shown
    assert shown.count("(measured)") == len(plan["points"])
    assert times(out) == before


def test_a_dry_run_counts_no_report_rows_where_nothing_will_be_chosen(
    family: Path, swept: Path, tmp_path: Path
) -> None:
    """They stay closed; with a choice they are counted for it, its control and the baselines."""
    (tmp_path / "out").mkdir()
    found = {}
    for split, rule in (("both", ">= 0.1"), ("validation", ">= 0.1"), ("validation", ">= 0.999")):
        path = tiny.write_sweep(
            family, tmp_path / "sweep.yml", select={"maximize": "acc", "subject_to": {"acc": rule}}
        )
        for name in ("scores", "rows"):
            shutil.copytree(swept / "out" / name, tmp_path / "out" / name, dirs_exist_ok=True)
        lines = (swept / "out" / POINTS).read_text().splitlines(keepends=True)
        kept = [line for line in lines if split in ("both", json.loads(line)["split"])]
        (tmp_path / "out" / POINTS).write_text("".join(kept))
        left = plan_sweep(load_sweep(path), out=tmp_path / "out").left
        assert left is not None
        found[split, rule] = left.forward_passes
    assert found["validation", ">= 0.999"] == 0
    assert found["validation", ">= 0.1"] > found["both", ">= 0.1"]


def test_what_is_asked_knows_nothing_of_how_answers_are_read(
    family: Path, rows: Path, tmp_path: Path
) -> None:
    """Groups that decide nothing, and clusters, change no id; other labels and texts do."""
    path = write(tmp_path / "sweep.yml", family, rows)
    evaluator = Evaluator(load_sweep(path).config.evaluate.request())
    (task,) = evaluator.prepared("validation").tasks.values()

    def content(**changes: Any) -> list[bytes]:
        docs = [(number, {**doc, **changes}) for number, doc in task.docs]
        return list(replace(task, docs=docs).content())

    assert content(excluded=["grey"], cluster=7) == content()
    assert content(label=1) != content()
    assert content(text="another") != content()
