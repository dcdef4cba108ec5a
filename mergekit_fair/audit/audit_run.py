"""`audit`: every model of a recipe on the same documents, in one process, then the comparison.

The documents are prepared once. The base is opened once; parents that have its tensors,
configuration and tokenizer, and the merge, are put into its place in memory, one after the other.
What does not fit is opened by itself, and a merge that cannot be composed in memory is merged to a
folder first. A model that was measured before on the same documents, with the same settings and the
same files, is not run again.
"""

from __future__ import annotations

import gc
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from mergekit_fair.audit.audit_figures import AuditSettings, TaskAbout, audit_results
from mergekit_fair.audit.audit_results import MERGE, MODELS, PAGE, RESULTS, AuditResults
from mergekit_fair.audit.audited_models import (
    ModelToAudit,
    doubt_of,
    models_to_audit,
    with_local_models,
)
from mergekit_fair.audit.kept_runs import (
    MADE_OF,
    KeptRun,
    Questions,
    keep_run,
    require_same_questions,
)
from mergekit_fair.compat.lm_eval import serialized
from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.evaluation.aggregations import SIZE
from mergekit_fair.evaluation.benchmarks.benchmark_items import (
    directions,
    metric_names,
    metrics_by_group,
)
from mergekit_fair.evaluation.chat_prompts import template_of
from mergekit_fair.evaluation.classifier import resolve_device
from mergekit_fair.evaluation.eval_run import EvaluationRun, finished_run
from mergekit_fair.evaluation.evaluate import versions
from mergekit_fair.evaluation.evaluator import Evaluator, Scorer
from mergekit_fair.evaluation.fair_task import FairTask
from mergekit_fair.evaluation.responses import TaskResponses
from mergekit_fair.evaluation.seen_rows import SeenRows
from mergekit_fair.files import is_file_name, write_atomic
from mergekit_fair.merging.merge_options import MergeOptions
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.stock_plan import is_random
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.progress import Progress
from mergekit_fair.schema import digest_of_json, sealed
from mergekit_fair.sweep.input_models import require_fitting
from mergekit_fair.sweep.points import Point
from mergekit_fair.sweep.record import PlannedPoint
from mergekit_fair.sweep.worker import PointWorker

_IN_PLACE, _OPENED, _MERGED = "put into the base", "opened", "merged to a folder, then opened"


def run_audit(
    recipe: Recipe,
    out: Path,
    settings: AuditSettings,
    progress: Progress,
    page: Callable[[AuditResults, Path], Any],
) -> AuditResults:
    """Measure base, parents and merge, and compare the merge with each of the others.

    Writes OUT/models/NAME (as `eval` does), OUT/audit.json and OUT/report.html.

    Args:
        recipe: of any method of mergekit or of this package.
        out: an existing folder.
        settings: what is measured.
        progress: told what is done.
        page: writes the page.

    Raises:
        ConfigError: unknown tasks, or requirements that name what is not there.
        CheckpointError, RecipeError, DataError, MeasurementError: as `merge` and `eval`.
    """
    recipe = with_local_models(recipe).resolved()
    has_seed = "random_seed" in (recipe.raw.get("fairness") or {})
    if is_random(recipe.method) and not recipe.is_sliced and not has_seed:
        recipe = recipe.with_random_seed(settings.metrics.seed)
    for remark in recipe.remarks:
        progress.say(remark)
    if settings.merged is not None and (doubt := doubt_of(settings.merged, recipe)):
        progress.say(f"warning: {doubt}")
    models = models_to_audit(recipe, settings.merged, progress)
    auditor = _Auditor(recipe, models, settings, progress)
    auditor.require_known()
    folders = _folders(out, models)
    require_same_questions(out / MODELS, auditor.questions)
    for name in (RESULTS, PAGE):  # of an earlier audit, which is over where this one begins
        (out / name).unlink(missing_ok=True)
    ways = auditor.measure(folders)
    for folder in (out / MODELS).iterdir():
        if (folder / MADE_OF).is_file() and folder not in folders.values():
            shutil.rmtree(folder)
    found = audit_results(recipe, models, ways, folders, settings, auditor.about_tasks())
    write_atomic(out / RESULTS, json.dumps(sealed(found.to_dict()), indent=2) + "\n")
    page(found, out)
    return found


def _folders(out: Path, models: Sequence[ModelToAudit]) -> dict[str, Path]:
    """Name → where a model's evaluation is written."""
    found: dict[str, Path] = {}
    for number, model in enumerate(models):
        name = model.name.replace("/", "_")
        is_free = is_file_name(name) and out / MODELS / name not in found.values()
        found[model.name] = out / MODELS / (name if is_free else f"model_{number}")
    return found


@dataclass(eq=False)
class _Auditor:
    """Runs the models, one after the other."""

    recipe: Recipe
    models: Sequence[ModelToAudit]
    settings: AuditSettings
    progress: Progress
    remarks: list[str] = field(default_factory=list)

    @cached_property
    def evaluator(self) -> Evaluator:
        """Of the models that are put into the base's place."""
        return self._evaluator(self._base)

    @cached_property
    def _base(self) -> str:
        """The model in whose place others are put."""
        raw = self.recipe.raw
        first = (raw.get("models") or [{}])[0].get("model")
        return str(raw.get("base_model") or first or self.models[0].source)

    def _evaluator(self, source: str) -> Evaluator:
        """With a model's own chat template, if it has one and is to have it."""
        request = self.settings.request
        if not request.apply_chat_template or self._template(source) is not None:
            return Evaluator(request)
        said = f"{source} has no chat template: it is asked without one"
        if said not in self.remarks:
            self.remarks.append(said)
            self.progress.say(f"warning: {said}")
        return Evaluator(replace(request, apply_chat_template=False))

    @cache  # noqa: B019 (lives as long as the audit)
    def _template(self, source: str) -> str | None:
        """Of the model's own tokenizer; an adapter without one has its base's."""
        return template_of(source, self._base)

    def _asks_otherwise(self, model: ModelToAudit) -> bool:
        """Whether prompts of a model's own template are others than the base's."""
        if not self.settings.request.apply_chat_template:
            return False
        if model.source is None:
            return "chat_template" in self.recipe.raw
        return self._template(model.source) != self._template(self._base)

    @cached_property
    def _plain(self) -> Evaluator:
        """The same documents without a chat template, which belongs to a model."""
        request = self.settings.request
        if not request.apply_chat_template:
            return self.evaluator
        return Evaluator(replace(request, apply_chat_template=False))

    @property
    def tasks(self) -> list[str]:
        return list(self._plain.prepared(self.settings.split).tasks)

    def about_tasks(self) -> dict[str, TaskAbout]:
        """Task → what its evaluations do not say."""
        found = {}
        for name, task in self._plain.prepared(self.settings.split).tasks.items():
            sampled = None
            if len(task.docs) < len(task.task.eval_docs):
                is_ours = isinstance(task.task, FairTask)
                sampled = "drawn at random" if is_ours else "the first ones"
            found[name] = TaskAbout(
                directions(task.task), tuple(sorted(task.task.aggregation())), sampled
            )
        return found

    def require_known(self) -> None:
        """Check requirements, and that no model was trained on the documents.

        Raises:
            ConfigError, MeasurementError: before a model is run.
        """
        tasks = self._plain.prepared(self.settings.split).tasks
        metrics = {name: metric_names(task.task) for name, task in tasks.items()}
        by_group = {name: metrics_by_group(task.task) for name, task in tasks.items()}
        groups = {name: task.group_names() for name, task in tasks.items()}
        models = {model.name for model in self.models if model.name != MERGE}
        for requirement in self.settings.requirements:
            requirement.require_known(metrics, by_group, groups, models)
        seen = SeenRows(self._plain)
        for model in self.models:
            seen.require_unseen([str(folder) for folder in model.folders], self.settings.split)

    @cached_property
    def questions(self) -> Questions:
        """What is asked."""
        return Questions(
            tasks=sorted(self.tasks), split=self.settings.split, limit=self.settings.request.limit
        )

    def measure(self, folders: Mapping[str, Path]) -> dict[str, str]:
        """Run what is not measured yet, and write it; model → how it was run."""
        content = self._content()
        digests = {
            model.name: digest_of_json([model.digest, self._prompts(model), content])
            for model in self.models
        }
        ways = {
            model.name: way
            for model in self.models
            if (way := self._measured(model, folders[model.name], digests[model.name]))
        }
        open_ones = [model for model in self.models if model.name not in ways]
        apart = []
        with ExitStack() as stack:
            for model in open_ones:
                finished = self._in_place(model)
                if finished is None:
                    apart.append(model)
                    continue
                ways[model.name] = _IN_PLACE
                self._write(finished, model, folders[model.name], digests[model.name], _IN_PLACE)
            self._close()
            for model in apart:
                source, way = model.source, _OPENED
                if source is None:
                    source, way = stack.enter_context(self._merged()), _MERGED
                finished = self._opened(model, source)
                ways[model.name] = way
                self._write(finished, model, folders[model.name], digests[model.name], way)
        return ways

    def _measured(self, model: ModelToAudit, folder: Path, digest: str) -> str | None:
        """How a model was run that has answered this before; its figures as they are asked for."""
        kept = KeptRun.read(folder)
        if kept is None or not kept.has_answers(folder, digest):
            return None
        if kept.has_figures(folder, self._read_with):
            self.progress.say(f"{model.name}: measured before, on the same documents")
        else:
            self.progress.say(f"{model.name}: figures from its answers, which are there")
            run = kept.run(folder, self._plain, self.settings.split, model, self.recipe.where)
            self._write(run, model, folder, digest, kept.way)
        return kept.way

    @cached_property
    def _read_with(self) -> str:
        """A digest of what decides how answers are read."""
        return digest_of_json(json.dumps(asdict(self.settings.metrics), default=str))

    def _content(self) -> str:
        """A digest of documents, prompts and settings: what answers depend on beside the model."""
        request = asdict(self.settings.request)
        for key in ("batch_size", "allow_trained_rows", SIZE):
            request.pop(key)
        tasks = self._plain.prepared(self.settings.split).tasks.values()
        parts = [part.decode("latin-1") for task in tasks for part in task.content()]
        # How documents are read belongs to them: it is written into the samples.
        parts += [json.dumps(task.docs, sort_keys=True, default=str) for task in tasks]
        read_by = [json.dumps(_as_asked(task.task), default=str) for task in tasks]
        how = json.dumps(request, default=str)
        return digest_of_json([how, self.settings.split, parts, read_by, dict(versions())])

    def _prompts(self, model: ModelToAudit) -> str | None:
        """The template that a model's prompts are put into."""
        if not self.settings.request.apply_chat_template:
            return None
        if model.source is None and "chat_template" in self.recipe.raw:
            return str(self.recipe.raw["chat_template"])
        return self._template(model.source or self._base)

    @cached_property
    def _worker(self) -> PointWorker:
        """The base, in whose place others are put."""
        return PointWorker(
            self.evaluator,
            self._base,
            self.settings.device,
            self.recipe.groups(),
            seed=0,
            progress=self.progress,
        )

    def _close(self) -> None:
        self.__dict__.pop("_worker", None)
        gc.collect()

    def _in_place(self, model: ModelToAudit) -> EvaluationRun | None:
        """A model in the base's place; None where it does not fit there."""
        is_whole = self.recipe.raw.get("base_model") or self.recipe.raw.get("models")
        if not is_whole or self._asks_otherwise(model):
            return None
        planned = PlannedPoint(
            id=model.name,
            kind="merge" if model.source is None else "baseline",
            label=model.name,
            settings={},
            lambda_=None,
            lambda_eff=None,
        )
        begin = time.time()
        try:
            if model.source is not None:
                require_fitting(self._base, model.source)
            recipe = self.recipe if model.source is None else None
            point = Point(planned, recipe, model.source)
            responses = self._worker.responses(point, self.settings.split)
        except (CheckpointError, RecipeError) as error:
            if model.kind == "base":
                raise
            self.progress.say(f"{model.name} is run by itself: {error}")
            return None
        return self._finished(self.evaluator, self._worker.scorer, model, responses, begin)

    def _opened(self, model: ModelToAudit, source: str) -> EvaluationRun:
        """A model opened from its folder, with prompts by its own template."""
        begin = time.time()
        is_chat = self.settings.request.apply_chat_template
        evaluator = self._evaluator(source) if is_chat else self.evaluator
        scorer = evaluator.open(source, resolve_device(self.settings.device))
        responses = scorer.responses(self.settings.split, self.progress)
        return self._finished(evaluator, scorer, model, responses, begin)

    def _finished(
        self,
        evaluator: Evaluator,
        scorer: Scorer,
        model: ModelToAudit,
        responses: TaskResponses,
        begin: float,
    ) -> EvaluationRun:
        responses.require_numbers()
        return finished_run(
            evaluator,
            scorer,
            SeenRows(evaluator),
            model.source or self.recipe.where,
            self.settings.split,
            responses,
            begin,
            made_of=[str(folder) for folder in model.folders],
        )

    @contextmanager
    def _merged(self) -> Iterator[str]:
        """The merge in a folder that lives as long as it is needed."""
        trusts = bool(self.settings.request.model_args.get("trust_remote_code"))
        options = MergeOptions(quiet=True, trust_remote_code=trusts)
        with tempfile.TemporaryDirectory(prefix="mergekit-fair-audit-") as folder:
            model = Path(folder) / "model"
            merge_to_folder(self.recipe, model, options, MergeSettings(), self.progress)
            yield str(model)

    def _write(
        self, finished: EvaluationRun, model: ModelToAudit, folder: Path, digest: str, way: str
    ) -> None:
        about = {"digest": digest, "read_with": self._read_with, "way": way}
        keep_run(folder, finished, model.source, self.settings.metrics, self.questions, about)


def _as_asked(task: Any) -> dict[str, Any]:
    """A task's configuration without what is read only when its answers are measured."""
    found = serialized(task)
    metadata = {key: each for key, each in (found.get("metadata") or {}).items() if key != SIZE}
    return {**found, "metadata": metadata}
