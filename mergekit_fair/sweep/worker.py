"""One process's share of a sweep: a model in memory, whose weights are each point's in turn."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from mergekit_fair.checkpoints.adapted import AdaptedCheckpoint
from mergekit_fair.checkpoints.assign import WeightSlots, can_assign_in_place, remade
from mergekit_fair.checkpoints.cache import size_of
from mergekit_fair.checkpoints.vector_folder import is_vector_folder
from mergekit_fair.errors import CheckpointError, ScoreError
from mergekit_fair.evaluation.classifier import resolve_device
from mergekit_fair.evaluation.evaluate import versions
from mergekit_fair.evaluation.evaluator import Evaluator, Scorer
from mergekit_fair.evaluation.predictions import Scores
from mergekit_fair.evaluation.responses import TaskResponses
from mergekit_fair.evaluation.truncation import Truncation
from mergekit_fair.heads.last_layer import FeatureRows, LastLayer, read_features
from mergekit_fair.merging.in_memory import Composer, RandomControl
from mergekit_fair.merging.merge_options import MergeOptions
from mergekit_fair.merging.plan_cache import PlanCache
from mergekit_fair.merging.references import local_path
from mergekit_fair.progress import Progress
from mergekit_fair.sweep.points import Point


@dataclass(frozen=True, eq=False)
class PointJob:
    """One point on one split."""

    point: Point
    split: str


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a job gave.

    Attributes:
        scores: task → scores, in the rows' order; empty with an error.
        error: why there are none: NaN or infinite scores.
        seconds: of the weights and of the forward passes.
        max_length: tokens that the model was given of a text; None of pictures.
        truncated: task → the rows that are longer.
        versions: of the packages that it depends on.
    """

    scores: Mapping[str, Scores] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0
    max_length: int | None = None
    truncated: Mapping[str, Truncation] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=versions)


class PointWorker:
    """Holds one model on the device and every checkpoint of the sweep, as far as there is room.

    Each point's weights are computed from the checkpoints anew, so that nothing drifts and the
    order of points changes nothing. What a point does not change is the base's, which the model
    shares with the composer.

    Args:
        evaluator: what to score on.
        base: θ₀'s folder, which brings configuration and tokenizer.
        device: torch device, or `auto`.
        groups: subgroup → model, whose vectors the random control replaces.
        seed: of the random control.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        base: str,
        device: str,
        groups: Mapping[str, str],
        *,
        seed: int,
        progress: Progress,
    ) -> None:
        self._evaluator, self._base, self._groups = evaluator, base, groups
        self._seed, self._progress = seed, progress
        self._scorer = evaluator.open(base, resolve_device(device))
        trusts = bool(evaluator.request.model_args.get("trust_remote_code"))
        plans = PlanCache(MergeOptions(quiet=True, trust_remote_code=trusts))
        self._composer = Composer(self._scorer.device, plans=plans, base=base)
        self._control: Composer | None = None
        model = self._scorer.model
        self._composer.share(base, model.state_dict())
        in_place = can_assign_in_place(self._composer.tensors(base), model)
        dtype = evaluator.request.model_args.get("dtype")
        is_forced = dtype not in (None, "auto")
        own = next(model.parameters()).dtype if is_forced else None
        self._slots = WeightSlots(model, own) if in_place else None
        self._current: str | None = None

    def run(self, job: PointJob) -> Outcome:
        """Write the point's weights and score them."""
        start = time.monotonic()
        self._become(job.point)
        label = f"{job.point.label} on {job.split}"
        try:
            scores = self._scorer.score(job.split, None, self._progress, label)
        except ScoreError as error:
            return Outcome(error=str(error), seconds=time.monotonic() - start)
        seconds = time.monotonic() - start
        truncated = self._scorer.truncation(job.split)
        return Outcome(
            scores, seconds=seconds, max_length=self._scorer.max_length, truncated=truncated
        )

    @property
    def scorer(self) -> Scorer:
        """The model in memory, with the weights of the point that ran last."""
        return self._scorer

    def responses(self, point: Point, split: str) -> TaskResponses:
        """All that a point's model says to the requests of all tasks.

        Raises:
            CheckpointError, RecipeError: weights that cannot be put into the base's place.
        """
        self._become(point)
        return self._scorer.responses(split, self._progress)

    def features(self, point: Point, split: str) -> tuple[LastLayer, FeatureRows]:
        """What the last layer of a point's model takes, for every row of a split.

        Raises:
            CheckpointError, ScoreError: as `read_features`.
        """
        self._become(point)
        layer, found = read_features(
            self._evaluator, self._scorer, [split], point.label, self._progress
        )
        return layer, found[split]

    def probe(self, split: str, batch_size: int) -> float:
        """Seconds that one point takes on a split, from two batches: the longest and a middle one.

        Between and beyond them a batch's time is taken to be linear in its rows' costs.
        """
        costs = np.asarray(self._scorer.costs(split), dtype=float)
        order = np.argsort(-costs, kind="stable")
        starts = range(0, len(order), batch_size)
        batches = [order[start : start + batch_size] for start in starts]
        picked = [batches[0], batches[len(batches) // 2]]
        for part in reversed(picked):  # the first pass of all is slow
            self._scorer.score(split, part[:1], self._progress, "warm-up")
        seconds = []
        for part in picked:
            start = time.monotonic()
            self._scorer.score(split, part, self._progress, "probe")
            seconds.append(time.monotonic() - start)
        longest = [float(costs[part].max()) for part in batches]
        slope = _slope(longest[0], longest[len(batches) // 2], *seconds)
        return sum(max(0.0, seconds[0] + slope * (cost - longest[0])) for cost in longest)

    def _become(self, point: Point) -> None:
        if self._current == point.id:
            return
        self._current = None
        weights = self._weights(point)
        if self._slots is not None:
            self._slots.assign(weights)
        else:
            self._scorer.model = remade(weights, self._scorer.model)
        self._scorer.read_labels(point.model)
        self._current = point.id

    def _weights(self, point: Point) -> Iterable[tuple[str, torch.Tensor]]:
        if point.whole is not None:
            return self._composer.tensors(point.whole).items()
        if point.recipe is None:
            raise CheckpointError("a point has neither a model nor a recipe", where=point.label)
        composer = self._random() if point.kind == "control" else self._composer
        return composer.compose(
            point.recipe, reuse_direction=point.varies_lambda_alone, into=self._slots
        )

    def _random(self) -> Composer:
        """A composer whose subgroup models are norm-matched random vectors; made once."""
        if self._control is not None:
            return self._control
        control = Composer(self._scorer.device, plans=self._composer.plans, base=self._base)
        base = self._composer.tensors(self._base)
        control.replace(self._base, base)
        for name, model in self._groups.items():
            trained = self._composer.tensors(model)
            start = None if is_vector_folder(local_path(model)) else base
            vector = RandomControl(start, trained, seed=self._seed, name=name)
            if isinstance(trained, AdaptedCheckpoint):
                control.replace(model, vector, trained.changed_bytes)
            else:
                control.replace(model, vector, size_of(local_path(model)))
        self._control = control
        return control


def _slope(x1: float, x2: float, y1: float, y2: float) -> float:
    return max(0.0, (y1 - y2) / (x1 - x2)) if x1 != x2 else 0.0
