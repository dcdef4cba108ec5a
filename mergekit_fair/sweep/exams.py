"""What a sweep measures its points on."""

from __future__ import annotations

from mergekit_fair.data import load_rows
from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.evaluator import Exam
from mergekit_fair.sweep.sweep_config import Evaluate

_BATCH_SIZE, _MAX_LENGTH = 64, 128


def open_exam(evaluate: Evaluate) -> Exam:
    """The rows of `evaluate.data`, or the tasks.

    Raises:
        ConfigError, DataError: unknown tasks; data that cannot be had or is not what it should be.
    """
    if not evaluate.tasks:
        return _rows(evaluate)
    from mergekit_fair.evaluation.lm_eval_run import Request
    from mergekit_fair.evaluation.task_evaluator import TasksExam

    arguments = dict(evaluate.model_args)
    if evaluate.max_length is not None:
        arguments["max_length"] = evaluate.max_length
    request = Request(
        model="",
        tasks=tuple(evaluate.tasks),
        data=None if evaluate.data is None else str(evaluate.data),
        model_args=arguments,
        batch_size=evaluate.batch_size,
        limit=evaluate.limit,
        num_fewshot=evaluate.num_fewshot,
        include_path=evaluate.include_path,
    )
    return TasksExam(request)


def _rows(evaluate: Evaluate) -> Exam:
    from mergekit_fair.evaluation.row_evaluator import RowsExam

    if evaluate.data is None or isinstance(evaluate.data, str):
        raise ConfigError("needs a data description", where="evaluate.data", got=evaluate.data)
    size = evaluate.batch_size
    return RowsExam(
        load_rows(evaluate.data),
        batch_size=size if isinstance(size, int) else _BATCH_SIZE,
        max_length=evaluate.max_length or _MAX_LENGTH,
        bf16=evaluate.bf16,
    )
