"""What an evaluation rests on: `eval` writes its digests, and whoever reads it again checks them.

The figures of TASK.json are computed again from samples_TASK.jsonl beside it, and must be those
that it says.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from mergekit_fair.checkpoints.fingerprint import ModelFingerprint, model_fingerprint, sha256
from mergekit_fair.errors import CheckpointError, MeasurementError
from mergekit_fair.escaping import in_json
from mergekit_fair.evaluation.benchmarks.benchmark_items import benchmark_rows
from mergekit_fair.evaluation.evaluate import (
    AnyEvaluation,
    BenchmarkEvaluation,
    Evaluated,
    Evaluation,
    Fingerprint,
    MeasuredWith,
    MultiEvaluation,
    evaluate,
    evaluate_benchmark,
    read_evaluation,
)
from mergekit_fair.evaluation.levels import Level, MultiLevel
from mergekit_fair.evaluation.multi_predictions import MultiPredictions, read_samples_of
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.evaluation.sample_files import read_samples
from mergekit_fair.evaluation.saved_rows import rows_digest
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.progress import Progress
from mergekit_fair.schema import sealed

Kind = TypeVar("Kind", bound=Evaluated)

# Between two processors: sums are added in another order.
TOLERANCE = 1e-9
_AGAIN = "evaluate again with `mergekit-fair eval`"
# Figures that evaluations say since version 0.2.
_NEWER = ("n_pos", "deciding")
# Arguments of lm-eval's model classes that name a model's files, beside the one that is measured.
_NAMES_MODEL = ("pretrained", "peft", "delta", "tokenizer")


def prints_of_run(
    model: str,
    arguments: Mapping[str, Any],
    before: ModelFingerprint | None = None,
    progress: Progress | None = None,
) -> dict[str, ModelFingerprint]:
    """The fingerprints of everything that a run has read as a model, under `model` and arguments.

    Args:
        model: as it was given; what has no files (a model behind an address) has no entry.
        arguments: of lm-eval's model class.
        before: of the model's folder, before the run.
        progress: told how many bytes are done.

    Raises:
        CheckpointError: the model was changed during the run.
    """
    if before is not None:
        before.require_unchanged()
    named = {key: arguments.get(key) for key in _NAMES_MODEL}
    others = {key: str(name) for key, name in named.items() if name and str(name) != str(model)}
    revision = arguments.get("revision")
    found = {}
    for key, name in {"model": str(model), **others}.items():
        if key == "model" and before is not None:
            found[key] = before
            continue
        try:
            is_revised = key == "pretrained" or (key == "model" and "pretrained" not in others)
            found[key] = model_fingerprint(
                name, progress, revision=str(revision) if revision and is_revised else None
            )
        except CheckpointError:
            if Path(name).is_dir():
                raise
    return found


def fingerprinted(
    evaluation: Kind,
    samples: str,
    prints: Mapping[str, ModelFingerprint],
    settings: MetricSettings,
) -> Kind:
    """The evaluation with what it was made of.

    Args:
        evaluation: of one task.
        samples: the content of its file of samples.
        prints: of `prints_of_run`.
        settings: by which it was measured.
    """
    items = [json.loads(line) for line in samples.split("\n") if line]
    fingerprint = Fingerprint(
        model=prints["model"].digest if "model" in prints else None,
        others={key: each.digest for key, each in prints.items() if key != "model"},
        rows=None
        if isinstance(evaluation, BenchmarkEvaluation)
        else rows_digest({evaluation.task: read_samples_of(evaluation.task, items)}),
        samples=hashlib.sha256(samples.encode()).hexdigest(),
        settings=MeasuredWith(
            min_group_size=settings.min_group_size, seed=settings.seed, against=settings.against
        ),
    )
    return evaluation.model_copy(update={"fingerprint": fingerprint})


def evaluation_text(evaluation: Evaluated) -> str:
    """The content of TASK.json, with its own digest."""
    return in_json(sealed(evaluation.to_dict()), indent=2, allow_nan=False) + "\n"


def require_same_model(path: Path, model: str, prints: Mapping[str, ModelFingerprint]) -> None:
    """Check that an earlier evaluation of this model was of the same weights, if it is of this one.

    Raises:
        MeasurementError: they have changed in between.
    """
    earlier = read_evaluation(path)
    known = None if earlier.fingerprint is None else earlier.fingerprint.model
    if earlier.model != model or known is None or "model" not in prints:
        return
    if known != prints["model"].digest:
        raise MeasurementError(
            "is of this model before its files have changed",
            where=path,
            got=known[:16],
            allowed=prints["model"].digest[:16],
            fix=_AGAIN,
        )


def samples_of(path: Path, task: str) -> Path:
    """The file of samples that lies beside a TASK.json."""
    return path.parent / f"samples_{task}.jsonl"


def checked_evaluation(path: Path) -> tuple[AnyEvaluation, str | None]:
    """An evaluation whose figures are those of the samples beside it.

    Returns:
        The evaluation; and a sentence where nothing could be checked, for it is of an older
        version, or its samples are not there.

    Raises:
        MeasurementError: no evaluation, a changed one, samples that have changed, or figures that
            are not theirs.
    """
    evaluation = read_evaluation(path)
    if evaluation.fingerprint is None:
        return evaluation, f"{path} says nothing of what it was made of, and was not checked"
    samples = samples_of(path, evaluation.task)
    if not samples.is_file():
        return evaluation, f"{path} was not checked: {samples.name} is not beside it"
    require_samples(samples, evaluation)
    require_same_figures(recomputed(evaluation, samples), evaluation, path)
    return evaluation, None


def require_proof(path: Path) -> AnyEvaluation:
    """As `checked_evaluation`, and it must be possible to check.

    Raises:
        MeasurementError: as there, or where nothing could be checked.
    """
    evaluation, doubt = checked_evaluation(path)
    if doubt is not None:
        raise MeasurementError(
            "its figures cannot be checked, for which it needs its fingerprint, and "
            f"samples_{evaluation.task}.jsonl beside it",
            where=path,
            fix=_AGAIN,
        )
    return evaluation


def require_samples(samples: Path, evaluation: Evaluated | None = None) -> None:
    """Check that a file of samples is what `eval` has written, by the TASK.json beside it.

    Args:
        samples: the file; one that lm-eval has written is not checked.
        evaluation: that TASK.json, if it is read already.

    Raises:
        MeasurementError: one of the two has changed.
    """
    if evaluation is None:
        beside = samples.parent / f"{samples.stem.removeprefix('samples_')}.json"
        evaluation = read_evaluation(beside) if beside.is_file() else None
    fingerprint = None if evaluation is None else evaluation.fingerprint
    if fingerprint is not None and sha256(samples) != fingerprint.samples:
        raise MeasurementError("was changed since `eval` has written it", where=samples, fix=_AGAIN)


def recomputed(evaluation: Evaluated, samples: Path) -> AnyEvaluation:
    """The figures of the samples, by an evaluation's own settings.

    Raises:
        MeasurementError: samples that cannot be measured.
    """
    assert evaluation.fingerprint is not None
    with_ = evaluation.fingerprint.settings
    about = {"model": evaluation.model, "split": evaluation.split}
    items = list(read_samples(samples))
    if isinstance(evaluation, BenchmarkEvaluation):
        settings = MetricSettings(
            confidence=evaluation.confidence,
            min_group_size=with_.min_group_size,
            seed=with_.seed,
            against=with_.against,
        )
        rows = benchmark_rows(evaluation.task, items)
        if rows is None:
            raise MeasurementError("has no number of each document", where=samples)
        return evaluate_benchmark(rows, settings, task=evaluation.task, **about)
    assert isinstance(evaluation, Evaluation | MultiEvaluation)
    settings = MetricSettings(
        reference=evaluation.reference,
        confidence=evaluation.confidence,
        min_group_size=with_.min_group_size,
        seed=with_.seed,
        against=with_.against,
    )
    if isinstance(evaluation, MultiEvaluation):
        beside, at_level = evaluation.level, evaluation.level_matched
        return evaluate(
            MultiPredictions.of_samples(evaluation.task, items),
            settings,
            level=None if beside is None else MultiLevel(beside.to, beside.rates),
            threshold=None if at_level is None else at_level.offsets,
            model=evaluation.model,
            split=evaluation.split,
        )
    matched = evaluation.level_matched
    return evaluate(
        Predictions.of_samples(evaluation.task, items),
        settings,
        level=None if matched is None else Level(matched.to, matched.rate),
        threshold=None if matched is None else matched.threshold,
        **about,
    )


def require_same_figures(found: Evaluated, said: Evaluated, where: object) -> None:
    """Check that an evaluation says what was computed again; not what it is about, nor warnings.

    Raises:
        MeasurementError: names the first figure that differs.
    """
    content = said.to_dict()
    ours = as_far_as_said(found.to_dict(), content)
    for key, value in ours.items():
        if key in Evaluated.model_fields or key == "warnings":
            continue
        different = first_difference(value, content.get(key), key)
        if different is not None:
            place, expected, got = different
            raise MeasurementError(
                f"says another {place} than its rows give",
                where=where,
                got=got,
                allowed="undefined" if expected is None else expected,
                fix=_AGAIN,
            )


def as_far_as_said(ours: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Figures without those that an earlier version has not written, where they are not there."""
    said = {key: value for key, value in ours.items() if key in content or key not in _NEWER}
    for key in ("scores",):
        if isinstance(said.get(key), Mapping) and isinstance(content.get(key), Mapping):
            said[key] = as_far_as_said(said[key], content[key])
    return said


def first_difference(expected: Any, got: Any, place: str = "") -> tuple[str, Any, Any] | None:
    """Where two pieces of JSON differ first, floats by more than `TOLERANCE`; None if nowhere.

    >>> first_difference({"acc": {"value": 0.5}}, {"acc": {"value": 7.5}})
    ('acc.value', 0.5, 7.5)
    >>> first_difference([0.1 + 0.2], [0.3]) is None
    True
    """
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        for key in dict.fromkeys([*expected, *got]):
            below = f"{place}.{key}" if place else str(key)
            if found := first_difference(expected.get(key), got.get(key), below):
                return found
        return None
    if isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        for index, pair in enumerate(zip(expected, got, strict=True)):
            if found := first_difference(*pair, f"{place}[{index}]"):
                return found
        return None
    are_numbers = all(type(each) in (int, float) for each in (expected, got))
    if are_numbers and math.isclose(expected, got, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        return None
    return None if expected == got and not are_numbers else (place, expected, got)
