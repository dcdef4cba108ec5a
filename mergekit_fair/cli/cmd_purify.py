"""`mergekit-fair purify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergekit_fair.cli.terminal import Terminal, echo, echo_json, quiet_libraries

if TYPE_CHECKING:
    from mergekit_fair.purify.purify_results import Purification


@click.command("purify")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(), help="A data description (.yml).")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder.")
@click.option("--keep", type=float, help="Share of a layer's full rank to keep.  [default: 0.97]")
@click.option("--rank", type=int, help="Rank of every layer that has as much, in its place.")
@click.option(
    "--allocate",
    type=click.Choice(("uniform", "models", "layers")),
    default="uniform",
    show_default=True,
    help="Who shares a budget of ranks: nobody; the models, in each layer (as published); the "
    "layers, in each model.",
)
@click.option(
    "--of",
    type=click.Choice(("weights", "vectors")),
    default="weights",
    show_default=True,
    help="What is cut: fine-tuned weights (as published), or their difference from the base.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    help="Train rows of each model.  [default: 256, or all that there are]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of these.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Rows of a forward pass.",
)
@click.option("--max-length", type=click.IntRange(min=1), help="Tokens kept of a text.")
@click.option("--device", default="auto", show_default=True, help="torch device.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that a model brings along.")
@click.option("--overwrite", is_flag=True, help="Replace what purify has written to OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print purify.json.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(**options: Any) -> None:
    """Purify the models of a recipe (PAVE): each linear layer keeps what its inputs use most.

    Labels are not used: the inputs of each layer on train rows give C, and the layer's weights W
    become [W C]_r C⁻¹, of rank r. Writes OUT/NAME/ for every model, OUT/recipe.yml over these, and
    OUT/purify.json (rank, energy and error of every layer).

    \b
    Example:
      mergekit-fair purify runs/redditbias/addition.yml --data data.yml -o runs/pure
      mergekit-fair merge runs/pure/recipe.yml runs/redditbias/merged
    """
    quiet_libraries(quiet=options["quiet"])
    from mergekit_fair.data import load_spec
    from mergekit_fair.purify.purify_run import PurifySettings, run_purify
    from mergekit_fair.sweep.worst_report import load_checked_recipe

    if options["keep"] is None and options["rank"] is None:
        options["keep"] = PurifySettings.keep
    names = ("keep", "rank", "allocate", "of", "rows", "seed", "batch_size", "max_length")
    settings = PurifySettings(
        **{name: options[name] for name in (*names, "trust_remote_code")},
    )
    progress = Terminal(quiet=options["quiet"])
    result = run_purify(
        load_checked_recipe(options["recipe"], progress),
        load_spec(options["data"]),
        options["out"],
        settings,
        progress,
        device=options["device"],
        overwrite=options["overwrite"],
    )
    if options["as_json"]:
        echo_json(result.to_dict())
    else:
        _show(result)


def _show(result: Purification) -> None:
    from mergekit_fair.report.vectors_text import purification_text

    echo(purification_text(result))
