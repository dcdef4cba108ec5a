"""The files that a merge writes of itself: config, card, recipe and manifest.

`merge_manifest.json` says what a merge read, what it wrote, and with what. With it a merge can be
checked (`mergekit-fair check MODEL`) and repeated: the recipe lies beside it in
`mergekit_config.yml`.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

from mergekit_fair.checkpoints.file_kinds import deciding_files
from mergekit_fair.checkpoints.fingerprint import DIGESTS, digest_of_files, file_digest, sha256
from mergekit_fair.checkpoints.folder import self_contained
from mergekit_fair.checkpoints.headers import header_bytes
from mergekit_fair.checkpoints.trained_rows import TrainedRows, trained_rows
from mergekit_fair.compat.remembered import remembered
from mergekit_fair.compat.transformers import configuration_of
from mergekit_fair.errors import CheckpointError, ConfigError
from mergekit_fair.escaping import printable
from mergekit_fair.files import text_of
from mergekit_fair.merging.configuration import MergeConfiguration
from mergekit_fair.merging.measured_inputs import require_measured
from mergekit_fair.merging.merge_card import merge_card
from mergekit_fair.merging.model_checks import OpenModels
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.shard_files import Written
from mergekit_fair.schema import parse_json, read_sealed, sealed

MANIFEST = "merge_manifest.json"

Inputs = dict[str, dict[str, Any]]

_MERGE_AGAIN = "merge again from its mergekit_config.yml"
_PACKAGES = ("mergekit-fair", "mergekit", "torch", "transformers", "safetensors")


def merged_config(config: MergeConfiguration, base: Path, *, trust_remote_code: bool) -> str:
    """The base's config.json with the dtype of the merge, as mergekit writes it.

    Args:
        config: of the recipe, whose layers are the base's.
        base: the folder of the base.
        trust_remote_code: let config.json name code to run.

    Raises:
        Exception: whatever a configuration makes transformers raise.
    """
    dtype, model = config.out_dtype or config.dtype, config.referenced_models()[0]

    def saved() -> str:
        made = configuration_of(model, trust_remote_code=trust_remote_code)
        if dtype:
            made.torch_dtype = dtype
        with tempfile.TemporaryDirectory() as folder:
            made.save_pretrained(folder)
            return (Path(folder) / "config.json").read_text(encoding="utf-8")

    text = None if model.override_architecture else self_contained(base)
    answer: str = remembered("config 1", None if text is None else [text, dtype], saved)
    return answer


def write_card(recipe: Recipe, out: Path, name: str) -> None:
    """README.md and the recipe, verbatim unless something in it was resolved."""
    card = merge_card(recipe.configuration(), recipe.source, name)
    (out / "README.md").write_text(printable(card), encoding="utf-8")
    (out / "mergekit_config.yml").write_text(recipe.source, encoding="utf-8")


def describe_input(files: Iterable[Path], *, with_hash: bool = False) -> dict[str, Any]:
    """Size, time of change and header digest of each weight file; SHA-256 on request."""
    described: dict[str, Any] = {}
    for file in files:
        state = file.stat()
        entry: dict[str, Any] = {"bytes": state.st_size, "mtime_ns": state.st_mtime_ns}
        if file.suffix == ".safetensors":
            entry["header_sha256"] = hashlib.sha256(header_bytes(file)).hexdigest()
        if with_hash:
            entry["sha256"] = sha256(file)
        described[file.name] = entry
    return described


def write_manifest(
    folder: Path, inputs: Mapping[str, Any], weights: Mapping[str, Written], **facts: Any
) -> None:
    """Describe all files of `folder`, those in folders too, and what they were made of.

    What the inputs say of the rows that they were trained on is handed on first.

    Args:
        folder: complete but for the manifest.
        inputs: model → path and `describe_input`.
        weights: files that were hashed while they were written.
        facts: more keys, such as λ and norms.
    """
    seen = [
        trained_rows(item) for model, facts in inputs.items() for item in (model, facts["path"])
    ]
    if union := TrainedRows.union(rows for rows in seen if rows is not None):
        union.write(folder)
    files: dict[str, dict[str, Any]] = {
        name: {"bytes": done.bytes, done.kind: done.digest}
        if (done := weights.get(name))
        else {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (name := path.relative_to(folder).as_posix()) != MANIFEST
    }
    deciding = {name: files[name].get("sha256") for name in deciding_files(folder)}
    known = {name: digest for name, digest in deciding.items() if digest is not None}
    content = {
        "versions": versions(),
        **facts,
        "inputs": dict(inputs),
        "fingerprint": digest_of_files(known) if known.keys() == deciding.keys() else None,
        "files": files,
    }
    (folder / MANIFEST).write_text(manifest_text(content), encoding="utf-8")


def manifest_text(content: Mapping[str, Any]) -> str:
    """A manifest as JSON, with the digest of all that it says."""
    return json.dumps(sealed(content), indent=2, ensure_ascii=False) + "\n"


def recorded(folder: Path) -> Iterable[str]:
    """The paths in a folder that the manifest of a merge lists, or those of a grid of merges.

    Nothing where there is no manifest that can be read: what is there is somebody else's.
    """
    if (folder / MANIFEST).is_file():
        return _recorded(folder)
    points = [path for path in folder.glob("lambda_*") if not path.is_symlink()]
    return [f"{point.name}/{name}" for point in points for name in _recorded(point)]


def _recorded(folder: Path) -> list[str]:
    try:
        files = parse_json(text_of(folder / MANIFEST))["files"]
        return [MANIFEST, *files] if isinstance(files, dict) else []
    except (OSError, ValueError, LookupError, TypeError):
        return []


def versions() -> dict[str, str]:
    """The packages that decide a merge's bits."""
    numbers = {}
    for name in _PACKAGES:
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            numbers[name] = "unknown"
    return numbers


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a merged model; nothing that it names was looked at.

    Raises:
        CheckpointError: there is none that can be read, it was edited, or it names files that are
            not in the folder.
    """
    place = folder / MANIFEST
    fix = "give a folder as `mergekit-fair merge` has written it, or merge again"
    content: dict[str, Any] = read_sealed(place, "manifest of a merge", CheckpointError, fix=fix)
    try:
        files: dict[str, Any] = content["files"]
        for name, entry in files.items():
            if not isinstance(entry["bytes"], int) or not _digest_in(entry)[1]:
                raise TypeError(name)
    except (LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"lists no files ({type(error).__name__})", where=place, fix=fix
        ) from error
    outside = [name for name in files if not _is_inside(folder, name)]
    if outside:
        raise CheckpointError(
            "names files that are not the merged model's own",
            where=place,
            got=outside[:8],
            fix=_MERGE_AGAIN,
        )
    return content


def verify(folder: Path) -> dict[str, Any]:
    """Compare a merged model with its manifest.

    Returns:
        The manifest.

    Raises:
        CheckpointError: as `read_manifest`, or files that are missing or different.
    """
    content = read_manifest(folder)
    wrong = [
        name
        for name, entry in content["files"].items()
        if not (folder / name).is_file() or not _is_as_recorded(folder / name, entry)
    ]
    if wrong:
        raise CheckpointError(
            f"is not what was merged: {len(wrong)} files are missing or changed",
            where=folder,
            got=wrong[:8],
            fix=_MERGE_AGAIN,
        )
    return content


def _digest_in(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Kind and digest of an entry; of the first kind that it has."""
    kind = next(kind for kind in DIGESTS if isinstance(entry.get(kind), str))
    return kind, entry[kind]


def _is_as_recorded(file: Path, entry: Mapping[str, Any]) -> bool:
    kind, digest = _digest_in(entry)
    return file_digest(file, kind) == digest


def unlisted(folder: Path, listed: Collection[str]) -> list[str]:
    """Paths of everything in a model folder that is not listed, sorted; a link to a folder counts.

    What is hidden, and the manifest, are left out.
    """
    found = []
    for path in folder.rglob("*"):
        place = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in place.parts)
        is_folder = path.is_dir() and not path.is_symlink()
        if not is_hidden and not is_folder and place.as_posix() not in {*listed, MANIFEST}:
            found.append(place.as_posix())
    return sorted(found)


def _is_inside(folder: Path, name: str) -> bool:
    """Whether a name stands for a place in the folder, links followed."""
    path = PurePosixPath(name)
    is_plain = not path.is_absolute() and ".." not in path.parts and "\\" not in name
    return is_plain and (folder / name).resolve().is_relative_to(folder.resolve())


def describe_models(models: OpenModels, recipe: Recipe, *, with_hash: bool = False) -> Inputs:
    """As `describe_inputs`, of models that are open."""
    files = {model: reader.files for model, reader in models.readers.items()}
    return describe_inputs(models.folders, files, recipe, with_hash=with_hash)


def describe_inputs(
    folders: Mapping[str, Path],
    files: Mapping[str, Iterable[Path]],
    recipe: Recipe,
    *,
    with_hash: bool = False,
) -> Inputs:
    """Model → its folder and, for each weight file, `describe_input`; before anything is merged.

    Of a recipe that a sweep has chosen also the fingerprints, which have to be those that were
    measured.

    Raises:
        RecipeError, CheckpointError: as `require_measured`.
    """
    prints = require_measured(recipe, folders)
    return {
        model: {
            "path": str(folders[model].resolve()),
            "files": describe_input(files[model], with_hash=with_hash),
        }
        | ({"fingerprint": prints[model]} if model in prints else {})
        for model in files
    }


def require_unchanged(models: OpenModels, before: Mapping[str, Any]) -> None:
    """Check that nothing was written to an input while it was read.

    Raises:
        CheckpointError: names the model and the file.
    """
    for model, reader in models.readers.items():
        for file in reader.files:
            known = before[model]["files"][file.name]
            try:
                (state,) = describe_input([file]).values()
            except (OSError, CheckpointError):  # gone, or cut short
                state = {}
            if state != {key: value for key, value in known.items() if key != "sha256"}:
                raise CheckpointError(
                    f"{file.name} was changed while it was merged",
                    where=model,
                    fix="merge again when nothing writes to it",
                )


def require_apart(recipe: Recipe, out: Path) -> None:
    """Check that the output lies beside what is read, not in it or in its place.

    Raises:
        ConfigError: `out` is a model, or the recipe, or a folder in or around one.
    """
    report = (recipe.raw.get("fairness") or {}).get("report")
    inputs = [recipe.where, report] if isinstance(report, str) else [recipe.where]
    for model in recipe.configuration().referenced_models():
        inputs += [part.path for part in (model.model, model.lora) if part]
    target = Path(os.path.realpath(out))
    for path in filter(os.path.exists, inputs):
        source = Path(os.path.realpath(path))
        if target == source:
            relation = "is what the merge reads"
        elif target.is_relative_to(source) and source.is_dir():
            relation = f"lies in {path}, which the merge reads"
        elif source.is_relative_to(target):
            relation = f"holds {path}, which the merge reads"
        else:
            continue
        raise ConfigError(relation, where=out, fix="choose another folder")
