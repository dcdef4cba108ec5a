"""What both classifiers refuse: heads that softmax does not fit, and tasks without choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from mergekit_fair.errors import CheckpointError, ConfigError


def require_softmax(config: Any, where: object) -> None:
    """The head gives one probability distribution over two classes or more.

    Raises:
        CheckpointError: a regression, or labels that are independent of each other.
    """
    kind = getattr(config, "problem_type", None)
    if config.num_labels < 2 or kind not in (None, "single_label_classification"):
        raise CheckpointError(
            "its head gives no distribution over classes",
            where=where,
            got=kind if config.num_labels > 1 else f"{config.num_labels} class",
            allowed="two classes or more, of which a document has one",
        )


def only_choices(requests: Sequence[Any]) -> NoReturn:
    """Refuse requests that are not for the log-likelihood of a choice.

    Raises:
        ConfigError: always; names the task.
    """
    task = requests[0] if requests else None
    raise ConfigError(
        "a classifier answers multiple-choice tasks only",
        where=f"task {getattr(task, 'task_name', None)}",
        got=getattr(task, "request_type", None),
        allowed="output_type: multiple_choice",
        fix="leave the task out, or use a language model",
    )
