"""`mergekit-fair merge`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from mergekit.options import PrettyPrintHelp, add_merge_options

from mergekit_fair.cli.terminal import quiet_libraries
from mergekit_fair.engine.merge import merge_to_folder
from mergekit_fair.recipe.recipe import Recipe


@click.command("merge", cls=PrettyPrintHelp)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@add_merge_options
def command(recipe: Path, out: Path, overwrite: bool, merge_options: Any) -> None:
    """Run one merge recipe (any mergekit method) and write the model to OUT.

    The recipe and the models are checked first; OUT appears complete or not at all.

    \b
    Example:
      mergekit-fair merge runs/adult_sex/addition.yml runs/adult_sex/merged
    """
    if merge_options.verbosity == 0:
        quiet_libraries()
    merge_options.apply_global_options()
    # mergekit draws its bars into files and pipes, too.
    is_quiet = merge_options.quiet or not sys.stderr.isatty()
    options = merge_options.model_copy(update={"quiet": is_quiet})
    merge_to_folder(Recipe.load(recipe), out, options, overwrite=overwrite)
    if not merge_options.quiet:
        click.echo(str(out))
