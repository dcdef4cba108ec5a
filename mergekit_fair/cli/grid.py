"""`mergekit-fair grid`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from mergekit.options import PrettyPrintHelp

from mergekit_fair.cli.options import merge_options as mergekit_options
from mergekit_fair.cli.terminal import Terminal, quiet_libraries
from mergekit_fair.engine.grid import write_grid
from mergekit_fair.engine.prepare import Settings
from mergekit_fair.recipe.grid import parse_grid
from mergekit_fair.recipe.recipe import Recipe


@click.command("grid", cls=PrettyPrintHelp)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--lambda", "grid", metavar="GRID", required=True, help="START:STOP:STEP or one number."
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder to make."
)
@click.option("--write-models", is_flag=True, help="Merge all points too, to OUT/models.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@mergekit_options
def command(
    recipe: Path, grid: str, out: Path, write_models: bool, overwrite: bool, merge_options: Any
) -> None:
    """Write a plain recipe file for every λ of a grid, with a manifest.

    Each file runs with `mergekit-fair merge` and with `mergekit-fair exec mergekit-yaml`.

    \b
    Example:
      mergekit-fair grid runs/adult_sex/addition.yml --lambda 0:1:0.1 -o runs/adult_sex/grid
    """
    if merge_options.verbosity == 0:
        quiet_libraries()
    merge_options.apply_global_options()
    is_quiet = merge_options.quiet or not sys.stderr.isatty()
    options = merge_options.model_copy(update={"quiet": is_quiet})
    files = write_grid(
        Recipe.load(recipe),
        parse_grid(grid, "--lambda"),
        out,
        options,
        Settings(overwrite=overwrite),
        Terminal(quiet=merge_options.quiet),
        write_models=write_models,
    )
    if not merge_options.quiet:
        for file in files:
            click.echo(str(file))
