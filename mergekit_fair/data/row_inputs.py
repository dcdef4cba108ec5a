"""The input of every row: a text, or the path of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mergekit_fair.data.blocks import ImageInput, TextInput
from mergekit_fair.data.cells import at_row, column, listed, texts
from mergekit_fair.data.description import DataSpec
from mergekit_fair.data.images import image_file
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
                cells = texts(column(frame, name, f"{where}.template"))
                parts.append(_in_words(cells, name, (text.values or {}).get(name), where))
        found = ["".join(row) for row in zip(*parts, strict=True)]
    if empty := [row for row, value in enumerate(found) if not value.strip()]:
        raise DataError(
            f"{len(empty)} of {len(found)} texts are empty, {at_row(np.array(empty))}",
            where=where,
            fix="remove these rows from the source, or use another column",
        )
    return found


def _in_words(cells: list[str], name: str, meaning: dict[str, str] | None, where: str) -> list[str]:
    if meaning is None:
        return cells
    if unknown := [row for row, cell in enumerate(cells) if cell not in meaning]:
        raise DataError(
            f"values of column {name!r} are not explained: {listed(cells, np.array(unknown))}",
            where=f"{where}.values",
            allowed=list(meaning),
            fix="add what they mean: a code must not end in the text",
        )
    return [meaning[cell] for cell in cells]


def _image_paths(frame: pd.DataFrame, image: ImageInput, where: str) -> list[str]:
    cells = column(frame, image.column, f"{where}.column").tolist()
    paths = [image_file(cell, image.folder) for cell in cells]
    if gone := [row for row, path in enumerate(paths) if path is None]:
        first = cells[gone[0]]
        raise DataError(
            f"{len(gone)} of {len(paths)} image files are missing, {at_row(np.array(gone))}: "
            f"{first.get('path') if isinstance(first, dict) else first!r}",
            where=f"{where}.folder {image.folder}",
            fix="check image.folder and the column of file names",
        )
    return [str(path) for path in paths]
