"""The folder of a sweep: finished points, appended and flushed one line at a time."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import ValidationError

from mergekit_fair.errors import SweepError
from mergekit_fair.evaluation.multi_predictions import AnyPredictions
from mergekit_fair.evaluation.predictions import Scores
from mergekit_fair.evaluation.saved_rows import read_rows_text, rows_text
from mergekit_fair.files import lock_folder, write_atomic
from mergekit_fair.schema import parse_json, sealed, unsealed
from mergekit_fair.sweep.record import PointResult, explained

POINTS = "points.jsonl"
# A point's id and the split that it was measured on.
Key = tuple[str, str]


class ReadStore:
    """The finished points of a sweep's folder, which is not written to: what is added stays here.

    Raises:
        SweepError: as `read_points`.
    """

    is_written: ClassVar = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._results, self._size = read_points(folder)
        self._added: dict[Key, bytes] = {}

    @property
    def lines(self) -> Mapping[Key, PointResult]:
        """Everything that is finished."""
        return self._results

    def results(self, split: str) -> dict[str, PointResult]:
        """Point id → its result, of the points that are finished on a split."""
        return {point: result for (point, of), result in self._results.items() if of == split}

    def scores(self, point: str, split: str) -> Scores:
        """The scores of a finished point: of the first task's rows, then of the next one's.

        Raises:
            SweepError: as `read_scores`.
        """
        added = self._added.get((point, split))
        return _loaded(added) if added else read_scores(self.folder, self._results[point, split])

    def append(
        self, result: PointResult, scores: Scores | None, rows: Mapping[str, AnyPredictions]
    ) -> PointResult:
        """Add a finished point, its scores, and the rows that they are of.

        Args:
            result: a point's; another one of the same point and split takes its place.
            scores: None: those that lie there, whose digest the result has.
            rows: of every task.

        Returns:
            The result with the digests of both.
        """
        text, content = rows_text(rows), None if scores is None else _content(scores)
        digests = {"rows": _sha256(text.encode())}
        if content is not None:
            digests["scores"] = _sha256(content)
        result = result.model_copy(update=digests)
        self._keep(result, content, text)
        self._results[result.id, result.split] = result
        return result

    def _keep(self, result: PointResult, scores: bytes | None, rows: str) -> None:
        del rows
        if scores is not None:
            self._added[result.id, result.split] = scores


class Store(ReadStore):
    """A sweep's folder, by one writer at a time.

    `points.jsonl` has a line a point and split, and one more where it was read again with other
    settings: the last one counts. `scores/<id>-<split>.npy` are its scores, and
    `rows/<split>-<digest>.json` the rows that they are of. A line has the digests of both files,
    and its own.

    A kill at any moment loses at most the point in flight: both files are complete before the
    line is appended and fsynced, and half a line at the end is cut off when the folder is opened
    again.
    """

    is_written: ClassVar = True

    def __init__(self, folder: Path) -> None:
        """Open or make the folder.

        Raises:
            ConfigError: another process is writing in it.
            SweepError: a line in the middle is damaged, or was edited.
        """
        self._lock = lock_folder(folder)
        for name in ("scores", "rows"):
            (folder / name).mkdir(exist_ok=True)
        self._path = folder / POINTS
        try:
            super().__init__(folder)
            if self._path.is_file() and self._size < self._path.stat().st_size:
                os.truncate(self._path, self._size)
        except SweepError:
            self._lock.close()
            raise

    def close(self) -> None:
        self._lock.close()

    def _keep(self, result: PointResult, scores: bytes | None, rows: str) -> None:
        """In files."""
        if scores is not None:
            write_atomic(_scores_file(self.folder, result), scores)
        file = _rows_file(self.folder, result)
        if not file.is_file() or _sha256(file.read_bytes()) != result.rows:
            write_atomic(file, rows)
        line = json.dumps(sealed(result.to_dict()), ensure_ascii=False) + "\n"
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())


def read_points(folder: Path) -> tuple[dict[Key, PointResult], int]:
    """The finished points of a sweep's folder, and how many bytes of `points.jsonl` they take.

    Half a line at the end is left out. Of several lines of a point and split the last one counts.

    Raises:
        SweepError: names the line that is damaged, was edited, or that another version has
            written.
    """
    path = folder / POINTS
    if not path.is_file():
        return {}, 0
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    results = {}
    for number, text in enumerate(complete.split(b"\n")[:-1], 1):
        try:
            line, is_whole = unsealed(parse_json(text.decode("utf-8")))
            if is_whole is not False and _is_earlier(line, is_whole):
                raise SweepError(
                    "is of an earlier version of mergekit-fair, which gave points other ids",
                    where=f"{path}:{number}",
                    fix="choose another folder for -o, where all points are measured",
                )
            result = PointResult.model_validate(line)
            if is_whole is False:
                raise ValueError("was changed since the sweep has written it")
        except ValueError as error:  # pydantic's, too
            if isinstance(error, ValidationError):
                problem = explained(error)
            else:
                problem = str(error) if "was changed" in str(error) else "is not a JSON line"
            raise SweepError(
                problem,
                where=f"{path}:{number}",
                fix="remove that line; its point is measured again",
            ) from error
        results[result.id, result.split] = result
    return results, len(complete)


def _is_earlier(line: Any, is_sealed: bool | None) -> bool:
    """Whether a line has no digest, or its figures do not say by what settings they were read."""
    if not isinstance(line, dict):
        return False
    read = line.get("measured_with")
    says_all = isinstance(read, dict) and "reference" in read
    return not is_sealed or ("evaluation" in line and not says_all)


def read_scores(folder: Path, result: PointResult) -> Scores:
    """A finished point's scores.

    Raises:
        SweepError: they are gone, or are not what was measured.
    """
    content = _checked(
        _scores_file(folder, result),
        result.scores,
        fix=f"remove the line of {result.id} on {result.split} from {folder / POINTS}, and "
        "run the sweep again, which measures that point again",
    )
    return _loaded(content)


def read_rows(folder: Path, result: PointResult) -> dict[str, AnyPredictions]:
    """Task → the rows that a finished point was measured on, unanswered.

    Raises:
        SweepError: they are gone, or are not what was measured.
    """
    content = _checked(
        _rows_file(folder, result),
        result.rows,
        fix=f"remove all lines on {result.split} rows from {folder / POINTS}, which need this "
        "file, and run the sweep again, which measures their points again",
    )
    return read_rows_text(content.decode())


def _checked(file: Path, digest: str | None, *, fix: str) -> bytes:
    """What a file holds, which must be what the point's line says."""
    content = file.read_bytes() if file.is_file() else None
    if content is None or _sha256(content) != digest:
        raise SweepError(
            "is gone" if content is None else "was changed since the sweep has written it",
            where=file,
            fix=fix,
        )
    return content


def _scores_file(folder: Path, result: PointResult) -> Path:
    return folder / "scores" / f"{result.id}-{result.split}.npy"


def _rows_file(folder: Path, result: PointResult) -> Path:
    return folder / "rows" / f"{result.split}-{str(result.rows)[:16]}.json"


def _content(scores: Scores) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, scores)
    return buffer.getvalue()


def _loaded(content: bytes) -> Scores:
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
