"""The search over λ_g: proposers ask, models answer, points.jsonl remembers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.multi_predictions import AnyPredictions, MultiPredictions
from mergekit_fair.fairness.metrics import HEADLINE_GAPS
from mergekit_fair.merging.parameter_names import name_of
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
from mergekit_fair.sweep.search.rate_model import COMPOSED, GroupLayout
from mergekit_fair.sweep.search.soft_rates import softened
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


_SOMEWHERE = 0.37  # between the ends of a range: where a sum is seen to be linear


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
    space, layout, soft = space_of(sweep, planner), _layout(runner), is_soft(sweep, runner.rows)

    def read(result: PointResult) -> PointResult:
        """As the search sees it."""
        return softened(result, runner.binary(result.id), layout) if soft else result

    seen = {name: read(result) for name, result in baselines.items()}
    level = (runner.levels or {}).get(runner.task)
    rule = Rule.of(sweep.config.select, seen).for_search(level)
    proposer = PROPOSERS[config.method](space, rule, sweep.config.seed, layout)
    points: list[Point] = []
    if config.around is not None:
        known = [Observation.of((0.0,) * space.dimensions, seen[config.around], rule)]
    elif config.method == "random":
        known = []
    else:
        known = _known(space, planner, runner, rule, read)
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
        history += [Observation.of(x, read(r), rule) for x, r in zip(asked, results, strict=True)]
    if config.method == "optuna" and runner.store.is_written:
        write_journal(space, rule, history, runner.store.folder / "optuna.log", soft=soft)
    return points


def space_of(sweep: Sweep, planner: Planner) -> Space:
    """The ranges, and what a unit of each setting adds."""
    space = Space.of(sweep.ranges)
    sums = _sums(space, planner)
    if sums is None:
        return space
    return Space.of(sweep.ranges, tuple(np.abs(sums[1]).sum(axis=0).tolist()))


def is_soft(sweep: Sweep, rows: AnyPredictions) -> bool:
    """Whether the search reads soft rates: its objectives and limits can be composed from them."""
    if isinstance(rows, MultiPredictions):
        return False
    reads = {*sweep.config.select.metrics, *HEADLINE_GAPS}
    is_composed = all(name in COMPOSED for name in reads if "/" not in name)
    reference = sweep.config.evaluate.reference
    return is_composed and reference == "between_groups" and not rows.is_weighted


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
    reach = f"Σ|λ| from {NEAR[0]:g} to {NEAR[1]:g}, about one vector in all"
    near = "the whole ranges" if space.size is None else reach
    if config.method == "random":
        return f"{config.budget} random points, {near}"
    grid = f" with {known} points of the grid that are at the level" if known else ""
    if config.around is not None:
        grid = f" with {config.around}"
    place = f"over {near}" if space.size is None else f"near the target ({near})"
    return f"starts{grid} {place} with up to {start_length(space)} points"


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


def _known(
    space: Space,
    planner: Planner,
    runner: PointRunner,
    rule: Rule,
    read: Callable[[PointResult], PointResult] = lambda result: result,
) -> list[Observation]:
    """Points of the grid that are points of the space and at the level: nothing has to be run.

    Those far from the level would bend the models of what is near it.
    """
    sums, done = _sums(space, planner), runner.store.results(runner.split)
    found: dict[Coordinates, Observation] = {}
    for point in planner.merges():
        result = done.get(point.id)
        x = _coordinates(space, planner, point, sums)
        if x is None or result is None or point.kind != "merge":
            continue
        seen = Observation.of(x, read(result), rule)
        if at_level(rule, seen):
            found.setdefault(seen.x, seen)
    return list(found.values())


def _coordinates(
    space: Space, planner: Planner, point: Point, sums: tuple[Array, Array] | None
) -> Coordinates | None:
    """Where a point of the grid lies in the space; None where it is no point of it."""
    if sums is None:
        values = [point.planned.settings.get(name) for name in space.names]
        if any(value is None for value in values):
            return None
        x = tuple(float(value) for value in values if value is not None)
        same = planner.searched(dict(zip(space.names, x, strict=True))).recipe
        if same is None or point.recipe is None:
            return None
        return x if same.raw == point.recipe.raw else None
    lambdas = _lambdas(planner, point)
    if lambdas is None:
        return None
    origin, units = sums
    wanted = np.array(list(lambdas.values())) - origin
    solved = np.linalg.lstsq(units, wanted, rcond=None)[0]
    is_there = np.allclose(units @ solved, wanted, rtol=0, atol=1e-9)
    return space.exact(solved) if is_there else None


def _sums(space: Space, planner: Planner) -> tuple[Array, Array] | None:
    """λ of every model where all settings are 0, (models,), and what a unit of each setting adds to
    it, (models, G); None where they are no such sums."""
    if {name_of(name) for name in space.names} - {"weight", "lambda"}:
        return None  # 0 and 1 may be no values of them
    low, high = np.array(space.low), np.array(space.high)
    inside = low + _SOMEWHERE * (high - low)
    columns = []
    for unit in (inside, np.zeros(space.dimensions), *np.eye(space.dimensions)):
        settings = dict(zip(space.names, unit.tolist(), strict=True))
        lambdas = _lambdas(planner, planner.searched(settings))
        if lambdas is None:
            return None
        columns.append(np.array(list(lambdas.values())))
    here, origin = columns[:2]
    units = np.array(columns[2:]) - origin
    is_linear = np.allclose(origin + inside @ units, here, rtol=0, atol=1e-9)
    return (origin, units.T) if is_linear and units.any(axis=1).all() else None


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
