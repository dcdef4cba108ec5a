"""The folder of a sweep: finished points, appended and flushed one line at a time."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from mergekit_fair.errors import SweepError
from mergekit_fair.evaluation.predictions import Scores
from mergekit_fair.files import lock_folder, write_atomic
from mergekit_fair.schema import parse_json
from mergekit_fair.sweep.record import PointResult, explained


class Store:
    """A sweep's folder: `points.jsonl` and `scores/<id>-<split>.npy`; one writer at a time.

    A kill at any moment loses at most the point in flight: a score file is complete before its
    line is appended and fsynced, and half a line at the end is cut off when the folder is opened
    again.
    """

    def __init__(self, folder: Path) -> None:
        """Open or make the folder.

        Raises:
            ConfigError: another process is writing in it.
            SweepError: a line in the middle is damaged.
        """
        self._lock = lock_folder(folder)
        (folder / "scores").mkdir(exist_ok=True)
        self.folder = folder
        self._path = folder / "points.jsonl"
        self._results: dict[tuple[str, str], PointResult] = {}
        try:
            self._read()
        except SweepError:
            self._lock.close()
            raise

    def close(self) -> None:
        self._lock.close()

    def results(self, split: str) -> dict[str, PointResult]:
        """Point id → its result, of the points that are finished on a split."""
        return {point: result for (point, of), result in self._results.items() if of == split}

    def scores(self, point: str, split: str) -> Scores:
        """The scores of a finished point: of the first task's rows, then of the next one's."""
        return np.asarray(np.load(self._file(point, split)))

    def append(self, result: PointResult, scores: Scores) -> None:
        """Add a finished point and its scores."""
        buffer = io.BytesIO()
        np.save(buffer, scores)
        write_atomic(self._file(result.id, result.split), buffer.getvalue())
        line = json.dumps(result.to_dict(), ensure_ascii=False) + "\n"
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        self._results[result.id, result.split] = result

    def _file(self, point: str, split: str) -> Path:
        return self.folder / "scores" / f"{point}-{split}.npy"

    def _read(self) -> None:
        if not self._path.is_file():
            return
        content = self._path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if len(complete) < len(content):
            os.truncate(self._path, len(complete))
        for number, text in enumerate(complete.decode("utf-8").splitlines(), 1):
            try:
                result = PointResult.model_validate(parse_json(text))
            except ValueError as error:  # pydantic's, too
                raise SweepError(
                    explained(error)
                    if isinstance(error, ValidationError)
                    else "is not a JSON line",
                    where=f"{self._path}:{number}",
                    fix="remove that line; its point is measured again",
                ) from error
            self._results[result.id, result.split] = result
