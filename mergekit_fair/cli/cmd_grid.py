"""`mergekit-fair grid`."""

from __future__ import annotations

from pathlib import Path

import click

from mergekit_fair.cli.terminal import echo


@click.command("grid")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--lambda", "grid", metavar="GRID", help="START:STOP:STEP or one number.")
@click.option(
    "--set",
    "settings",
    metavar="NAME=GRID",
    multiple=True,
    help="Any number by its name: density=0.2,0.5, weight.Female=0:1:0.5, t[2]=0.3. Several make "
    "all combinations.",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder to make."
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if grid wrote it.")
@click.option("--quiet", is_flag=True, help="Print nothing.")
def command(
    recipe: Path,
    grid: str | None,
    settings: tuple[str, ...],
    out: Path,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Write a plain recipe file for every point of a grid, with a manifest.

    Each file runs with `mergekit-fair merge` and with `mergekit-fair exec mergekit-yaml`. For the
    models of a grid of λ, in one pass, use `mergekit-fair merge RECIPE OUT --lambda GRID`.

    \b
    Example:
      mergekit-fair grid runs/adult_sex/addition.yml --lambda 0:1:0.1 -o runs/adult_sex/grid
      mergekit-fair grid ties.yml --set density=0.2,0.5 --set lambda=0.5,1 -o grid
    """
    from mergekit_fair.cli.terminal import Terminal, quiet_libraries

    quiet_libraries(quiet=quiet)
    from mergekit_fair.errors import ConfigError
    from mergekit_fair.merging.grid import parse_grid, parse_setting, write_grid
    from mergekit_fair.sweep.worst_report import load_checked_recipe

    points = {} if grid is None else {"lambda": parse_grid(grid, "--lambda")}
    for text in settings:
        name, values = parse_setting(text, "--set")
        if name in points:
            raise ConfigError("is given twice", where="--set", got=name)
        points[name] = values
    if not points:
        raise ConfigError("give --lambda GRID or --set NAME=GRID", where="grid")
    read = load_checked_recipe(recipe, Terminal(quiet=quiet))
    for warning in read.warnings:
        Terminal(quiet=quiet).say(f"warning: {warning}")
    files = write_grid(read, points, out, overwrite=overwrite)
    if not quiet:
        echo("\n".join(map(str, files)))
