"""The search over λ_g: proposers ask, the engine answers, points.jsonl remembers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mergekit_fair.errors import ConfigError
from mergekit_fair.fairness.eligible_groups import eligible_groups
from mergekit_fair.sweep.lines import Line
from mergekit_fair.sweep.measurer import Measurer
from mergekit_fair.sweep.points import Planner, Point
from mergekit_fair.sweep.rule import LOWER_IS_BETTER, Constraint, Select
from mergekit_fair.sweep.search import (
    Goal,
    Limit,
    Observation,
    OptunaProposer,
    Proposer,
    RandomProposer,
    Space,
    SurrogateProposer,
    failed,
    observed,
    require_optuna,
    write_journal,
)
from mergekit_fair.sweep.select import limit_of
from mergekit_fair.sweep.sweep_config import Search, Sweep

_GAPS = ("dpd", "eod")


def search(
    sweep: Sweep, planner: Planner, measurer: Measurer, baselines: Mapping[str, Line]
) -> list[Point]:
    """Measure up to `budget` points, each asked for in the light of those before it.

    Nothing is remembered but points.jsonl: what is asked depends on the history alone, so a search
    that was killed asks the same points again and finds them there.

    """
    config = sweep.config.search
    if config is None:
        return []
    space = Space(
        tuple(sweep.ranges),
        tuple(low for low, _ in sweep.ranges.values()),
        tuple(high for _, high in sweep.ranges.values()),
    )
    goal = goal_of(sweep.config.select, measurer, baselines)
    proposer = _proposer(config, space, goal, sweep.config.seed)
    points: list[Point] = []
    history: list[Observation] = []
    while len(points) < config.budget:
        asked = proposer.ask(history, min(config.batch, config.budget - len(points)))
        if not asked:
            break
        new = [planner.searched(dict(zip(space.names, x, strict=True))) for x in asked]
        lines = measurer.measure(new)
        history += [seen(x, line, goal) for x, line in zip(asked, lines, strict=True)]
        points += new
    if config.method == "optuna":
        write_journal(space, goal, history, measurer.store.folder / "optuna.log")
    return points


def seen(x: tuple[float, ...], line: Line, goal: Goal) -> Observation:
    """A measured point, as proposers take it."""
    return observed(x, line["evaluation"], goal) if "evaluation" in line else failed(x, goal)


def goal_of(rule: Select, measurer: Measurer, baselines: Mapping[str, Line]) -> Goal:
    """What the search improves: the rule's metric, DPD and EOD, and what must hold.

    A gap that the rule reads at equal levels is improved at equal levels.
    """
    sheet = measurer.sheet
    constraints = list(_limited(rule.constraints()))
    named = [c.metric for c in constraints if c.metric in LOWER_IS_BETTER]
    gaps = [name for name in named if "." in name] or list(_GAPS)
    sizes = [inside.sum() for inside in sheet.groups.values()]
    settings = measurer.settings.excluding(sheet.excluded)
    eligible = eligible_groups(tuple(sheet.groups), sizes, settings)
    deciding = tuple(name for name, decides in zip(sheet.groups, eligible, strict=True) if decides)
    counts = np.sum(list(sheet.groups.values()), axis=0)
    return Goal(
        objectives=tuple(dict.fromkeys([rule.maximize, *gaps])),
        limits=tuple(
            Limit(c.metric, c.operator, limit_of(c, baselines))  # type: ignore[arg-type]
            for c in constraints
        ),
        deciding=deciding,
        partition=bool((counts == 1).all()),
    )


def _limited(constraints: Sequence[Constraint]) -> Iterator[Constraint]:
    """The constraints that proposers know; the choice itself looks at all of them."""
    for constraint in constraints:
        if "/" not in constraint.metric and constraint.metric != "saturated":
            yield constraint


def require_possible(sweep: Sweep, config: Search) -> None:
    """What the method needs is there, before anything is measured.

    Raises:
        ConfigError: a rule or reference that the method cannot take, or Optuna is not installed.
    """
    if config.method == "optuna":
        require_optuna()
    reference, rule = sweep.config.evaluate.reference, sweep.config.select
    if config.method == "surrogate":
        named = [rule.maximize, *rule.subject_to]
        other = [name for name in named if "." in name]
        if reference != "between_groups" or other:
            raise ConfigError(
                f"{config.method} models gaps between groups at the model's own threshold",
                where=f"{sweep.where}: search.method",
                got=other[0] if other else f"reference: {reference}",
                fix="use method: optuna",
            )


def _proposer(config: Search, space: Space, goal: Goal, seed: int) -> Proposer:
    if config.method == "random":
        return RandomProposer(space, seed)
    if config.method == "optuna":
        return OptunaProposer(space, goal, seed)
    return SurrogateProposer(space, goal, seed)
