"""`merge_manifest.json`: what a merge read, what it wrote, and with what.

With it a merge can be checked (`mergekit-fair check MODEL`) and repeated: the recipe lies beside
it in `mergekit_config.yml`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.headers import header_bytes
from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.shards import Written

NAME = "merge_manifest.json"

_PACKAGES = ("mergekit-fair", "mergekit", "torch", "transformers", "safetensors")


def describe_input(files: Iterable[Path], *, with_hash: bool = False) -> dict[str, Any]:
    """Size, time of change and header digest of each weight file; SHA-256 on request."""
    found: dict[str, Any] = {}
    for file in files:
        state = file.stat()
        entry: dict[str, Any] = {"bytes": state.st_size, "mtime_ns": state.st_mtime_ns}
        if file.suffix == ".safetensors":
            entry["header_sha256"] = hashlib.sha256(header_bytes(file)).hexdigest()
        if with_hash:
            entry["sha256"] = sha256(file)
        found[file.name] = entry
    return found


def sha256(file: Path) -> str:
    """The digest of a file's content, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(
    folder: Path, inputs: Mapping[str, Any], weights: Mapping[str, Written], **facts: Any
) -> None:
    """Describe all files of `folder` and what they were made of.

    Args:
        folder: complete but for the manifest.
        inputs: model → path and `describe_input`.
        weights: files that were hashed while they were written.
        facts: more keys, such as λ and norms.
    """
    files = {
        path.name: {"bytes": done.bytes, "sha256": done.sha256}
        if (done := weights.get(path.name))
        else {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != NAME
    }
    content = {"versions": versions(), **facts, "inputs": dict(inputs), "files": files}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (folder / NAME).write_text(text, encoding="utf-8")


def versions() -> dict[str, str]:
    """The packages that decide a merge's bits."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def verify(folder: Path) -> dict[str, Any]:
    """Compare a merged model with its manifest.

    Returns:
        The manifest.

    Raises:
        CheckpointError: no manifest, or files that are missing, more or different.
    """
    place = folder / NAME
    try:
        content: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        files: dict[str, Any] = content["files"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"has no {NAME} that can be read ({type(error).__name__})",
            where=folder,
            fix="give a folder that `mergekit-fair merge` has written",
        ) from None
    wrong = [
        name
        for name, entry in files.items()
        if not (folder / name).is_file() or sha256(folder / name) != entry["sha256"]
    ]
    if wrong:
        raise CheckpointError(
            f"is not what was merged: {len(wrong)} files are missing or changed",
            where=folder,
            got=wrong[:8],
            fix="merge again from its mergekit_config.yml",
        )
    return content
