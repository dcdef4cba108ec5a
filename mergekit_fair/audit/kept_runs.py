"""What an audit keeps of a model that it has run, so that the model is not run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mergekit_fair.audit.audited_models import ModelToAudit
from mergekit_fair.checkpoints.fingerprint import sha256
from mergekit_fair.errors import ConfigError, FairError
from mergekit_fair.evaluation.eval_folder import RESULTS, samples_name, write_evaluation
from mergekit_fair.evaluation.eval_run import EvaluationRun, measure_run, results_of
from mergekit_fair.evaluation.evaluate import read_evaluation
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.evaluation.evidence import prints_of_run
from mergekit_fair.evaluation.run_files import run_files
from mergekit_fair.evaluation.sample_files import read_samples
from mergekit_fair.evaluation.seen_rows import SeenRows
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.files import text_of, write_atomic
from mergekit_fair.schema import Record, parse_json

MADE_OF = "made_of.json"


class Questions(Record):
    """What an audit is about: with other questions its folder is another audit's.

    Attributes:
        tasks: names, sorted.
        split, limit: of documents.
    """

    tasks: list[str]
    split: str
    limit: int | None


class KeptRun(Record):
    """What lies in a model's folder, and what it was made of.

    Attributes:
        digest: of the model, its prompts, the documents and how it was run.
        read_with: digest of the settings that figures were read with.
        questions: what was asked.
        way: how the model was run.
        evaluations: tasks with figures.
        files: name of a file of answers → SHA-256.
        arguments, remarks, max_length: of the run, see `EvaluationRun`.
        is_cut: task → numbers of the documents that are longer, where it is known.
    """

    digest: str
    read_with: str
    questions: Questions
    way: str
    evaluations: list[str]
    files: dict[str, str]
    arguments: dict[str, Any]
    remarks: list[str]
    max_length: int | None
    is_cut: dict[str, list[int]]

    @classmethod
    def read(cls, folder: Path) -> KeptRun | None:
        """What a folder says; None of one that says nothing, or what another version said."""
        file = folder / MADE_OF
        try:
            return cls.from_dict(parse_json(text_of(file)), where=file)
        except (OSError, ValueError, FairError):
            return None

    def has_answers(self, folder: Path, digest: str) -> bool:
        """Whether they are there as they were written, of this model and these documents."""
        try:
            return self.digest == digest and all(
                sha256(folder / name) == content for name, content in self.files.items()
            )
        except FairError:
            return False

    def has_figures(self, folder: Path, read_with: str) -> bool:
        """Whether figures are there that were read with these settings."""
        try:
            for task in self.evaluations:
                read_evaluation(folder / f"{task}.json")
        except FairError:
            return False
        return self.read_with == read_with

    def run(
        self, folder: Path, evaluator: Evaluator, split: str, model: ModelToAudit, recipe: str
    ) -> EvaluationRun:
        """The run, from its answers.

        Args:
            folder: where they lie.
            evaluator: of the same documents; prompts may be others.
            split: of them.
            model: that has answered.
            recipe: what a merge without a folder is called by.
        """
        tasks = evaluator.prepared(split)
        samples = {task: read_samples(folder / samples_name(task)) for task in tasks.tasks}
        before = parse_json(text_of(folder / RESULTS))
        about = {key: before[key] for key in ("config", "date")}
        return EvaluationRun(
            request=evaluator.request,
            model=model.source or recipe,
            split=split,
            samples=samples,
            results={**results_of(tasks, samples), **about},
            arguments=self.arguments,
            warnings=tasks.warnings,
            seen=SeenRows(evaluator).counts([str(each) for each in model.folders], split),
            remarks=tuple(self.remarks),
            max_length=self.max_length,
            is_cut={
                task: np.isin(np.arange(len(samples[task])), rows)
                for task, rows in self.is_cut.items()
            },
        )


def keep_run(
    folder: Path,
    finished: EvaluationRun,
    source: str | None,
    metrics: MetricSettings,
    questions: Questions,
    about: Mapping[str, str],
) -> None:
    """Measure a run, and write what `eval` writes and what tells that it need not be run again.

    Args:
        folder: of the model; answers of the same run may lie there, and stay as they are.
        finished: the run.
        source: the model; None of a merge in memory.
        metrics: how it is measured.
        questions: what was asked.
        about: `digest`, `read_with` and `way`.
    """
    evaluations = measure_run(finished, metrics)
    names = [samples_name(task) for task in finished.samples]
    kept = KeptRun.read(folder)
    is_same = kept is not None and kept.has_answers(folder, about["digest"])
    written = {each: (folder / each).read_text("utf-8") for each in names} if is_same else None
    prints = {} if source is None else prints_of_run(source, {})
    _, files = run_files(finished, evaluations, prints, metrics, written=written)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MADE_OF).unlink(missing_ok=True)
    write_evaluation(folder, files)
    kept = KeptRun(
        **about,
        questions=questions,
        evaluations=list(evaluations),
        files={name: sha256(folder / name) for name in (*names, RESULTS)},
        arguments=finished.arguments,
        remarks=list(finished.remarks),
        max_length=finished.max_length,
        is_cut={task: np.flatnonzero(cut).tolist() for task, cut in finished.is_cut.items()},
    )
    write_atomic(folder / MADE_OF, json.dumps(kept.to_dict()) + "\n")


def require_same_questions(out: Path, asked: Questions) -> None:
    """Check that models were not asked something else, whose answers would be lost.

    Args:
        out: the folder of an audit's models.
        asked: now.

    Raises:
        ConfigError: names what is others now.
    """
    for folder in sorted(out.glob("*")):
        kept = KeptRun.read(folder)
        if kept is None or kept.questions == asked:
            continue
        earlier, now = kept.questions.to_dict(), asked.to_dict()
        others = [key for key in now if now[key] != earlier[key]]
        raise ConfigError(
            f"holds an audit with other {' and '.join(others)}, whose answers would be replaced",
            where=out.parent,
            got={key: now[key] for key in others},
            allowed=str({key: earlier[key] for key in others}),
            fix="choose another folder, or remove this one",
        )
