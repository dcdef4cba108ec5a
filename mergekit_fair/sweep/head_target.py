"""The fair heads of one model: fitted on its features, written, and scored without a pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mergekit_fair.checkpoints.folder import SINGLE, VECTOR
from mergekit_fair.checkpoints.vector_folder import is_vector_folder, read_marker, read_vector
from mergekit_fair.errors import FairError
from mergekit_fair.evaluation.predictions import Scores
from mergekit_fair.evaluation.saved_rows import rows_digest
from mergekit_fair.evaluation.soft_objective import deciding_groups
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.files import contents, staged_folder
from mergekit_fair.heads.directions import Direction, random_directions
from mergekit_fair.heads.fair_head import (
    FairHead,
    HeadSettings,
    fit_head,
    fit_on,
    moves_of,
    require_enough,
)
from mergekit_fair.heads.fitting import fit_coefficients
from mergekit_fair.heads.last_layer import Array, FeatureRows
from mergekit_fair.heads.rival_heads import balanced_head
from mergekit_fair.heads.unseen import Mask, unseen_scores
from mergekit_fair.heads.written_head import file_name, write_vectors
from mergekit_fair.schema import digest_of_json
from mergekit_fair.sweep.head_features import TargetFeatures

# Of the way in which heads are fitted and scored: another one makes other points.
_VERSION = 1
_FILES = (SINGLE, "config.json", VECTOR)  # of a vector folder
# Rows of each label that a refit needs, so that every part of them has both.
_LEAST = 30


@dataclass(frozen=True, eq=False)
class HeadTarget:
    """A baseline, or a merge, and its rows.

    Attributes:
        name: of its point.
        model: the folder that the recipe begins with, whose tensors the vectors fit: the
            baseline's, or a merge's base.
        recipe: of vectors, folder → (name, a_c), and λ; None of a merge that has none.
        features: of its rows.
        settings: which gap it is, and who decides it.
        head: how to fit.
        repeated: bool (n,), validation rows that are training rows, too: nothing is fitted on them.
    """

    name: str
    model: str
    recipe: Callable[[Mapping[str, tuple[str, float]], float], dict[str, Any] | None]
    features: TargetFeatures
    settings: MetricSettings
    head: HeadSettings
    repeated: Mask

    @cached_property
    def rows(self) -> dict[str, FeatureRows]:
        """What is fitted on.

        Raises:
            MeasurementError: hardly any validation rows.
        """
        validation = self.features.of("validation").take(~self.repeated)
        require_enough(validation.rows)
        return {"train": self.features.of("train"), "validation": validation}

    def heads(self, mus: Sequence[float]) -> list[FairHead]:
        """At the block's own μ, then at further ones, along the same directions."""
        has_bias = self.features.layer.bias is not None
        first = fit_head(self.rows, self.settings, self.head, has_bias=has_bias)
        validation, directions = self.rows["validation"], first.directions
        others = [
            fit_on(directions, validation, self.settings, replace(self.head, mu=mu), first.left_out)
            for mu in mus
            if mu not in (first.mu, self.head.mu)
        ]
        return [first, *others]

    @cached_property
    def digest(self) -> str:
        """Of all that coefficients and scores depend on, beside μ."""
        settings = self.settings
        rows = [rows_digest({split: each.rows}) for split, each in self.rows.items()]
        about = [self.head.metric, self.head.seed, settings.min_group_size]
        return digest_of_json([_VERSION, self.features.key, *about, *rows])[:16]

    def write(self, fair: FairHead, folder: Path) -> dict[str, str]:
        """Vector folders of a head's directions below a folder, unless they lie there; path → name.

        Nothing is written where no model may be run: what is not there is left out.
        """
        folder = folder / f"{file_name(self.name)}-{self.digest}"
        names = [direction.name for direction in fair.directions]
        written = _written(folder)
        with suppress(FairError):
            if [read_marker(path).name for path in written] == names and all(
                self._is_written(path, direction)
                for path, direction in zip(written, fair.directions, strict=True)
            ):
                return {str(path): name for path, name in zip(written, names, strict=True)}
        if self.features.open_worker is None:
            return {}
        layer, train = self.features.layer, self.rows["train"]
        with staged_folder(folder, overwrite=True, known=_of_vectors) as staging:
            vectors = write_vectors(
                fair, self.head.metric, layer, train, self.model, staging, fit=self.digest
            )
        return {str(folder / each.folder): each.name for each in vectors}

    def _is_written(self, path: Path, direction: Direction) -> bool:
        expected = self.features.layer.vector(direction.weight, direction.bias)
        known = read_vector(path)
        is_ours = read_marker(path).about.get("fit") == self.digest
        return (
            is_ours
            and known.keys() == expected.keys()
            and all(
                torch.equal(known[name], torch.from_numpy(value).float())
                for name, value in expected.items()
            )
        )

    def unseen(self, fair: FairHead, mu: float) -> Scores:
        """Of all validation rows, by coefficients that have not seen the row (`unseen_scores`)."""
        rows, fitted = self.features.of("validation"), self.rows["validation"]
        moves = moves_of(fair.directions, fitted, self.settings)

        def fit(seen: Mask) -> Any:
            found = fit_coefficients(self.head.metric, moves.take(seen), self.settings, mu)
            return lambda part: moves.take(part).scores(found)

        return self._with(fair.moved(rows).scores, unseen_scores(fitted.rows, fit, self.head.seed))

    def _with(self, scores: Scores, unseen: Array) -> Scores:
        """Rows that nothing was fitted on are scored by the fit on all others."""
        scores = np.array(scores, dtype=np.float64)
        scores[~self.repeated] = unseen
        return scores

    def random(self, fair: FairHead, mu: float) -> FairHead:
        """As many random directions, with coefficients that are fitted in the same way."""
        *probes, constant = fair.directions
        drawn = random_directions(probes, self.rows["train"], seed=self.head.seed + 1)
        directions = (*drawn, constant)
        moves = moves_of(directions, self.rows["validation"], self.settings)
        found = fit_coefficients(self.head.metric, moves, self.settings, mu)
        return replace(fair, directions=directions, coefficients=found)

    @property
    def can_be_refitted(self) -> bool:
        """Whether every part of the validation rows has both labels."""
        labels = self.rows["validation"].rows.labels
        return min(int((labels == label).sum()) for label in (0, 1)) >= _LEAST

    def refitted(self, split: str) -> Scores:
        """By the last layer fitted anew (`balanced_head`): on validation rows that are not scored,
        on others by all of them."""
        rows = self.features.of(split)
        everything = self._refit(np.ones(len(self.rows["validation"].rows), dtype=np.bool_))
        moved = rows.rows.scores + everything.of(rows.features)
        if split != "validation":
            return np.asarray(moved)
        fitted = self.rows["validation"]

        def fit(seen: Mask) -> Any:
            found = self._refit(seen)
            return lambda part: fitted.rows.scores[part] + found.of(fitted.features[part])

        return self._with(moved, unseen_scores(fitted.rows, fit, self.head.seed))

    def _refit(self, seen: Mask) -> Direction:
        """On some rows; who decides on all of them decides on these."""
        fitted, settings = self.rows["validation"], self.settings
        deciding = deciding_groups("dpd", fitted.rows, settings)
        small = [name for name in fitted.rows.groups if name not in deciding]
        settings = replace(settings.excluding(small), min_group_size=1)
        part = {"validation": fitted.take(seen)}
        return balanced_head(part, settings, layer=self.features.layer, seed=self.head.seed)


def _written(folder: Path) -> list[Path]:
    return sorted(filter(is_vector_folder, folder.iterdir())) if folder.is_dir() else []


def _of_vectors(folder: Path) -> list[str]:
    """What may be replaced: files of vector folders, and nothing else that lies there."""
    return [name for name in contents(folder) if name.partition("/")[2] in _FILES]
