"""The search over λ_g: proposers ask, models answer, points.jsonl remembers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mergekit_fair.errors import ConfigError
from mergekit_fair.fairness.eligible_groups import eligible_groups
from mergekit_fair.sweep.point_runner import PointRunner
from mergekit_fair.sweep.points import Planner, Point
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.search.proposers import Observation, Proposer, RandomProposer, Space
from mergekit_fair.sweep.search.rate_model import GroupLayout
from mergekit_fair.sweep.search.surrogate import SurrogateProposer
from mergekit_fair.sweep.search.tpe import OptunaProposer, require_optuna, write_journal
from mergekit_fair.sweep.selection import Rule
from mergekit_fair.sweep.sweep_config import Search, Sweep

# `search.method` → what asks. A new strategy is a class and a line here, and its name in
# `sweep_config.Search.method`.
PROPOSERS: dict[str, Callable[[Space, Rule, int, GroupLayout], Proposer]] = {
    "random": lambda space, rule, seed, groups: RandomProposer(space, seed),  # noqa: ARG005
    "optuna": lambda space, rule, seed, groups: OptunaProposer(space, rule, seed),  # noqa: ARG005
    "surrogate": SurrogateProposer,
}


def search(
    sweep: Sweep, planner: Planner, runner: PointRunner, baselines: Mapping[str, PointResult]
) -> list[Point]:
    """Measure up to `budget` points, each asked for in the light of those before it.

    Nothing is remembered but points.jsonl: what is asked depends on the history alone, so a search
    that was killed, or cut short by the time budget, asks the same points again.
    """
    config = sweep.config.search
    if config is None:
        return []
    space = Space.of(sweep.ranges)
    level = (runner.levels or {}).get(runner.task)
    rule = Rule.of(sweep.config.select, baselines).for_search(level)
    proposer = PROPOSERS[config.method](space, rule, sweep.config.seed, _layout(runner))
    points: list[Point] = []
    history: list[Observation] = []
    while len(points) < config.budget:
        asked = proposer.ask(history, min(config.batch, config.budget - len(points)))
        if not asked:
            break
        new = [planner.searched(dict(zip(space.names, x, strict=True))) for x in asked]
        results = runner.measure(new)
        points += new
        if len(results) < len(new):  # what comes next depends on what the budget left out
            further = config.budget - len(points)
            runner.unfinished[f"search: {further} further points"] = further
            break
        history += [Observation.of(x, r, rule) for x, r in zip(asked, results, strict=True)]
    if config.method == "optuna" and runner.store.is_written:
        write_journal(space, rule, history, runner.store.folder / "optuna.log")
    return points


def require_possible(sweep: Sweep, config: Search) -> None:
    """What the method needs is there, before anything is measured.

    Raises:
        ConfigError: a rule or reference that the method cannot take, or Optuna is not installed.
    """
    if config.method == "optuna":
        require_optuna()
    reference, select = sweep.config.evaluate.reference, sweep.config.select
    if config.method == "surrogate":
        other = [name for name in select.metrics if "." in name]
        if reference != "between_groups" or other:
            raise ConfigError(
                f"{config.method} models gaps between groups at the model's own threshold",
                where=f"{sweep.where}: search.method",
                got=other[0] if other else f"reference: {reference}",
                fix="use method: optuna",
            )


def _layout(runner: PointRunner) -> GroupLayout:
    rows = runner.rows
    sizes = [inside.sum() for inside in rows.groups.values()]
    settings = runner.settings.excluding(rows.excluded)
    eligible = eligible_groups(tuple(rows.groups), sizes, settings)
    deciding = tuple(name for name, decides in zip(rows.groups, eligible, strict=True) if decides)
    counts = np.sum(list(rows.groups.values()), axis=0)
    return GroupLayout(deciding, is_partition=bool((counts == 1).all()))
