"""Which rows a model was trained on: a file in its folder, which merges hand on.

`train` writes it into every model's folder, `merge` the union of its inputs' into the result, so
that it is still there when folders are moved or copied. It is hidden, and so never published:
whoever knows a text could find out by it whether the model was trained on that. Where there is
none, `train.json` of the family, the manifest of a merge and the base of an adapter are asked.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mergekit_fair.data import Rows, load_rows, load_spec, source_fingerprint
from mergekit_fair.data.row_keys import Keys
from mergekit_fair.errors import CheckpointError, FairError

FILE = ".train_rows.npz"
_FAMILY, _MERGE, _ADAPTER = "train.json", "merge_manifest.json", "adapter_config.json"


@dataclass(frozen=True, eq=False)
class TrainedRows:
    """The rows that a model has seen.

    Attributes:
        keys: uint64, sorted and distinct: `row_key` of every training row.
        origins: the descriptions that they are the train split of: `data` and `source` as in
            train.json, and `rows`, the fingerprint of all rows.
        unknown: folders of models that went in, and of whose rows nothing is known.
    """

    keys: Keys
    origins: tuple[Mapping[str, Any], ...] = ()
    unknown: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: Rows, whole: Rows | None = None) -> TrainedRows:
        """Of training rows.

        Args:
            rows: that a model is trained on.
            whole: the data set that they are of, if its description is to be remembered.
        """
        origins: tuple[Mapping[str, Any], ...] = ()
        if whole is not None and whole.spec is not None:
            origin = {
                "data": whole.spec.to_dict(),
                "source": source_fingerprint(whole.spec),
                "rows": whole.fingerprint(),
            }
            origins = (json.loads(json.dumps(origin)),)
        return cls(np.unique(rows.keys()), origins)

    @classmethod
    def union(cls, parts: Iterable[TrainedRows]) -> TrainedRows | None:
        """Of models that become one; None if there are none."""
        found = list(parts)
        if not found:
            return None
        origins = {json.dumps(o, sort_keys=True): o for part in found for o in part.origins}
        unknown = dict.fromkeys(name for part in found for name in part.unknown)
        keys = np.unique(np.concatenate([part.keys for part in found]))
        return cls(keys, tuple(origins.values()), tuple(unknown))

    def write(self, folder: Path) -> None:
        """Put the file into a model's folder that is being made."""
        facts = {"origins": list(self.origins), "unknown": list(self.unknown)}
        buffer = io.BytesIO()
        text = np.array(json.dumps(facts, ensure_ascii=False))
        np.savez(buffer, keys=self.keys.astype("<u8"), facts=text)
        (folder / FILE).write_bytes(buffer.getvalue())

    @classmethod
    def read(cls, file: Path) -> TrainedRows:
        """The inverse.

        Raises:
            CheckpointError: damaged.
        """
        try:
            with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as content:
                keys, facts = content["keys"], json.loads(str(content["facts"]))
            if keys.dtype != np.dtype("<u8") or keys.ndim != 1:
                raise ValueError(f"keys of {keys.dtype}")
            return cls(np.unique(keys), tuple(facts["origins"]), tuple(facts["unknown"]))
        # A damaged archive raises whatever zipfile, zlib or numpy make of it.
        except Exception as error:
            raise CheckpointError(
                f"is damaged, so that nobody can say which rows the model was trained on ({error})",
                where=file,
                fix="copy the model's folder again, or train or merge it anew",
            ) from error


def trained_rows(model: str | Path) -> TrainedRows | None:
    """What is known of the rows that a model was trained on; None: nothing says that it was.

    Args:
        model: a folder, `base+adapter`, or a name of the Hub, of which nothing is known.

    Raises:
        CheckpointError: a file about it is damaged.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return TrainedRows.union(_of_folder(folder.resolve(), frozenset()))
    parts = [Path(part).expanduser() for part in str(model).split("+")]
    found = [_of_folder(part.resolve(), frozenset()) for part in parts if part.is_dir()]
    return TrainedRows.union(part for parts in found for part in parts)


def _of_folder(folder: Path, seen: frozenset[Path]) -> Iterator[TrainedRows]:
    if folder in seen:
        return
    seen |= {folder}
    # A family's early checkpoints, and LoRA's adapter, lie up to two folders below the model.
    for place in (folder, *folder.parents[:2]):
        if (place / FILE).is_file():
            yield TrainedRows.read(place / FILE)
            break
    else:
        yield from _of_merge(folder, seen)
        yield from _of_family(folder)
    base = _json(folder / _ADAPTER).get("base_model_name_or_path")
    if isinstance(base, str) and Path(base).is_dir():
        yield from _of_folder(Path(base).resolve(), seen)


def _of_merge(folder: Path, seen: frozenset[Path]) -> Iterator[TrainedRows]:
    """By the inputs that its manifest names, where they still are."""
    inputs = _json(folder / _MERGE).get("inputs")
    for entry in inputs.values() if isinstance(inputs, dict) else ():
        path = entry.get("path") if isinstance(entry, dict) else None
        if isinstance(path, str) and Path(path).is_dir():
            yield from _of_folder(Path(path).resolve(), seen)
        elif isinstance(path, str):
            yield _nothing_of(path)


def _of_family(folder: Path) -> Iterator[TrainedRows]:
    """By the train.json above it, of a version that wrote no file of rows."""
    for place in folder.parents:
        if (place / _FAMILY).is_file():
            record = _json(place / _FAMILY)
            name = folder.relative_to(place).as_posix()
            runs = [run for run in record.get("runs") or () if f"{name}/".startswith(f"{run}/")]
            is_fitted = (record.get("settings") or {}).get("head") == "probe"
            if runs and (runs != ["base"] or is_fitted):
                yield _dealt_again(record, place)
            return


def _dealt_again(record: Mapping[str, Any], family: Path) -> TrainedRows:
    """The train split of the description in train.json, if it gives the very rows of then."""
    rows = rows_of({**record, "rows": (record.get("settings") or {}).get("data_sha256")})
    return _nothing_of(family) if rows is None else TrainedRows.of(rows.of("train"), rows)


def _nothing_of(place: object) -> TrainedRows:
    return TrainedRows(np.empty(0, dtype=np.uint64), unknown=(str(place),))


def rows_of(origin: Mapping[str, Any]) -> Rows | None:
    """All rows of a description, dealt as now or as version 0.1 did; None if they are others now.

    Args:
        origin: as in `TrainedRows.origins`.
    """
    try:
        spec = load_spec(origin["data"])
        if source_fingerprint(spec).get("sha256") != (origin.get("source") or {}).get("sha256"):
            return None
        for as_01 in (False, True):
            rows = load_rows(spec, as_01=as_01)
            if rows.fingerprint() == origin["rows"]:
                return rows
    except (FairError, KeyError, TypeError, OSError):  # gone, or of a version that is not known
        pass
    return None


def _json(file: Path) -> dict[str, Any]:
    """The content of a file that may not be there, or may be somebody else's."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
