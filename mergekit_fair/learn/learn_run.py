"""`learn`: the numbers of a recipe by gradient on validation rows, and the recipe with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.checkpoints.names import memory_names
from mergekit_fair.errors import CheckpointError, ConfigError, FairError, RecipeError
from mergekit_fair.evaluation.classifier import backend_of, resolve_device
from mergekit_fair.evaluation.evaluate import versions
from mergekit_fair.evaluation.evaluator import Evaluator, Scorer
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
from mergekit_fair.evaluation.seen_rows import SeenRows
from mergekit_fair.evaluation.soft_objective import counting
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.intervals import undefined_to_none
from mergekit_fair.files import staged_folder
from mergekit_fair.heads.fair_head import require_enough
from mergekit_fair.heads.fitting import Moves, folds
from mergekit_fair.heads.head_run import repeated_rows
from mergekit_fair.learn.coefficients import Array, CoefficientMap, shared_by, weight_setting
from mergekit_fair.learn.composed_model import ComposedModel
from mergekit_fair.learn.learn_results import (
    RECIPE,
    RESULTS,
    Epoch,
    Learned,
    LearnOptions,
    RowFigures,
    read_learned,
)
from mergekit_fair.learn.learning import SPLIT, RowGaps, Schedule, trajectory
from mergekit_fair.learn.objectives import Goal, Objective, objective_of
from mergekit_fair.learn.posterior import LearnedNumbers, SpikeAndSlab
from mergekit_fair.merging.merge_options import MergeOptions
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.recipe_coefficients import recipe_coefficients
from mergekit_fair.merging.recipe_keys import without_measurement
from mergekit_fair.merging.references import local_path
from mergekit_fair.progress import Progress, bar
from mergekit_fair.schema import dump_yaml, sealed
from mergekit_fair.vectors.recipe_vectors import open_vectors

# Methods that are Σ_g λ_g Δ_g, and what makes their weights the λ_g themselves.
_PLAIN: dict[str, dict[str, Any]] = {
    "subgroup_task_addition": {"lambda": 1.0, "normalize": "sum"},
    "task_arithmetic": {"lambda": 1.0, "normalize": False},
}
_DIGITS = 6  # of λ after the point, in the recipe


@dataclass(frozen=True)
class LearnSettings:
    """What is learned, and how.

    Attributes:
        goal: the objective.
        mu: what a gap counts in it.
        schedule: epochs, rounds, steps.
        folds: of cross-fitting, by which the number of epochs is chosen.
    """

    goal: Goal = "loss"
    mu: float = 3.0
    schedule: Schedule = field(default_factory=Schedule)
    folds: int = 3

    def __post_init__(self) -> None:
        if self.schedule.rounds and self.schedule.spike_and_slab:
            raise ConfigError(
                "a difference vector has plain numbers and no posterior",
                where="--rounds, --posterior",
                fix="give one of the two",
            )


def run_learn(
    recipe: Recipe,
    request: EvaluationRequest,
    out: Path,
    settings: LearnSettings,
    metrics: MetricSettings,
    progress: Progress,
    *,
    device: str = "auto",
    overwrite: bool = False,
) -> Learned:
    """Learn λ_{g,t} of θ_t = θ₀_t + Σ_g λ_{g,t} Δ_{g,t} on validation rows; write the recipe.

    The number of epochs is the one whose objective on left-out rows is least in cross-fitting;
    with it, λ are learned anew on all rows. Where that is none, nothing but the record is written.

    Args:
        recipe: a plain sum of task vectors of classifiers, whose λ_g learning begins at.
        request: a data description and how models are run.
        out: the folder to make: `recipe.yml`, `learned.json`.
        settings: how.
        metrics: who decides a gap.
        progress: told what is done.
        device: torch device.
        overwrite: replace what an earlier run has written.

    Raises:
        ConfigError: `out` is there and may not be replaced; from the request.
        RecipeError: another method, or λ that differ between tensors.
        CheckpointError: no classifiers; models that do not fit or are not finite.
        MeasurementError: models that were trained on validation rows; too few of them.
        ScoreError: scores that are NaN or infinite.
    """
    recipe = recipe.resolved()
    lambdas = _first(recipe)
    with staged_folder(out, overwrite=overwrite, known=_of_learn) as folder:
        run = _LearnRun(recipe, request, settings, metrics, progress, device)
        learned = run.learned(list(lambdas.values()))
        content = json.dumps(sealed(learned.to_dict()), indent=1, ensure_ascii=False)
        (folder / RESULTS).write_text(f"{content}\n", encoding="utf-8")
        if learned.chosen:
            text = dump_yaml(_with_weights(recipe, lambdas, learned))
            (folder / RECIPE).write_text(text, encoding="utf-8")
    return learned


def _first(recipe: Recipe) -> dict[str, float]:
    """Model → λ_g, in recipe order.

    Raises:
        RecipeError: another method than a plain sum, more than one λ_g a vector, a model twice.
    """
    lambdas = recipe_coefficients(recipe).lambdas if recipe.method in _PLAIN else None
    if lambdas is None:
        raise RecipeError(
            "is no plain sum of task vectors with one number each, which learning begins at",
            where=recipe.where,
            got=recipe.method,
            allowed=f"{' or '.join(_PLAIN)}, without filters, gradients and sparse vectors",
            fix="write it as subgroup_task_addition with a weight for each model",
        )
    if len(lambdas) < len(_models(recipe)) - 1:
        raise RecipeError("has a model twice", where=recipe.where, fix="add up its weights")
    return dict(lambdas)


def _with_weights(recipe: Recipe, first: Mapping[str, float], learned: Learned) -> dict[str, Any]:
    raw = without_measurement(recipe.raw)
    vectors = zip(learned.lambdas.values(), first.values(), strict=True)
    models = []
    for item in raw["models"]:
        parameters = dict(item.get("parameters") or {})
        if item["model"] != raw["base_model"]:
            parameters["weight"] = weight_setting(*next(vectors))
        models.append({**item, "parameters": parameters} if parameters else item)
    shared = {**parameters_of(raw), **_PLAIN[recipe.method]}
    shared.pop("weight", None)
    return {**raw, "models": models, "parameters": shared, "fairness": learned.recipe_note()}


class _LearnRun:
    """A recipe's vectors and the validation rows, in memory."""

    def __init__(
        self,
        recipe: Recipe,
        request: EvaluationRequest,
        settings: LearnSettings,
        metrics: MetricSettings,
        progress: Progress,
        device: str,
    ) -> None:
        self._recipe, self._settings = recipe, settings
        self._metrics, self._progress = metrics, progress
        trusts = bool(request.model_args.get("trust_remote_code"))
        base, *models = _models(recipe)
        _require_classifier(base, trusts_remote_code=trusts)
        evaluator = Evaluator(request)
        (self._labels,) = evaluator.binary_labels(SPLIT).values()
        evaluator.require_classes(base, models, ())
        seen = SeenRows(evaluator)
        seen.require_unseen([base, *models], SPLIT)
        self._scorer: Scorer = evaluator.open(base, resolve_device(device))
        self._scorer.model = self._scorer.model.float()
        self._evaluator, self._seen = evaluator, seen
        self._repeated = repeated_rows(evaluator)
        self._used = counting(self._labels.with_scores(np.zeros(len(self._labels))))
        self._used &= ~self._repeated
        require_enough(self._labels.take(self._used))
        options: Any = MergeOptions(quiet=True, trust_remote_code=trusts)
        with open_vectors(recipe, options, progress) as vectors:
            self._vectors = tuple(vectors.models)
            with bar(progress, "task vectors", vectors.bytes) as advance:
                self._model = ComposedModel(
                    self._scorer.model,
                    vectors.base,
                    list(vectors.models.values()),
                    vectors.names,
                    memory_names(Path(local_path(base)), vectors.base.tensors),
                    advance,
                )
        self._more: list[str] = []
        self._gaps = RowGaps(self._scorer, bf16=settings.schedule.bf16)

    def learned(self, lambdas: Sequence[float]) -> Learned:
        """Cross-fit, choose the number of epochs, and learn on all rows."""
        settings, schedule = self._settings, self._settings.schedule
        first = np.repeat(np.array(lambdas)[:, None], len(self._model.tensors), axis=1)
        self._model.set(first)
        known = self._gaps.all(self._progress, "the recipe's own λ")
        self._rows = self._labels.with_scores(known)
        epochs = self._cross_fitted(first, known)
        # A tie goes to fewer epochs.
        chosen = min(epochs, key=lambda each: each.left_out.objective).epoch
        found, numbers, validation = first, None, None
        if chosen:
            every = self._used
            with bar(self._progress, "all rows", chosen * int(every.sum())) as advance:
                epochs_of = self._trajectory(first, known, every, advance)
                found, numbers = next(islice(epochs_of, chosen - 1, None))
            found = np.round(found, _DIGITS)
            self._model.set(found)
            validation = self._figures(self._gaps.all(self._progress, "learned λ"), every)
            if validation.objective >= self._figures(known, every).objective:
                self._more.append(
                    f"{chosen} epochs over all rows make the objective worse, though they did not "
                    "over parts of them: a smaller learning rate may help"
                )
                chosen, found, numbers, validation = 0, first, None, None
        of_numbers = CoefficientMap.of_vectors(first, shared_by(schedule.per, self._model.tensors))
        return Learned(
            recipe=self._recipe.where,
            data=self._labels.task,
            options=LearnOptions(
                objective=settings.goal,
                mu=settings.mu,
                per=schedule.per,
                rounds=schedule.rounds,
                epochs=schedule.epochs,
                folds=settings.folds,
                learning_rate=schedule.learning_rate,
                batch_size=schedule.batch_size,
                bf16=schedule.bf16,
                posterior="spike-and-slab" if schedule.spike_and_slab else "none",
                seed=schedule.seed,
                min_group_size=self._metrics.min_group_size,
            ),
            rows=int(self._used.sum()),
            left_out_rows=int(self._repeated.sum()),
            numbers=len(of_numbers.first),
            epochs=epochs,
            chosen=chosen,
            validation=validation,
            lambdas=self._by_name(found),
            shares=self._shares(of_numbers, numbers),
            notes=self._notes(),
            versions=versions(),
        )

    def _cross_fitted(self, first: Array, known: Array) -> list[Epoch]:
        """What every number of epochs gives, in the mean of folds."""
        settings = self._settings
        rows = np.flatnonzero(self._used)
        parts = folds(self._rows.take(self._used), settings.schedule.seed, settings.folds)
        total = settings.schedule.total * sum(int(fitted.sum()) for fitted, _ in parts)
        found: list[list[tuple[RowFigures, RowFigures]]] = [
            [] for _ in range(settings.schedule.total + 1)
        ]
        for number, pair in enumerate(parts, start=1):
            fitted, left_out = (self._mask(rows[mask]) for mask in pair)
            found[0].append((self._figures(known, fitted), self._figures(known, left_out)))
            label = f"fold {number} of {len(parts)}"
            with bar(self._progress, label, total // len(parts)) as advance:
                lambdas = [each for each, _ in self._trajectory(first, known, fitted, advance)]
            for epoch, each in enumerate(lambdas, start=1):
                self._model.set(each)
                gaps = self._gaps.all(self._progress, f"{label}, epoch {epoch}")
                found[epoch].append((self._figures(gaps, fitted), self._figures(gaps, left_out)))
        return [
            Epoch(
                epoch=epoch,
                fitted=_mean([f for f, _ in each]),
                left_out=_mean([o for _, o in each]),
            )
            for epoch, each in enumerate(found)
        ]

    def _mask(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        mask = np.zeros(len(self._labels), dtype=np.bool_)
        mask[rows] = True
        return mask

    def _trajectory(
        self, first: Array, known: Array, chosen: NDArray[np.bool_], advance: Any
    ) -> Iterator[tuple[Array, LearnedNumbers]]:
        schedule = self._settings.schedule
        return trajectory(
            self._model, self._gaps, first, self._objective, known, chosen, schedule, advance
        )

    def _objective(self, chosen: NDArray[np.bool_]) -> Objective:
        return objective_of(
            self._settings.goal, self._rows, chosen, self._metrics, self._settings.mu
        )

    def _figures(self, gaps: Array, chosen: NDArray[np.bool_]) -> RowFigures:
        value, _ = self._objective(chosen)(gaps[chosen])
        return row_figures(self._rows.with_scores(gaps), chosen, self._metrics, value)

    def _by_name(self, lambdas: Array) -> dict[str, dict[str, float]]:
        return {
            label: dict(self._model.expanded([float(value) for value in row]))
            for label, row in zip(self._vectors, lambdas, strict=True)
        }

    def _shares(
        self, of: CoefficientMap, numbers: LearnedNumbers | None
    ) -> dict[str, dict[str, float]] | None:
        if not isinstance(numbers, SpikeAndSlab):
            return None
        return self._by_name(np.round(of.lambdas(numbers.shares), _DIGITS))

    def _notes(self) -> list[str]:
        said = [text for text in self._evaluator.warnings if ", train rows:" not in text]
        said += self._scorer.notes(SPLIT)
        if self._repeated.any():
            said.append(
                f"{int(self._repeated.sum()):,} validation rows repeat training rows and are left "
                "out"
            )
        if self._model.fixed:
            said.append(
                f"{len(self._model.fixed)} tensors have no gradient and keep the recipe's λ, such "
                f"as {self._model.fixed[0]}"
            )
        return list(dict.fromkeys([*said, *self._more]))


def row_figures(
    rows: Predictions, chosen: NDArray[np.bool_], settings: MetricSettings, objective: float
) -> RowFigures:
    """What is predicted for some rows, with the groups that decide on all of them."""
    part = Moves.of(rows, np.zeros((1, len(rows))), settings).take(chosen)
    hard = np.asarray(part.rows.predicted == 1, dtype=np.float64)
    weights = np.ones(len(hard)) if part.rows.weights is None else part.rows.weights
    right = part.rows.predicted == part.rows.labels
    return RowFigures(
        objective=objective,
        acc=float(np.average(right, weights=weights)),
        dpd=undefined_to_none(part.gap("dpd", hard)),
        eod=undefined_to_none(part.gap("eod", hard)),
        selection_rate=part.rows.selection_rate,
    )


def _mean(parts: Sequence[RowFigures]) -> RowFigures:
    """Of folds; None where one of them has none."""
    found: dict[str, Any] = {}
    for name in RowFigures.model_fields:
        values = [getattr(part, name) for part in parts]
        found[name] = None if None in values else float(np.mean(values))
    return RowFigures(**found)


def _models(recipe: Recipe) -> list[str]:
    base = str(recipe.raw["base_model"])
    return [base, *(str(item["model"]) for item in recipe.raw["models"] if item["model"] != base)]


def _require_classifier(base: str, *, trusts_remote_code: bool) -> None:
    kind, _ = backend_of(base, trust_remote_code=trusts_remote_code)
    if kind not in ("fair-classifier", "fair-image-classifier"):
        raise CheckpointError(
            "is no classifier, and λ are learned by the gradient of one",
            where=base,
            allowed="…ForSequenceClassification, …ForImageClassification",
            fix="search λ with `sweep`, which needs no gradient",
        )


def _of_learn(folder: Path) -> Iterable[str]:
    """What an earlier run has written, which another one may replace."""
    try:
        read_learned(folder)
    except FairError:
        return ()
    return (RECIPE, RESULTS)
