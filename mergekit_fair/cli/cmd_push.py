"""`mergekit-fair push`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mergekit_fair.cli.terminal import echo
from mergekit_fair.cli.upload import CARD, require_name, send

if TYPE_CHECKING:
    from mergekit_fair.report.publishing import Upload


@click.command("push")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("repo")
@click.option("--private", is_flag=True, help="Make the repository private, if it is new.")
@click.option("--dry-run", is_flag=True, help="Print the card and the files; send nothing.")
@click.option(
    "--evaluation",
    "evaluations",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="TASK.json that `eval` wrote about the model; several times for several tasks.",
)
@click.option("--revision", help="Branch to commit to.  [default: main]")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(
    folder: Path,
    repo: str,
    private: bool,
    dry_run: bool,
    evaluations: tuple[Path, ...],
    revision: str | None,
    quiet: bool,
) -> None:
    """Upload a merged model with its fairness card.

    DIR is a sweep's folder, whose selected/model goes up, or a model's folder with --evaluation.
    Nothing goes up that was not measured: the figures are computed again from the saved scores, and
    every file of the model is read and compared with what was merged or evaluated. Other files in
    its folder are named and refused.

    The card (README.md) has the report rows' metrics with intervals, groups, verdicts, how the
    model was chosen, limits and the recipe. Results, page and pictures of a sweep go beside it;
    scores of single rows do not. REPO is NAMESPACE/NAME; log in by `hf auth login` or HF_TOKEN.

    \b
    Example:
      mergekit-fair push runs/adult_sex/sweep my-name/adult-fair --private --dry-run
      mergekit-fair push runs/adult_sex/merged my-name/adult-fair --evaluation eval/fair_adult_sex.json
    """  # noqa: E501
    from mergekit_fair.cli.terminal import Terminal, quiet_libraries

    quiet_libraries(quiet=quiet)
    require_name(repo)
    from mergekit_fair.report.publishing import upload_of_model, upload_of_sweep

    name = repo.split("/")[-1]
    progress = Terminal(quiet=quiet)
    with tempfile.TemporaryDirectory() as scratch:
        if (folder / "results.json").is_file() and not evaluations:
            upload = upload_of_sweep(folder, name, Path(scratch), progress)
        else:
            upload = upload_of_model(folder, name, evaluations, progress)
        local = _local_names(upload)
        if local:
            progress.say(f"the recipe names folders of this machine, as all will see: {local}")
        if dry_run:
            listed = {**upload.files, CARD: upload.card.encode()}
            echo(upload.card)
            echo("\n".join(f"{_size(file):>10}  {path}" for path, file in listed.items()))
            return
        echo(send(upload, repo, private=private, revision=revision))


def _local_names(upload: Upload) -> str:
    """Models that the recipe names by a folder of this machine."""
    from mergekit_fair.schema import parse_yaml_loosely, read_text

    written = upload.files.get("mergekit_config.yml")
    if not isinstance(written, Path):
        return ""
    recipe, _ = parse_yaml_loosely(read_text(written), written)
    models = [item.get("model") for item in recipe.get("models") or () if isinstance(item, dict)]
    names = [str(name) for name in (recipe.get("base_model"), *models) if name]
    local = [name for name in names if Path(name).is_absolute() or Path(name).exists()]
    return ", ".join(dict.fromkeys(local))


def _size(file: Path | bytes) -> str:
    count = len(file) if isinstance(file, bytes) else file.stat().st_size
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count:,} B"
