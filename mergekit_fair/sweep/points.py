"""The points of a sweep, each with an id that digests all that its scores depend on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_fair.errors import ConfigError
from mergekit_fair.merging.grid import MOST_POINTS
from mergekit_fair.merging.in_memory import Composer
from mergekit_fair.merging.measured_inputs import point_id
from mergekit_fair.merging.merge_options import MergeOptions
from mergekit_fair.merging.methods.formula import Coefficients
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.methods.registry import is_own, spec_of
from mergekit_fair.merging.methods.subgroup_task_addition import (
    adapter_alone,
    addition_recipe,
)
from mergekit_fair.merging.methods.worst_group_injection import injection_recipe
from mergekit_fair.merging.parameter_names import name_of
from mergekit_fair.merging.plan_cache import PlanCache
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.recipe_coefficients import recipe_coefficients
from mergekit_fair.merging.references import own_folder
from mergekit_fair.merging.stock_plan import is_random
from mergekit_fair.progress import Progress
from mergekit_fair.schema import digest_of_json
from mergekit_fair.sweep.head_block import MEMBER
from mergekit_fair.sweep.input_models import input_model, is_adapter, require_fitting
from mergekit_fair.sweep.record import INJECTED, PlannedPoint, PointKind
from mergekit_fair.sweep.sweep_config import Sweep
from mergekit_fair.sweep.swept_settings import WEIGHT, corners, short_names, symbol

_FLOAT64 = 8


@dataclass(frozen=True)
class Point:
    """One model to measure.

    Attributes:
        planned: what is written about it.
        recipe: what to compose, and to write if it is chosen; None for a baseline that is a whole
            model.
        model: the folder of a baseline or candidate; None otherwise.
    """

    planned: PlannedPoint
    recipe: Recipe | None
    model: str | None

    @property
    def id(self) -> str:
        return self.planned.id

    @property
    def kind(self) -> PointKind:
        return self.planned.kind

    @property
    def label(self) -> str:
        return self.planned.label

    @property
    def whole(self) -> str | None:
        """The folder of a model that is run as it is; None of what is composed."""
        is_copy = self.recipe is None or self.recipe.method == "passthrough"
        return self.model if is_copy else None

    @property
    def models(self) -> list[str]:
        """The folders that its weights are made of."""
        return [self.model] if self.model else listed_models(self.recipe)

    @property
    def varies_lambda_alone(self) -> bool:
        """Whether points that differ from this one in λ alone follow it."""
        settings = self.planned.settings
        names = [key for key in settings if key != "worst" and not key.startswith(INJECTED)]
        return self.kind != "search" and names[-1:] == ["lambda"]


def unique(points: Iterable[Point]) -> list[Point]:
    """Each point once, in order."""
    return list({point.id: point for point in points}.values())


class Planner:
    """Makes the points of one sweep; holds the fingerprints of its models and data.

    Attributes:
        options: mergekit's, by which models are opened.
        measuring: a digest of what models are asked, and how they are run.
    """

    def __init__(self, sweep: Sweep, data: str, progress: Progress | None = None) -> None:
        self._sweep = sweep
        about = {"data": data, "evaluate": sweep.config.evaluate.asked()}
        self.measuring = digest_of_json(about)
        base, *_ = listed = self.models()
        self._inputs = {model: input_model(model, base, progress) for model in listed}
        require_fitting(base, *self.finished())
        self.options = MergeOptions(
            quiet=True, trust_remote_code=sweep.config.evaluate.trusts_remote_code
        )
        self._plans = PlanCache(self.options)
        self._tried: set[str] = set()  # recipes of mergekit's methods, as text
        # Labels that points of other kinds must not have.
        self._reserved: dict[str, PointKind] = {}
        self._reserved |= {point.label: point.kind for point in self.baselines()}
        self._reserved |= {point.label: point.kind for point in self.candidates()}
        self._reserved |= {point.label: point.kind for point in self.merges()}
        for corner in corners(sweep.ranges):
            self.searched(corner)  # what the method refuses of it, it refuses here

    @property
    def inputs(self) -> dict[str, str]:
        """Model → its fingerprint's digest."""
        return {model: found.fingerprint.digest for model, found in self._inputs.items()}

    def require_unchanged(self) -> None:
        """Check that no model was written to since the planner was made.

        Raises:
            CheckpointError: names model and file.
        """
        for found in self._inputs.values():
            found.fingerprint.require_unchanged()

    def models(self) -> list[str]:
        """The base first, then every other folder that the sweep reads."""
        raw = self._sweep.recipe.raw
        listed = [str(item["model"]) for item in raw.get("models") or ()]
        return list(dict.fromkeys([self._sweep.base, *listed, *self.finished()]))

    def finished(self) -> list[str]:
        """The models that are run as they are: baselines and candidates."""
        config = self._sweep.config
        return [*config.baselines.values(), *config.candidates]

    def bytes_read(self) -> int:
        return sum(f.stat().st_size for each in self._inputs.values() for f in each.files)

    def memory_bytes(self) -> int:
        base, *others = self._inputs.values()
        moved = {name: count for each in others or [base] for name, count in each.moved.items()}
        elements = sum(moved.values())
        held = sum(each.bytes for each in self._inputs.values())
        # Beside the base, the model has memory of its own for what is moved.
        own = base.bytes * elements // max(1, sum(base.moved.values()))
        return held + own + _FLOAT64 * elements

    def baselines(self) -> list[Point]:
        return [
            self._point("baseline", name, {}, model=model, recipe=self._alone(model))
            for name, model in self._sweep.config.baselines.items()
        ]

    def _alone(self, model: str) -> Recipe | None:
        """The merge of an adapter into the base; None of a whole model."""
        base = self.models()[0]
        if not is_adapter(model, base):
            return None
        return Recipe.from_mapping(adapter_alone(base, model), f"{self._sweep.where}: {model}")

    def candidates(self) -> list[Point]:
        """Finished models, each with the recipe that copies it."""
        models = self._sweep.config.candidates
        points = []
        for model, label in zip(models, short_names(models), strict=True):
            raw = {"merge_method": "passthrough", "models": [{"model": model}]}
            copied = Recipe.from_mapping(raw, f"{self._sweep.where}: candidates")
            recipe = self._alone(model) or copied
            points.append(self._point("candidate", label, {}, recipe=recipe, model=model))
        return points

    def merges(self) -> list[Point]:
        """The addition grid in its order, then the random control's."""
        names = list(self._sweep.grid)
        if not names:
            return []
        count = math.prod(len(values) for values in self._sweep.grid.values())
        if count > MOST_POINTS:
            raise ConfigError(
                f"the grid has {count:,} points",
                where=self._sweep.where,
                allowed=f"up to {MOST_POINTS:,}",
                fix="use fewer values for some settings",
            )
        combinations = itertools.product(*self._sweep.grid.values())
        grid = [dict(zip(names, values, strict=True)) for values in combinations]
        points = [self._merge("merge", settings) for settings in grid]
        if "random" in self._sweep.config.controls:
            points += [
                self._merge("control", settings)
                for point, settings in zip(points, grid, strict=True)
                if not point.planned.is_identity
            ]
        return points

    def control_of(self, point: Point) -> Point:
        """The same recipe with random vectors in the place of the subgroups'."""
        label = f"random {point.label}"
        return self._point("control", label, point.planned.settings, recipe=point.recipe)

    def searched(self, settings: dict[str, float]) -> Point:
        """One point of the search: these settings of the recipe, or around a baseline.

        Where weights alone are searched the recipe's λ is 1: of a sum, a weight is then λ_g.
        """
        search = self._sweep.config.search
        if search is None or search.around is None:
            has_lambda = "lambda" in {p.name for p in spec_of(self._sweep.recipe.method).parameters}
            is_unit = has_lambda and {name_of(key) for key in settings} <= {"weight", "lambda"}
            are_weights = all(key.startswith(WEIGHT) for key in settings)
            shown = {k.removeprefix(WEIGHT) if are_weights else k: v for k, v in settings.items()}
            return self._merge("search", ({"lambda": 1.0} if is_unit else {}) | settings, shown)
        lambdas = {name.removeprefix(WEIGHT): value for name, value in settings.items()}
        recipe = self._added_to(search.around, lambdas)
        added = " ".join(f"{name}={_exact(value)}" for name, value in lambdas.items())
        injected: dict[str, float | str] = {INJECTED + g: v for g, v in lambdas.items()}
        return self._point("search", f"{search.around} + {added}", injected, recipe=recipe)

    def injections(self, groups: list[str], lambdas: Sequence[float]) -> list[Point]:
        """Each of these groups alone, at each λ."""
        return [self.injection({name: value}) for name in groups for value in lambdas]

    def injection(self, lambdas: Mapping[str, float]) -> Point:
        """θ_target + Σ_g λ_g (θ_g − θ₀).

        One group makes a recipe of `worst_group_injection`; several make one of subgroup task
        addition, in which the target's own vector is one more with weight 1.
        """
        inject = self._sweep.config.inject
        if inject is None:
            raise ConfigError("has no inject block", where=self._sweep.where)
        raw, groups = self._sweep.recipe.raw, self._sweep.recipe.groups()
        target = self._sweep.config.baselines[inject.target]
        settings: dict[str, float | str] = {INJECTED + g: v for g, v in lambdas.items()}
        base, dtype = str(raw["base_model"]), raw.get("dtype")
        if len(lambdas) == 1:
            ((name, value),) = lambdas.items()
            settings |= {"lambda": value, "worst": name}
            recipe = injection_recipe(base, target, groups, name, dtype, lambda_=value)
            made = Recipe.from_mapping(recipe, f"{self._sweep.where}: inject")
        else:
            made = self._added_to(inject.target, lambdas)
        label = " ".join([inject.target, *(f"+ {_exact(v)} {g}" for g, v in lambdas.items())])
        return self._point("injection", label, settings, recipe=made)

    def head(
        self, target: str, recipe: dict[str, Any], vectors: Sequence[str], made: dict[str, float]
    ) -> Point:
        """θ_target + λ Σ_c a_c v_c.

        Args:
            target: label of the baseline or merge.
            recipe: of it all.
            vectors: the folders that it adds, which are read once.
            made: `mu` that it was fitted with, and `lambda`.
        """
        for vector in vectors:
            if vector not in self._inputs:
                self._inputs[vector] = input_model(vector, self.models()[0])
        whole = Recipe.from_mapping(recipe, f"{self._sweep.where}: head of {target}")
        label = f"{target} + head μ={_exact(made['mu'])} λ={_exact(made['lambda'])}"
        return self._point("head", label, {"target": target, **made}, recipe=whole)

    def with_head(
        self, point: Point, vectors: Mapping[str, tuple[str, float]], lambda_: float
    ) -> dict[str, Any] | None:
        """The recipe of θ₀ + Σ_g λ_g Δ_g + λ Σ_c a_c v_c, of a point that is such a sum.

        Args:
            point: a merge.
            vectors: vector folder → (name of the direction, a_c).
            lambda_: λ.

        Returns:
            None of a merge that is no sum of task vectors, each with one λ_g.
        """
        recipe = point.recipe
        coefficients = None if recipe is None else self.coefficients(recipe)
        if recipe is None or coefficients is None or coefficients.lambdas is None:
            return None
        raw, known = recipe.raw, {own_folder(model): model for model in self.models()}
        base = str(raw["base_model"])
        groups = {model: name for name, model in recipe.groups().items()}
        added: dict[str, tuple[str, float]] = {}
        start = known[own_folder(str(coefficients.start))]
        for model, value in {start: 1.0, **coefficients.lambdas}.items():
            name = known[own_folder(str(model))]
            if name != base:
                added[name] = (groups.get(name, Path(name).name), value)
        for folder, (name, value) in vectors.items():
            added[folder] = (f"{MEMBER}{name}", lambda_ * value)
        dtype = raw.get("dtype")
        is_short = dtype in ("float16", "bfloat16")  # no vector is rounded before it is added
        made = addition_recipe(base, added, "float32" if is_short else dtype, lambda_=1.0)
        made["parameters"] |= {k: v for k, v in parameters_of(raw).items() if k == "head"}
        out = raw.get("out_dtype", dtype if is_short else None)
        return made | ({"out_dtype": out} if out else {})

    def _added_to(self, baseline: str, lambdas: Mapping[str, float]) -> Recipe:
        """θ₀ + 1 · (θ_baseline − θ₀) + Σ_g λ_g (θ_g − θ₀)."""
        raw, groups = self._sweep.recipe.raw, self._sweep.recipe.groups()
        added = {groups[name]: (name, value) for name, value in lambdas.items()}
        vectors = {self._sweep.config.baselines[baseline]: (baseline, 1.0), **added}
        recipe = addition_recipe(str(raw["base_model"]), vectors, raw.get("dtype"), lambda_=1.0)
        return Recipe.from_mapping(recipe, f"{self._sweep.where}: {baseline} and groups")

    def _merge(
        self,
        kind: PointKind,
        settings: dict[str, float],
        shown: Mapping[str, float] | None = None,
    ) -> Point:
        """A point of the sweep's recipe; `shown` is what its label says, if not all settings."""
        parts = [f"{symbol(k)}={_exact(v)}" for k, v in (shown or settings).items()]
        label = ("random " if kind == "control" else "") + " ".join(parts)
        recipe = self._sweep.recipe.with_settings(dict(settings))
        if is_random(recipe.method) and recipe.random_seed is None:
            recipe = recipe.with_random_seed(self._sweep.config.seed)
        return self._point(kind, label, dict(settings), recipe=recipe)

    def _point(
        self,
        kind: PointKind,
        label: str,
        settings: dict[str, float | str],
        *,
        recipe: Recipe | None = None,
        model: str | None = None,
    ) -> Point:
        used = listed_models(recipe) if recipe is not None or model is None else [model]
        apart: dict[str, str | int] = {}
        if kind == "baseline":
            apart["baseline"] = label  # two baselines of one folder are two points
        if kind == "control":
            apart["seed"] = self._sweep.config.seed  # of its vectors
        if recipe is not None and recipe.random_seed is not None:
            apart["random_seed"] = recipe.random_seed
        digest = point_id(
            kind,
            recipe.raw if recipe else None,
            {name: self._inputs[name].fingerprint.digest for name in used},
            self.measuring,
            **apart,
        )
        injected = [float(v) for key, v in settings.items() if key.startswith(INJECTED)]
        coefficients = None if recipe is None or model else self.coefficients(recipe)
        effective, size = (
            (sum(injected), sum(map(abs, injected)))
            if injected
            else (coefficients.lambda_eff, coefficients.lambda_l1)
            if coefficients is not None and kind != "head"  # whose a_c are no shares of a vector
            else (None, None)
        )
        planned = PlannedPoint(
            id=digest,
            kind=kind,
            label=label if self._reserved.get(label, kind) == kind else f"{kind} {label}",
            settings=settings,
            lambda_=float(settings["lambda"]) if "lambda" in settings else None,
            lambda_eff=effective,
            lambda_l1=size,
            is_identity=coefficients is not None and coefficients.is_identity,
        )
        return Point(planned, recipe, model)

    def composer(self) -> Composer:
        """What composes the points' recipes; it holds no checkpoint."""
        return Composer(room=0, plans=self._plans, base=self.models()[0])

    def coefficients(self, recipe: Recipe) -> Coefficients:
        """What a recipe adds up."""
        if is_own(recipe.method):
            return self._plans.plan(recipe).of(recipe).coefficients
        if recipe.text() not in self._tried:
            recipe.require_inputs()
            self._plans.stock(recipe).try_kernel(recipe)
            self._tried.add(recipe.text())
        return recipe_coefficients(recipe)


def listed_models(recipe: Recipe | None) -> list[str]:
    """The models of a recipe as it spells them, the base first; of no recipe none."""
    if recipe is None:
        return []
    raw = recipe.raw
    listed = [str(item["model"]) for item in raw.get("models") or ()]
    base = [str(raw["base_model"])] if raw.get("base_model") else []
    return list(dict.fromkeys([*base, *listed]))


def _exact(value: float) -> str:
    """As short as it can be without standing for another number, so that labels are unique."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
