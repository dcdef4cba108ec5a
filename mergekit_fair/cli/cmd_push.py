"""`mergekit-fair push`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mergekit_fair.cli.terminal import echo
from mergekit_fair.cli.upload import CARD, require_name, send
from mergekit_fair.errors import CheckpointError, ConfigError, MeasurementError
from mergekit_fair.files import text_of
from mergekit_fair.schema import parse_json

_ADAPTER = "adapter_config.json"  # an adapter has it in the place of config.json
# Of a sweep's folder; beside the model on the Hub, in `fairness/`.
_BESIDE = ("results.json", "results.csv", "report.html", "curves.png", "pareto.png", "transfer.png")


@dataclass(frozen=True)
class Upload:
    """What goes to the Hub.

    Attributes:
        card: README.md.
        files: path in the repository → file here.
    """

    card: str
    files: dict[str, Path]


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
    name = repo.split("/")[-1]
    if (folder / "results.json").is_file() and not evaluations:
        upload = _of_sweep(folder, name)
    else:
        upload = _of_model(folder, name, evaluations)
    progress = Terminal(quiet=quiet)
    local = _local_names(upload)
    if local:
        progress.say(f"the recipe names folders of this machine, as all will see: {local}")
    if dry_run:
        echo(upload.card)
        echo("\n".join(f"{_size(file):>10}  {path}" for path, file in upload.files.items()))
        echo(f"{_size_of(len(upload.card.encode())):>10}  {CARD}")
        return
    echo(send(upload.files, upload.card, repo, private=private, revision=revision))


def _of_sweep(folder: Path, name: str) -> Upload:
    from mergekit_fair.report.card import card_of_sweep
    from mergekit_fair.sweep.results import SweepResults

    results = SweepResults.load(folder)
    if results.selected.id is None:
        raise CheckpointError(
            "no point of this sweep could be chosen, so that there is no model to upload",
            where=folder,
        )
    model, recipe = folder / "selected" / "model", folder / "selected" / "recipe.yml"
    written = model / "mergekit_config.yml"
    if not written.is_file() or written.read_bytes() != recipe.read_bytes():
        raise CheckpointError(
            "is not there, or not the model that was chosen",
            where=model,
            fix=f"run `mergekit-fair merge {recipe} {model} --overwrite`",
        )
    files = _model_files(model)
    beside = [item for item in _BESIDE if (folder / item).is_file()]
    files |= {f"fairness/{item}": folder / item for item in beside}
    card = card_of_sweep(
        results,
        name=name,
        recipe=text_of(recipe),
        config=_config(model),
        pictures=[f"fairness/{item}" for item in beside if item.endswith(".png")],
    )
    return Upload(card, files)


def _of_model(model: Path, name: str, paths: tuple[Path, ...]) -> Upload:
    from mergekit_fair.evaluation.evaluate import Evaluation, read_evaluation
    from mergekit_fair.report.card import card_of_evaluations

    config = _config(model)
    if not paths:
        raise ConfigError(
            "a fairness card needs measurements",
            where=model,
            fix="give a sweep's folder, or --evaluation FILE of `mergekit-fair eval`",
        )
    evaluations = []
    for path in paths:
        evaluation = read_evaluation(path)
        if not isinstance(evaluation, Evaluation):
            raise MeasurementError("is of a task without groups", where=path, got=evaluation.task)
        if Path(str(evaluation.model)).resolve() != model.resolve():
            raise MeasurementError("is of another model", where=path, got=evaluation.model)
        evaluations.append(evaluation)
    splits = {evaluation.split for evaluation in evaluations}
    if len(splits) > 1:
        raise MeasurementError(
            "evaluations are of different splits",
            where="--evaluation",
            got=sorted(splits),
            fix="use those of the report split",
        )
    tasks = [evaluation.task for evaluation in evaluations]
    if len(set(tasks)) < len(tasks):
        raise MeasurementError("a task is given twice", where="--evaluation", got=tasks)
    recipe = model / "mergekit_config.yml"
    text = text_of(recipe) if recipe.is_file() else ""
    files = _model_files(model)
    files |= {f"fairness/{task}.json": path for task, path in zip(tasks, paths, strict=True)}
    return Upload(card_of_evaluations(evaluations, name=name, recipe=text, config=config), files)


def _config(model: Path) -> dict[str, Any]:
    """The model's config.json; of an adapter its own configuration."""
    path = model / "config.json"
    if not path.is_file() and (model / _ADAPTER).is_file():
        path = model / _ADAPTER
    try:
        config = dict(parse_json(text_of(path)))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"has no config.json that can be read ({type(error).__name__})",
            where=model,
            fix="give the folder of a sweep, or of a model",
        ) from error
    return config


def _model_files(model: Path) -> dict[str, Path]:
    """Every file but the card and hidden ones, after what `merge` wrote about them is checked."""
    from mergekit_fair.merging.model_files import MANIFEST, verify

    if (model / MANIFEST).is_file():
        verify(model)
    files = {}
    for path in sorted(model.rglob("*")):
        parts = path.relative_to(model).parts
        if path.is_file() and not any(part.startswith(".") for part in parts):
            files["/".join(parts)] = path
    files.pop(CARD, None)
    if not any(name.endswith((".safetensors", ".bin")) and "/" not in name for name in files):
        raise CheckpointError("has no weights", where=model)
    return files


def _local_names(upload: Upload) -> str:
    """Models that the recipe names by a folder of this machine."""
    from mergekit_fair.schema import parse_yaml_loosely, read_text

    written = upload.files.get("mergekit_config.yml")
    if written is None:
        return ""
    recipe, _ = parse_yaml_loosely(read_text(written), written)
    models = [item.get("model") for item in recipe.get("models") or () if isinstance(item, dict)]
    names = [str(name) for name in (recipe.get("base_model"), *models) if name]
    local = [name for name in names if Path(name).is_absolute() or Path(name).exists()]
    return ", ".join(dict.fromkeys(local))


def _size(file: Path) -> str:
    return _size_of(file.stat().st_size)


def _size_of(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count:,} B"
