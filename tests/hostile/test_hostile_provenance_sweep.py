"""A sweep's folder, changed behind its back: `report`, `push` and the sweep itself say so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from finished import Attack, Finished, flip, retrain, run
from refusals import raises, refusal
from seals import edited, edited_line

from mergekit_fair.errors import CheckpointError, FairError, RecipeError, SweepError
from mergekit_fair.progress import Silent
from mergekit_fair.schema import SEAL
from mergekit_fair.sweep.checked_folder import checked_results, require_proof, require_stored
from mergekit_fair.sweep.results import SweepResults
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.store import Store
from mergekit_fair.sweep.sweep_config import load_sweep


@pytest.fixture(scope="module")
def original(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A sweep with group thresholds, of models of its own; with its merged model."""
    folder = tmp_path_factory.mktemp("original")
    models = shutil.copytree(family / "run", folder / "run")
    shutil.copy(family / "rows.csv", folder)
    recipe = models / "addition.yml"
    recipe.write_text(recipe.read_text().replace(str(family), str(folder)))
    sweep = tiny.write_sweep(
        folder, folder / "sweep.yml", thresholds="fft", inject=None, select=tiny.FEWEST
    )
    run_sweep(load_sweep(sweep), folder / "out", Silent())
    found = Finished(folder / "out", sweep, models)
    merged = run("merge", found.recipe, found.model, "--quiet")
    assert merged.exit_code == 0, merged.output
    return found


@pytest.fixture
def finished(original: Finished, tmp_path: Path) -> Finished:
    """A copy; of the models, only in name."""
    out = shutil.copytree(original.out, tmp_path / "out")
    return Finished(out, original.sweep, original.models)


@pytest.fixture
def moving(finished: Finished) -> Any:
    """The sweep with its models, one of which a test may change: it is put back."""
    kept = {path: path.read_bytes() for path in finished.models.rglob("*.safetensors")}
    yield finished
    for path, content in kept.items():
        path.write_bytes(content)


def metrics(result: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = result["evaluation"]["metrics"]
    return found


def set_acc(**values: float) -> Any:
    return lambda result: metrics(result)["acc"].update(values)


def in_results(change: Any, *, sealed_again: bool = False) -> Attack:
    return lambda f: edited(f.out / "results.json", change, sealed_again=sealed_again)


def in_line(change: Any, split: str = "report", *, sealed_again: bool = False) -> Attack:
    return lambda f: edited_line(
        f.out / "points.jsonl", f.line(split), change, sealed_again=sealed_again
    )


def other_point(f: Finished) -> str:
    """A measured merge that was not chosen."""
    points = f.results["points"]
    return str(next(p["id"] for p in points if p["kind"] == "merge" and p["id"] != f.chosen))


def swap_scores(f: Finished) -> None:
    shutil.copy(f.scores("validation", other_point(f)), f.scores("validation"))


def swap_scores_and_digests(f: Finished) -> None:
    """As somebody would who knows how a line is made."""
    other = f.line("validation", other_point(f))
    digest = json.loads((f.out / "points.jsonl").read_text().splitlines()[other])["scores"]
    swap_scores(f)
    f.say(lambda result: result.update(scores=digest), "validation")


def relabel(f: Finished) -> None:
    file = next((f.out / "rows").glob("report-*.json"))
    before, start, after = file.read_text().partition('"labels": [')
    file.write_text(before + start + str(1 - int(after[0])) + after[1:])


def choose_another(f: Finished) -> None:
    other = other_point(f)

    def change(content: dict[str, Any]) -> None:
        point = next(p for p in content["points"] if p["id"] == other)
        content["selected"] |= {"id": other, "label": point["label"]}

    edited(f.out / "results.json", change, sealed_again=True)


def better(content: dict[str, Any]) -> None:
    for difference in content["comparison"]["fft"].values():
        difference["value"] = 0.5


def harmless(content: dict[str, Any]) -> None:
    """Thresholds by group are said to have cost nothing."""
    for record in content["thresholds"].values():
        record["change"]["report"]["acc"]["value"] = 0.0


def without_line(f: Finished) -> None:
    path = f.out / "points.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    del lines[f.line("report")]
    path.write_text("".join(lines))


def move_threshold(result: dict[str, Any]) -> None:
    result["evaluation"]["level_matched"]["threshold"] += 1e-3


def without_labels(f: Finished) -> None:
    for file in (f.out / "rows").iterdir():
        file.unlink()


def recipe_says(old: str, new: str) -> Attack:
    def attack(f: Finished) -> None:
        text = f.recipe.read_text()
        assert old in text
        f.recipe.write_text(text.replace(old, new, 1))

    return attack


def without_block(f: Finished) -> None:
    f.recipe.write_text(f.recipe.read_text().partition("fairness:")[0])


def half_a_line(f: Finished) -> None:
    path = f.out / "points.jsonl"
    path.write_bytes(path.read_bytes()[:-40])


RESULTS, POINTS, RECIPE = "results.json", "points.jsonl", "recipe.yml"
ATTACKS: dict[str, tuple[Attack, str]] = {
    "a figure by hand": (in_results(lambda c: set_acc(value=0.97)(c["report"][0])), RESULTS),
    "a figure and the digest": (
        in_results(lambda c: set_acc(value=0.97)(c["report"][0]), sealed_again=True),
        RESULTS,
    ),
    "a warning by hand": (in_results(lambda c: c["warnings"].clear()), RESULTS),
    "a rule by hand": (in_results(lambda c: c["selected"].update(rule="maximize dpd")), RESULTS),
    "without the digest": (lambda f: _unsealed(f.out / RESULTS, set_acc(value=0.97)), RESULTS),
    "a line by hand": (in_line(set_acc(value=0.97)), POINTS),
    "a line and its digest": (in_line(set_acc(value=0.97), sealed_again=True), RESULTS),
    "a line without its digest": (lambda f: _line_unsealed(f), POINTS),
    "both, with digests": (lambda f: f.say(set_acc(value=0.97)), POINTS),
    "both, of the rows selected on": (
        lambda f: f.say(set_acc(value=0.97), "validation"),
        POINTS,
    ),
    "an interval": (lambda f: f.say(set_acc(low=0.441, high=0.567)), POINTS),
    "a count of a group": (
        lambda f: f.say(lambda r: r["evaluation"]["groups"]["blue"].update(n=4000)),
        POINTS,
    ),
    "degenerate no more": (
        lambda f: f.say(lambda r: r["evaluation"].update(degenerate=not degenerate(r))),
        POINTS,
    ),
    "a threshold": (lambda f: f.say(move_threshold, "validation"), POINTS),
    "a threshold on report rows": (lambda f: f.say(move_threshold), POINTS),
    "figures of group thresholds": (
        lambda f: f.say(set_acc(value=0.1), point=of_kind(f, "thresholds")),
        POINTS,
    ),
    "figures of a baseline": (
        lambda f: f.say(set_acc(value=0.1), point=of_kind(f, "baseline")),
        POINTS,
    ),
    "how it was measured": (
        lambda f: f.say(lambda r: r["evaluation"].update(confidence=0.5)),
        POINTS,
    ),
    "a bit of scores": (lambda f: flip(f.scores("validation"), -1, 6), "scores"),
    "the last bit of report scores": (lambda f: flip(f.scores("report"), -4, 0), "scores"),
    "a bit of a baseline's scores": (
        lambda f: flip(f.scores("report", of_kind(f, "baseline")), -1, 6),
        "scores",
    ),
    "scores of another point": (swap_scores, "scores"),
    "scores of another point, with digests": (swap_scores_and_digests, POINTS),
    "scores are gone": (lambda f: f.scores("report").unlink(), "scores"),
    "a label": (relabel, "rows"),
    "a bit of the rows": (
        lambda f: flip(next((f.out / "rows").glob("validation-*.json")), 30),
        "rows",
    ),
    "rows are gone": (without_labels, "rows"),
    "a line is gone": (without_line, POINTS),
    "half a line": (half_a_line, POINTS),
    "another choice": (choose_another, RESULTS),
    "a difference by hand": (in_results(better), RESULTS),
    "a difference and the digest": (in_results(better, sealed_again=True), RESULTS),
    "what thresholds have changed": (in_results(harmless, sealed_again=True), RESULTS),
    "another λ": (recipe_says("lambda: ", "lambda: 1"), RECIPE),
    "another group's weight": (recipe_says("weight: 1.0", "weight: 3.0"), RECIPE),
    "another rule": (recipe_says("rule: ", "rule: never "), RECIPE),
    "the recipe's figures": (recipe_says("acc: 0.", "acc: 0.9"), RECIPE),
    "the recipe's block": (without_block, RECIPE),
    "no recipe": (lambda f: f.recipe.unlink(), RECIPE),
}


def degenerate(result: dict[str, Any]) -> bool:
    return bool(result["evaluation"]["degenerate"])


def of_kind(f: Finished, kind: str) -> str:
    return str(next(p["id"] for p in f.results["report"] if p["kind"] == kind))


def _unsealed(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    del content[SEAL]
    change(content["report"][0])
    path.write_text(json.dumps(content))


def test_a_whole_folder_is_read_again(finished: Finished) -> None:
    results, doubt = checked_results(finished.out)
    assert doubt is None
    assert results.to_dict() == SweepResults.load(finished.out).to_dict()
    store = Store(finished.out)
    require_stored(store, "validation")
    store.close()
    assert {p.kind for p in results.report} == {"baseline", "merge", "control", "thresholds"}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_was_changed_is_named(finished: Finished, name: str) -> None:
    attack, place = ATTACKS[name]
    attack(finished)
    with pytest.raises(FairError) as caught:
        require_proof(finished.out)
    assert place in str(caught.value.where), caught.value
    assert caught.value.fix


def test_the_advice_about_rows_mends_them(finished: Finished) -> None:
    """All lines that need them are measured again, and so the file is written again."""
    flip(next((finished.out / "rows").glob("report-*.json")), 30)
    with pytest.raises(FairError) as caught:
        require_proof(finished.out)
    assert "all lines on report rows" in str(caught.value.fix)
    points = finished.out / "points.jsonl"
    lines = points.read_text().splitlines(keepends=True)
    points.write_text("".join(line for line in lines if json.loads(line)["split"] != "report"))
    run_sweep(load_sweep(finished.sweep), finished.out, Silent())
    require_proof(finished.out)


@pytest.mark.parametrize("name", ["a figure by hand", "a bit of scores", "a label", "another λ"])
def test_both_commands_say_so(finished: Finished, name: str) -> None:
    """In one message, and nothing is written."""
    attack, place = ATTACKS[name]
    attack(finished)
    refusal(["report", finished.out], SweepError, where=place)
    refusal(["push", finished.out, "me/m", "--dry-run"], SweepError, where=place)
    assert not (finished.out / "report.html").exists()


def _line_unsealed(f: Finished) -> None:
    path = f.out / "points.jsonl"
    lines = path.read_text().splitlines()
    number = f.line("report")
    content = json.loads(lines[number])
    del content[SEAL]
    metrics(content)["acc"]["value"] = 0.97
    lines[number] = json.dumps(content)
    path.write_text("\n".join(lines) + "\n")


ON_RESUMING = {
    "a line by hand",
    "both, with digests",
    "a threshold",
    "a bit of scores",
    "scores of another point",
    "scores of another point, with digests",
    "scores are gone",
    "a label",
    "rows are gone",
}


@pytest.mark.parametrize("name", sorted(ON_RESUMING))
def test_a_sweep_does_not_go_on_with_it(finished: Finished, name: str) -> None:
    ATTACKS[name][0](finished)
    before = {p: p.read_bytes() for p in finished.out.rglob("*") if p.is_file()}
    with pytest.raises(SweepError):
        run_sweep(load_sweep(finished.sweep), finished.out, Silent())
    after = {p: p.read_bytes() for p in finished.out.rglob("*") if p.is_file()}
    assert before.keys() == after.keys()
    assert [p for p in before if before[p] != after[p]] == []


def test_the_advice_helps(finished: Finished) -> None:
    """A line that is removed is measured again, and the results are the same bytes."""
    before = (finished.out / "results.json").read_bytes()
    flip(finished.scores("validation"), -1, 6)
    error = refusal(["sweep", finished.sweep, "-o", finished.out, "--quiet"], SweepError)
    assert finished.chosen in str(error.fix)
    path = finished.out / "points.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    del lines[finished.line("validation")]
    path.write_text("".join(lines))
    run_sweep(load_sweep(finished.sweep), finished.out, Silent())
    assert (finished.out / "results.json").read_bytes() == before


def test_an_input_that_changes_is_measured_again(moving: Finished) -> None:
    """Of the same size and time of change, too: no old figure stands under new weights."""
    before, known = moving.results, moving.chosen
    retrain(moving.models / "groups" / "blue")
    run_sweep(load_sweep(moving.sweep), moving.out, Silent())
    after = moving.results
    ids = [
        {p["id"] for p in results["points"] if p["kind"] == "merge"} for results in (before, after)
    ]
    assert not ids[0] & ids[1]
    assert known not in {p["id"] for p in after["points"]}
    baselines = [[p for p in r["points"] if p["kind"] == "baseline"] for r in (before, after)]
    assert baselines[0] == baselines[1]  # fft is what it was, and was not run again
    require_proof(moving.out)


def test_a_changed_input_is_not_merged_as_the_chosen_model(moving: Finished) -> None:
    """The advice of an error, followed after an input has changed, publishes nothing."""
    retrain(moving.models / "groups" / "green")
    shutil.rmtree(moving.model)
    push = ["push", moving.out, "me/m", "--dry-run"]
    error = refusal(push, CheckpointError, where=moving.model, fix="mergekit-fair merge")
    assert str(moving.recipe) in str(error.fix)
    merge = ["merge", moving.recipe, moving.model, "--quiet"]
    refusal(merge, RecipeError, where="groups/green", fix="run the sweep again")
    refusal(["check", moving.recipe], RecipeError, where="groups/green")
    assert not moving.model.exists()
    refusal(push, CheckpointError, where=moving.model)


def test_a_chosen_recipe_cannot_take_other_inputs(moving: Finished) -> None:
    """Neither with the digest of what is there now, nor with another model's folder."""
    from mergekit_fair.checkpoints.fingerprint import model_fingerprint

    blue, fft = moving.models / "groups" / "blue", moving.models / "fft"
    old = model_fingerprint(blue).digest
    text = moving.recipe.read_text()
    retrain(blue)
    moving.recipe.write_text(text.replace(old, model_fingerprint(blue).digest))
    merge = ["merge", moving.recipe, moving.model, "--overwrite", "--quiet"]
    refusal(merge, RecipeError, where="fairness")
    moving.recipe.write_text(text.replace(f"model: {blue}", f"model: {fft}", 1))
    refusal(merge, RecipeError, where="fairness")


def test_a_chosen_recipe_with_another_λ_is_no_chosen_recipe(finished: Finished) -> None:
    recipe_says("lambda: ", "lambda: 1")(finished)
    merge = ["merge", finished.recipe, finished.model, "--overwrite", "--quiet"]
    refusal(merge, RecipeError, where="fairness", fix="leave out its fairness block")
    without_block(finished)
    assert run(*merge).exit_code == 0
    refusal(["push", finished.out, "me/m", "--dry-run"], SweepError, where="recipe.yml")


def test_a_grid_of_a_chosen_recipe_does_not_say_that_it_was_measured(
    finished: Finished, tmp_path: Path
) -> None:
    done = run("merge", finished.recipe, tmp_path / "grid", "--lambda", "0:0.4:0.2", "--quiet")
    assert done.exit_code == 0, done.output
    for folder in (tmp_path / "grid").iterdir():
        assert "fairness" not in (folder / "mergekit_config.yml").read_text()


def test_a_model_that_changes_during_the_sweep(
    moving: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read may be of both: it is no figure."""
    from mergekit_fair.sweep.worker import PointWorker

    run_point = PointWorker.run

    def changing(worker: PointWorker, job: Any) -> Any:
        if job.point.kind == "merge":
            retrain(moving.models / "groups" / "blue")
        return run_point(worker, job)

    monkeypatch.setattr(PointWorker, "run", changing)
    with raises(CheckpointError, "model.safetensors", where="groups/blue"):
        run_sweep(load_sweep(moving.sweep), tmp_path / "new", Silent())
    kinds = [json.loads(x)["kind"] for x in (tmp_path / "new" / POINTS).read_text().splitlines()]
    assert kinds == ["baseline", "baseline"]


def test_results_of_an_older_version_are_shown_and_not_published(finished: Finished) -> None:
    content = {k: v for k, v in finished.results.items() if k not in (SEAL, "measuring", "inputs")}
    for result in (*content["points"], *content["report"]):
        for key in ("scores", "rows", "measured_with"):
            result.pop(key, None)
    (finished.out / RESULTS).write_text(json.dumps(content))
    shown = run("report", finished.out)
    assert shown.exit_code == 0, shown.output
    assert "not checked" in shown.stderr
    push = ["push", finished.out, "me/m", "--dry-run"]
    refusal(push, SweepError, where=RESULTS, fix="mergekit-fair sweep")


FLIPS = 300


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_flipped_bits_anywhere(original: Finished, tmp_path: Path) -> None:
    """A bit of any file that results rest on: it is said, or nothing that is read has changed."""
    import random

    names = ("results.json", "points.jsonl", "selected/recipe.yml", "scores/*", "rows/*")
    out = shutil.copytree(original.out, tmp_path / "out")
    files = sorted(file for name in names for file in out.glob(name))
    expected = require_proof(out).to_dict()
    chance, passed, said = random.Random(3), 0, list[str]()
    for _ in range(FLIPS):
        file = chance.choice(files)
        content = file.read_bytes()
        flip(file, chance.randrange(len(content)), chance.randrange(8))
        try:
            assert require_proof(out).to_dict() == expected
            passed += 1
        except FairError as error:
            said.append(str(error))
        file.write_bytes(content)
    assert [text for text in said if str(out) not in text] == []
    unread = [f for f in files if f.parent.name == "scores" and not _is_reported(original, f)]
    assert passed <= FLIPS * (0.05 + len(unread) / len(files))


def _is_reported(f: Finished, file: Path) -> bool:
    return any(point["id"] in file.name for point in f.results["points"])
