"""Images as files: those inside a table are written to a cache once, by their content."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mergekit_fair.errors import DataError, first_line
from mergekit_fair.files import cache_folder, write_cached

if TYPE_CHECKING:
    from PIL.Image import Image


def image_file(cell: Any, folder: str) -> Path | None:
    """The file of one cell: a name in `folder`, or bytes that are now in the cache.

    Bytes stand as such or in a mapping {bytes, path}, which is how the Hub's image columns read.
    None: the cell holds neither, or the file is missing.

    Raises:
        DataError: a name that leads out of the folder; links in it are the folder's owner's.
    """
    content = cell
    if isinstance(cell, dict):
        content = cell.get("bytes") or cell.get("path")
    if isinstance(content, bytes) and content:
        return _cached(content)
    if not isinstance(content, str) or not content.strip():
        return None
    path = Path(os.path.normpath(Path(folder, content)))
    if not (path.is_relative_to(os.path.normpath(folder)) or _is_downloaded(cell, path)):
        raise DataError(
            "a name of a picture leads out of the folder of pictures",
            where=f"image.folder {folder}",
            got=content,
            fix="name a folder that all of them are in: `image: {column: …, folder: …}`",
        )
    return path if path.is_file() else None


def open_image(picture: str | Path | Image) -> Image:
    """The picture in RGB as a viewer shows it: turned as its orientation tag says, 8 bits a colour.

    What is transparent is white. Of a camera's file of several pictures (MPO) it is the first.

    Args:
        picture: a file, or a picture that is open.

    Raises:
        DataError: missing, not a picture or a damaged one, several frames, more than 8 or 16 bits
            a pixel and colour, or as large as no photograph is.
    """
    from PIL import Image

    where = "a picture" if isinstance(picture, Image.Image) else picture
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that it skips
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if isinstance(picture, Image.Image):
                return _in_rgb(picture)
            with Image.open(picture) as opened:
                return _in_rgb(opened)
    except DataError as error:
        raise DataError(error.problem, where=where, fix=error.fix) from error
    # Decoders raise what they like (OSError, SyntaxError, struct.error, a bomb's own error); all of
    # it means that the file is no picture that can be shown, and the cause stays attached.
    except Exception as error:
        reason = first_line(error)
        raise DataError(f"is not a readable picture ({reason})", where=where) from error


def _in_rgb(picture: Image) -> Image:
    from PIL import Image, ImageOps

    if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
        raise DataError("has several frames", fix="save the one that is meant as a picture")
    turned = ImageOps.exif_transpose(picture)
    if turned.mode.startswith("I;16"):
        turned = Image.fromarray((np.asarray(turned, dtype=np.float64) / 257 + 0.5).astype("uint8"))
    if turned.mode in ("I", "F"):
        raise DataError("has 32 bits a pixel, of no known range", fix="save it with 8 or 16")
    if turned.has_transparency_data:
        turned = turned.convert("RGBA")
        white = Image.new("RGBA", turned.size, "white")
        turned = Image.alpha_composite(white, turned)
    return turned.convert("RGB")


def _is_downloaded(cell: Any, path: Path) -> bool:
    """Whether the Hub's own library names a file in its cache."""
    from huggingface_hub.constants import HF_HOME

    homes = [HF_HOME, os.environ.get("HF_DATASETS_CACHE") or HF_HOME]
    return isinstance(cell, dict) and any(path.is_relative_to(home) for home in homes)


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
