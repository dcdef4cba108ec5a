"""Measure points in one process: weights are written in place, inputs are tokenised once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from mergekit_fair.data import Rows
from mergekit_fair.engine.compose import Composer, random_control
from mergekit_fair.errors import CheckpointError, MeasurementError
from mergekit_fair.harness.answers import Answers
from mergekit_fair.harness.classifier import load_classifier, resolve_device
from mergekit_fair.harness.evaluate import Level, Measuring, evaluate
from mergekit_fair.harness.inputs import Inputs, open_inputs
from mergekit_fair.harness.predict import Margins, margins, predictions
from mergekit_fair.progress import Progress
from mergekit_fair.sweep.config import Evaluate
from mergekit_fair.sweep.plan import Point


class Runner:
    """Holds one model on the device and every checkpoint of the sweep in memory.

    Each point's weights are computed from the checkpoints anew and copied into the model, so
    that nothing drifts and the order of points changes nothing.
    """

    def __init__(
        self, base: str, rows: Rows, how: Evaluate, *, seed: int, progress: Progress
    ) -> None:
        self._how = how
        self._rows = rows
        self._seed = seed
        self._base = base
        self._progress = progress
        self._device = resolve_device(how.device)
        self._model = load_classifier(base, rows.kind, self._device)
        self._composer = Composer()
        self._control: Composer | None = None
        self._inputs: dict[str, Inputs] = {}
        self._in_place = _same_names(self._composer.tensors(base), self._model.state_dict())

    def margins(self, point: Point, split: str) -> Margins:
        """Write the point's weights and run the model over a split.

        Raises:
            MeasurementError: the scores are NaN or infinite.
        """
        self.apply(self._weights(point))
        if split not in self._inputs:
            rows = self._rows.of(split)
            self._inputs[split] = open_inputs(rows, self._base, self._how.max_length)
        inputs = self._inputs[split]
        self._progress.start(f"{point.label} on {split}", len(inputs.lengths))
        try:
            return margins(
                self._model,
                inputs,
                batch_size=self._how.batch_size,
                device=self._device,
                bf16=self._how.bf16,
                progress=self._progress.advance,
            )
        finally:
            self._progress.stop()

    def apply(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Put a checkpoint's tensors into the model, in the dtype of the first of them.

        They are copied in place. Where transformers names the tensors in files otherwise than
        those in memory (ViT), its own loader converts them and the model is made anew.
        """
        if not self._in_place:
            self._model = type(self._model).from_pretrained(
                None, config=self._model.config, state_dict=dict(tensors)
            )
            self._model.to(self._device).eval()
            return
        slots, dtype = self._model.state_dict(), None
        with torch.no_grad():
            for name, tensor in tensors:
                if dtype is None and tensor.is_floating_point():
                    dtype = tensor.dtype
                    slots = self._model.to(dtype).state_dict()
                slots[name].copy_(tensor)

    def _weights(self, point: Point) -> Iterable[tuple[str, torch.Tensor]]:
        if point.model is not None:
            return self._composer.tensors(point.model).items()
        if point.recipe is None:
            raise CheckpointError("a point has neither a model nor a recipe", where=point.label)
        if point.kind == "control":
            return self._random(point).compose(point.recipe)
        return self._composer.compose(point.recipe)

    def _random(self, point: Point) -> Composer:
        """A composer whose subgroup models are norm-matched random vectors; made once."""
        if self._control is None and point.recipe is not None:
            self._control = Composer()
            base = self._composer.tensors(self._base)
            self._control.replace(self._base, base)
            for name, model in point.recipe.groups().items():
                noise = random_control(
                    base, self._composer.tensors(model), seed=self._seed, name=name
                )
                self._control.replace(model, noise)
        if self._control is None:
            raise CheckpointError("a control needs a recipe", where=point.label)
        return self._control


def _same_names(tensors: Mapping[str, torch.Tensor], slots: Mapping[str, torch.Tensor]) -> bool:
    """Whether a file's tensors, by their names, fill every storage of a model (ties share one)."""
    if not set(tensors) <= set(slots):
        return False
    written = {slots[name].data_ptr() for name in tensors}
    return all(slot.data_ptr() in written for slot in slots.values())


def measure_point(
    runner: Runner,
    point: Point,
    rows: Rows,
    split: str,
    how: Measuring,
    *,
    level: Level | None,
    threshold: float | None = None,
) -> tuple[dict[str, Any], Margins]:
    """One line of points.jsonl and the scores behind it.

    A model whose scores are NaN or infinite gives a line with `error` instead of `evaluation`.

    Args:
        runner: holds the model.
        point: what to measure.
        rows: of this split.
        split: `validation` or `report`.
        how: what to measure.
        level: the selection rate to match; None for the model that sets it: its own.
        threshold: for the report split: the level-matched threshold set on validation.
    """
    start = time.monotonic()
    line: dict[str, Any] = {**point.describe(), "split": split}
    try:
        found = runner.margins(point, split)
    except MeasurementError as error:
        failed = np.full(len(rows.labels), np.nan, dtype=np.float32)
        return {**line, "error": str(error)}, failed
    level = level or Level(point.label, float(predictions(found).mean()))
    line["evaluation"] = evaluate(
        Answers.of_margins(found, rows),
        how,
        model=point.label,
        split=split,
        level=level,
        threshold=threshold,
    )
    line["seconds"] = round(time.monotonic() - start, 2)
    return line, found
