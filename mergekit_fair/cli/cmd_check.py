"""`mergekit-fair check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mergekit_fair.cli.terminal import Terminal, echo, echo_json, quiet_libraries
from mergekit_fair.errors import FairError


@click.command("check")
@click.argument("what", metavar="RECIPE|MODEL", type=click.Path(path_type=Path))
@click.option("--allow-pickle", is_flag=True, help="As for `merge`.")
@click.option("--trust-remote-code", is_flag=True, help="As for `merge`.")
@click.option("--device", default="cpu", show_default=True, help="As for `merge`.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
@click.option("--quiet", is_flag=True, help="Say nothing unless something is wrong.")
def command(
    what: Path,
    allow_pickle: bool,
    trust_remote_code: bool,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check a recipe and its models without merging, or a merged model against its manifest.

    For a recipe: keys, groups, models, shapes, heads, and whether the result would load whole;
    then what the merge would read and write. For a folder that `merge` wrote: the SHA-256 of its
    files.

    \b
    Example:
      mergekit-fair check runs/adult_sex/addition.yml
    """
    quiet_libraries(quiet=quiet)
    if what.is_dir():
        from mergekit_fair.merging.model_files import verify

        manifest = verify(what)
        if not quiet:
            text = f"{what}: all {len(manifest['files'])} files are what was merged"
            echo(json.dumps(manifest, indent=2) if as_json else text)
        return
    from mergekit.options import MergeOptions

    from mergekit_fair.merging.dry_run import check_merge
    from mergekit_fair.merging.program import MergeSettings
    from mergekit_fair.merging.recipe import Recipe

    options: Any = MergeOptions(quiet=True, device=device, trust_remote_code=trust_remote_code)
    settings = MergeSettings(allow_pickle=allow_pickle)
    recipe, progress = Recipe.load(what), Terminal(quiet=quiet or as_json)
    try:
        dry_run = check_merge(recipe, options, settings, progress)
    except FairError:
        for warning in recipe.warnings:  # what is wrong may be what mergekit would ignore
            progress.say(f"warning: {warning}")
        raise
    if as_json:
        echo_json(dry_run)
    elif not quiet:
        from mergekit_fair.report.vectors_text import check_text

        echo(check_text(dry_run))
