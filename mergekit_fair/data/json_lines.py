"""jsonl: a line, a row; types stay as they are written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_fair.data.text_file import open_text
from mergekit_fair.errors import DataError
from mergekit_fair.schema import parse_json

if TYPE_CHECKING:
    import pandas as pd

_HALF = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")  # one of two that make a character


def read_json_lines(path: Path, encoding: str | None) -> pd.DataFrame:
    """The table; a key that a line lacks is a missing cell.

    Raises:
        DataError: a line that is no JSON object, that has a key twice, or half of a character.
    """
    import pandas as pd

    records = []
    with open_text(path, encoding) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = parse_json(line, object_pairs_hook=_once)
            except ValueError as error:  # not JSON, nested too deeply, an endless integer, …
                reason = getattr(error, "msg", str(error))
                raise DataError(f"line {number} is not JSON ({reason})", where=path) from error
            if not isinstance(record, dict):
                kind = type(record).__name__
                raise DataError(f"line {number} is not a JSON object", where=path, got=kind)
            if half := _HALF.search(line):
                _refuse_halves(record, path, number, half[0])
            records.append(record)
    # dtype object: a missing value must not turn the integers of its column into floats.
    return pd.DataFrame(records, dtype=object)


def _refuse_halves(record: dict[str, Any], path: Path, number: int, shown: str) -> None:
    """Half of a character that JSON writes as two, without the other: no text can hold it."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"line {number} holds half a character",
            where=path,
            got=shown,
            fix="remove it: a text was cut inside an emoji, or the like",
        ) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return record
