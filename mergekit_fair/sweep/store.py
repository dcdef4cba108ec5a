"""The sweep's folder: finished points, appended and flushed one line at a time."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from mergekit_fair.errors import SweepError
from mergekit_fair.evaluation.predictions import Scores
from mergekit_fair.files import lock_folder, write_atomic

Line = dict[str, Any]


class Store:
    """`points.jsonl` and `scores/<id>-<split>.npy`; one writer at a time.

    A kill at any moment loses at most the point in flight: a score file is complete before its
    line is appended, and half a line at the end is cut off when the folder is opened again.
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
        try:
            self._lines = self._read()
        except SweepError:
            self._lock.close()
            raise

    def close(self) -> None:
        self._lock.close()

    def lines(self, split: str) -> dict[str, Line]:
        """Point id → its line, of the points that are finished on a split."""
        return {line["id"]: line for line in self._lines if line["split"] == split}

    def scores(self, point: str, split: str) -> Scores:
        """The scores of a finished point: of the first task's rows, then of the next one's."""
        return np.asarray(np.load(self._file(point, split)))

    def append(self, line: Line, found: Scores) -> None:
        """Add a finished point and its scores."""
        buffer = io.BytesIO()
        np.save(buffer, found)
        write_atomic(self._file(line["id"], line["split"]), buffer.getvalue())
        text = json.dumps(line, ensure_ascii=False) + "\n"
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        self._lines.append(line)

    def _file(self, point: str, split: str) -> Path:
        return self.folder / "scores" / f"{point}-{split}.npy"

    def _read(self) -> list[Line]:
        if not self._path.is_file():
            return []
        content = self._path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if len(complete) < len(content):
            os.truncate(self._path, len(complete))
        lines = []
        for number, text in enumerate(complete.decode("utf-8").splitlines(), 1):
            try:
                lines.append(json.loads(text))
            except ValueError:
                raise SweepError(
                    "is not a JSON line",
                    where=f"{self._path}:{number}",
                    fix="remove that line; its point is measured again",
                ) from None
        return lines
