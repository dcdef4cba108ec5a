"""`mergekit-fair basis`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergekit_fair.cli.merge_flags import add_options
from mergekit_fair.cli.terminal import Terminal, echo, echo_json, quiet_libraries
from mergekit_fair.vectors.basis_fit import Method

if TYPE_CHECKING:
    from mergekit_fair.vectors.basis_files import Basis


@click.group("basis")
def command() -> None:
    """Keep T task vectors as M basis vectors, and merge from these.

    \b
    Example:
      mergekit-fair basis build runs/redditbias/addition.yml -o runs/redditbias/basis --size 2
      mergekit-fair basis apply runs/redditbias/basis runs/redditbias/addition.yml -o small.yml
      mergekit-fair merge small.yml runs/redditbias/merged
    """


@command.command("build")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder to make."
)
@click.option(
    "--size", type=click.IntRange(1), help="Basis vectors M, without the mean.  [default: T/2]"
)
@click.option(
    "--method",
    type=click.Choice([each.value for each in Method]),
    default=Method.AUTOENCODER.value,
    show_default=True,
    help="random and sample are controls.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace OUT if basis wrote it.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@add_options
def build(
    recipe: Path,
    out: Path,
    size: int | None,
    method: str,
    seed: int,
    overwrite: bool,
    as_json: bool,
    merge_options: Any,
) -> None:
    """Compress the task vectors of a recipe's models to M checkpoints θ₀ + s_m.

    Solved from the Gram matrix alone; the recipe's models beside its base are the tasks, whatever
    its method.

    \b
    Example:
      mergekit-fair basis build runs/redditbias/addition.yml -o runs/redditbias/basis --size 2
    """
    quiet_libraries(quiet=merge_options.quiet)
    from mergekit_fair.merging.program import MergeSettings
    from mergekit_fair.sweep.worst_report import load_checked_recipe
    from mergekit_fair.vectors.basis_files import build_basis

    merge_options.apply_global_options()
    is_quiet = merge_options.quiet or not sys.stderr.isatty()
    basis = build_basis(
        load_checked_recipe(recipe, Terminal(quiet=merge_options.quiet)),
        out,
        merge_options.model_copy(update={"quiet": is_quiet}),
        MergeSettings(overwrite=overwrite),
        Terminal(quiet=merge_options.quiet),
        method=Method(method),
        size=size,
        seed=seed,
    )
    _show(basis, as_json=as_json)


@command.command("info")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
def info(folder: Path, as_json: bool) -> None:
    """What a basis keeps, and what is lost.

    \b
    Example:
      mergekit-fair basis info runs/redditbias/basis
    """
    from mergekit_fair.vectors.basis_files import load_basis

    _show(load_basis(folder), as_json=as_json)


@command.command("apply")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="The recipe to write."
)
@click.option("--quiet", is_flag=True, help="Print nothing.")
def apply(folder: Path, recipe: Path, out: Path, quiet: bool) -> None:
    """Turn a recipe over the tasks into one over the basis; the tasks' models are not needed.

    Tasks are found by name (group, role or folder). The result is a plain recipe for `merge`,
    `check` and `sweep`.

    \b
    Example:
      mergekit-fair basis apply runs/redditbias/basis runs/redditbias/addition.yml -o small.yml
    """
    from mergekit_fair.files import require_no_other, write_atomic
    from mergekit_fair.sweep.worst_report import load_checked_recipe
    from mergekit_fair.vectors.basis_files import load_basis
    from mergekit_fair.vectors.basis_recipe import apply_basis

    read = load_checked_recipe(recipe, Terminal(quiet=quiet))
    text = apply_basis(load_basis(folder), folder, read)
    require_no_other({out: text})
    write_atomic(out, text)
    if not quiet:
        echo(str(out))


def _show(basis: Basis, *, as_json: bool) -> None:
    if as_json:
        echo_json(basis.model_dump(mode="json"))
        return
    from mergekit_fair.report.vectors_text import basis_text

    echo(basis_text(basis))
