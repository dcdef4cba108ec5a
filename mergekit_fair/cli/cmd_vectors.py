"""`mergekit-fair vectors`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from mergekit_fair.cli.terminal import Terminal, echo, echo_json, quiet_libraries
from mergekit_fair.escaping import in_json


@click.command("vectors")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write vectors.json and pictures to this folder.",
)
@click.option(
    "--sweep",
    type=click.Path(path_type=Path, file_okay=False),
    help="A finished sweep over RECIPE: bounds of DPD and EOD beside what it has measured, and the "
    "disentanglement error of points whose vectors it has measured alone, too.",
)
@click.option("--allow-pickle", is_flag=True, help="As for `merge`.")
@click.option("--trust-remote-code", is_flag=True, help="As for `merge`.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
@click.option("--quiet", is_flag=True, help="No progress, and no table if there is -o.")
def command(
    recipe: Path,
    out: Path | None,
    sweep: Path | None,
    allow_pickle: bool,
    trust_remote_code: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure the task vectors of a recipe: norms, cosines, sign conflict, overlap, displacement.

    One pass over the models' files; nothing is merged and no data are needed. For an injection
    recipe, the candidates are put in the order in which to try them: only an order, because
    weights do not say whom a step harms. With --sweep, nothing is run either: its scores are read.

    \b
    Example:
      mergekit-fair vectors runs/adult_sex/addition.yml -o runs/adult_sex/vectors
      mergekit-fair vectors runs/adult_sex/addition.yml --sweep runs/adult_sex/lambda
    """
    quiet_libraries(quiet=quiet)
    from mergekit_fair.files import made_folder, require_writable
    from mergekit_fair.merging.merge_options import MergeOptions
    from mergekit_fair.report.figures import require_plotting
    from mergekit_fair.report.vectors_text import vectors_table
    from mergekit_fair.sweep.worst_report import load_checked_recipe
    from mergekit_fair.vectors.recipe_vectors import recipe_vectors

    if out is not None:
        require_plotting()
    options: Any = MergeOptions(quiet=True, trust_remote_code=trust_remote_code)
    progress = Terminal(quiet=quiet or as_json)
    with nullcontext() if out is None else made_folder(out):
        if out is not None:
            require_writable(out)
        read = load_checked_recipe(recipe, progress)
        measured = recipe_vectors(read, options, progress, allow_pickle=allow_pickle)
        vectors = measured.to_dict()
        if sweep is not None:
            from mergekit_fair.sweep.bounds import sweep_bounds

            vectors["bounds"] = sweep_bounds(sweep, read.resolved(), measured).to_dict()
        if out is not None:
            _write(vectors, out, progress)
    if as_json:
        echo_json(vectors)
    elif not (quiet and out is not None):
        echo(vectors_table(vectors))
        if "bounds" in vectors:
            from mergekit_fair.report.bounds_report import bounds_text

            echo("\n" + bounds_text(vectors["bounds"]))


def _write(vectors: dict[str, Any], out: Path, progress: Terminal) -> None:
    from mergekit_fair.files import require_no_other, write_together
    from mergekit_fair.report.bounds_report import bounds_pictures
    from mergekit_fair.report.figures import vectors_pictures

    text = in_json(vectors, indent=2) + "\n"
    require_no_other({out / "vectors.json": text})
    files: dict[str, bytes | str] = {"vectors.json": text, **vectors_pictures(vectors)}
    if "bounds" in vectors:
        files |= bounds_pictures(vectors["bounds"])
    write_together({out / name: content for name, content in files.items()})
    for name in files:
        progress.say(str(out / name))
