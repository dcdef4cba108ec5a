"""`mergekit-fair check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mergekit_fair.cli.terminal import Terminal, echo, echo_json, quiet_libraries
from mergekit_fair.errors import CheckpointError, FairError


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
    files, and one digest of those that decide what the model answers.

    \b
    Example:
      mergekit-fair check runs/adult_sex/addition.yml
    """
    quiet_libraries(quiet=quiet)
    if what.is_dir():
        _check_model(what, Terminal(quiet=quiet or as_json), as_json=as_json, quiet=quiet)
        return
    from mergekit_fair.merging.dry_run import check_merge
    from mergekit_fair.merging.merge_options import MergeOptions
    from mergekit_fair.merging.program import MergeSettings
    from mergekit_fair.sweep.worst_report import load_checked_recipe

    options: Any = MergeOptions(quiet=True, device=device, trust_remote_code=trust_remote_code)
    settings = MergeSettings(allow_pickle=allow_pickle)
    progress = Terminal(quiet=quiet or as_json)
    recipe = load_checked_recipe(what, progress)
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


def _check_model(folder: Path, progress: Terminal, *, as_json: bool, quiet: bool) -> None:
    """Compare a merged model with its manifest; what lies beside it is named, or refused where the
    model would read it."""
    from mergekit_fair.checkpoints.fingerprint import model_fingerprint
    from mergekit_fair.merging.manifest import unlisted, verify

    manifest = verify(folder)
    found = model_fingerprint(folder, progress, anew=True)
    files = manifest["files"]
    if added := [name for name in found.files if name not in files]:
        raise CheckpointError(
            f"is not what was merged: {len(added)} files were added that a model is loaded from",
            where=folder,
            got=added[:8],
            fix="move them elsewhere, or merge again from its mergekit_config.yml",
        )
    others = unlisted(folder, files)
    if quiet:
        return
    if as_json:
        echo_json({**manifest, "fingerprint": found.digest, "unlisted": others})
        return
    echo(f"{folder}: all {len(files)} files that its manifest lists are what was merged")
    if others:
        echo(f"not of the merge: {', '.join(others)}")
    echo(f"SHA-256 of what decides its answers: {found.digest}")
