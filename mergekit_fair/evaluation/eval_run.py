"""`eval`: one model on one split, its samples and lm-eval's own results beside ours."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.compat.lm_eval import aggregated
from mergekit_fair.errors import ConfigError, MeasurementError
from mergekit_fair.evaluation.benchmarks.benchmark_items import benchmark_rows
from mergekit_fair.evaluation.classifier import resolve_device
from mergekit_fair.evaluation.cutoff import Cutoff, no_chance, predict_anew
from mergekit_fair.evaluation.eval_folder import require_file_name
from mergekit_fair.evaluation.evaluate import (
    AnyEvaluation,
    Evaluation,
    MultiEvaluation,
    UsedBySelection,
    evaluate,
    evaluate_benchmark,
    read_evaluation,
)
from mergekit_fair.evaluation.evaluator import Evaluator, Scorer
from mergekit_fair.evaluation.levels import (
    AnyLevel,
    Level,
    MultiLevel,
    Threshold,
    level_of_labels,
    require_level,
)
from mergekit_fair.evaluation.multi_predictions import ITEM, read_samples_of
from mergekit_fair.evaluation.predictions import GAP
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest, PreparedTask, TaskSet
from mergekit_fair.evaluation.responses import TaskResponses
from mergekit_fair.evaluation.seen_rows import SeenRows, models_of, told
from mergekit_fair.evaluation.truncation import Truncation
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.files import text_of
from mergekit_fair.progress import Progress
from mergekit_fair.schema import parse_yaml_loosely

# lm-eval's, so that what is drawn is what `lm_eval run` draws.
_RANDOM_SEED, _OTHER_SEEDS = 0, 1234


@dataclass(frozen=True)
class EvaluationRun:
    """What a run gave.

    Attributes:
        request: tasks and settings.
        model, split: of the run.
        samples: task → lm-eval's samples, with documents and log-probabilities.
        results: lm-eval's own results.
        arguments: of the model class, as they were used.
        warnings: task → what was said about its data while it was loaded.
        seen: task → rows that the model was trained on, if any.
        remarks: what a reader should know of the model and of how it was run.
        max_length: tokens that the model was given of a text; None of pictures.
        is_cut: task → bool (documents,), those that are longer, where it is known.
    """

    request: EvaluationRequest
    model: str
    split: str
    samples: dict[str, list[dict[str, Any]]]
    results: dict[str, Any]
    arguments: dict[str, Any]
    warnings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seen: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    max_length: int | None = None
    is_cut: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)


def run_tasks(
    request: EvaluationRequest,
    model: str,
    split: str,
    device: str = "auto",
    progress: Progress | None = None,
    cutoff: Cutoff | None = None,
) -> EvaluationRun:
    """Run a model over the tasks, one forward pass a document (a choice, for language models).

    The results are those of `lm_eval run`, to the last digit, unless a cutoff on P(1) says what is
    predicted.

    Raises:
        CheckpointError, ConfigError, DataError: whatever is wrong with model, tasks or data.
    """
    begin = time.time()
    _seed()
    evaluator = Evaluator(request)
    seen, models = SeenRows(evaluator), models_of(model, request.model_args)
    if not request.apply_chat_template:
        evaluator.prepared(split)  # an unknown task costs no loading
        seen.require_unseen(models, split)
    scorer = evaluator.open(model, resolve_device(device))
    tasks = evaluator.prepared(split)
    seen.require_unseen(models, split)
    for name, task in tasks.tasks.items():
        require_file_name(name)
        _require_runnable(task, scorer.lm)
        if cutoff is not None and task.kind in ("classes", "labels"):
            raise no_chance(name)
    return finished_run(
        evaluator, scorer, seen, model, split, scorer.responses(split, progress), begin, cutoff
    )


def finished_run(
    evaluator: Evaluator,
    scorer: Scorer,
    seen: SeenRows,
    model: str,
    split: str,
    responses: TaskResponses,
    begin: float,
    cutoff: Cutoff | None = None,
    made_of: Sequence[str] | None = None,
) -> EvaluationRun:
    """What a model's responses give.

    Args:
        model: its name.
        begin: when it began, in seconds since 1970.
        made_of: folders whose training rows it knows; None: those that `model` names.
    """
    tasks = evaluator.prepared(split)
    models = models_of(model, evaluator.request.model_args) if made_of is None else made_of
    samples = {name: _samples(task, responses) for name, task in tasks.tasks.items()}
    for name, of_task in samples.items():
        if cutoff is not None and "dpd" in of_task[0]:
            predict_anew(name, of_task, cutoff)
    results = results_of(tasks, samples)
    results["config"] = _config(evaluator.request, scorer)
    results["date"] = begin
    cut = {name: responses.run.is_cut(task) for name, task in tasks.tasks.items()}
    return EvaluationRun(
        *(evaluator.request, model, split, samples, results, scorer.arguments, tasks.warnings),
        seen=seen.counts(models, split),
        remarks=(
            *evaluator.code_left_out(models),
            *(text for each in models for text in seen.remarks(each)),
            *scorer.notes(split),
        ),
        max_length=scorer.max_length,
        is_cut={name: is_cut for name, is_cut in cut.items() if is_cut is not None},
    )


def results_of(
    tasks: TaskSet, samples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """lm-eval's own results of its samples, but for what they say of the run."""
    return aggregated(
        {name: task.task for name, task in tasks.tasks.items()},
        {name: _values(samples[name]) for name in tasks.tasks},
        tasks.groups,
    )


def _seed() -> None:
    import torch

    random.seed(_RANDOM_SEED)
    np.random.seed(_OTHER_SEEDS)
    torch.manual_seed(_OTHER_SEEDS)


def _require_runnable(task: PreparedTask, lm: Any) -> None:
    """As lm-eval's `evaluate`.

    Raises:
        ConfigError: a task that runs code that models write, or pictures for a model of texts.
    """
    if getattr(task.task, "UNSAFE_CODE", False):
        raise ConfigError(
            "this task runs code that the model writes",
            where=f"task {task.name}",
            fix="use `lm_eval run --confirm_run_unsafe_code`",
        )
    if getattr(task.task, "MULTIMODAL", False) and not getattr(lm, "MULTIMODAL", False):
        raise ConfigError(
            "this task shows pictures, which the model does not take",
            where=f"task {task.name}",
            got=type(lm).__name__,
            fix="use a model of pictures",
        )


def _samples(task: PreparedTask, responses: TaskResponses) -> list[dict[str, Any]]:
    """Samples with what lm-eval's files hold besides; a classifier's with the logit gap."""
    from lm_eval.utils import handle_non_serializable, hash_string

    samples = list(task.samples(responses.of(task)))
    gaps: list[float | None] = []
    if task.is_two_class and responses.logits is not None:
        values = responses.gaps(task).tolist()
        gaps = [value if np.isfinite(value) else None for value in values]
    for number, sample in enumerate(samples):
        requests = task.requests[number % len(task.docs)]
        target = task.task.doc_to_target(sample["doc"])
        text = json.dumps(
            requests[0].doc, indent=2, default=handle_non_serializable, ensure_ascii=False
        )
        sample |= {
            "target": target,
            "arguments": [request.args for request in requests],
            "doc_hash": hash_string(text),
            "prompt_hash": hash_string(requests[0].arguments[0]),
            "target_hash": hash_string(str(target)),
        }
        if gaps:
            sample[GAP] = gaps[number]
    return samples


def _values(samples: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Any]]:
    """(metric, filter) → a value a document."""
    values: dict[tuple[str, str], list[Any]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            values.setdefault((metric, sample["filter"]), []).append(sample[metric])
    return values


def _config(request: EvaluationRequest, scorer: Scorer) -> dict[str, Any]:
    """How the model was run, under lm-eval's keys."""
    arguments = dict(scorer.arguments)
    lm = scorer.lm
    return {
        "model": arguments.pop("model"),
        "model_args": arguments,
        **(lm.get_model_info() if hasattr(lm, "get_model_info") else {}),
        "batch_size": request.batch_size or getattr(lm, "batch_size", None),
        "batch_sizes": list(getattr(lm, "batch_sizes", {}).values()),
        "device": scorer.device,
        "limit": request.limit,
        "bootstrap_iters": 0,
        "random_seed": _RANDOM_SEED,
        "numpy_seed": _OTHER_SEEDS,
        "torch_seed": _OTHER_SEEDS,
        "fewshot_seed": _OTHER_SEEDS + request.seed,
    }


def measure_run(
    finished: EvaluationRun,
    settings: MetricSettings,
    *,
    level: AnyLevel | None = None,
    thresholds: Mapping[str, Threshold] | None = None,
) -> dict[str, AnyEvaluation]:
    """Task → one evaluation; tasks without a number of each document are left out.

    Any task but those of labels and groups is measured by the scores of its benchmark, see
    `evaluate_benchmark`.

    Args:
        finished: from `run_tasks`.
        settings: how to measure.
        level: the selection rate of level-matched figures, or those of classes or labels; None:
            each task's share of positive labels.
        thresholds: task → threshold set on validation, of classes or labels the numbers added to
            their scores.
    """
    evaluations: dict[str, AnyEvaluation] = {}
    selected = selections(finished.model)
    about = {"model": finished.model, "split": finished.split}
    for task, samples in finished.samples.items():
        evaluation: AnyEvaluation
        groups: Mapping[str, NDArray[np.bool_]] = {}
        if "dpd" in samples[0] or ITEM in samples[0]:
            predictions = read_samples_of(task, samples)
            groups = predictions.groups
            level_of_task = level or level_of_labels(predictions)
            require_level(level_of_task, predictions)
            threshold = (thresholds or {}).get(task)
            evaluation = evaluate(
                predictions, settings, level=level_of_task, threshold=threshold, **about
            )
        elif (rows := benchmark_rows(task, samples)) is not None:
            groups = dict(zip(rows.groups.names, rows.groups.membership.T, strict=True))
            evaluation = evaluate_benchmark(rows, settings, task=task, **about)
        else:
            continue
        selection = used_by(selected, task, finished.split)
        evaluation = told(evaluation, finished.seen.get(task), len(samples))
        truncated = _truncated(finished.is_cut.get(task), len(samples), groups)
        warnings = [*evaluation.warnings, *finished.warnings.get(task, ()), *finished.remarks]
        if len(filters := dict.fromkeys(str(sample.get("filter")) for sample in samples)) > 1:
            warnings.append(f"of its filters ({', '.join(filters)}) the first is measured")
        if truncated is not None and finished.max_length is not None:
            warnings += filter(None, [truncated.sentence(finished.max_length)])
        if selection is not None:
            warnings.append(
                f"the {finished.split} split has chosen this model ({selection.rule}): its figures "
                "are optimistic; use the report split"
            )
        evaluations[task] = evaluation.model_copy(
            update={
                "used_by_selection": selection,
                "limit": finished.request.limit,
                "model_args": finished.arguments,
                "max_length": finished.max_length,
                "truncated": truncated,
                "warnings": tuple(warnings),
            }
        )
    return evaluations


def _truncated(
    is_cut: NDArray[np.bool_] | None, rows: int, groups: Mapping[str, NDArray[np.bool_]]
) -> Truncation | None:
    """None where it is not known, or where a document has several samples."""
    return Truncation.of(is_cut, groups) if is_cut is not None and len(is_cut) == rows else None


def level_of(path: Path, model: str) -> tuple[AnyLevel, dict[str, Threshold]]:
    """The level that another evaluation sets, and the thresholds, if it is of the same model.

    Args:
        path: a file that `eval` has written.
        model: the model that is about to be measured.

    Raises:
        MeasurementError: not an evaluation, or one without a selection rate.
    """
    evaluation = read_evaluation(path)
    is_own = evaluation.model == model and evaluation.split == "validation"
    if isinstance(evaluation, MultiEvaluation):
        level, set_there = evaluation.level, evaluation.level_matched
        if is_own and level is not None and set_there is not None:
            return MultiLevel(level.to, level.rates), {evaluation.task: set_there.offsets}
        rates = {
            name: rate
            for name, view in evaluation.views.items()
            if (rate := view.metrics["selection_rate"].value) is not None
        }
        if len(rates) < len(evaluation.views):
            raise MeasurementError("a selection rate is undefined", where=path)
        return MultiLevel(evaluation.model, rates), {}
    if not isinstance(evaluation, Evaluation):
        raise MeasurementError("is of a task without a selection rate", where=path)
    matched = evaluation.level_matched
    if is_own and matched:
        return Level(matched.to, matched.rate), {evaluation.task: matched.threshold}
    rate = evaluation.metrics["selection_rate"].value
    if rate is None:
        raise MeasurementError("its selection rate is undefined", where=path)
    return Level(evaluation.model, rate), {}


def selections(model: str | Path) -> list[UsedBySelection]:
    """The selections that a merged model's recipe tells of.

    A sweep writes into the recipe of its choice on what task, split and by what rule it was made;
    a recipe with `worst: auto` names the evaluation that its worst group was read from.

    Returns:
        Empty for a model that nothing chose.
    """
    block = _fairness_block(Path(model))
    records = []
    if block.get("rule") and block.get("task"):
        split = block.get("selected_on", "validation")
        records.append(UsedBySelection(task=block["task"], split=split, rule=block["rule"]))
    if isinstance(report := block.get("report"), str) and Path(report).is_file():
        evaluation = _read_json(Path(report))
        if isinstance(evaluation, Mapping) and evaluation.get("task"):
            rule = "worst group of this evaluation"
            task, split = evaluation["task"], evaluation.get("split")
            records.append(UsedBySelection(task=task, split=split, rule=rule))
    return records


def used_by(selected: list[UsedBySelection], task: str, split: str) -> UsedBySelection | None:
    """The selection that has used a task's split, or None.

    The task `fair_x` is the data set `x`, which sweeps call their task.
    """
    for record in selected:
        same = record.task.removeprefix("fair_") == task.removeprefix("fair_")
        if same and record.split == split:
            return record
    return None


def _fairness_block(model: Path) -> Mapping[str, Any]:
    path = model / "mergekit_config.yml"
    if not path.is_file():
        return {}
    recipe, _ = parse_yaml_loosely(text_of(path), path)
    block = recipe.get("fairness")
    return block if isinstance(block, Mapping) else {}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(text_of(path))
    except (OSError, ValueError):  # it chose the model once; it need not be there for ever
        return None
