"""What a target's last layer takes, of every row: read by one pass, and kept in the sweep's folder.

A sweep that goes on needs no pass for it, and a thousand heads none beside it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mergekit_fair.errors import SweepError
from mergekit_fair.files import write_atomic
from mergekit_fair.heads.last_layer import FeatureRows, LastLayer
from mergekit_fair.sweep.point_runner import PointRunner
from mergekit_fair.sweep.points import Point
from mergekit_fair.sweep.worker import PointWorker

# How far the layer's scores may be from those that were measured, as a share of the largest: with
# other kernels or in half precision they are rounded otherwise.
_NEAR = 0.05


@dataclass(eq=False)
class TargetFeatures:
    """Of one model.

    Attributes:
        target: its point, which is measured.
        runner: has its scores.
        folder: of the files.
        key: a digest of all that features depend on.
        open_worker: gives what runs models; None: none may be run.
    """

    target: Point
    runner: PointRunner
    folder: Path
    key: str
    open_worker: Callable[[], PointWorker] | None
    _known: dict[str, tuple[LastLayer, FeatureRows]] = field(default_factory=dict, init=False)

    def missing(self, split: str) -> int:
        """Rows that a pass has to be run over: none where they were read before."""
        if split not in self._known and (kept := self._kept(split)) is not None:
            self._known[split] = kept
        return 0 if split in self._known else len(self._rows(split))

    def of(self, split: str) -> FeatureRows:
        """Features and rows of train, validation or report, with the target's scores.

        Report rows must be measured before, and so must be opened.
        """
        if self.missing(split):
            if self.open_worker is None:
                raise SweepError("no model may be run here", where=self.target.label)
            layer, found = self.open_worker().features(self.target, split)
            self.runner.require_unchanged()
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self._file(split), _content(layer, found.features))
            self._known[split] = layer, self._with_scores(split, layer, found.features)
        return self._known[split][1]

    @property
    def layer(self) -> LastLayer:
        """The target's."""
        self.of("validation")
        return self._known["validation"][0]

    def _rows(self, split: str) -> Any:
        return self.runner.labels(split)[self.runner.task]

    def _file(self, split: str) -> Path:
        return self.folder / f"{self.key}-{split}.npz"

    def _with_scores(self, split: str, layer: LastLayer, features: Any) -> FeatureRows:
        """Those that were measured; of training rows, which nobody measures, the layer's own."""
        if split != "train":
            return FeatureRows(features, self.runner.binary(self.target.id, split))
        answered = np.isfinite(features).all(axis=1)
        gaps = np.full(len(features), np.nan)
        gaps[answered] = layer.gaps(features[answered])
        return FeatureRows(features, self._rows(split).with_scores(gaps))

    def _kept(self, split: str) -> tuple[LastLayer, FeatureRows] | None:
        """What was read before; None where it is damaged, or not this target's."""
        file = self._file(split)
        if not file.is_file():
            return None
        try:
            layer, features = _read(file.read_bytes())
        except (OSError, ValueError, LookupError, zipfile.BadZipFile):
            return None
        if len(features) != len(self._rows(split)):
            return None
        found = self._with_scores(split, layer, features)
        answered = ~np.isnan(found.rows.scores)
        scores = found.rows.scores[answered]
        away = np.abs(layer.gaps(features[answered]) - scores)
        size = max(1.0, float(np.abs(scores).max(initial=0.0)))
        return (layer, found) if bool((away <= _NEAR * size).all()) else None


def _content(layer: LastLayer, features: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        features=features,
        weight=layer.weight,
        bias=np.zeros(0) if layer.bias is None else layer.bias,
        classes=np.array(layer.classes),
        name=np.array(layer.name),
    )
    return buffer.getvalue()


def _read(content: bytes) -> tuple[LastLayer, Any]:
    with np.load(io.BytesIO(content), allow_pickle=False) as kept:
        no, yes = kept["classes"].tolist()
        bias = kept["bias"]
        layer = LastLayer(
            str(kept["name"]), kept["weight"], bias if len(bias) else None, (int(no), int(yes))
        )
        return layer, kept["features"]
