"""One run of lm-eval with everything of this package registered, and what it measured."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.backend import BATCH_SIZES, OTHER_BATCH_SIZE, backend_of
from mergekit_fair.evaluation.evaluate import Level, evaluate
from mergekit_fair.evaluation.packaged_tasks import tasks_dir
from mergekit_fair.evaluation.predictions import Answers
from mergekit_fair.evaluation.preferences import ITEM, measure_preferences
from mergekit_fair.evaluation.provenance import selections, used_by
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.schema import nearest

SPLITS = ("validation", "report")


@dataclass(frozen=True)
class Request:
    """What to run.

    Attributes:
        model: folder or name on the Hub.
        tasks: names of tasks, groups or tags; the suite's and lm-eval's own.
        split: validation or report.
        data: a file in place of the tasks' data, or None.
        lm: lm-eval's name of the model class; None finds it from the checkpoint.
        model_args: further arguments of that class.
        batch_size: rows of one forward pass, `auto`, or None for the class's default.
        device: torch device, or `auto`.
        limit: rows of a task, a random sample of them; None for all.
        num_fewshot: examples in the prompt of a causal model.
        include_path: a further folder of tasks.
        options: further arguments of lm-eval's `simple_evaluate`.
    """

    model: str
    tasks: tuple[str, ...]
    split: str = "validation"
    data: str | None = None
    lm: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | str | None = None
    device: str = "auto"
    limit: int | None = None
    num_fewshot: int | None = None
    include_path: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationRun:
    """What a run gave.

    Attributes:
        samples: task → lm-eval's samples, with documents and log-probabilities.
        results: lm-eval's own results.
        arguments: of the model class, as they were used.
        warnings: what was said about the data while tasks were loaded.
    """

    request: Request
    samples: dict[str, list[dict[str, Any]]]
    results: dict[str, Any]
    arguments: dict[str, Any]
    warnings: tuple[str, ...] = ()


def run(request: Request) -> EvaluationRun:
    """Run the model over the tasks, one forward pass a document (a choice, for causal models).

    Raises:
        CheckpointError, ConfigError, DataError: whatever is wrong with model, tasks or data.
    """
    if request.split not in SPLITS:
        raise ConfigError("unknown split", where="split", got=request.split, allowed=SPLITS)
    name, arguments = _backend(request)
    from lm_eval import simple_evaluate

    from mergekit_fair.evaluation.classifier import resolve_device

    _register()
    metadata = {**arguments, "split": request.split}
    if request.data is not None:
        metadata["data"] = str(Path(request.data).absolute())
    manager = task_manager(request, metadata)
    batch_size = _batch_size(name, request)
    with heard() as warnings:
        results = simple_evaluate(
            model=name,
            model_args=arguments,
            tasks=list(request.tasks),
            batch_size=batch_size,
            device=resolve_device(request.device),
            limit=request.limit,
            num_fewshot=request.num_fewshot,
            task_manager=manager,
            metadata=metadata,
            log_samples=True,
            bootstrap_iters=0,
            **request.options,
        )
    samples = results.pop("samples")
    return EvaluationRun(request, samples, results, {"model": name, **arguments}, tuple(warnings))


def lm_of(request: Request, model: str, device: str) -> Any:
    """lm-eval's model of a checkpoint, as `run` makes it.

    Args:
        request: its tasks, split and model are not looked at.
        model: a folder.
        device: torch device.

    Raises:
        CheckpointError: no model there, or a head of random numbers.
    """
    name, arguments = _backend(replace(request, model=model))
    _register()
    from lm_eval.api.registry import get_model

    return get_model(name).create_from_arg_obj(
        arguments,
        {"batch_size": _batch_size(name, request), "max_batch_size": None, "device": device},
    )


def _register() -> None:
    from mergekit_fair.evaluation.lm import register_models
    from mergekit_fair.evaluation.lm.checked_hf import guard_stock_models

    register_models()
    guard_stock_models()


def _batch_size(name: str, request: Request) -> int | str:
    return request.batch_size or BATCH_SIZES.get(name, OTHER_BATCH_SIZE)


@contextmanager
def heard() -> Iterator[list[str]]:
    """The warnings that this package logs inside the block, kept instead of printed."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    ours, handler = logging.getLogger("mergekit_fair"), Keep(logging.WARNING)
    ours.addHandler(handler)
    propagates, ours.propagate = ours.propagate, False
    try:
        yield messages
    finally:
        ours.removeHandler(handler)
        ours.propagate = propagates


def measure_run(
    finished: EvaluationRun,
    settings: MetricSettings,
    *,
    level: Level | None = None,
    thresholds: Mapping[str, float] | None = None,
) -> dict[str, dict[str, Any]]:
    """Task → one evaluation, as in INTERFACE; tasks that measure no fairness are left out.

    A task of preferences has an evaluation of its own kind, see `measure_preferences`.

    Args:
        finished: from `run`.
        settings: how to measure.
        level: the selection rate of level-matched figures; None: each task's share of positive
            labels.
        thresholds: task → threshold set on validation.
    """
    request, found = finished.request, {}
    selected = selections(request.model)
    for task, samples in finished.samples.items():
        if ITEM in samples[0]:
            evaluation = measure_preferences(
                task, samples, settings, model=request.model, split=request.split
            )
        elif "dpd" in samples[0]:
            answers = Answers.of_samples(task, samples)
            evaluation = evaluate(
                answers,
                settings,
                model=request.model,
                split=request.split,
                level=level or Level("labels", float(answers.labels.mean())),
                threshold=(thresholds or {}).get(task),
            )
        else:
            continue
        found[task] = _complete(evaluation, finished, used_by(selected, task, request.split))
    return found


def _complete(
    evaluation: dict[str, Any], finished: EvaluationRun, selection: dict[str, Any] | None
) -> dict[str, Any]:
    """With what the run knows beyond the numbers."""
    request = finished.request
    evaluation["used_by_selection"] = selection
    evaluation["limit"] = request.limit
    evaluation["model_args"] = finished.arguments
    evaluation["warnings"] += finished.warnings
    if selection is not None:
        evaluation["warnings"].append(
            f"the {request.split} split has chosen this model ({selection['rule']}): its figures "
            "are optimistic; use the report split"
        )
    return evaluation


def lines_of(samples: Sequence[Mapping[str, Any]]) -> str:
    """lm-eval's samples as JSON lines in the form of its own sample files."""
    from lm_eval.utils import handle_non_serializable, sanitize_list

    written = []
    for sample in samples:
        arguments = {
            f"gen_args_{i}": {f"arg_{j}": part for j, part in enumerate(argument)}
            for i, argument in enumerate(sample["arguments"])
        }
        line = {
            **sample,
            "resps": sanitize_list(sample["resps"]),
            "filtered_resps": sanitize_list(sample["filtered_resps"]),
            "arguments": arguments,
            "target": str(sample["target"]),
        }
        written.append(json.dumps(line, default=handle_non_serializable, ensure_ascii=False))
    return "\n".join(written) + "\n"


def _backend(request: Request) -> tuple[str, dict[str, Any]]:
    if request.lm is None:
        name, arguments = backend_of(request.model)
    else:
        name, arguments = request.lm, {"pretrained": request.model}
    return name, {**arguments, **request.model_args}


def task_manager(request: Request, metadata: Mapping[str, Any]) -> Any:
    """lm-eval's task manager. Its own 14,000 files are read only for a task that is not ours.

    Raises:
        ConfigError: an unknown task.
    """
    from lm_eval.tasks import TaskManager

    folders = [str(tasks_dir()), *([request.include_path] if request.include_path else [])]
    known: list[str] = []
    for with_defaults in (False, True):
        manager = TaskManager(
            include_path=folders, include_defaults=with_defaults, metadata=dict(metadata)
        )
        known = manager.all_tasks
        unknown = [n for n in request.tasks if n not in known and not Path(n).is_file()]
        if not unknown:
            return manager
    raise ConfigError(
        f"no such task{nearest(unknown[0], known)}",
        where="tasks",
        got=unknown[0],
        allowed=[task for task in known if task.startswith("fair_")],
    )


def level_of(path: Path, model: str) -> tuple[Level, dict[str, float]]:
    """The level that another evaluation sets, and the thresholds, if it is of the same model.

    Args:
        path: a file that `eval` has written.
        model: the model that is about to be measured.

    Raises:
        ConfigError: no evaluation, or one without what is needed.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        matched = given.get("level_matched")
        if given["model"] == model and given["split"] == "validation" and matched:
            level = Level(matched["to"], matched["rate"])
            return level, {given["task"]: matched["threshold"]}
        return Level(given["model"], given["metrics"]["selection_rate"]["value"]), {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"is no evaluation ({type(error).__name__}: {error})",
            where=path,
            fix="give a file that `mergekit-fair eval` has written",
        ) from None
