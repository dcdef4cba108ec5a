"""Images as files: those inside a table are written to a cache once, by their content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_fair.errors import DataError
from mergekit_fair.files import cache_folder, write_cached

if TYPE_CHECKING:
    from PIL.Image import Image


def image_file(cell: Any, folder: str) -> Path | None:
    """The file of one cell: a name in `folder`, or bytes that are now in the cache.

    Bytes stand as such or in a mapping {bytes, path}, which is how the Hub's image columns read.
    None: the cell holds neither, or the file is missing.
    """
    content = cell
    if isinstance(cell, dict):
        content = cell.get("bytes") or cell.get("path")
    if isinstance(content, bytes) and content:
        return _cached(content)
    if not isinstance(content, str) or not content.strip():
        return None
    path = Path(folder, content)
    return path if path.is_file() else None


def open_image(path: str | Path) -> Image:
    """The picture in RGB.

    Raises:
        DataError: missing, or not a picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except OSError as error:
        raise DataError(f"is not a readable picture ({error})", where=path) from error


def _cached(content: bytes) -> Path:
    """The file named by the content's sha256; equal bytes are one file, so leaks are seen."""
    name = hashlib.sha256(content).hexdigest()
    path = cache_folder("images") / name[:2] / name
    try:
        if path.is_file() and path.stat().st_size == len(content):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        write_cached(path, content)
    except OSError as error:
        raise DataError(
            f"the image cache cannot be written ({error.strerror or error})",
            where=path.parent,
            fix="set MERGEKIT_FAIR_CACHE to a folder that can be",
        ) from error
    return path
