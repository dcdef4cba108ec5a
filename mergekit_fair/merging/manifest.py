"""The manifest of a merge, `merge_manifest.json`: what was read, what was written, with what.

With it a merge can be checked (`mergekit-fair check MODEL`) and repeated: the recipe lies beside it
in `mergekit_config.yml`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

from mergekit_fair.checkpoints.fingerprint import DIGESTS, file_digest
from mergekit_fair.errors import CheckpointError
from mergekit_fair.files import text_of
from mergekit_fair.schema import parse_json, read_sealed, sealed

MANIFEST = "merge_manifest.json"

_MERGE_AGAIN = "merge again from its mergekit_config.yml"
_PACKAGES = ("mergekit-fair", "mergekit", "torch", "transformers", "safetensors")


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
