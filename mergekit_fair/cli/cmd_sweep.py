"""`mergekit-fair sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergekit_fair.cli.cluster_options import cluster_of, cluster_options
from mergekit_fair.cli.terminal import echo, echo_json, terminal_width

if TYPE_CHECKING:
    from mergekit_fair.progress import Progress
    from mergekit_fair.ray_pool import Cluster
    from mergekit_fair.sweep.point_runner import ExecutorFactory
    from mergekit_fair.sweep.results import SweepResults
    from mergekit_fair.sweep.sweep_config import Sweep


KEEPS_THE_BASELINE = 3  # the exit code of a sweep that keeps the baseline


@click.command("sweep")
@click.argument("sweep_file", metavar="SWEEP", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the plan, and what of it OUT already holds; run two batches for the time.",
)
@cluster_options
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Start no further point after so many minutes; choose among what is measured.",
)
@click.option("--trust-remote-code", is_flag=True, help="Run code that models bring along.")
@click.option(
    "--write-best",
    is_flag=True,
    help="Where no point is chosen, write the merge that comes nearest to it, marked so.",
)
@click.option("--no-write", is_flag=True, help="Write no merged model, only its recipe.")
@click.option("--json", "as_json", is_flag=True, help="Print results.json instead of tables.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(
    sweep_file: Path,
    out: Path,
    dry_run: bool,
    no_write: bool,
    as_json: bool,
    quiet: bool,
    max_minutes: float | None,
    trust_remote_code: bool,
    write_best: bool,
    **cluster: Any,
) -> None:
    """Measure points of a grid or search, choose on validation rows, report once on untouched rows.

    Writes points.jsonl, results.csv, results.json, report.html, pictures, selected/recipe.yml and
    selected/model into OUT. Where no merge satisfies the rule, or all that do are worse than the
    baseline, nothing is selected: the baseline is kept, and report rows stay closed.

    Exit codes: 0, a point is chosen; 3, none is, and everything is written; 2, bad input; 1, a
    failure. The same command again goes on where it was killed, or where
    --max-minutes were spent: then without, or with more, it ends as if it had never stopped.

    \b
    Example:
      mergekit-fair sweep recipes/adult_sex/sweep.yml -o runs/adult_sex/sweep
      mergekit-fair sweep sweep.yml -o out --max-minutes 30 || test $? = 3
      mergekit-fair sweep sweep.yml -o out --executor ray --workers 4 --gpus 1
    """
    from mergekit_fair.cli.terminal import Terminal, quiet_libraries

    quiet_libraries(quiet=quiet)
    from mergekit_fair.sweep.sweep_config import load_sweep

    sweep = load_sweep(sweep_file)
    if trust_remote_code:  # as the file can say it, so that points and results tell
        sweep.config.evaluate.model_args["trust_remote_code"] = True
    progress = Terminal(quiet=quiet)
    for warning in sweep.recipe.warnings:
        progress.say(f"warning: {warning}")
    if dry_run:
        from mergekit_fair.report.outputs import plan_text
        from mergekit_fair.sweep.forecast import plan_sweep

        plan = plan_sweep(sweep, progress, out)
        if as_json:
            echo_json(plan.to_dict())
        else:
            echo(plan_text(plan))
        return
    on_ray = cluster_of(**cluster)
    make = None if on_ray is None else _on_ray(on_ray)
    results = sweep_and_report(
        sweep,
        out,
        progress,
        write_model=not no_write,
        write_best=write_best,
        make=make,
        max_minutes=max_minutes,
    )
    if as_json:
        echo_json(results.sealed())
    else:
        from mergekit_fair.report.outputs import summary_text

        echo(summary_text(results, terminal_width()))
        echo(f"\n{out}")
    exit_by_choice(results)


def _on_ray(cluster: Cluster) -> Any:
    """What makes the executor, once there is something to run."""
    from mergekit_fair.sweep.ray_executor import RayExecutor

    def make(sweep: Any, evaluator: Any, base: str, progress: Any) -> Any:
        del evaluator  # every worker opens its own
        return RayExecutor(sweep, base, cluster, progress)

    return make


def sweep_and_report(
    sweep: Sweep,
    out: Path,
    progress: Progress,
    *,
    write_model: bool,
    write_best: bool = False,
    make: ExecutorFactory | None = None,
    max_minutes: float | None = None,
) -> SweepResults:
    """Run a sweep, then write its tables, pictures and the selected model."""
    from mergekit_fair.report.outputs import write_outputs
    from mergekit_fair.sweep.point_runner import LocalExecutor, TimeBudget
    from mergekit_fair.sweep.runner import run_sweep
    from mergekit_fair.sweep.selected import FOLDER, MODEL, RECIPE, is_merged, put_aside

    budget = TimeBudget(max_minutes)
    results = run_sweep(sweep, out, progress, make or LocalExecutor, budget, write_best=write_best)
    write_outputs(results, out, progress)
    selected = out / FOLDER
    if not is_merged(selected):
        if write_model and (selected / RECIPE).is_file():
            _write_model(selected, progress, trusts=sweep.config.evaluate.trusts_remote_code)
        else:
            put_aside(selected / MODEL, progress)
    return results


def exit_by_choice(results: SweepResults) -> None:
    """Exit with code 3, after everything is written and shown, where no point is chosen."""
    if results.selected.id is None:
        raise click.exceptions.Exit(KEEPS_THE_BASELINE)


def _write_model(folder: Path, progress: Progress, *, trusts: bool) -> None:
    """Merge selected/recipe.yml into selected/model: an adapter, if it is made of nothing else."""
    from mergekit_fair.merging.adapter_merge import fits_adapter
    from mergekit_fair.merging.merge_options import MergeOptions
    from mergekit_fair.merging.program import MergeSettings
    from mergekit_fair.merging.recipe import Recipe
    from mergekit_fair.merging.to_disk import merge_to_folder
    from mergekit_fair.sweep.selected import MODEL, RECIPE

    recipe, model = Recipe.load(folder / RECIPE), folder / MODEL
    options: Any = MergeOptions(quiet=True, trust_remote_code=trusts)
    as_adapter = fits_adapter(recipe, options)
    merge_to_folder(recipe, model, options, MergeSettings(overwrite=True, as_adapter=as_adapter))
    progress.say(f"merged {'adapter' if as_adapter else 'model'}: {model}")
