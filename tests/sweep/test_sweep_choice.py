"""The choice of a sweep, on real, tiny models: a tie, the baseline kept, an earlier choice."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from click.testing import CliRunner, Result
from gaps import evaluated
from refusals import raises, refusal
from seals import Change, edited

from mergekit_fair.cli import main
from mergekit_fair.data import load_rows
from mergekit_fair.errors import CheckpointError, SweepError
from mergekit_fair.fairness import compare
from mergekit_fair.merging.in_memory import Composer, load_tensors
from mergekit_fair.merging.measured_inputs import MeasuredInputs
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.progress import Silent
from mergekit_fair.report.page import closed_text
from mergekit_fair.sweep.checked_folder import require_proof
from mergekit_fair.sweep.distances import Distances
from mergekit_fair.sweep.limits import Select
from mergekit_fair.sweep.points import Planner
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import SweepResults
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.store import Store
from mergekit_fair.sweep.sweep_config import load_sweep

LAMBDAS = [0.1, 0.3, 0.6, 1.0]
# No merge is right about every row.
IMPOSSIBLE = {"subject_to": {"acc": ">= 1", "saturated": True}}


def written(family: Path, path: Path, **changes: Any) -> Path:
    settings = {"grid": {"lambda": LAMBDAS}, "controls": [], "inject": None, **changes}
    return tiny.write_sweep(family, path, **settings)


@pytest.fixture(scope="module")
def measured(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `out` has every point's line of validation rows, and no report row's.

    The points do not depend on the rule: every test chooses among a copy of them.
    """
    folder = tmp_path_factory.mktemp("choice")
    chosen_by(family, folder, IMPOSSIBLE)
    return folder


@pytest.fixture
def folder(measured: Path, tmp_path: Path) -> Path:
    shutil.copytree(measured, tmp_path, dirs_exist_ok=True)
    return tmp_path


def chosen_by(family: Path, folder: Path, select: dict[str, Any], **options: Any) -> SweepResults:
    """The sweep's own part, without tables, pictures and the model."""
    path = written(family, folder / "sweep.yml", select=select)
    return run_sweep(load_sweep(path), folder / "out", Silent(), **options)


def sweep_of(family: Path, folder: Path, select: dict[str, Any], *options: str) -> Result:
    path = written(family, folder / "sweep.yml", select=select)
    found = CliRunner().invoke(main, ["sweep", str(path), "-o", str(folder / "out"), *options])
    assert "Traceback" not in found.output
    return found


def splits_of(folder: Path) -> set[str]:
    lines = (folder / "out" / "points.jsonl").read_text().splitlines()
    return {json.loads(line)["split"] for line in lines}


def test_the_baseline_is_kept_and_the_report_rows_stay_closed(family: Path, folder: Path) -> None:
    run = sweep_of(family, folder, IMPOSSIBLE)
    assert run.exit_code == 3, run.output
    assert "Keep fft: no merge satisfies the rule, nor does fft; " in run.stdout
    out = folder / "out"
    results = require_proof(out)
    assert (results.selected.id, results.selected.kept) == (None, "fft")
    assert (results.report, results.comparison) == ([], {})
    assert splits_of(folder) == {"validation"}
    assert not list((out / "rows").glob("report-*"))
    assert not (out / "selected").exists()
    assert "True" not in [line.split(",")[6] for line in (out / "results.csv").read_text().split()]
    page = (out / "report.html").read_text()
    assert "<h1>Keep fft</h1>" in page
    for text in (run.output, page):
        assert "Report rows stay closed" in text
        assert "Chosen" not in text
        assert "* λ" not in text
    again = CliRunner().invoke(main, ["report", str(out), "--quiet"])
    assert again.exit_code == 0, again.output
    assert "Keep fft: " in again.stdout
    refusal(["push", out, "me/it", "--dry-run"], CheckpointError, "keep fft", where=out)
    as_json = sweep_of(family, folder, IMPOSSIBLE, "--json", "--quiet")
    assert (as_json.exit_code, json.loads(as_json.stdout)["selected"]["kept"]) == (3, "fft")


def test_a_later_choice_finds_the_report_rows_untouched(family: Path, folder: Path) -> None:
    results = chosen_by(family, folder, tiny.FEWEST)
    assert results.selected.id is not None
    assert splits_of(folder) == {"validation", "report"}
    assert results.report_opened_for_another_selection is False
    assert require_proof(folder / "out").to_dict() == results.to_dict()
    # Whoever keeps FFT afterwards is told that the rows were opened.
    results = chosen_by(family, folder, IMPOSSIBLE)
    assert (results.selected.kept, results.report) == ("fft", [])
    assert results.report_opened_for_another_selection is True
    assert "untouched" not in str(closed_text(results))


def test_the_best_merge_is_written_on_request_and_says_what_it_is(
    family: Path, folder: Path
) -> None:
    out = folder / "out"
    run = sweep_of(family, folder, IMPOSSIBLE, "--write-best")
    assert run.exit_code == 3, run.output
    results = require_proof(out)
    path = out / "selected" / "recipe.yml"
    text = path.read_text()
    assert text.startswith("# NOT CHOSEN. keep fft: no merge satisfies the rule")
    block = yaml.safe_load(text)["fairness"]
    assert (block["feasible"], block["not_chosen"]) == (False, results.selected.sentence)
    assert "report" not in block
    found = MeasuredInputs.of(Recipe.load(path))
    assert found is not None
    assert found.point == results.selected.best_merge
    merged = CliRunner().invoke(main, ["merge", str(path), str(folder / "model"), "--quiet"])
    assert merged.exit_code == 0, merged.output
    model = out / "selected" / "model"
    assert (model / "mergekit_config.yml").read_text() == text
    page = (out / "report.html").read_text()
    assert page.index("No point is chosen.") < page.index("it was not chosen, from")
    assert CliRunner().invoke(main, ["report", str(out), "--quiet"]).exit_code == 0
    refusal(["push", out, "me/it", "--dry-run"], CheckpointError, "keep fft", where=out)
    # Measured by `eval` it can go up, and the card begins with what it is.
    data = folder / "data.yml"
    data.write_text(yaml.safe_dump(tiny.data_block(family / "rows.csv")))
    tasks = ["--data", data, "--tasks", "fair_adult_sex", "--max-length", 16, "--device", "cpu"]
    command = ["eval", "--model", model, *tasks, "-o", folder / "eval", "--quiet"]
    measuring = CliRunner().invoke(main, list(map(str, command)))
    assert measuring.exit_code == 0, measuring.output
    evaluation = folder / "eval" / "fair_adult_sex.json"
    pushing = ["push", str(model), "me/it", "--dry-run", "--evaluation", str(evaluation), "--quiet"]
    card = CliRunner().invoke(main, pushing)
    assert card.exit_code == 0, card.output
    said = card.stdout.index("The rule was not met")
    assert said < card.stdout.index("## Fairness")
    assert "keep fft: no merge satisfies the rule" in card.stdout[said : said + 200]
    # Without the option nothing is left that looks like a choice.
    chosen_by(family, folder, IMPOSSIBLE)
    assert not (out / "selected").exists()
    assert (out / "selected-earlier" / "model" / "config.json").is_file()
    require_proof(out)


def test_what_an_earlier_run_has_selected_is_put_aside(family: Path, folder: Path) -> None:
    out = folder / "out"
    selected, model = out / "selected", out / "selected" / "model"
    first = sweep_of(family, folder, tiny.FEWEST)
    assert first.exit_code == 0, first.output
    content = (model / "model.safetensors").read_bytes()
    sweep_of(family, folder, tiny.FEWEST, "--no-write", "--quiet")
    assert (model / "model.safetensors").read_bytes() == content  # it is of this choice
    shutil.copytree(selected, folder / "kept")
    for name in ("selected-earlier", "selected-earlier-2"):
        chosen_by(family, folder, IMPOSSIBLE)
        assert not selected.exists()
        assert (out / name / "model" / "model.safetensors").read_bytes() == content
        shutil.copytree(folder / "kept", selected)
    # What is put back by hand is no choice of this sweep.
    with raises(SweepError, "keep fft", where=selected / "recipe.yml"):
        require_proof(out)
    # The recipe of a choice, where a model of an earlier one lies.
    (model / "mergekit_config.yml").write_text("merge_method: linear\n")
    run = sweep_of(family, folder, tiny.FEWEST, "--no-write")
    assert not model.exists()
    assert f"it is now {selected / 'model-earlier'}" in run.stderr
    assert (selected / "model-earlier" / "model.safetensors").read_bytes() == content


def kept_instead(content: dict[str, Any]) -> None:
    content["selected"] |= {"id": None, "label": None, "kept": "fft", "feasible": False}
    content |= {"report": [], "comparison": {}}


FORGERIES: dict[str, Change] = {
    "reason": lambda c: c["selected"].update(reason="it is the best of all"),
    "rule": lambda c: c["selected"].update(rule="maximise acc"),
    "counts": lambda c: c["selected"].update(candidates=[99, 99]),
    "ties": lambda c: c["selected"].update(ties=[]),
    "distances": lambda c: c["selected"]["distances"].update({"λ=1": 0.0}),
    "no rule": lambda c: c["selected"].update(select={"maximise": "acc"}),
    "nobody's": lambda c: c["selected"].update(select={"subject_to": {"dpd": "<= nobody"}}),
    "another": lambda c: c["selected"].update(select={"maximize": "acc"}),
    "kept": kept_instead,
}


def test_a_choice_by_hand_is_found(family: Path, folder: Path) -> None:
    """The rule is applied again, to the stored points and their scores."""
    out = folder / "out"
    chosen_by(family, folder, tiny.FEWEST)
    path = out / "results.json"
    content = path.read_bytes()
    for name, change in FORGERIES.items():
        edited(path, change, sealed_again=True)
        with raises(SweepError, where=path):
            require_proof(out)
            pytest.fail(name)
        path.write_bytes(content)
    require_proof(out)


def test_a_tie_goes_to_the_point_nearest_the_baseline(family: Path, folder: Path) -> None:
    """Who is tied by `compare` itself; distances by dense arithmetic in float64."""
    everything = {"minimize": "eod", "subject_to": {"acc": ">= 0.5 * fft", "saturated": True}}
    results = chosen_by(family, folder, everything)
    selected = results.selected
    points = {p.label: p for p in results.points if p.label == "fft" or p.kind == "merge"}
    points = {k: p for k, p in points.items() if not p.require_measured().degenerate}
    eod = {label: p.value("eod") or 0.0 for label, p in points.items()}
    rows = evaluated(load_rows(load_sweep(folder / "sweep.yml").config.evaluate.data), "validation")
    groups = {name: rows.membership[:, i] for i, name in enumerate(rows.group_names)}
    store = Store(folder / "out")
    said = {k: (store.scores(p.id, "validation") > 0).astype(int) for k, p in points.items()}
    store.close()

    def is_within(label: str, better: str) -> bool:
        high = compare(rows.labels, said[label], said[better], groups).metrics["eod"].high
        return eod[label] <= eod[better] or high is None or high >= 0

    top = min((label for label in eod if label != "fft"), key=eod.__getitem__)
    tied = {
        label
        for label in eod
        if label != "fft" and is_within(label, top) and is_within(label, "fft")
    }
    assert set(selected.ties) == tied
    assert len(tied) > 1
    weights = {
        name: {k: v.double().numpy() for k, v in load_tensors(family / "run" / place).items()}
        for name, place in {
            **{"base": "base", "fft": "fft"},
            **{group: f"groups/{group}" for group in tiny.GROUPS},
        }.items()
    }
    expected = {}
    for label in tied:
        lam, square = points[label].lambda_ or 0.0, 0.0
        for tensor, start in weights["base"].items():
            if start.dtype != np.float64:
                continue
            moved = start + lam * sum(weights[group][tensor] - start for group in tiny.GROUPS)
            square += float(((moved - weights["fft"][tensor]) ** 2).sum())
        expected[label] = square**0.5
    assert selected.distances == pytest.approx(expected, rel=1e-6)  # float32 weights
    assert selected.label == min(expected, key=expected.__getitem__)
    assert selected.nearest == "is the nearest to fft in weights"
    assert "is the nearest to fft in weights of the" in selected.reason


def test_distances_do_not_depend_on_how_folders_are_written(
    family: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to the working directory, where mergekit puts `./` before a name."""
    select = {"minimize": "eod", "subject_to": {"acc": ">= 0.5 * fft", "saturated": True}}
    expected = chosen_by(family, folder, select).selected
    assert len(expected.distances) > 1
    inject = {"target": "fft", "groups": ["blue"], "lambda": [0.1]}
    raw = Recipe.load(family / "run" / "addition.yml").raw
    monkeypatch.chdir(family)
    path = written(
        family,
        folder / "relative.yml",
        recipe=yaml.safe_load(yaml.safe_dump(raw).replace(f"{family}/", "")),
        baselines={"fft": "run/../run/fft", "lora": "run/lora"},
        select=select,
        inject=inject,
    )
    found = run_sweep(load_sweep(path), folder / "relative", Silent()).selected
    assert found.nearest == "is the nearest to fft in weights"
    same = found.distances.keys() & expected.distances.keys()
    assert {label: found.distances[label] for label in same} == pytest.approx(
        {label: expected.distances[label] for label in same}, rel=1e-9
    )
    assert same


def _alone(family: Path, folder: Path, name: str, **changes: Any) -> SweepResults:
    (folder / name).mkdir()
    select = {"minimize": "selection_rate", "subject_to": {"saturated": True}}
    path = written(family, folder / name / "sweep.yml", select=select, **changes)
    results = run_sweep(load_sweep(path), folder / name / "out", Silent())
    require_proof(folder / name / "out")
    return results


def test_without_a_baseline_the_smallest_lambda_is_said_to_decide(
    family: Path, tmp_path: Path
) -> None:
    raw = Recipe.load(family / "run" / "addition.yml").raw
    made = _alone(family, tmp_path, "sum", recipe=raw, grid={"lambda": [0.3, 0.31]}, baselines={})
    assert made.selected.nearest == ("has the smallest Σ|λ| (there is no baseline to be near to)")
    assert made.selected.label == "λ=0.3"


def test_without_a_baseline_and_without_a_lambda_no_size_is_made_up(
    family: Path, tmp_path: Path
) -> None:
    made = _alone(
        family, tmp_path, "slerp", recipe=slerp(family), grid={"t": [0.5, 0.5001]}, baselines={}
    )
    assert made.selected.nearest == (
        "comes first by its own figures (there is no baseline to be near to)"
    )
    assert made.selected.distances == {}


def test_distances_of_merges_that_are_no_sums_are_those_of_their_tensors(
    family: Path, tmp_path: Path
) -> None:
    raw = Recipe.load(family / "run" / "addition.yml").raw
    sparse = {**raw, "parameters": {**raw.get("parameters", {}), "density": 0.5}}
    fft = load_tensors(family / "run" / "fft")
    for name, recipe, grid in (
        ("sparse", sparse, {"lambda": [0.3, 0.301]}),
        ("slerp", slerp(family), {"t": [0.5, 0.501]}),
    ):
        selected = _alone(family, tmp_path, name, recipe=recipe, grid=grid).selected
        assert selected.nearest == "is the nearest to fft in weights"
        planner = Planner(load_sweep(tmp_path / name / "sweep.yml"), "")
        recipes = {point.label: point.recipe for point in planner.merges()}
        assert len(selected.distances) == 2
        for label, distance in selected.distances.items():
            made = recipes[label]
            assert made is not None
            moved = [t.double() - fft[n].double() for n, t in Composer().compose(made)]
            squared = sum(float((vector**2).sum()) for vector in moved)
            assert distance == pytest.approx(math.sqrt(squared), rel=1e-12)
        assert selected.label == min(selected.distances, key=lambda x: selected.distances[x])


def slerp(family: Path) -> dict[str, Any]:
    return {
        "merge_method": "slerp",
        "base_model": str(family / "run" / "base"),
        "models": [{"model": str(family / "run" / "fft")}],
        "parameters": {"t": 0.5},
        "dtype": "float32",
    }


def test_a_composed_distance_is_that_of_the_gram_matrix(family: Path, folder: Path) -> None:
    path = written(family, folder / "both.yml", grid={"lambda": [0.1, 0.4]})
    planner = Planner(load_sweep(path), "")
    points = [p for p in planner.merges() if p.kind == "merge"]
    results = [PointResult(**vars(p.planned), split="validation", error="-") for p in points]
    distances = Distances(planner, points, planner.baselines()[0], Silent())
    quick, whole = distances(results), distances._composed(results, planner.baselines()[0])
    assert quick.words == whole.words
    assert quick.distances == pytest.approx(whole.distances, rel=1e-6)


def test_saturated_merges_do_not_win_by_default(family: Path, folder: Path) -> None:
    """A saturation of nearly nothing marks whatever differs from FFT's selection rate."""
    block = tiny.data_block(family / "rows.csv")
    evaluate = {"data": block, "max_length": 16, "device": "cpu", "saturation": 1e-9}
    for select, is_chosen in (
        ({"minimize": "selection_rate"}, False),
        (tiny.FEWEST, True),
    ):
        path = written(
            family,
            folder / "near.yml",
            evaluate=evaluate,
            grid={"lambda": [0.3]},
            select=select,
        )
        results = run_sweep(load_sweep(path), folder / "near", Silent())
        line = next(point for point in results.points if point.label == "λ=0.3")
        assert line.require_measured().saturated
        assert (results.selected.id is not None) == is_chosen
        if is_chosen:
            assert "it is saturated" in results.selected.reason
        else:
            assert results.selected.kept == "fft"
            assert "λ=0.3 misses it least: saturated" in results.selected.reason


def test_a_rule_is_kept_in_the_words_of_the_file(folder: Path) -> None:
    said = SweepResults.load(folder / "out").selected.select
    assert said == {"maximize": "acc", **IMPOSSIBLE}
    assert Select.model_validate(said) == Select.model_validate(IMPOSSIBLE).model_copy(
        update={"maximize": "acc"}
    )
