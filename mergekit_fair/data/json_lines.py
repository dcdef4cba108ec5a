"""jsonl: a line, a row; types stay as they are written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_fair.data.text_file import open_text
from mergekit_fair.errors import DataError
from mergekit_fair.schema import parse_json

if TYPE_CHECKING:
    import pandas as pd


def read_json_lines(path: Path, encoding: str | None) -> pd.DataFrame:
    """The table; a key that a line lacks is a missing cell.

    Raises:
        DataError: a line that is no JSON object, or that has a key twice.
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
            records.append(record)
    # dtype object: a missing value must not turn the integers of its column into floats.
    return pd.DataFrame(records, dtype=object)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return record
