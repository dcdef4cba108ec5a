"""An audit of a task of classes: figures of each class, whose the worst are, text and page."""

from __future__ import annotations

import json
from pathlib import Path

import many_answers
import pytest
import yaml
from checkpoints import rewrite
from click.testing import CliRunner, Result
from many_answers import CLASSES
from tiny import words_of

from mergekit_fair.audit.audit_results import AuditResults
from mergekit_fair.cli import main
from mergekit_fair.evaluation.evaluate import MultiEvaluation, read_evaluation
from mergekit_fair.report.audit_report import audit_text, view_groups
from mergekit_fair.report.tables import interval_text, value_text

EVALS = Path(__file__).parents[2] / "evals"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, words_of("audit", *arguments))


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("audited")
    block = many_answers.classes_block(many_answers.write_many(folder, 600))
    heads = [many_answers.write_head(folder / name) for name in "ab"]
    rewrite(heads[1], lambda tensors: tensors["classifier.weight"].mul_(3))
    recipe = {"merge_method": "linear", "dtype": "float32"}
    recipe["models"] = [{"model": str(head), "parameters": {"weight": 0.5}} for head in heads]
    (folder / "recipe.yml").write_text(yaml.safe_dump(recipe))
    task = {"include": str(EVALS / "_fair_binary"), "task": "speech"}
    task |= {"dataset_kwargs": {"question": "", "spec": block}, "metadata": {"version": 1.0}}
    (folder / "tasks").mkdir()
    (folder / "tasks" / "speech.yaml").write_text(yaml.safe_dump(task, sort_keys=False))
    found = run(
        *(folder / "recipe.yml", "--tasks", "speech", "--include-path", folder / "tasks"),
        *("-o", folder / "out", "--device", "cpu", "--min-group-size", 1, "--quiet"),
    )
    assert found.exit_code == 0, found.output
    return folder / "out", found


def results_of(out: Path) -> AuditResults:
    content = json.loads((out / "audit.json").read_text())
    return AuditResults.from_dict({k: v for k, v in content.items() if k != "digest"}, where=out)


def evaluation(out: Path, model: str) -> MultiEvaluation:
    found = read_evaluation(out / "models" / model / "speech.json")
    assert isinstance(found, MultiEvaluation)
    return found


def test_figures_are_the_evaluations(audited: tuple[Path, Result]) -> None:
    out, _ = audited
    task = results_of(out).tasks["speech"]
    for name in ("a", "b", "merge"):
        found = evaluation(out, name)
        assert list(task.views[name]) == list(CLASSES)
        assert task.worst_view[name] == found.worst_view
        assert task.deciding[name] == found.deciding
        for view, of in found.views.items():
            assert task.views[name][view]["base_rate"].value == of.labels.base_rate
            assert task.views[name][view]["eod"] == of.metrics["eod"]
    hate = task.view_differences["a"]["hate"]["dpd"].value
    a, merge = (task.views[name]["hate"]["dpd"].value for name in ("a", "merge"))
    assert hate == pytest.approx(merge - a, abs=1e-12)


def test_text(audited: tuple[Path, Result]) -> None:
    out, printed = audited
    text, merge = audit_text(results_of(out)), evaluation(out, "merge")
    assert text in printed.output
    lines = text.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("worst_dpd"))
    assert lines[at + 1].split()[-1] == merge.worst_view["dpd"]
    assert lines[at + 2].endswith(" − ".join(merge.deciding["worst_dpd"].groups))
    start = lines.index("Each class or label by itself")
    shown = lines[lines.index("hate", start) :]
    assert shown[3].split()[0] == "dpd"
    assert interval_text(merge.views["hate"].metrics["dpd"]) in shown[3]
    by_group = lines[next(n for n, line in enumerate(lines) if "merge, by group" in line) :]
    rates = merge.views["hate"].groups["blue"]
    assert by_group[1].strip() == "hate"
    assert by_group[2].split()[2:] == [
        value_text(rate) for rate in (rates.selection_rate, rates.tpr, rates.fpr)
    ]


def test_many_groups_are_those_of_the_worst_classes(audited: tuple[Path, Result]) -> None:
    task = results_of(audited[0]).tasks["speech"]
    assert [title for title, _ in view_groups(task, 6).sections] == list(CLASSES)
    folded = view_groups(task, 5)
    worst = set(task.worst_view["merge"].values())
    assert [title for title, _ in folded.sections] == [n for n in CLASSES if n in worst]
    assert folded.foot


def test_page(audited: tuple[Path, Result]) -> None:
    page = (audited[0] / "report.html").read_text()
    for caption in ("Each class or label by itself", "merge, by group", "none of these is claimed"):
        assert f"{caption}</caption>" in page
    assert page.count('<th scope="rowgroup"') >= 2 * len(CLASSES)
    assert "hate.tpr" not in page
