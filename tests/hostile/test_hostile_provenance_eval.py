"""Evaluations that are read again: of these weights and these samples, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from finished import flip, retrain, run
from refusals import refusal
from seals import edited

from mergekit_fair.errors import CheckpointError, MeasurementError, RecipeError
from mergekit_fair.evaluation.evidence import checked_evaluation, require_proof
from mergekit_fair.merging.methods.worst_group_injection import injection_recipe
from mergekit_fair.schema import SEAL

TASK = "fair_adult_sex"
SMALL = ("--min-group-size", 1)


@dataclass(frozen=True)
class Measured:
    """A model and what `eval` has written about it."""

    model: Path
    out: Path
    data: Path

    @property
    def file(self) -> Path:
        return self.out / f"{TASK}.json"

    @property
    def samples(self) -> Path:
        return self.out / f"samples_{TASK}.jsonl"

    def evaluate(self, *options: object, model: Path | None = None, out: Path | None = None) -> Any:
        found = run(*self.command(*options, model=model, out=out))
        assert found.exit_code == 0, found.output
        return found

    def command(
        self, *options: object, model: Path | None = None, out: Path | None = None
    ) -> list[object]:
        tasks = ("--tasks", TASK, "--data", self.data, "--max-length", 16, "--device", "cpu")
        where = ("--model", model or self.model, "-o", out or self.out)
        return ["eval", *where, *tasks, "--quiet", "--overwrite", *SMALL, *options]

    @property
    def push(self) -> list[object]:
        return ["push", self.model, "me/m", "--dry-run", "--evaluation", self.file]


@pytest.fixture(scope="module")
def original(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("evaluated")
    data = folder / "data.yml"
    data.write_text(yaml.safe_dump(tiny.data_block(family / "rows.csv")))
    found = Measured(family / "run" / "fft", folder / "e", data)
    found.evaluate()
    return found


@pytest.fixture
def measured(original: Measured, tmp_path: Path) -> Measured:
    """A copy of the model and of the evaluation, which names the copy."""
    model = shutil.copytree(original.model, tmp_path / "fft")
    shutil.rmtree(model / "checkpoints", ignore_errors=True)  # no part of the model
    out = shutil.copytree(original.out, tmp_path / "e")
    edited(out / f"{TASK}.json", lambda c: c.update(model=str(model)), sealed_again=True)
    return Measured(model, out, original.data)


def acc(value: float) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["metrics"]["acc"].update(value=value)


def other_answer(m: Measured) -> None:
    """One prediction of one row, and what follows from it in the sample."""
    lines = m.samples.read_text().splitlines()
    sample = json.loads(lines[0])
    sample["logit_gap"] = -sample["logit_gap"]
    prediction, label, groups = sample["dpd"]
    sample["dpd"] = [1 - prediction, label, groups]
    lines[0] = json.dumps(sample, ensure_ascii=False)
    m.samples.write_text("\n".join(lines) + "\n")


def other_answer_with_digests(m: Measured) -> None:
    import hashlib

    other_answer(m)
    digest = hashlib.sha256(m.samples.read_bytes()).hexdigest()
    edited(m.file, lambda c: c["fingerprint"].update(samples=digest), sealed_again=True)


def fewer_rows(m: Measured) -> None:
    m.samples.write_text("\n".join(m.samples.read_text().splitlines()[:-5]) + "\n")


def by_hand(change: Callable[[dict[str, Any]], Any]) -> Callable[[Measured], None]:
    return lambda m: edited(m.file, change)


def with_digest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Measured], None]:
    return lambda m: edited(m.file, change, sealed_again=True)


def without_digest(m: Measured) -> None:
    content = json.loads(m.file.read_text())
    del content[SEAL]
    acc(0.99)(content)
    m.file.write_text(json.dumps(content))


ATTACKS: dict[str, Callable[[Measured], None]] = {
    "an accuracy of 7.5": by_hand(acc(7.5)),
    "an accuracy of 7.5 and the digest": with_digest(acc(7.5)),
    "an accuracy without the digest": without_digest,
    "another split": by_hand(lambda c: c.update(split="report")),
    "not used by a selection": by_hand(lambda c: c.update(used_by_selection=None, limit=None, n=1)),
    "a warning": by_hand(lambda c: c.update(warnings=["fine"])),
    "an interval": with_digest(lambda c: c["metrics"]["dpd"].update(low=0.0, high=0.001)),
    "a group's rate": with_digest(
        lambda c: c["groups"]["blue"].update(tpr=float(c["groups"]["blue"]["tpr"] < 0.5))
    ),
    "the level's figures": with_digest(lambda c: c["level_matched"]["dpd"].update(value=0.0)),
    "another confidence": with_digest(lambda c: c.update(confidence=0.6)),
    "another smallest group": with_digest(
        lambda c: c["fingerprint"]["settings"].update(min_group_size=10_000)
    ),
    "an answer": other_answer,
    "an answer, with digests": other_answer_with_digests,
    "fewer rows": fewer_rows,
    "a bit of the samples": lambda m: flip(m.samples, 100),
    "a bit of the evaluation": lambda m: flip(m.file, 300),
}


def test_an_evaluation_says_what_it_was_made_of(original: Measured, measured: Measured) -> None:
    evaluation, doubt = checked_evaluation(measured.file)
    assert doubt is None
    assert evaluation.fingerprint is not None
    known = evaluation.fingerprint
    shown = run(*measured.push)
    assert shown.exit_code == 0, shown.output
    assert str(known.model) in shown.stdout
    assert known.others == {}
    again = checked_evaluation(original.file)[0].fingerprint
    assert again == known  # wherever the model lies


@pytest.mark.parametrize("name", ATTACKS)
def test_a_changed_evaluation_is_not_published(measured: Measured, name: str) -> None:
    ATTACKS[name](measured)
    refusal(measured.push, MeasurementError, where=str(measured.out))


@pytest.mark.parametrize(
    "name", ["an accuracy of 7.5", "the level's figures", "an answer", "a bit of the samples"]
)
def test_nor_read_as_a_level(measured: Measured, tmp_path: Path, name: str) -> None:
    ATTACKS[name](measured)
    out = tmp_path / "again"
    command = measured.command("--split", "report", "--level", measured.file, out=out)
    refusal(command, MeasurementError, where=str(measured.out))
    assert not out.exists()


@pytest.mark.parametrize("name", ["an answer", "fewer rows", "a bit of the samples"])
def test_nor_compared(original: Measured, measured: Measured, name: str) -> None:
    compare = ["compare", original.out, measured.out]
    assert run(*compare).exit_code == 0
    ATTACKS[name](measured)
    refusal(compare, MeasurementError, where=measured.samples)


def worst(m: Measured, family: Path, report: Path) -> Path:
    """A recipe of the group that a report serves worst."""
    groups = {name: str(family / "run" / "groups" / name) for name in ("blue", "green")}
    base = str(family / "run" / "base")
    raw = injection_recipe(base, str(m.model), groups, "auto", "float32")
    path = m.out.parent / "worst.yml"
    path.write_text(
        yaml.safe_dump({**raw, "fairness": {"report": str(report), "min_group_size": 1}})
    )
    return path


@pytest.mark.parametrize("command", ["merge", "check", "grid", "vectors"])
@pytest.mark.parametrize("name", ["a group's rate", "an answer"])
def test_nor_asked_for_the_worst_group(
    family: Path, measured: Measured, tmp_path: Path, name: str, command: str
) -> None:
    recipe = worst(measured, family, measured.file)
    more = {
        "merge": [tmp_path / "out", "--quiet"],
        "grid": ["--lambda", "0:1:0.5", "-o", tmp_path / "out"],
    }
    arguments = [command, recipe, *more.get(command, [])]
    ATTACKS[name](measured)
    refusal(arguments, MeasurementError, where=str(measured.out))
    assert not (tmp_path / "out").exists()


def test_the_worst_group_is_the_targets(family: Path, measured: Measured) -> None:
    """Not that of another model, nor of this one as it was before."""
    recipe = worst(measured, family, measured.file)
    assert run("check", recipe).exit_code == 0
    retrain(measured.model)
    refusal(["check", recipe], MeasurementError, where=measured.file, got=str(measured.model))


def test_a_report_by_hand_names_no_group(family: Path, measured: Measured) -> None:
    """Also where nobody looks but the merge itself."""
    from mergekit_fair.merging.recipe import Recipe

    recipe = worst(measured, family, measured.file)
    ATTACKS["an accuracy of 7.5"](measured)
    with pytest.raises(RecipeError) as caught:
        Recipe.load(recipe).resolved()
    assert str(measured.file) in str(caught.value.where)


def test_weights_that_changed_since(measured: Measured) -> None:
    """Of the same size and time of change."""
    retrain(measured.model)
    refusal(measured.push, MeasurementError, where=measured.file, fix="evaluate")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_files_beside_the_weights_that_changed_since(measured: Measured, file: str) -> None:
    path = measured.model / file
    path.write_text(path.read_text().rstrip() + "\n\n")
    refusal(measured.push, MeasurementError, where=measured.file)


@pytest.mark.parametrize(
    "file", ["modeling_other.py", "adapter_config.json", "chat_template.jinja"]
)
def test_files_that_came_since(measured: Measured, file: str) -> None:
    """A model is loaded with them."""
    (measured.model / file).write_text("{}")
    refusal(measured.push, MeasurementError, where=measured.file)


def test_a_model_that_is_not_there_any_more(measured: Measured) -> None:
    (measured.model / "model.safetensors").unlink()
    refusal(measured.push, MeasurementError, where=measured.file)


def test_the_evaluation_of_another_model(family: Path, measured: Measured) -> None:
    """With this model's name in it."""
    other = shutil.copytree(family / "run" / "lora", measured.out.parent / "lora")
    measured.evaluate(model=other)
    edited(measured.file, lambda c: c.update(model=str(measured.model)), sealed_again=True)
    refusal(measured.push, MeasurementError, where=measured.file)


def test_samples_are_needed(measured: Measured, tmp_path: Path) -> None:
    measured.samples.unlink()
    refusal(measured.push, MeasurementError, measured.samples.name, where=measured.file)
    done = run(*measured.command("--level", measured.file, out=tmp_path / "again"))
    assert done.exit_code == 0, done.output


def test_an_evaluation_of_an_older_version(measured: Measured) -> None:
    content = json.loads(measured.file.read_text())
    del content[SEAL], content["fingerprint"]
    measured.file.write_text(json.dumps(content))
    _, doubt = checked_evaluation(measured.file)
    assert doubt is not None
    refusal(measured.push, MeasurementError, where=measured.file, fix="evaluate again")


def test_a_threshold_of_the_same_model_before_it_changed(
    measured: Measured, tmp_path: Path
) -> None:
    retrain(measured.model)
    out = tmp_path / "again"
    command = measured.command("--split", "report", "--level", measured.file, out=out)
    refusal(command, MeasurementError, where=measured.file)
    assert not out.exists()


def test_a_model_that_changes_while_it_is_measured(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mergekit_fair.evaluation import eval_run

    aggregated = eval_run.aggregated

    def changing(*arguments: Any) -> Any:
        retrain(measured.model)
        return aggregated(*arguments)

    monkeypatch.setattr(eval_run, "aggregated", changing)
    out = tmp_path / "again"
    refusal(measured.command(out=out), CheckpointError, where=measured.model)
    assert not out.exists()


def test_two_models_at_once_are_not_one(family: Path, measured: Measured, tmp_path: Path) -> None:
    """Measured with another tokenizer: what would go up is not what was measured."""
    other = shutil.copytree(family / "run" / "base", tmp_path / "base")
    measured.evaluate("--model-args", f"tokenizer={other}")
    assert set(require_proof(measured.file).to_dict()["fingerprint"]["others"]) == {"tokenizer"}
    refusal(measured.push, MeasurementError, where=measured.file, got=["tokenizer"])
