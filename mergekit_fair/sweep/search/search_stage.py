"""The search over λ_g: proposers ask, models answer, points.jsonl remembers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mergekit_fair.errors import ConfigError
from mergekit_fair.sweep.limits import Array
from mergekit_fair.sweep.point_runner import PointRunner
from mergekit_fair.sweep.points import Planner, Point
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.search.level_model import at_level, start_length
from mergekit_fair.sweep.search.proposers import (
    NEAR,
    Coordinates,
    Observation,
    Proposer,
    RandomProposer,
    Space,
)
from mergekit_fair.sweep.search.rate_model import GroupLayout
from mergekit_fair.sweep.search.surrogate import SurrogateProposer
from mergekit_fair.sweep.search.tpe import OptunaProposer, require_optuna, write_journal
from mergekit_fair.sweep.selection import Rule
from mergekit_fair.sweep.sweep_config import Search, Sweep
from mergekit_fair.sweep.sweep_plan import SweepPlan

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
    space = space_of(sweep, planner)
    level = (runner.levels or {}).get(runner.task)
    rule = Rule.of(sweep.config.select, baselines).for_search(level)
    proposer = PROPOSERS[config.method](space, rule, sweep.config.seed, _layout(runner))
    points: list[Point] = []
    known = [] if config.method == "random" else _known(space, planner, runner, rule)
    runner.progress.say(f"search: {start_words(config, space, len(known))}")
    history = list(known)
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


def space_of(sweep: Sweep, planner: Planner) -> Space:
    """The ranges, and what a unit of each setting adds."""
    space = Space.of(sweep.ranges)
    units = _units(space, planner)
    if units is None:
        return space
    return Space.of(sweep.ranges, tuple(float(np.abs(column).sum()) for column in units.T))


def with_search(plan: SweepPlan, sweep: Sweep, planner: Planner) -> SweepPlan:
    """The plan, with how its search begins and what is wrong with its budget."""
    config = sweep.config.search
    if config is None:
        return plan
    space = space_of(sweep, planner)
    doubt = budget_doubt(config, space)
    warnings = [*plan.warnings, *([doubt] if doubt else [])]
    return plan.model_copy(
        update={"search_start": start_words(config, space), "warnings": warnings}
    )


def start_words(config: Search, space: Space, known: int = 0) -> str:
    """How a search begins."""
    near = (
        f"Σ|λ| from {NEAR[0]:g} to {NEAR[1]:g}, about one vector in all"
        if space.size is not None
        else "the whole ranges"
    )
    if config.method == "random":
        return f"{config.budget} random points, {near}"
    grid = f" with {known} points of the grid that are at the level" if known else ""
    return f"starts{grid} near the target ({near}) with up to {start_length(space)} points"


def budget_doubt(config: Search, space: Space) -> str | None:
    """What is wrong with a budget that is hardly more than the start; None if nothing is."""
    start, curved = start_length(space), 2 * space.dimensions + 1
    if config.method == "random" or config.budget >= start + curved:
        return None
    return (
        f"search.budget: of {config.budget} points up to {min(start, config.budget)} are the start "
        f"(one more than the {space.dimensions} settings), and what bends shows after {curved}; "
        f"give at least {start + curved}, or search over fewer settings"
    )


def _known(space: Space, planner: Planner, runner: PointRunner, rule: Rule) -> list[Observation]:
    """Points of the grid that are points of the space and at the level: nothing has to be run.

    Those far from the level would bend the models of what is near it.
    """
    units, done = _units(space, planner), runner.store.results(runner.split)
    found: dict[Coordinates, Observation] = {}
    for point in planner.merges():
        lambdas = _lambdas(planner, point)
        result = done.get(point.id)
        if units is None or lambdas is None or result is None or point.kind != "merge":
            continue
        wanted = np.array(list(lambdas.values()))
        x = np.linalg.lstsq(units, wanted, rcond=None)[0]
        if np.allclose(units @ x, wanted, rtol=0, atol=1e-9):
            seen = Observation.of(space.exact(x), result, rule)
            if at_level(rule, seen):
                found.setdefault(seen.x, seen)
    return list(found.values())


def _units(space: Space, planner: Planner) -> Array | None:
    """λ of every model for a unit of each setting: (models, G); None where they are not sums."""
    columns = []
    for unit in np.eye(space.dimensions).tolist():
        settings = dict(zip(space.names, unit, strict=True))
        lambdas = _lambdas(planner, planner.searched(settings))
        if lambdas is None or not any(lambdas.values()):
            return None
        columns.append(list(lambdas.values()))
    return np.array(columns).T


def _lambdas(planner: Planner, point: Point) -> Mapping[str, float] | None:
    """Model → λ_g of what a point adds; None where it is no such sum."""
    return None if point.recipe is None else planner.coefficients(point.recipe).lambdas


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
    rows, counts = runner.rows, np.sum(list(runner.rows.groups.values()), axis=0)
    return GroupLayout(
        deciding=tuple(name for name in rows.groups if name not in rows.excluded),
        least=runner.settings.min_group_size,
        is_partition=bool((counts == 1).all()),
    )
