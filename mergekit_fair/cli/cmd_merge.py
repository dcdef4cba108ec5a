"""`mergekit-fair merge`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from mergekit_fair.cli.merge_flags import HelpWithHeadings, add_options
from mergekit_fair.cli.terminal import Terminal, echo, errors_alone, quiet_libraries
from mergekit_fair.errors import ConfigError
from mergekit_fair.merging.grid import lambda_points, parse_grid
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.to_disk import merge_grid, merge_to_folder
from mergekit_fair.sweep.worst_report import load_checked_recipe


@click.command("merge", cls=HelpWithHeadings)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace OUT if merge wrote it.")
@click.option(
    "--lambda",
    "grid",
    metavar="GRID",
    help="Write a model for each λ of a grid such as 0:1:0.1, to OUT/lambda_<λ>, in one pass.",
)
@click.option(
    "--allow-pickle", is_flag=True, help="Read pickled weights where there are no others."
)
@click.option(
    "--adapter/--no-adapter",
    default=False,
    help="Merge LoRA adapters to one adapter instead of a whole model.",
)
@click.option(
    "--hard-links",
    is_flag=True,
    help="Let the models of a grid share the files that no λ changes, read-only, where the file "
    "system cannot clone: changing one would change all.",
)
@click.option("--hash-inputs", is_flag=True, help="SHA-256 of every input file in the manifest.")
@add_options
def command(
    recipe: Path,
    out: Path,
    overwrite: bool,
    grid: str | None,
    allow_pickle: bool,
    adapter: bool,
    hard_links: bool,
    hash_inputs: bool,
    merge_options: Any,
) -> None:
    """Run one merge recipe (any mergekit method) and write the model to OUT.

    The recipe and the models are checked first; OUT appears complete or not at all. It holds
    merge_manifest.json: what was read and written, with digests (of a grid: xxh3 of the weights).

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
    if hard_links and grid is None:
        raise ConfigError(
            "is for the models of a grid, and this is one", where="--hard-links", fix="add --lambda"
        )
    settings = MergeSettings(overwrite, allow_pickle, hash_inputs, adapter, hard_links)
    progress = Terminal(quiet=merge_options.quiet)
    says_nothing = merge_options.quiet and merge_options.verbosity == 0
    with errors_alone() if says_nothing else nullcontext():
        checked = load_checked_recipe(recipe, progress)
        if grid is None:
            merge_to_folder(checked, out, options, settings, progress)
        else:
            points = lambda_points(checked, parse_grid(grid, "--lambda"))
            merge_grid(points, out, options, settings, progress)
    if not merge_options.quiet:
        echo(str(out))
