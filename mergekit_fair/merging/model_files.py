"""The files that a merge writes of itself: config, card, recipe and manifest."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.file_kinds import deciding_files
from mergekit_fair.checkpoints.fingerprint import digest_of_files, sha256
from mergekit_fair.checkpoints.folder import self_contained
from mergekit_fair.checkpoints.headers import header_bytes
from mergekit_fair.checkpoints.trained_rows import TrainedRows, trained_rows
from mergekit_fair.compat.remembered import remembered
from mergekit_fair.compat.transformers import configuration_of
from mergekit_fair.errors import CheckpointError
from mergekit_fair.escaping import printable
from mergekit_fair.merging.configuration import MergeConfiguration
from mergekit_fair.merging.manifest import MANIFEST, manifest_text, versions
from mergekit_fair.merging.measured_inputs import require_measured
from mergekit_fair.merging.merge_card import merge_card
from mergekit_fair.merging.model_checks import OpenModels
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.shard_files import Written

Inputs = dict[str, dict[str, Any]]


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
