"""Task suites, models that answer from the document, and small files."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

EVALS = Path(__file__).parents[2] / "evals"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """lm-eval counts documents on the screen."""
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


SMALL = {"min_group_size": 1}  # groups of a few documents


@pytest.fixture(scope="session")
def evaluate() -> Callable[..., dict[str, Any]]:
    """`evaluate(task, choose, metadata, **options)`: lm-eval's results, with samples.

    choose: document → the log-probabilities of its choices, or whole answers.
    """
    import lm_eval
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    class Model(LM):
        MULTIMODAL = True

        def __init__(self, choose: Callable[[dict[str, Any]], list[Any]]) -> None:
            super().__init__()
            self.choose = choose

        def loglikelihood(self, requests: Any, **options: Any) -> list[Any]:
            del options
            answers = [self.choose(request.doc)[request.idx] for request in requests]
            return [each if isinstance(each, tuple) else (each, False) for each in answers]

        def loglikelihood_rolling(self, requests: Any, **options: Any) -> Any:
            raise NotImplementedError

        def generate_until(self, requests: Any, **options: Any) -> list[str]:
            """The letter of the likeliest choice."""
            del options
            chosen = [self.choose(request.doc) for request in requests]
            return ["ABCD"[values.index(max(values))] for values in chosen]

    def run(
        task: str,
        choose: Callable[[dict[str, Any]], list[Any]],
        metadata: dict[str, Any] | None = None,
        folder: Path = EVALS,
        **options: Any,
    ) -> dict[str, Any]:
        metadata = {**SMALL, **(metadata or {})}
        manager = TaskManager(include_path=folder, include_defaults=False, metadata=metadata)
        options = {"bootstrap_iters": 0, **options}
        found = lm_eval.simple_evaluate(
            Model(choose), tasks=[task], task_manager=manager, **options
        )
        assert found is not None
        return found

    return run


@pytest.fixture(scope="session")
def load() -> Callable[..., Any]:
    """`load(task, **metadata)`: the task itself."""
    tasks = importlib.import_module("lm_eval.tasks")

    def run(task: str, folder: Path = EVALS, **metadata: Any) -> Any:
        metadata = {**SMALL, **metadata}
        manager = tasks.TaskManager(include_path=folder, include_defaults=False, metadata=metadata)
        return manager.load(task)["tasks"][task]

    return run
