"""`mergekit-fair sweep`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mergekit_fair.errors import ConfigError, SweepError


@click.command("sweep")
@click.argument("sweep_file", metavar="SWEEP", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--dry-run", is_flag=True, help="Print the plan, measure nothing.")
@click.option("--no-write", is_flag=True, help="Write no merged model, only its recipe.")
@click.option("--json", "as_json", is_flag=True, help="Print results.json instead of tables.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(
    sweep_file: Path, out: Path, dry_run: bool, no_write: bool, as_json: bool, quiet: bool
) -> None:
    """Measure every point of a grid, choose on validation rows, report once on untouched rows.

    Writes points.jsonl, results.csv, results.json, curves and pareto pictures, selected/recipe.yml
    and selected/model into OUT. The same command again goes on where it was killed.

    \b
    Example:
      mergekit-fair sweep recipes/adult_sex/sweep.yml -o runs/adult_sex/sweep
    """
    from mergekit_fair.cli.terminal import Terminal, quiet_libraries

    quiet_libraries()
    from mergekit_fair.sweep.config import load_sweep
    from mergekit_fair.sweep.run import plan_summary

    sweep = load_sweep(sweep_file)
    if dry_run:
        summary = plan_summary(sweep)
        click.echo(json.dumps(summary, indent=2, ensure_ascii=False) if as_json else _plan(summary))
        return
    results = sweep_and_report(sweep, out, Terminal(quiet=quiet), write_model=not no_write)
    if as_json:
        click.echo(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        click.echo(summary_text(results))
        click.echo(f"\n{out}")
    require_choice(results, out)


def sweep_and_report(sweep: Any, out: Path, progress: Any, *, write_model: bool) -> dict[str, Any]:
    """Run a sweep, then write its tables, pictures and the selected model."""
    from mergekit_fair.engine.files import write_atomic
    from mergekit_fair.report.pictures import draw
    from mergekit_fair.report.table import results_csv
    from mergekit_fair.sweep.run import run_sweep

    results = run_sweep(sweep, out, progress)
    write_atomic(out / "results.csv", results_csv(results))
    if write_model and results["selected"]["id"] is not None:
        _write_model(out / "selected", progress)
    elif (out / "selected" / "model").is_dir():
        progress.say(f"{out / 'selected' / 'model'}: of an earlier run, not of this choice")
    try:
        draw(results, out)
    except ConfigError as error:  # hours of measuring must not end in a missing extra
        progress.say(f"no pictures: {error}")
    return results


def require_choice(results: dict[str, Any], out: Path) -> None:
    """Fail, after everything is written and shown, when no point could be chosen."""
    if results["selected"]["id"] is None:
        raise SweepError(
            results["selected"]["reason"],
            where=out,
            fix="train longer or use another grid; results.csv has every point",
        )


def summary_text(results: dict[str, Any]) -> str:
    """The tables of a sweep as text."""
    from mergekit_fair.report.table import comparison_table, points_table, verdict

    chosen, level = results["selected"], results["level"]
    parts = [
        f"Validation rows of {results['task']} ([low, high]: {results['confidence']:.4g} "
        "confidence intervals; DPD=, EOD=: at the selection rate of "
        f"{level['to']}, {level['rate']:.3f})",
        points_table(results["points"], chosen=chosen["id"]),
        f"\nRule: {chosen['rule']}.\nChosen: {chosen['reason']}.",
        "\nReport rows, opened once for the chosen model and the baselines",
        points_table(results["report"], chosen=chosen["id"]),
    ]
    if results["comparison"]:
        comparison = results["comparison"]
        parts += ["", comparison_table(comparison), verdict(comparison, results["confidence"])]
    if results["report_opened_for_another_selection"]:
        parts.append(
            "\nwarning: the report split was opened before for another choice; its figures are "
            "no longer untouched."
        )
    return "\n".join(parts)


def _write_model(folder: Path, progress: Any) -> None:
    """Merge selected/recipe.yml into selected/model, unless exactly that is there."""
    from mergekit.options import MergeOptions

    from mergekit_fair.engine.merge import merge_to_folder
    from mergekit_fair.engine.prepare import Settings
    from mergekit_fair.recipe.recipe import Recipe

    recipe, model = folder / "recipe.yml", folder / "model"
    written = model / "mergekit_config.yml"
    if written.is_file() and written.read_text() == recipe.read_text():
        return
    merge_to_folder(Recipe.load(recipe), model, MergeOptions(quiet=True), Settings(overwrite=True))
    progress.say(f"merged model: {model}")


def _plan(summary: dict[str, Any]) -> str:
    lines = [
        f"{len(summary['points'])} points"
        + (
            f" and {summary['injection_points_of_the_worst_group']} of the worst group, named once "
            "the baseline is measured"
            if summary["injection_points_of_the_worst_group"]
            else ""
        ),
        *(f"  {point['id']}  {point['kind']:<9} {point['label']}" for point in summary["points"]),
        f"{len(summary['models'])} models, {summary['bytes_read'] / 1e6:,.0f} MB",
        *(f"  {model}" for model in summary["models"]),
        f"{summary['rows']['validation']} validation rows a point, "
        f"{summary['rows']['report']} report rows for the chosen point and the baselines",
        *(f"warning: {text}" for text in summary["warnings"]),
    ]
    return "\n".join(lines)
