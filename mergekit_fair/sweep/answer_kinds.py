"""What a sweep may ask of a task of classes or labels, known before anything is run.

Its figures are means and maxima over binary questions. What works on one such question, such as a
threshold on its scores, is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.evaluation.multi_predictions import AnyPredictions, MultiPredictions
from mergekit_fair.sweep.limits import LEVEL_MATCHED, READABLE, READABLE_OF_VIEWS
from mergekit_fair.sweep.sweep_config import Sweep


def require_kinds(sweep: Sweep, evaluator: Evaluator) -> None:
    """The rule reads metrics that its tasks have, and no stage needs answers by no or yes that the
    deciding task has not.

    Raises:
        ConfigError: a metric of another kind of task, a task that is not measured, or such a stage.
    """
    tasks = evaluator.labels(sweep.config.select.split)
    first = evaluator.tasks[0]
    for metric in sweep.config.select.metrics:
        task, _, name = metric.rpartition("/")
        rows = tasks[task or first]
        is_multi = isinstance(rows, MultiPredictions)
        allowed = READABLE_OF_VIEWS if is_multi else (*READABLE, *LEVEL_MATCHED)
        if name not in allowed:
            raise ConfigError(
                f"the rule reads a metric of another kind of task; {said_of(rows)}",
                where=f"{sweep.where}: select",
                got=metric,
                allowed=allowed,
                fix=_instead(name, allowed),
            )
    if not isinstance(tasks[first], MultiPredictions):
        return
    for key, fix in _binary_only(sweep):
        raise ConfigError(
            f"needs a deciding task that is answered by no or yes; {said_of(tasks[first])}",
            where=f"{sweep.where}: {key}",
            got=first,
            fix=fix,
        )


def _instead(name: str, allowed: Sequence[str]) -> str | None:
    """`use macro_dpd or worst_dpd` in place of `dpd`, and the other way round."""
    block, _, key = name.rpartition(".")
    own = [each for each in allowed if each.rpartition(".")[0] == block]
    ends = {each: each.rpartition(".")[2] for each in own}
    like = [n for n, end in ends.items() if end.endswith(f"_{key}") or key.endswith(f"_{end}")]
    return f"use {' or '.join(like)}" if like else None


def said_of(rows: AnyPredictions) -> str:
    """`speech has the classes hate, offensive, neither`."""
    if isinstance(rows, MultiPredictions):
        return f"{rows.task} has the {rows.kind} {', '.join(rows.names)}"
    return f"{rows.task} is answered by no or yes"


def _binary_only(sweep: Sweep) -> Iterator[tuple[str, str]]:
    """Key of the sweep file → what to do."""
    config = sweep.config
    if config.search is not None and config.search.method == "surrogate":
        yield "search.method: surrogate", "use method: optuna or random"
    if config.inject is not None and isinstance(config.inject.groups, str):
        yield f"inject.groups: {config.inject.groups}", "name the groups"
    if config.head is not None:
        yield "head", "leave it out"
    if config.thresholds is not None:
        yield "thresholds", "leave it out"
    for control in config.controls:
        if control != "random":
            yield f"controls: {control}", "leave it out"
