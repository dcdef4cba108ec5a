"""`mergekit-fair grid`."""

from __future__ import annotations

from pathlib import Path

import click

from mergekit_fair.cli.terminal import echo


@click.command("grid")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--lambda", "grid", metavar="GRID", required=True, help="START:STOP:STEP or one number."
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder to make."
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if grid wrote it.")
@click.option("--quiet", is_flag=True, help="Print nothing.")
def command(recipe: Path, grid: str, out: Path, overwrite: bool, quiet: bool) -> None:
    """Write a plain recipe file for every λ of a grid, with a manifest.

    Each file runs with `mergekit-fair merge` and with `mergekit-fair exec mergekit-yaml`. For the
    models themselves, in one pass, use `mergekit-fair merge RECIPE OUT --lambda GRID`.

    \b
    Example:
      mergekit-fair grid runs/adult_sex/addition.yml --lambda 0:1:0.1 -o runs/adult_sex/grid
    """
    from mergekit_fair.cli.terminal import Terminal, quiet_libraries

    quiet_libraries(quiet=quiet)
    from mergekit_fair.merging.grid import parse_grid, write_grid
    from mergekit_fair.sweep.worst_report import load_checked_recipe

    read = load_checked_recipe(recipe, Terminal(quiet=quiet))
    for warning in read.warnings:
        Terminal(quiet=quiet).say(f"warning: {warning}")
    files = write_grid(read, parse_grid(grid, "--lambda"), out, overwrite=overwrite)
    if not quiet:
        echo("\n".join(map(str, files)))
