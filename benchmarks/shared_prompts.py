"""Choices of a causal model: a row for each, as lm-eval scores them, and a row for each document.

    python benchmarks/shared_prompts.py MODEL --data bbq.jsonl.gz     # 200 questions, three answers

MODEL is the folder of a causal model. Both ways in turn, `--rounds` times, on the same tokens, by
the same model with the same `batch_size`: seconds, their ratio, and how far the answers lie apart.
Beside it how far lm-eval's own move with batches of one row.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mergekit_fair.compat.lm_eval import loglikelihood_of_tokens, token_pairs
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.evaluation.lm.shared_prompts import SharedPrompts
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest

Answers = list[tuple[float, bool]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", required=True, help="of the task")
    parser.add_argument("--task", default="fair_bbq_religion")
    parser.add_argument("--limit", type=int, default=200, help="documents")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    for dtype in ("float32", "bfloat16"):
        measure(given, dtype)


def measure(given: argparse.Namespace, dtype: str) -> None:
    request = EvaluationRequest(
        tasks=(given.task,), data=given.data, limit=given.limit, model_args={"dtype": dtype}
    )
    evaluator = Evaluator(request)
    lm = evaluator.open(given.model, "cpu").lm
    (task,) = evaluator.prepared("report").tasks.values()
    rows = [row for row in task.requests for _ in row]
    pairs = token_pairs(lm, task.instances)
    owners = [row[0].doc_id for row in rows]
    shared = SharedPrompts(lm, pairs, owners)
    rounds = [
        (timed(lambda: loglikelihood_of_tokens(lm, pairs)), timed(shared.answers))
        for _ in range(given.rounds)
    ]
    seconds = [tuple(each[0] for each in both) for both in rounds]
    (_, theirs), (_, ours) = rounds[0]
    apart, together = (statistics.median(column) for column in zip(*seconds, strict=True))
    ratio = statistics.median(one / other for one, other in seconds)
    print(
        f"\n{dtype}, {len(task.docs)} documents, {len(pairs)} choices, batch size {lm.batch_size}"
    )
    print(f"a row each {apart:.1f} s, a row a document {together:.1f} s: {ratio:.2f} times faster")
    print(f"  apart by {differences(theirs, ours, owners)}")
    lm.batch_size_per_gpu = 1
    alone = loglikelihood_of_tokens(lm, pairs)
    print(f"  lm-eval with batches of one: {differences(theirs, alone, owners)}", flush=True)


def timed(run: Callable[[], Any]) -> tuple[float, Answers]:
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def differences(one: Answers, other: Answers, owners: list[Any]) -> str:
    first, second = (np.array([answer[0] for answer in each]) for each in (one, other))
    ends = np.cumsum([len(list(group)) for _, group in itertools.groupby(owners)])[:-1]
    chosen = zip(np.split(first, ends), np.split(second, ends), strict=True)
    changed = sum(int(a.argmax() != b.argmax()) for a, b in chosen)
    off = np.abs(first - second)
    return f"{off.max():.1e} at most, {off.mean():.1e} in the mean; {changed} other answers"


if __name__ == "__main__":
    main()
