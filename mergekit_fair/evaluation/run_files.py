"""The files of a run: evaluations with their digests, samples, and lm-eval's own results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mergekit_fair.checkpoints.fingerprint import ModelFingerprint
from mergekit_fair.evaluation.eval_folder import (
    RESULTS,
    results_text,
    rows_name,
    rows_table,
    samples_name,
)
from mergekit_fair.evaluation.eval_run import EvaluationRun
from mergekit_fair.evaluation.evaluate import AnyEvaluation, FairEvaluation
from mergekit_fair.evaluation.evidence import evaluation_text, fingerprinted
from mergekit_fair.fairness import MetricSettings


def run_files(
    finished: EvaluationRun,
    evaluations: Mapping[str, AnyEvaluation],
    prints: Mapping[str, ModelFingerprint],
    settings: MetricSettings,
    *,
    rows: bool = False,
    written: Mapping[str, str] | None = None,
) -> tuple[dict[str, AnyEvaluation], dict[str, str]]:
    """Evaluations that say what they are of, and the content of all files by name.

    Args:
        finished: the run.
        evaluations: from `measure_run`.
        prints: from `prints_of_run`.
        settings: by which it was measured.
        rows: also a table of every task's rows.
        written: name → content of the files of samples, where they were read from such.
    """
    files = dict(written or {}) or {
        samples_name(task): lines_of(found) for task, found in finished.samples.items()
    }
    known = {
        task: fingerprinted(evaluation, files[samples_name(task)], prints, settings)
        for task, evaluation in evaluations.items()
    }
    for task, evaluation in known.items():
        files[f"{task}.json"] = evaluation_text(evaluation)
        if rows and isinstance(evaluation, FairEvaluation):
            files[rows_name(task)] = rows_table(finished.samples[task], finished.split)
    return known, {**files, RESULTS: results_text(finished.results)}


def lines_of(samples: Sequence[Mapping[str, Any]]) -> str:
    """lm-eval's samples as JSON lines in the form of its own sample files."""
    from lm_eval.utils import handle_non_serializable, sanitize_list

    lines = []
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
        lines.append(json.dumps(line, default=handle_non_serializable, ensure_ascii=False))
    return "\n".join(lines) + "\n"
