"""A sweep before anything is measured: checked, and planned."""

from __future__ import annotations

from mergekit_fair.errors import CheckpointError, ConfigError
from mergekit_fair.evaluation.chat_prompts import template_of
from mergekit_fair.evaluation.evaluator import SPLITS, Evaluator
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.evaluation.seen_rows import SeenRows
from mergekit_fair.progress import Progress
from mergekit_fair.sweep.answer_kinds import require_kinds
from mergekit_fair.sweep.definable import require_candidates, require_definable
from mergekit_fair.sweep.head_stage import require_heads
from mergekit_fair.sweep.input_models import MEASURE_APART
from mergekit_fair.sweep.points import Planner
from mergekit_fair.sweep.sweep_config import Sweep
from mergekit_fair.sweep.sweep_plan import SweepPlan


def planned(sweep: Sweep, evaluator: Evaluator, planner: Planner) -> SweepPlan:
    """The plan of a sweep that is read and checked, its search included."""
    plan = SweepPlan.of(sweep, evaluator, planner)
    if sweep.config.search is None:
        return plan
    from mergekit_fair.sweep.search.search_stage import with_search

    return with_search(plan, sweep, planner)


def prepared(sweep: Sweep, progress: Progress | None = None) -> tuple[Evaluator, Planner]:
    """Everything that can be checked before the first forward pass is checked here."""
    if sweep.config.search is not None:
        from mergekit_fair.sweep.search.search_stage import require_possible

        require_possible(sweep, sweep.config.search)
    _require_one_template(sweep)
    evaluator = Evaluator(sweep.config.evaluate.request(), asked_as=sweep.base)
    _require_tasks(sweep, evaluator)
    require_kinds(sweep, evaluator)
    select = sweep.config.select
    require_definable(select, evaluator.labels(select.split), sweep.config.evaluate, sweep.where)
    inject_config, rows = sweep.config.inject, evaluator.labels(select.split)[evaluator.tasks[0]]
    is_worst = inject_config is not None and inject_config.groups == "worst"
    if is_worst and isinstance(rows, Predictions):
        require_candidates(sweep.recipe.groups(), rows, sweep.config.evaluate, sweep.where)
    _require_no_weights(sweep, evaluator)
    require_heads(sweep, evaluator)
    planner = Planner(sweep, evaluator.fingerprint(), progress)
    base, *others = planner.models()
    listed = {str(item["model"]) for item in sweep.recipe.raw.get("models") or ()}
    merged = [model for model in others if model in listed]
    evaluator.require_classes(base, merged, [model for model in others if model not in listed])
    seen = SeenRows(evaluator)
    for split in SPLITS:
        seen.require_unseen(planner.models(), split)
    return evaluator, planner


def _require_tasks(sweep: Sweep, evaluator: Evaluator) -> None:
    """Every task that the rule names is measured.

    Raises:
        ConfigError: one is not.
    """
    unknown = [name for name in sweep.config.select.tasks() if name not in evaluator.tasks]
    if unknown:
        raise ConfigError(
            "select names a task that is not measured",
            where=sweep.where,
            got=unknown[0],
            allowed=evaluator.tasks,
        )


def _require_one_template(sweep: Sweep) -> None:
    """All points are asked in the base's chat template, if in any.

    Raises:
        ConfigError: the recipe gives merges another.
        CheckpointError: a finished model has another, so that `eval` would ask it otherwise.
    """
    if not sweep.config.evaluate.apply_chat_template:
        return
    if "chat_template" in sweep.recipe.raw:
        raise ConfigError(
            "points are asked in the base's chat template, and the recipe gives merges another",
            where=f"{sweep.where}: evaluate.apply_chat_template",
            got=sweep.recipe.raw["chat_template"],
            fix="leave chat_template out of the recipe, and save that template beside the base",
        )
    base = template_of(sweep.base, sweep.base)
    for model in (*sweep.config.baselines.values(), *sweep.config.candidates):
        if base is not None and template_of(model, sweep.base) not in (None, base):
            raise CheckpointError(
                "its chat template is another than the base's, by which a sweep asks",
                where=model,
                fix=MEASURE_APART,
            )


def _require_no_weights(sweep: Sweep, evaluator: Evaluator) -> None:
    """What counts rows instead of their weights is asked for on rows that are alike only.

    Raises:
        ConfigError: rows of the deciding task count for more or less than others.
    """
    config = sweep.config
    is_surrogate = config.search is not None and config.search.method == "surrogate"
    if is_surrogate and evaluator.labels(config.select.split)[evaluator.tasks[0]].is_weighted:
        raise ConfigError(
            "takes no weights of rows, which these data have",
            where=f"{sweep.where}: search.method: surrogate",
            fix="use method: random or optuna, or leave out `weight` of the data",
        )
