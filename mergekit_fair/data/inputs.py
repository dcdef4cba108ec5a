"""The input of every row: a text, or the path of an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mergekit_fair.data.blocks import ImageInput, TextInput
from mergekit_fair.data.cells import at_row, column, texts
from mergekit_fair.data.spec import DataSpec
from mergekit_fair.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def read_inputs(frame: pd.DataFrame, spec: DataSpec, where: str) -> list[str]:
    """The n inputs of a table: rendered texts, or paths of images that exist.

    Raises:
        DataError: unknown column, empty text, missing image.
    """
    if spec.image:
        return _image_paths(frame, spec.image, f"{where}, image")
    assert spec.text  # the spec has exactly one of both
    return _rendered(frame, spec.text, f"{where}, text")


def _rendered(frame: pd.DataFrame, text: TextInput, where: str) -> list[str]:
    if text.column:
        found = texts(column(frame, text.column, f"{where}.column"))
    else:
        parts: list[list[str]] = []
        for literal, name in text.pieces():
            parts.append([literal] * len(frame))
            if name:
                parts.append(texts(column(frame, name, f"{where}.template")))
        found = ["".join(row) for row in zip(*parts, strict=True)]
    if empty := [row for row, value in enumerate(found) if not value.strip()]:
        raise DataError(
            f"{len(empty)} of {len(found)} texts are empty, {at_row(np.array(empty))}",
            where=where,
            fix="remove these rows from the source, or use another column",
        )
    return found


def _image_paths(frame: pd.DataFrame, image: ImageInput, where: str) -> list[str]:
    names = texts(column(frame, image.column, f"{where}.column"))
    paths = [Path(image.folder, name) for name in names]
    if gone := [row for row, path in enumerate(paths) if not path.is_file()]:
        raise DataError(
            f"{len(gone)} of {len(paths)} image files are missing, {at_row(np.array(gone))}: "
            f"{names[gone[0]]!r}",
            where=f"{where}.folder {image.folder}",
            fix="check image.folder and the column of file names",
        )
    return [str(path) for path in paths]
