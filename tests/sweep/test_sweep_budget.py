"""`--max-minutes`: points are left out, said, and measured by the same command with more time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
from click.testing import CliRunner
from refusals import raises

from mergekit_fair.cli import main
from mergekit_fair.errors import SweepError
from mergekit_fair.progress import Silent
from mergekit_fair.report.outputs import summary_text
from mergekit_fair.sweep.point_runner import LocalExecutor, TimeBudget
from mergekit_fair.sweep.results import SweepResults
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.sweep_config import load_sweep


@dataclass
class Clock:
    """Every point takes a minute, and nothing else takes time."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds

    def executor(self, *arguments: Any) -> LocalExecutor:
        clock = self

        class Ticking(LocalExecutor):
            def run(self, jobs: Any) -> Any:
                for finished in super().run(jobs):
                    clock.seconds += 60
                    yield finished

        return Ticking(*arguments)


def swept_for(minutes: float | None, path: Path, out: Path) -> SweepResults:
    clock = Clock()
    budget = TimeBudget(minutes, clock)
    return run_sweep(load_sweep(path), out, Silent(), clock.executor, budget)


def without_the_flag(results: SweepResults) -> dict[str, Any]:
    return {
        key: value
        for key, value in results.to_dict().items()
        if key != "report_opened_for_another_selection"
    }


def resumed(path: Path, folder: Path, minutes: float) -> tuple[SweepResults, SweepResults]:
    """A sweep that is cut, then goes on: it ends like one that was never cut."""
    cut = swept_for(minutes, path, folder / "cut")
    ended, whole = (swept_for(None, path, folder / name) for name in ("cut", "whole"))
    assert without_the_flag(ended) == without_the_flag(whole)
    is_other = cut.selected.id not in (None, whole.selected.id)
    assert ended.report_opened_for_another_selection == is_other
    if not is_other:
        cut_bytes, whole_bytes = (
            (folder / name / "results.json").read_bytes() for name in ("cut", "whole")
        )
        assert cut_bytes == whole_bytes
    return cut, whole


def test_the_choice_is_among_what_is_measured_and_the_rest_is_named(
    family: Path, tmp_path: Path
) -> None:
    path = tiny.write_sweep(
        family, tmp_path / "sweep.yml", grid={"lambda": [0.2, 0.1]}, select=tiny.FEWEST
    )
    cut, whole = resumed(path, tmp_path, 3)
    worst = whole.worst_group.name if whole.worst_group else ""
    assert [point.label for point in cut.points] == ["fft", "lora", "λ=0.2"]
    assert cut.selected.label == "λ=0.2"
    assert [point.label for point in cut.report] == ["fft", "lora", "λ=0.2"]
    assert set(cut.comparison) == {"fft", "lora"}  # its control is left out
    assert cut.budget is not None
    assert cut.budget.minutes == 3
    controls, injections = (
        ["random λ=0.2", "random λ=0.1"],
        [f"fft + {v} {worst}" for v in (0, 0.2)],
    )
    assert cut.budget.left_out == ["λ=0.1", *controls, *injections]
    assert "λ=0.1, random λ=0.2" in summary_text(cut)
    # A little more, then all: nothing is measured twice.
    out = tmp_path / "steps"
    swept_for(3, path, out)
    points = (out / "points.jsonl").read_bytes()
    more = swept_for(1, path, out)
    assert more.budget is not None
    assert more.budget.left_out == [*controls, *injections]
    ended = swept_for(100, path, out)
    assert (out / "points.jsonl").read_bytes().startswith(points)
    assert ended.budget is None
    assert without_the_flag(ended) == without_the_flag(whole)


def test_too_little_for_the_baselines_is_an_error_that_loses_nothing(
    swept: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with raises(SweepError, where="--max-minutes", got=1):
        swept_for(1, swept / "sweep.yml", out)
    assert (out / "points.jsonl").read_bytes().count(b"\n") == 1
    assert not (out / "results.json").exists()
    swept_for(None, swept / "sweep.yml", out)
    assert (out / "results.json").read_bytes() == (swept / "out" / "results.json").read_bytes()


@pytest.mark.parametrize("minutes", [4, 5])
def test_a_search_is_cut_within_or_between_batches(
    family: Path, tmp_path: Path, minutes: float
) -> None:
    path = tiny.write_sweep(
        family,
        tmp_path / "sweep.yml",
        grid={},
        controls=[],
        inject=None,
        search={"method": "random", "budget": 6, "batch": 2},
    )
    cut, whole = resumed(path, tmp_path, minutes)
    searched = [point.label for point in whole.points if point.kind == "search"]
    done = int(minutes) - 2
    assert [point.label for point in cut.points if point.kind == "search"] == searched[:done]
    assert cut.budget is not None
    assert set(cut.budget.left_out) <= set(searched[done:])
    assert cut.budget.unfinished == [f"search: {6 - (done + 2) // 2 * 2} further points"]


@pytest.mark.slow
@pytest.mark.parametrize("minutes", [4, 6])
def test_safe_injection_without_all_verdicts_chooses_none(
    family: Path, tmp_path: Path, minutes: float
) -> None:
    """Within the steps: no verdicts. After them: no further groups."""
    inject = {"target": "fft", "groups": "safe", "lambda": [0.2], "step": 0.1, "tolerance": 0.99}
    path = tiny.write_sweep(
        family,
        tmp_path / "sweep.yml",
        grid={"lambda": [0.2]},
        controls=[],
        inject=inject,
        select=tiny.FEWEST,
    )
    cut, whole = resumed(path, tmp_path, minutes)
    assert whole.transfer is not None
    assert cut.budget is not None
    if minutes == 4:
        assert cut.transfer is None
        assert cut.budget.unfinished == ["safe injection: no verdicts"]
        refused = [point.refused for point in cut.points if point.kind == "injection"]
        assert refused == ["no verdict"]
        assert cut.selected.label == "λ=0.2"
    else:
        assert cut.transfer is not None
        assert cut.budget.unfinished == ["safe injection: further groups"]


@pytest.mark.parametrize("minutes", ["0", "-1", "soon"])
def test_a_budget_that_is_none_is_refused(swept: Path, tmp_path: Path, minutes: str) -> None:
    command = ["sweep", str(swept / "sweep.yml"), "-o", str(tmp_path / "out")]
    run = CliRunner().invoke(main, [*command, "--max-minutes", minutes])
    assert run.exit_code == 2
    assert "--max-minutes" in run.stderr
    assert not (tmp_path / "out").exists()
