"""What goes to the Hub: files that were checked, and a card of figures that are theirs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.file_kinds import deciding_files
from mergekit_fair.checkpoints.fingerprint import ModelFingerprint, model_fingerprint
from mergekit_fair.checkpoints.folder import require_no_vector
from mergekit_fair.errors import CheckpointError, ConfigError, MeasurementError
from mergekit_fair.evaluation.evaluate import FairEvaluation
from mergekit_fair.evaluation.evidence import evaluation_text, require_proof
from mergekit_fair.files import text_of, write_atomic
from mergekit_fair.merging.manifest import MANIFEST, manifest_text, unlisted, verify
from mergekit_fair.merging.measured_inputs import MeasuredInputs
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.references import own_folder
from mergekit_fair.progress import Progress
from mergekit_fair.report.card import card_of_evaluations, card_of_sweep
from mergekit_fair.report.outputs import write_outputs
from mergekit_fair.schema import parse_json
from mergekit_fair.sweep.checked_folder import require_proof as require_proof_of_sweep
from mergekit_fair.sweep.selected import FOLDER, MODEL, RECIPE, is_merged

CARD = "README.md"
_ADAPTER = "adapter_config.json"  # an adapter has it in the place of config.json
_RECIPE = "mergekit_config.yml"
# Of a sweep's folder; beside the model on the Hub, in `fairness/`.
_BESIDE = ("results.json", "results.csv", "report.html", "curves.png", "pareto.png", "transfer.png")
# Beside a model without a manifest; the recipe is mergekit's own.
_ALLOWED = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", _RECIPE)


@dataclass(frozen=True)
class Upload:
    """What goes to the Hub.

    Attributes:
        card: README.md.
        files: path in the repository → file here, or content.
        digests: path → SHA-256 of what was checked, of files that are read again to be sent.
    """

    card: str
    files: dict[str, Path | bytes]
    digests: Mapping[str, str] = field(default_factory=dict)


def upload_of_sweep(folder: Path, name: str, scratch: Path, progress: Progress) -> Upload:
    """The chosen model of a sweep, whose figures are computed again from the saved scores.

    Args:
        folder: of the sweep.
        name: of the model.
        scratch: an empty folder, for the page, tables and pictures of the checked results.
        progress: told what is done.

    Raises:
        SweepError: results that cannot be checked, or are not what the scores give.
        CheckpointError: the model is not the one that was chosen and measured, files are not what
            was merged, or lie beside it.
    """
    model, recipe = folder / FOLDER / MODEL, folder / FOLDER / RECIPE
    is_there = is_merged(folder / FOLDER)
    manifest = verify(model) if is_there else {}
    if is_there:
        _own_files(model, manifest)  # before figures are computed and pictures drawn
    results = require_proof_of_sweep(folder)
    if results.selected.id is None:
        raise CheckpointError(
            f"no point of this sweep is chosen ({results.selected.headline}), so that there is no "
            "model to upload, and no figures of report rows",
            where=folder,
            fix="measure a model that you want to upload all the same with `mergekit-fair eval`, "
            "and give --evaluation",
        )
    again = f"run `mergekit-fair merge {recipe} {model} --overwrite`"
    if not is_there:
        raise CheckpointError(
            "is not there, or not the model that was chosen", where=model, fix=again
        )
    _require_inputs(model, manifest, Recipe.load(recipe), again)
    prints = model_fingerprint(model, progress, anew=True)
    write_atomic(scratch / "results.json", results.text())
    write_outputs(results, scratch, progress)
    beside = [item for item in _BESIDE if (scratch / item).is_file()]
    card = card_of_sweep(
        results,
        name=name,
        recipe=text_of(recipe),
        config=_config(model),
        pictures=[f"fairness/{item}" for item in beside if item.endswith(".png")],
        fingerprint=prints.digest,
    )
    extra: dict[str, Path | bytes] = {f"fairness/{item}": scratch / item for item in beside}
    return _upload(model, prints, manifest, card, extra)


def upload_of_model(model: Path, name: str, paths: Sequence[Path], progress: Progress) -> Upload:
    """A model and its evaluations, which must be of exactly these files.

    Raises:
        ConfigError: no evaluation is given.
        MeasurementError: an evaluation that cannot be checked, is not what its samples give, or is
            of other weights; of several, other splits or the same task.
        CheckpointError: files that are not what was merged, or that are not a model's.
    """
    config = _config(model)
    if not paths:
        raise ConfigError(
            "a fairness card needs measurements",
            where=model,
            fix="give a sweep's folder, or --evaluation FILE of `mergekit-fair eval`",
        )
    manifest = verify(model) if (model / MANIFEST).is_file() else None
    prints = model_fingerprint(model, progress, anew=True)
    evaluations = [_evaluation_of(path, model, prints) for path in paths]
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
    recipe = model / _RECIPE
    text = text_of(recipe) if manifest and recipe.is_file() else ""
    card = card_of_evaluations(
        evaluations, name=name, recipe=text, config=config, fingerprint=prints.digest
    )
    extra: dict[str, Path | bytes] = {
        f"fairness/{each.task}.json": evaluation_text(each).encode() for each in evaluations
    }
    return _upload(model, prints, manifest, card, extra)


def _evaluation_of(path: Path, model: Path, prints: ModelFingerprint) -> FairEvaluation:
    """An evaluation of these files."""
    evaluation = require_proof(path)
    if not isinstance(evaluation, FairEvaluation):
        raise MeasurementError("is of a task without groups", where=path, got=evaluation.task)
    known = evaluation.fingerprint
    if known is None or known.model != prints.digest:
        is_here = Path(str(evaluation.model)).resolve() == model.resolve()
        raise MeasurementError(
            "is of this model before its files have changed" if is_here else "is of another model",
            where=path,
            got=evaluation.model,
            fix=f"evaluate {model} with `mergekit-fair eval`",
        )
    more = set(known.others) - ({"pretrained"} if _is_adapter(model) else set())
    if more:
        raise MeasurementError(
            "is of this model together with another one, which would not be uploaded",
            where=path,
            got=sorted(more),
            fix=f"evaluate {model} by itself",
        )
    return evaluation


def _require_inputs(model: Path, manifest: Mapping[str, Any], recipe: Recipe, again: str) -> None:
    """The manifest says that what was merged is what was measured."""
    measured = MeasuredInputs.of(recipe)
    known = {} if measured is None else measured.inputs
    inputs: dict[str, Any] = manifest.get("inputs") or {}
    merged = {own_folder(name): str(entry.get("fingerprint")) for name, entry in inputs.items()}
    if merged != {own_folder(name): digest for name, digest in known.items()}:
        raise CheckpointError(
            "was merged from other models than were measured, or does not say from which",
            where=model / MANIFEST,
            fix=again,
        )


def _upload(
    model: Path,
    prints: ModelFingerprint,
    manifest: Mapping[str, Any] | None,
    card: str,
    extra: Mapping[str, Path | bytes],
) -> Upload:
    """The model's own files, and the manifest of what a reader gets."""
    names = _own_files(model, manifest)
    if not any(name.endswith((".safetensors", ".bin")) for name in prints.files):
        raise CheckpointError("has no weights", where=model)
    files: dict[str, Path | bytes] = {name: model / name for name in names}
    files |= extra
    if manifest is not None:
        entries = {
            name: _with_hub_digest(manifest["files"][name], prints.files.get(name))
            for name in names
        }
        entries |= {name: _entry(file) for name, file in {**extra, CARD: card.encode()}.items()}
        facts = {"fingerprint": prints.digest, "files": dict(sorted(entries.items()))}
        content = {**manifest, **facts}
        files[MANIFEST] = manifest_text(content).encode()
    listed = {} if manifest is None else manifest["files"]
    digests = {name: entry.get("sha256") for name, entry in listed.items() if name in names}
    return Upload(card, files, digests | dict(prints.files))


def _with_hub_digest(entry: Mapping[str, Any], sha256: str | None) -> dict[str, Any]:
    """What a manifest says of a file, by the digest that the Hub has, too."""
    return dict(entry) if sha256 is None else {"bytes": entry["bytes"], "sha256": sha256}


def _own_files(model: Path, manifest: Mapping[str, Any] | None) -> list[str]:
    """Names of what is uploaded from a model's folder: what its manifest lists, or without one
    what belongs to a model by its kind.

    Raises:
        CheckpointError: anything else lies there, or a link leads out of it.
    """
    known = manifest["files"] if manifest is not None else {**deciding_files(model)}
    if manifest is None:
        known |= {name: model / name for name in _ALLOWED if (model / name).is_file()}
    names = [
        name
        for name in known
        if name != CARD and not any(part.startswith(".") for part in Path(name).parts)
    ]
    outside = [n for n in names if not (model / n).resolve().is_relative_to(model.resolve())]
    if outside:
        raise CheckpointError(
            "holds links to files elsewhere, which would be published",
            where=model,
            got=outside[:8],
            fix="copy the model into a folder of its own, without links",
        )
    left = unlisted(model, {*known, CARD})
    if left:
        raise CheckpointError(
            f"holds {len(left)} files that "
            + ("the merge did not write" if manifest is not None else "are no part of a model"),
            where=model,
            got=left[:8],
            fix="move them elsewhere; only the model's own files are published",
        )
    return names


def _entry(file: Path | bytes) -> dict[str, Any]:
    content = file if isinstance(file, bytes) else file.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _is_adapter(model: Path) -> bool:
    return (model / _ADAPTER).is_file() and not (model / "config.json").is_file()


def _config(model: Path) -> dict[str, Any]:
    """The model's config.json; of an adapter its own configuration."""
    require_no_vector(model)
    path = model / (_ADAPTER if _is_adapter(model) else "config.json")
    try:
        config = dict(parse_json(text_of(path)))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"has no config.json that can be read ({type(error).__name__})",
            where=model,
            fix="give the folder of a sweep, or of a model",
        ) from error
    return config
