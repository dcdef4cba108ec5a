"""`mergekit-fair compare`."""

from __future__ import annotations

from pathlib import Path

import click

from mergekit_fair.cli.reading_options import reading_options
from mergekit_fair.cli.terminal import echo
from mergekit_fair.escaping import one_line


@click.command("compare")
@click.argument("baseline", metavar="A", type=click.Path(exists=True, path_type=Path))
@click.argument(
    "others", metavar="B...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
)
@click.option("--task", "tasks", multiple=True, help="Only this task; may be repeated.")
@reading_options
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="Only the tables.")
def command(
    baseline: Path,
    others: tuple[Path, ...],
    tasks: tuple[str, ...],
    reference: str,
    confidence: float,
    min_group_size: int,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare evaluations of models on the same rows: every B minus A, paired, with intervals.

    A and B are folders that `eval` or `lm_eval --log_samples` has written. `!` marks what may be
    claimed: corrected for the number of models, tasks and metrics (Holm), and of a gap what holds
    at equal selection rates, too.

    \b
    Example:
      mergekit-fair compare runs/adult_sex/eval/fft runs/adult_sex/eval/merged
    """
    from mergekit_fair.cli.terminal import echo_json
    from mergekit_fair.evaluation.compare_runs import compare_folders
    from mergekit_fair.fairness import MetricSettings
    from mergekit_fair.report.comparison_text import (
        benchmark_comparison_text,
        comparison_text,
        marks_text,
        multi_comparison_text,
    )
    from mergekit_fair.report.verdict_text import MARKED

    settings = MetricSettings(reference, confidence, min_group_size, seed=seed)
    comparisons = compare_folders(baseline, others, settings, tasks)
    if as_json:
        echo_json(comparisons)
        return
    for task, compared in comparisons.items():
        shown = compared["models"], compared["baseline"], compared["n"]
        if "views" in compared:
            echo(multi_comparison_text(task, compared))
        elif compared["marks"]:
            echo(comparison_text(task, *shown))
            echo(marks_text(compared["marks"]))
        else:
            echo(benchmark_comparison_text(task, *shown))
        for text in (*compared["warnings"], *compared["notes"]):
            echo(one_line(f"warning: {text}"))
    if not quiet:
        has_levels = any(each["marks"] and "views" not in each for each in comparisons.values())
        levels = "acc=, dpd=, eod=: at the selection rate of A, on these rows; " * has_levels
        echo(f"[low, high]: paired {confidence * 100:g} % intervals; {levels}!: {MARKED}")
