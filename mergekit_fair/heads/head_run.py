"""`heads`: fit a fair head, write it as a merge, and measure it once on report rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mergekit_fair.checkpoints.folder import tensor_infos
from mergekit_fair.checkpoints.vector_folder import sketch_of
from mergekit_fair.data.row_keys import row_keys
from mergekit_fair.errors import FairError
from mergekit_fair.evaluation.classifier import resolve_device
from mergekit_fair.evaluation.documents import rows_behind
from mergekit_fair.evaluation.evaluate import versions
from mergekit_fair.evaluation.evaluator import Evaluator, Scorer
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
from mergekit_fair.evaluation.seen_rows import SeenRows
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.intervals import undefined_to_none
from mergekit_fair.files import contents, staged_folder
from mergekit_fair.heads.directions import spread_of_constant
from mergekit_fair.heads.fair_head import FairHead, HeadSettings, fit_head, require_enough
from mergekit_fair.heads.head_controls import compared_models, models_beside, rows_text
from mergekit_fair.heads.head_results import (
    PAGE,
    RECIPE,
    RESULTS,
    ROWS,
    HeadOptions,
    HeadResults,
    SoftChange,
    TriedMu,
    read_heads,
)
from mergekit_fair.heads.last_layer import Array, FeatureRows, LastLayer, read_features
from mergekit_fair.heads.target_checks import require_classifier, require_dtype
from mergekit_fair.heads.written_head import merged_gaps, recipe_of_head, write_vectors
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.saved_config import stored_dtype
from mergekit_fair.progress import Progress
from mergekit_fair.schema import dump_yaml, sealed

_VECTORS = "vectors"
# Standard deviation, of a mean of 1, up to which a direction may stand for a bias.
_CONSTANT_ENOUGH = 0.2
_OF_VECTOR = ("/model.safetensors", "/config.json", "/task_vector.json")


class HeadRun:
    """A target, its rows and their features: one forward pass, and any number of heads.

    Args:
        request: a data description and how models are run.
        model: the target's folder.
        device: torch device.
        settings: which gap it is, and who decides it.
        progress: told what is done.

    Raises:
        CheckpointError: no classifier of two classes with a linear last layer; an adapter.
        MeasurementError: the model was trained on validation or report rows; too few rows.
        ConfigError, DataError: from request and data.
    """

    def __init__(
        self,
        request: EvaluationRequest,
        model: str,
        device: str,
        settings: MetricSettings,
        progress: Progress,
    ) -> None:
        self.model, self.settings, self.progress = model, settings, progress
        trusts = bool(request.model_args.get("trust_remote_code"))
        require_classifier(model, request.tasks, trusts_remote_code=trusts)
        stored = stored_dtype(tensor_infos(model).values())
        self.evaluator = Evaluator(request)
        self._seen = SeenRows(self.evaluator)
        for split in ("validation", "report"):
            self._seen.require_unseen([model], split)
        self.scorer: Scorer = self.evaluator.open(model, resolve_device(device))
        require_dtype(model, stored, self.scorer.model.dtype)
        self.layer, rows = read_features(
            self.evaluator, self.scorer, ("train", "validation"), model, progress
        )
        repeated = repeated_rows(self.evaluator)
        validation = rows["validation"].take(~repeated)
        require_enough(validation.rows)
        self.rows = {"train": rows["train"], "validation": validation}
        self.left_out_rows = int(repeated.sum())

    def merged_gaps(self, recipe: Recipe, rows: FeatureRows) -> Array:
        """Logit gaps (n,) of a merge that moves the last layer, in the dtype that it is run in."""
        dtype = self.scorer.model.get_submodule(self.layer.name).weight.dtype
        return merged_gaps(recipe, self.layer, rows.features, dtype=dtype)

    def report_rows(self) -> FeatureRows:
        """The report rows' features: opened here, and once."""
        _, rows = read_features(self.evaluator, self.scorer, ("report",), self.model, self.progress)
        return rows["report"]

    def ids(self, split: str) -> list[int]:
        """The number of every row of a split in the source."""
        (task,) = self.evaluator.prepared(split).tasks.values()
        return [int(doc["id"]) for _, doc in task.docs]

    def warnings(self) -> list[str]:
        """What a reader should know of the data and the model."""
        seen = [
            f"the model was trained on {count:,} of the {split} rows: figures are optimistic"
            for split in ("validation", "report")
            for count in self._seen.counts([self.model], split).values()
        ]
        said = [
            *(text for text in self.evaluator.warnings if ", train rows:" not in text),
            *seen,
            *self._seen.remarks(self.model),
            *self.scorer.notes("validation"),
        ]
        said += notes_of_constant(self.layer, self.rows)
        if self.left_out_rows:
            said.append(
                f"{self.left_out_rows:,} validation rows repeat training rows and are left out of "
                "the fit"
            )
        return list(dict.fromkeys(said))


def notes_of_constant(layer: LastLayer, rows: Mapping[str, FeatureRows]) -> list[str]:
    """What a reader should know of the direction that stands for a bias.

    Args:
        layer: of the target.
        rows: of `train` and `validation`.
    """
    has_bias = layer.bias is not None
    varies = spread_of_constant(rows["train"], rows["validation"], has_bias=has_bias)
    if varies <= _CONSTANT_ENOUGH:
        return []
    return [
        "the head has no bias, and what stands for one varies from row to row (standard deviation "
        f"{varies:.2g}, of a mean of 1): the level of other rows may move"
    ]


def repeated_rows(evaluator: Evaluator) -> np.ndarray:
    """bool (n,): validation rows whose text or picture is a training row's, too.

    Directions were fitted on those, and the model, too: what holds there need not elsewhere.
    """
    (task,) = evaluator.prepared("validation").tasks.values()
    rows = rows_behind(task.task)
    assert rows is not None  # of a data description
    keys = row_keys([str(doc[rows.kind]) for _, doc in task.docs], rows.kind)
    return np.isin(keys, rows.of("train").keys())


def run_heads(
    request: EvaluationRequest,
    model: str,
    out: Path,
    settings: MetricSettings,
    head: HeadSettings,
    progress: Progress,
    *,
    device: str = "auto",
    overwrite: bool = False,
    page: Callable[[HeadResults, Path], object] | None = None,
) -> HeadResults:
    """Fit, write and report; report rows stay closed where the head stays the target's.

    Writes `vectors/` and `recipe.yml`, where the head moves, and `heads.json`: all or nothing.

    Args:
        request: a data description and how models are run.
        model: the target's folder.
        out: the folder to write.
        settings: which gap it is, and who decides it.
        head: how to fit.
        progress: told what is done.
        device: torch device.
        overwrite: replace what an earlier run has written.
        page: writes a page of the results into the folder, before it is in place.

    Raises:
        ConfigError: `out` is there and may not be replaced; from the request.
        CheckpointError, MeasurementError: as `HeadRun`; fewer than two groups decide the gap.
    """
    with staged_folder(out, overwrite=overwrite, known=_of_heads) as folder:
        run = HeadRun(request, model, device, settings, progress)
        fair = fit_head(run.rows, settings, head, has_bias=run.layer.bias is not None)
        results = _results(run, head, fair)
        if fair.stays is None:
            vectors = write_vectors(
                fair, head.metric, run.layer, run.rows["train"], model, folder, below=f"{_VECTORS}/"
            )
            results = results.model_copy(update={"vectors": vectors})
            here = Recipe.from_mapping(_recipe(results, folder), "recipe")
            rows = run.report_rows()
            gaps = run.merged_gaps(here, rows)
            models, said = models_beside(fair, gaps, run.layer, run.rows, settings, head, rows)
            results = results.model_copy(
                update={
                    "rows": {**results.rows, "report": len(rows.rows)},
                    "report": compared_models(models, settings),
                    "warnings": [*run.warnings(), *said],
                }
            )
            (folder / ROWS).write_text(rows_text(models, run.ids("report")), encoding="utf-8")
            text = dump_yaml(_recipe(results, out))
            (folder / RECIPE).write_text(text, encoding="utf-8")
        content = json.dumps(sealed(results.to_dict()), indent=2, ensure_ascii=False)
        (folder / RESULTS).write_text(f"{content}\n", encoding="utf-8")
        if page is not None:
            page(results, folder)
    return results


def _of_heads(folder: Path) -> Iterable[str]:
    """What an earlier run has written, which another one may replace."""
    try:
        vectors = {each.folder for each in read_heads(folder / RESULTS).vectors}
    except FairError:
        return ()
    return [
        name
        for name in contents(folder)
        if name in (RECIPE, RESULTS, ROWS, PAGE)
        or (name.rpartition("/")[0] in vectors and name.endswith(_OF_VECTOR))
    ]


def _results(run: HeadRun, head: HeadSettings, fair: FairHead) -> HeadResults:
    settings = run.settings
    change = fair.change
    return HeadResults(
        model=run.model,
        sketch=sketch_of(run.model),
        data=run.rows["validation"].rows.task,
        layer=run.layer.name,
        options=HeadOptions(
            metric=head.metric,
            mu=head.mu,
            tolerance=head.tolerance,
            seed=head.seed,
            reference=settings.reference,
            confidence=settings.confidence,
            min_group_size=settings.min_group_size,
        ),
        rows={name: len(rows.rows) for name, rows in run.rows.items()},
        left_out_rows=run.left_out_rows,
        left_out_cells=[str(cell) for cell in fair.left_out],
        tried=[
            TriedMu(
                mu=each.mu,
                acc=undefined_to_none(each.acc),
                dpd=undefined_to_none(each.dpd),
                eod=undefined_to_none(each.eod),
                selection_rate=undefined_to_none(each.selection_rate),
                acceptable=each.acceptable,
            )
            for each in fair.tried
        ],
        mu=fair.mu,
        change=None if change is None else SoftChange(value=change[0], high=change[1]),
        stays=fair.stays,
        vectors=[],
        report={},
        warnings=run.warnings(),
        versions=versions(),
    )


def _recipe(results: HeadResults, folder: Path) -> dict[str, Any]:
    """The merge, as plain YAML; λ = 0 is the target, λ = 1 the head as it was fitted."""
    vectors = {str(folder / each.folder): (each.name, each.weight) for each in results.vectors}
    return {**recipe_of_head(results.model, vectors), "fairness": results.recipe_note()}
