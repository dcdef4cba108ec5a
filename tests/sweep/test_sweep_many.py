"""Sweeps over tasks of classes and of labels: scores, figures, rules, resuming, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from checkpoints import rewrite
from refusals import raises
from test_sweep_tasks import merged, write_causal_family

from mergekit_fair.errors import ConfigError, SweepError
from mergekit_fair.evaluation.eval_run import run_tasks
from mergekit_fair.evaluation.evaluate import MultiEvaluation, evaluate
from mergekit_fair.evaluation.multi_predictions import MultiPredictions, read_samples_of
from mergekit_fair.fairness import MetricSettings, measure_classes, measure_labels
from mergekit_fair.fairness.multi_pairs import multi_differences
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS
from mergekit_fair.progress import Silent
from mergekit_fair.resources import tasks_dir
from mergekit_fair.schema import sealed
from mergekit_fair.sweep.checked_folder import require_proof
from mergekit_fair.sweep.figures_again import answered
from mergekit_fair.sweep.forecast import plan_sweep
from mergekit_fair.sweep.points import Planner, Point
from mergekit_fair.sweep.preparation import prepared
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import SweepResults
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.store import POINTS, ReadStore, read_rows
from mergekit_fair.sweep.sweep_config import load_sweep

KINDS = ("classes", "labels")
SELECT = {
    "minimize": "macro_eod",
    "subject_to": {"acc": ">= fft - 0.9", "worst_dpd": "<= 0.95", "saturated": True},
}
SETTINGS = MetricSettings(min_group_size=1, draws=1)
ABOUT = {"model": "m", "split": "validation"}
Many = Callable[[str], Path]


def write(many: Many, kind: str, path: Path, **changes: Any) -> Path:
    """A sweep file over the family of classes or labels."""
    family = many(kind)
    block = {"classes": tiny.classes_block, "labels": tiny.labels_block}[kind]
    data = block(family / "speech.csv")
    evaluate = {"data": data, "max_length": 16, "device": "cpu", "min_group_size": 1}
    inject = {"target": "fft", "groups": ["blue"], "lambda": [0.2]}
    settings = {"evaluate": evaluate, "select": SELECT, "inject": inject, **changes}
    settings.setdefault("baselines", {"fft": str(family / "run" / "fft")})
    return tiny.write_sweep(family, path, **settings)


@pytest.fixture(scope="module")
def swept_many(many: Many, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with `sweep.yml`, and its results in `out/`; read only."""
    made: dict[str, Path] = {}

    def swept(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp(f"swept-{kind}")
            run_sweep(load_sweep(write(many, kind, folder / "sweep.yml")), folder / "out", Silent())
            made[kind] = folder
        return made[kind]

    return swept


def answers(out: Path, point: PointResult) -> MultiPredictions:
    [rows] = read_rows(out, point).values()
    assert isinstance(rows, MultiPredictions)
    return rows.with_scores(ReadStore(out).scores(point.id, point.split))


def points(folder: Path) -> Iterator[tuple[Point, PointResult]]:
    """What was planned, and what was found on the validation rows."""
    sweep = load_sweep(folder / "sweep.yml")
    evaluator, _ = prepared(sweep)
    planner = Planner(sweep, evaluator.fingerprint())
    results = {p.id: p for p in SweepResults.load(folder / "out").points}
    planned = [*planner.baselines(), *planner.merges(), *planner.injections(["blue"], [0.2])]
    for point in planned:
        yield point, results[point.id]


@pytest.mark.parametrize("kind", KINDS)
def test_every_point_is_what_merge_and_eval_give_row_by_row(
    swept_many: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    from mergekit.options import MergeOptions

    from mergekit_fair.merging.to_disk import merge_to_folder

    folder = swept_many(kind)
    request = load_sweep(folder / "sweep.yml").config.evaluate.request()
    kinds = set()
    for point, found in points(folder):
        if point.kind == "control":  # of random vectors, which no recipe names
            continue
        model = point.whole
        if model is None:
            assert point.recipe is not None
            model = str(tmp_path / point.id)
            merge_to_folder(point.recipe, Path(model), MergeOptions(quiet=True))
        finished = run_tasks(request, model, "validation", "cpu")
        [samples] = finished.samples.values()
        expected = read_samples_of("tiny", samples)
        own = answers(folder / "out", found)
        assert np.array_equal(own.scores, expected.scores), found.label
        assert np.array_equal(own.predicted, expected.predicted)
        assert own.log_probs is not None
        of_eval = finished.results["results"]["tiny"]
        values = {name: of_eval[f"{name},none"] for name in MULTI_METRICS}
        assert {name: found.value(name) for name in MULTI_METRICS} == values
        kinds.add(point.kind)
    assert kinds == {"baseline", "merge", "injection"}


@pytest.mark.parametrize("kind", KINDS)
def test_figures_are_those_of_the_python_functions(
    swept_many: Callable[[str], Path], kind: str
) -> None:
    folder = swept_many(kind)
    for _, found in points(folder):
        own = answers(folder / "out", found)
        options: dict[str, Any] = {"min_group_size": 1, "seed": 0}
        if kind == "classes":
            names = np.array(own.names)
            truth, said = (each.argmax(axis=1) for each in (own.labels, own.predicted))
            by_hand = measure_classes(
                names[truth], names[said], own.groups, classes=own.names, **options
            )
        else:
            truth, said = (
                dict(zip(own.names, each.T, strict=True)) for each in (own.labels, own.predicted)
            )
            by_hand = measure_labels(truth, said, own.groups, **options)
        assert isinstance(found.evaluation, MultiEvaluation)
        assert found.evaluation.metrics == by_hand.metrics
        views = {name: view.to_dict() for name, view in by_hand.views.items()}
        assert found.evaluation.to_dict()["views"] == views


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_read_as_they_were_written_and_are_what_the_scores_give(
    swept_many: Callable[[str], Path], kind: str
) -> None:
    out = swept_many(kind) / "out"
    results = require_proof(out)
    written = json.loads((out / "results.json").read_text())
    assert results.sealed() == written
    names = {"classes": ("hate", "offensive", "neither"), "labels": ("toxic", "threat")}[kind]
    assert set(results.level.rates) == set(names)
    assert "rate" not in written["level"]
    fft = next(p for p in results.points if p.label == "fft")
    assert isinstance(fft.evaluation, MultiEvaluation)
    assert fft.evaluation.level is not None
    assert fft.evaluation.level.rates == results.level.rates
    assert fft.evaluation.saturated is False
    assert tuple(fft.evaluation.views) == names
    for point in (*results.points, *results.report):
        assert point.evaluation is not None
        assert set(point.evaluation.to_dict()["level_matched"]) == {"offsets", *MULTI_METRICS}
    assert set(results.comparison) == {"fft", "random vectors"}
    for name, gaps in results.comparison.items():
        assert set(MULTI_METRICS) <= set(gaps)
        assert set(results.comparison_views[name]) == set(names)
    assert results.detectable is None


def test_the_rule_chooses_what_a_hand_computation_chooses(
    swept_many: Callable[[str], Path],
) -> None:
    """The smallest macro EOD, and who cannot be told from it by paired intervals."""
    folder = swept_many("classes")
    results = SweepResults.load(folder / "out")
    by_label = {p.label: p for p in results.points}
    able = [p for p in results.points if p.kind in ("merge", "injection") and not p.is_identity]
    values = {p.label: p.value("macro_eod") for p in able}
    assert None not in values.values()
    top = min(values, key=lambda label: values[label] or 0.0)
    settings, best = MetricSettings(min_group_size=1), answers(folder / "out", by_label[top])
    from mergekit_fair.fairness.counts import Patterns

    patterns = Patterns.of(best.members.by_name(), len(best))
    rows, alike = patterns.rows, {top}
    for label in values:
        other = answers(folder / "out", by_label[label])
        parts = (best.labels[rows], other.predicted[rows], best.predicted[rows])
        gap = multi_differences(patterns, best.names, *parts, settings).metrics["macro_eod"]
        if gap.high is not None and gap.high >= 0:  # the best is not shown to be smaller
            alike.add(label)
    selected = results.selected
    assert selected.candidates == (len(able), len(able))
    assert set(selected.ties or (selected.label,)) == alike
    assert (selected.best or selected.label) == top
    assert selected.label == min(selected.distances, key=lambda name: selected.distances[name])


@pytest.mark.parametrize("kind", KINDS)
def test_figures_at_the_baselines_selection_rates_by_hand(
    swept_many: Callable[[str], Path], kind: str
) -> None:
    """One number a class or label, set on validation rows and kept for report rows."""
    out = swept_many(kind) / "out"
    results = SweepResults.load(out)
    selected = {point.id: point for point in results.points}
    for point in (*results.points, *results.report):
        own = answers(out, point)
        added = np.array([point.thresholds["tiny"][name] for name in own.names])  # type: ignore[index]
        assert point.thresholds == selected[point.id].thresholds
        assert own.log_probs is not None
        if kind == "classes":
            hits = np.eye(3, dtype=np.int8)[(own.log_probs + added).argmax(axis=1)]
        else:
            hits = (own.log_probs - np.log1p(-np.exp(own.log_probs)) + added > 0).astype(np.int8)
        if point.split == "validation":
            shares = dict(zip(own.names, hits.mean(axis=0), strict=True))
            assert shares == pytest.approx(results.level.rates, abs=2 / len(own))
        found = evaluate(replace(own, predicted=hits, log_probs=None), SETTINGS, **ABOUT)
        for name in MULTI_METRICS:
            assert point.value(f"level_matched.{name}") == found.metrics[name].value, name


def test_a_rule_may_read_figures_at_equal_selection_rates(
    many: Many, swept_many: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(swept_many("labels") / "out", tmp_path / "out")
    limits = {"level_matched.acc": ">= 0.1", "saturated": True}
    select = {"minimize": "level_matched.worst_eod", "subject_to": limits}
    path = write(many, "labels", tmp_path / "sweep.yml", select=select)
    found = run_sweep(load_sweep(path), tmp_path / "out", Silent())
    able = [
        point
        for point in found.points
        if point.kind in ("merge", "injection") and not point.is_identity
    ]
    values = {point.label: point.value("level_matched.worst_eod") or 0.0 for point in able}
    top = [label for label, value in values.items() if value == min(values.values())]
    if found.selected.id is None:  # the baseline is better beyond noise
        assert any(label in found.selected.reason for label in top)
    else:
        assert (found.selected.best or found.selected.label) in (*top, "fft")
    require_proof(tmp_path / "out")


def test_a_limit_on_the_worst_class_leaves_points_out(
    many: Many, swept_many: Callable[[str], Path], tmp_path: Path
) -> None:
    """With everything measured already, so that no model is run."""
    shutil.copytree(swept_many("classes") / "out", tmp_path / "out")
    before = SweepResults.load(tmp_path / "out")
    worst = {
        p.label: p.value("worst_dpd") or 0.0
        for p in before.points
        if p.kind in ("merge", "injection") and not p.is_identity
    }
    least = sorted(worst.values())[1]
    select = {"maximize": "acc", "subject_to": {"worst_dpd": f"<= {least!r}", "saturated": True}}
    path = write(many, "classes", tmp_path / "sweep.yml", select=select)
    found = run_sweep(load_sweep(path), tmp_path / "out", Silent()).selected
    within = {label for label, value in worst.items() if value <= least}
    assert found.candidates == (len(worst), len(within))
    assert found.label is None or found.label in within


def test_a_sweep_that_was_killed_ends_with_the_same_bytes(
    swept_many: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = swept_many("labels")
    shutil.copytree(folder / "out", tmp_path / "out")
    lines = (tmp_path / "out" / POINTS).read_bytes().splitlines(keepends=True)
    (tmp_path / "out" / POINTS).write_bytes(b"".join(lines[:4]) + lines[4][:50])
    run_sweep(load_sweep(folder / "sweep.yml"), tmp_path / "out", Silent())
    again, whole = (each / "out" / "results.json" for each in (tmp_path, folder))
    assert again.read_bytes() == whole.read_bytes()
    left = plan_sweep(load_sweep(folder / "sweep.yml"), out=tmp_path / "out").left
    assert left is not None
    assert (left.points, left.forward_passes) == (0, 0)


def test_other_settings_read_the_scores_again_and_run_nothing(
    many: Many, swept_many: Callable[[str], Path], tmp_path: Path
) -> None:
    kind, out = "labels", tmp_path / "out"
    shutil.copytree(swept_many(kind) / "out", out)
    before = SweepResults.load(out)
    path = write(many, kind, tmp_path / "sweep.yml")
    sweep = load_sweep(path)
    changes = {"confidence": 0.9, "reference": "one_vs_rest", "saturation": 0.01}
    for name, value in changes.items():
        object.__setattr__(sweep.config.evaluate, name, value)
    found = run_sweep(sweep, out, Silent(), make_executor=_none)
    assert {p.evaluation.reference for p in found.points if p.evaluation} == {"one_vs_rest"}
    assert found.confidence == 0.9
    saturated = [
        sum(bool(p.value("saturated")) for p in results.points) for results in (before, found)
    ]
    assert saturated[1] > saturated[0]
    require_proof(out)


def _none(*_: Any) -> Any:
    raise AssertionError("a model is run")


@pytest.mark.parametrize("views", ["hate", "a fourth"])
def test_differences_of_a_class_are_those_of_the_scores(
    swept_many: Callable[[str], Path], tmp_path: Path, views: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(swept_many("classes") / "out", out)
    results = json.loads((out / "results.json").read_text())
    of_fft = results["comparison_views"]["fft"]
    of_fft[views] = {**of_fft["hate"], "dpd": {**of_fft["hate"]["dpd"], "value": 0.123}}
    content = sealed({key: value for key, value in results.items() if key != "digest"})
    (out / "results.json").write_text(json.dumps(content))
    with raises(SweepError, f"comparison_views.fft.{views}", where=out / "results.json"):
        require_proof(out)


@pytest.mark.parametrize("level", [{"to": "fft"}, {"to": "fft", "rate": 0.5, "rates": {"a": 0.5}}])
def test_a_level_is_a_rate_or_rates(
    swept_many: Callable[[str], Path], tmp_path: Path, level: dict[str, Any]
) -> None:
    results = json.loads((swept_many("classes") / "out" / "results.json").read_text())
    content = {key: value for key, value in results.items() if key != "digest"}
    (tmp_path / "results.json").write_text(json.dumps(sealed({**content, "level": level})))
    with raises(SweepError, "rates", where=tmp_path / "results.json"):
        SweepResults.load(tmp_path)


@pytest.mark.parametrize("room", ["scores", "rows"])
def test_changed_files_are_refused(
    swept_many: Callable[[str], Path], tmp_path: Path, room: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(swept_many("classes") / "out", out)
    file = sorted((out / room).iterdir())[0]
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(bytes(content))
    with raises(SweepError, "was changed", where=file):
        require_proof(out)


@pytest.mark.parametrize(
    "place",
    [
        "acc.value",
        "macro.eod.value",
        "worst.dpd.value",
        "views.hate.metrics.tpr.value",
        "level_matched.worst_eod.value",
        "level_matched.offsets.hate",
    ],
)
def test_a_figure_that_the_scores_do_not_give_is_refused(
    swept_many: Callable[[str], Path], tmp_path: Path, place: str
) -> None:
    """Though every digest is right."""
    out = tmp_path / "out"
    shutil.copytree(swept_many("classes") / "out", out)
    lines = [json.loads(line) for line in (out / POINTS).read_text().splitlines()]
    *parts, last = place.split(".")
    inner = lines[3]["evaluation"]
    for part in parts:
        inner = inner[part]
    inner[last] = 0.123
    texts = (json.dumps(sealed({k: v for k, v in x.items() if k != "digest"})) for x in lines)
    (out / POINTS).write_text("".join(text + "\n" for text in texts))
    with raises(SweepError, "tiny/" + place.partition(".offsets")[0]):
        run_sweep(load_sweep(swept_many("classes") / "sweep.yml"), out, Silent())


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"thresholds": "fft"}, "thresholds"),
        ({"controls": ["threshold"]}, "controls: threshold"),
        ({"inject": {"target": "fft", "groups": "worst"}}, "inject.groups: worst"),
        ({"inject": {"target": "fft", "groups": "safe"}}, "inject.groups: safe"),
        ({"search": {"budget": 4}}, "search.method: surrogate"),
        ({"head": {"metric": "eod", "of": ["fft"]}}, "head"),
        ({"select": {"maximize": "bal_acc"}}, "select"),
        ({"select": {"subject_to": {"eod": "<= fft"}}}, "select"),
        ({"select": {"subject_to": {"level_matched.eod": "<= fft"}}}, "select"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_needs_answers_by_no_or_yes_is_refused_before_anything_is_run(
    many: Many, tmp_path: Path, kind: str, changes: dict[str, Any], where: str
) -> None:
    path = write(many, kind, tmp_path / "sweep.yml", **changes)
    with raises(ConfigError, where=f"{path}: {where}"):
        run_sweep(load_sweep(path), tmp_path / "out", Silent(), make_executor=_none)
    assert not (tmp_path / "out").exists()


def test_metrics_of_classes_are_none_of_a_binary_task(family: Path, tmp_path: Path) -> None:
    select = {"minimize": "macro_eod"}
    path = tiny.write_sweep(family, tmp_path / "sweep.yml", select=select)
    with raises(ConfigError, where=f"{path}: select", got="macro_eod", fix="use eod"):
        run_sweep(load_sweep(path), tmp_path / "out", Silent(), make_executor=_none)


@pytest.mark.parametrize(
    ("kind", "method"),
    [pytest.param("labels", "random", marks=pytest.mark.slow), ("classes", "optuna")],
)
def test_a_search_asks_for_points_and_the_rule_chooses_among_them(
    many: Many, swept_many: Callable[[str], Path], tmp_path: Path, kind: str, method: str
) -> None:
    """The grid of the finished sweep is known; killed on its way, it asks the same again."""
    if method == "optuna":
        pytest.importorskip("optuna")
    shutil.copytree(swept_many(kind) / "out", tmp_path / "out")
    changes: dict[str, Any] = {"search": {"method": method, "budget": 4}, "controls": []}
    path = write(many, kind, tmp_path / "sweep.yml", **changes)
    found = run_sweep(load_sweep(path), tmp_path / "out", Silent())
    searched = [point for point in found.points if point.kind == "search"]
    assert len({point.label for point in searched}) == 4
    able = [p for p in found.points if p.kind in ("merge", "injection", "search")]
    assert found.selected.candidates[0] == sum(not p.is_identity for p in able)
    if method == "optuna":
        journal = (tmp_path / "out" / "optuna.log").read_text()
        assert "macro_eod" in journal
        assert "worst_dpd" in journal
    lines = (tmp_path / "out" / POINTS).read_bytes().splitlines(keepends=True)
    ids = {point.id for point in searched[2:]}
    kept = [line for line in lines if json.loads(line)["id"] not in ids]
    (tmp_path / "out" / POINTS).write_bytes(b"".join(kept))
    whole = (tmp_path / "out" / "results.json").read_bytes()
    run_sweep(load_sweep(path), tmp_path / "out", Silent())
    again = json.loads((tmp_path / "out" / "results.json").read_bytes())
    assert _without_flag(again) == _without_flag(json.loads(whole))
    require_proof(tmp_path / "out")


def _without_flag(results: dict[str, Any]) -> dict[str, Any]:
    """The copied folder's report rows were opened for another choice."""
    left_out = ("report_opened_for_another_selection", "digest")
    return {key: value for key, value in results.items() if key not in left_out}


@pytest.fixture(scope="module")
def both_kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Language models, and tasks of three classes and of an answer by no or yes."""
    folder = tmp_path_factory.mktemp("both")
    write_causal_family(folder, "llama")
    csv = tiny.write_speech(folder / "speech.csv", n=120)
    threat = {"column": "threat", "positive": "y", "negative": "n"}
    blocks = {"speech": tiny.classes_block(csv), "threats": tiny.data_block(csv, label=threat)}
    (folder / "tasks").mkdir()
    for name, block in blocks.items():
        task = {
            "include": str(tasks_dir() / "_fair_binary"),
            "task": name,
            "dataset_kwargs": {"question": "Is it?", "spec": {**block, "name": name}},
            "metadata": {"version": 1.0},
        }
        (folder / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return folder


def write_both(folder: Path, path: Path, tasks: list[str], **changes: Any) -> Path:
    evaluate = {"tasks": tasks, "include_path": str(folder / "tasks"), "limit": 30}
    settings = {
        "recipe": merged(folder),
        "grid": {"lambda": [0.5, 1]},
        "evaluate": {**evaluate, "device": "cpu", "min_group_size": 1},
        "baselines": {"base": str(folder / "base")},
        "controls": [],
        "inject": None,
        **changes,
    }
    return tiny.write_sweep(folder, path, **settings)


@pytest.mark.parametrize("tasks", [["speech", "threats"], ["threats", "speech"]])
def test_several_tasks_may_be_of_both_kinds(
    both_kinds: Path, tmp_path: Path, tasks: list[str]
) -> None:
    """The first decides, the rule reads each in its own metrics; thresholds are for no or yes."""
    is_multi = tasks[0] == "speech"
    objective, limit = ("macro_eod", "threats/dpd") if is_multi else ("eod", "speech/worst_dpd")
    unsaturated = {"saturated": True, f"{tasks[1]}/saturated": True}
    path = write_both(
        both_kinds,
        tmp_path / "sweep.yml",
        tasks,
        select={"minimize": objective, "subject_to": {limit: "<= 1.0", **unsaturated}},
        **({} if is_multi else {"thresholds": "base"}),
    )
    out = tmp_path / "out"
    found = run_sweep(load_sweep(path), out, Silent())
    for point in found.points:
        if point.kind == "thresholds":
            assert list(point.evaluations) == ["threats"]
            continue
        first, second = (point.evaluations[task] for task in tasks)
        assert isinstance(first, MultiEvaluation) == is_multi
        assert isinstance(second, MultiEvaluation) != is_multi
        rows, scores = read_rows(out, point), ReadStore(out).scores(point.id, point.split)
        assert [len(rows[task]) for task in tasks] == [30, 30]
        assert len(scores) == 30 * (1 + 3)
        again = answered(rows, scores)
        counts = {task: evaluate(again[task], SETTINGS, **ABOUT).acc for task in ("speech",)}
        assert counts["speech"].value == point.value("speech/acc")
        share = np.mean(again["threats"].predicted == again["threats"].labels)
        assert point.value("threats/acc") == share
    first_bytes = (out / "results.json").read_bytes()
    run_sweep(load_sweep(path), out, Silent(), make_executor=_none)
    assert (out / "results.json").read_bytes() == first_bytes
    require_proof(out)


@pytest.mark.parametrize(
    ("metric", "fix"),
    [
        ("dpd", "use macro_dpd or worst_dpd"),
        ("speech/level_matched.eod", "use level_matched.macro_eod or level_matched.worst_eod"),
        ("threats/level_matched.macro_dpd", "use level_matched.dpd"),
        ("threats/worst_eod", "use eod"),
        ("threats/macro_dpd", "use dpd"),
        ("selection_rate", None),
    ],
)
def test_a_rule_reads_each_task_in_its_own_metrics(
    both_kinds: Path, tmp_path: Path, metric: str, fix: str | None
) -> None:
    tasks, select = ["speech", "threats"], {"subject_to": {metric: "<= 0.5"}}
    path = write_both(both_kinds, tmp_path / "sweep.yml", tasks, select=select)
    with raises(ConfigError, where=f"{path}: select", got=metric, fix=fix):
        run_sweep(load_sweep(path), tmp_path / "out", Silent(), make_executor=_none)


def test_a_name_that_is_nearly_one_is_said(many: Many, tmp_path: Path) -> None:
    path = write(many, "classes", tmp_path / "sweep.yml", select={"minimize": "macro_eodd"})
    with raises(ConfigError, "did you mean 'macro_eod'"):
        load_sweep(path)


def permuted(model: Path, out: Path, order: list[int]) -> Path:
    """The same model, whose classes stand in another order; with one that says NaN if asked."""
    shutil.copytree(model, out)
    config = json.loads((out / "config.json").read_text())
    names = [config["id2label"][str(number)] for number in order]
    config["id2label"] = {str(number): name for number, name in enumerate(names)}
    config["label2id"] = {name: number for number, name in enumerate(names)}
    (out / "config.json").write_text(json.dumps(config))

    def swap(tensors: dict[str, Any]) -> None:
        for name in ("classifier.weight", "classifier.bias"):
            tensors[name] = tensors[name][order].clone()

    return rewrite(out, swap)


@pytest.mark.parametrize("kind", ["classes", pytest.param("labels", marks=pytest.mark.slow)])
def test_rows_with_weights_and_clusters_and_candidates_with_classes_in_another_order(
    many: Many, tmp_path: Path, kind: str
) -> None:
    csv = many(kind) / "speech.csv"
    head, *lines = csv.read_text().splitlines()
    rows = [f"{line},{1 + n % 3},{n // 2}" for n, line in enumerate(lines)]
    (tmp_path / "rows.csv").write_text("\n".join([f"{head},weight,pair", *rows]) + "\n")
    block = {"classes": tiny.classes_block, "labels": tiny.labels_block}[kind]
    data = block(tmp_path / "rows.csv", weight="weight", cluster="pair")
    fft, broken = many(kind) / "run" / "fft", tmp_path / "broken"
    order = {"classes": [2, 0, 1], "labels": [1, 0]}[kind]
    other = permuted(fft, tmp_path / "other", order)
    shutil.copytree(fft, broken)
    rewrite(broken, lambda tensors: tensors["classifier.bias"].fill_(float("nan")))
    path = write(
        many,
        kind,
        tmp_path / "sweep.yml",
        grid={"lambda": [0.5]},
        evaluate={"data": data, "max_length": 16, "min_group_size": 1, "allow_trained_rows": True},
        candidates=[str(other), str(broken)],
        controls=[],
        inject=None,
    )
    out = tmp_path / "out"
    found = run_sweep(load_sweep(path), out, Silent())
    by_label = {point.label: point for point in found.points}
    own = by_label["fft"].evaluation
    assert isinstance(own, MultiEvaluation)
    assert own.weighted
    assert own.clusters is not None
    assert own.clusters < own.n
    assert by_label["other"].evaluations["tiny"].to_dict()["views"] == own.to_dict()["views"]
    assert by_label["broken"].error is not None
    scores = ReadStore(out).scores(by_label["broken"].id, "validation")
    assert scores.shape == (own.n * len(order),)
    assert np.isnan(scores).all()
    before = (out / POINTS).read_bytes()
    run_sweep(load_sweep(path), out, Silent(), make_executor=_none)
    assert (out / POINTS).read_bytes() == before  # no figure was computed anew
    require_proof(out)
