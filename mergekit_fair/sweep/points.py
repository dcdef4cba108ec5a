"""The points of a sweep, each with an id that is the digest of everything its numbers depend on."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mergekit.options import MergeOptions

from mergekit_fair.checkpoints.folder import fingerprint, require_same_tensors, weight_files
from mergekit_fair.errors import ConfigError
from mergekit_fair.merging.grid import MOST_POINTS
from mergekit_fair.merging.methods.formula import Coefficients
from mergekit_fair.merging.methods.registry import is_own
from mergekit_fair.merging.methods.subgroup_task_addition import addition_recipe
from mergekit_fair.merging.methods.worst_group_injection import injection_recipe
from mergekit_fair.merging.plan import PlanCache, recipe_coefficients
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.sweep.sweep_config import Sweep

Kind = Literal["baseline", "merge", "control", "search", "injection"]


_INJECTED = "inject."


@dataclass(frozen=True)
class Point:
    """One model to measure.

    Attributes:
        kind: baseline (a folder), merge (of the grid), control (random vectors), search, injection.
        label: unique within the sweep, for tables and pictures.
        settings: λ and the like that this point sets.
        recipe: what to compose; None for a baseline.
        model: the folder of a baseline; None otherwise.
        id: 16 hex digits, the digest of recipe, inputs, data and measuring.
        coefficients: λ_g of the recipe; None for a baseline.
    """

    kind: Kind
    label: str
    settings: dict[str, float | str]
    recipe: Recipe | None
    model: str | None
    id: str
    coefficients: Coefficients | None = None

    @property
    def lambda_(self) -> float | None:
        value = self.settings.get("lambda")
        return float(value) if value is not None else None

    @property
    def size(self) -> float | None:
        """Σ_g |λ_g| of what is added to the base or the target; None where that is no number."""
        if added := self._injected:
            return sum(map(abs, added))
        return self.coefficients.lambda_l1 if self.coefficients else None

    @property
    def _injected(self) -> list[float]:
        """The λ of injected groups."""
        return [float(v) for key, v in self.settings.items() if key.startswith(_INJECTED)]

    @property
    def lambda_eff(self) -> float | None:
        if added := self._injected:
            return sum(added)
        return self.coefficients.lambda_eff if self.coefficients else None

    @property
    def is_identity(self) -> bool:
        """Whether nothing is added: the model is its base or target."""
        return self.coefficients is not None and self.coefficients.is_identity

    @property
    def varies_lambda_alone(self) -> bool:
        """Whether points that differ from this one in λ alone follow it."""
        names = [key for key in self.settings if key != "worst" and not key.startswith(_INJECTED)]
        return self.kind != "search" and names[-1:] == ["lambda"]

    def describe(self) -> dict[str, Any]:
        """The JSON of this point, without its evaluation."""
        return {
            "id": self.id,
            "kind": self.kind,
            "label": self.label,
            "settings": self.settings,
            "lambda": self.lambda_,
            "lambda_eff": self.lambda_eff,
            "size": self.size,
            "adds_nothing": self.is_identity,
        }


class Planner:
    """Makes the points of one sweep; holds the fingerprints of its models and data."""

    def __init__(self, sweep: Sweep, data: str) -> None:
        self._sweep = sweep
        evaluate = sweep.config.evaluate.model_dump(mode="json", exclude={"data", "device"})
        self._measuring = {"data": data, "evaluate": evaluate, "seed": sweep.config.seed}
        self._prints = {model: fingerprint(model) for model in self.models()}
        base, *others = self.models()
        require_same_tensors(base, others)
        self._plans = PlanCache(MergeOptions())

    def models(self) -> list[str]:
        """The base first, then every other folder that the sweep reads."""
        raw = self._sweep.recipe.raw
        listed = [str(item["model"]) for item in raw.get("models") or ()]
        baselines = self._sweep.config.baselines.values()
        return list(dict.fromkeys([str(raw.get("base_model") or listed[0]), *listed, *baselines]))

    def bytes_read(self) -> int:
        return sum(f.stat().st_size for model in self.models() for f in weight_files(model))

    def baselines(self) -> list[Point]:
        return [
            self._point("baseline", name, {}, model=model)
            for name, model in self._sweep.config.baselines.items()
        ]

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
                if not point.is_identity
            ]
        return points

    def control_of(self, point: Point) -> Point:
        """The same recipe with random vectors in the place of the subgroups'."""
        label = f"random {point.label}"
        return self._point("control", label, point.settings, recipe=point.recipe)

    def searched(self, settings: dict[str, float]) -> Point:
        """One point of the search: these settings, the recipe's λ being 1."""
        return self._merge("search", {"lambda": 1.0, **settings})

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
        settings: dict[str, float | str] = {_INJECTED + g: v for g, v in lambdas.items()}
        base, dtype = str(raw["base_model"]), raw.get("dtype")
        if len(lambdas) == 1:
            ((name, value),) = lambdas.items()
            settings |= {"lambda": value, "worst": name}
            recipe = injection_recipe(base, target, groups, name, dtype, lambda_=value)
        else:
            # θ₀ + 1 · (θ_target − θ₀) + Σ_g λ_g (θ_g − θ₀)
            added = {groups[name]: (name, value) for name, value in lambdas.items()}
            vectors = {target: (inject.target, 1.0), **added}
            recipe = addition_recipe(base, vectors, dtype, lambda_=1.0)
        label = " ".join([inject.target, *(f"+ {v:g} {g}" for g, v in lambdas.items())])
        made = Recipe.from_mapping(recipe, f"{self._sweep.where}: inject")
        return self._point("injection", label, settings, recipe=made)

    def _merge(self, kind: Kind, settings: dict[str, float]) -> Point:
        shown = dict(settings)
        if kind == "search" and len(shown) > 1:  # weights are λ_g there, and λ is 1
            shown = {k.removeprefix("weight."): v for k, v in settings.items() if k != "lambda"}
        parts = [f"{'λ' if key == 'lambda' else key}={value:g}" for key, value in shown.items()]
        label = ("random " if kind == "control" else "") + " ".join(parts)
        recipe = self._sweep.recipe.with_settings(dict(settings))
        return self._point(kind, label, dict(settings), recipe=recipe)

    def _point(
        self,
        kind: Kind,
        label: str,
        settings: dict[str, float | str],
        *,
        recipe: Recipe | None = None,
        model: str | None = None,
    ) -> Point:
        used = [model] if model else _models(recipe)
        content = {
            "kind": kind,
            "recipe": recipe.raw if recipe else None,
            "models": {name: self._prints[name] for name in used},
            **self._measuring,
        }
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        coefficients = self._coefficients(recipe) if recipe else None
        return Point(kind, label, settings, recipe, model, digest, coefficients)

    def _coefficients(self, recipe: Recipe) -> Coefficients:
        if is_own(recipe.method):
            return self._plans.plan(recipe).of(recipe).coefficients
        return recipe_coefficients(recipe)


def _models(recipe: Recipe | None) -> list[str]:
    if recipe is None:
        return []
    raw = recipe.raw
    listed = [str(item["model"]) for item in raw.get("models") or ()]
    base = [str(raw["base_model"])] if raw.get("base_model") else []
    return list(dict.fromkeys([*base, *listed]))
