"""The YAML of `mergekit-fair sweep`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mergekit_fair.data import DataSpec, spec_inside
from mergekit_fair.errors import ConfigError
from mergekit_fair.recipe.grid import parse_grid
from mergekit_fair.recipe.recipe import Recipe
from mergekit_fair.recipe.resolve import resolved
from mergekit_fair.schema import Strict, load_yaml, nearest, parse

# What a selection may look at; `level_matched.*` is measured at the reference's selection rate.
METRICS = (
    *("acc", "bal_acc", "worst_group_acc", "selection_rate", "dpd", "eod"),
    *("level_matched.acc", "level_matched.dpd", "level_matched.eod"),
)
_LOWER_IS_BETTER = ("dpd", "eod", "level_matched.dpd", "level_matched.eod")
_CONSTRAINT = re.compile(
    r"^\s*(<=|>=|<|>)\s*(?:(?P<number>-?[0-9.]+(?:e-?[0-9]+)?)|(?P<name>\w[\w-]*?)"
    r"(?:\s*(?P<offset>[+-]\s*[0-9.]+))?)\s*$"
)


@dataclass(frozen=True)
class Constraint:
    """`metric OP limit`, the limit being a number, or a baseline's value plus an offset."""

    metric: str
    operator: str
    baseline: str | None
    number: float

    def __str__(self) -> str:
        if self.baseline is None:
            return f"{self.metric} {self.operator} {self.number:g}"
        offset = f" {'+' if self.number > 0 else '-'} {abs(self.number):g}" if self.number else ""
        return f"{self.metric} {self.operator} {self.baseline}{offset}"


class Evaluate(Strict):
    """What the points are measured on and how.

    Attributes:
        data: the data description, a mapping or the path of a YAML file beside this one.
        reference: which DPD and EOD `dpd` and `eod` are.
        saturation: distance from the reference's selection rate that marks a point `saturated`.
    """

    data: DataSpec
    batch_size: Annotated[int, Field(gt=0)] = 64
    max_length: Annotated[int, Field(gt=0)] = 128
    device: str = "auto"
    bf16: bool = False
    reference: Literal["between_groups", "one_vs_rest", "to_overall"] = "between_groups"
    min_group_size: Annotated[int, Field(gt=0)] = 1
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    saturation: Annotated[float, Field(gt=0, lt=1)] = 0.1


class Select(Strict):
    """The rule: read on validation rows only; degenerate points never win."""

    maximize: str = "acc"
    subject_to: dict[str, str | float] = {}

    @field_validator("maximize")
    @classmethod
    def _metric(cls, value: str) -> str:
        allowed = [name for name in METRICS if name not in _LOWER_IS_BETTER]
        if value not in allowed:
            raise ValueError(
                f"not a metric to maximise; got {value!r}; allowed: {', '.join(allowed)}"
            )
        return value

    @field_validator("subject_to")
    @classmethod
    def _constraints(cls, value: dict[str, str | float]) -> dict[str, str | float]:
        for metric, text in value.items():
            if metric not in METRICS:
                raise ValueError(
                    f"unknown metric {metric!r}{nearest(metric, list(METRICS))}; "
                    f"allowed: {', '.join(METRICS)}"
                )
            if _CONSTRAINT.match(str(text)) is None:
                raise ValueError(
                    f"{metric}: not a constraint; got {text!r}; allowed: such as '<= fft', "
                    "'<= fft + 0.01', '>= 0.8'"
                )
        return value

    def constraints(self) -> tuple[Constraint, ...]:
        found = []
        for metric, text in self.subject_to.items():
            match = _CONSTRAINT.match(str(text))
            if match is None:  # refused by the validator
                raise ConfigError(
                    "is not a constraint", where=f"select.subject_to.{metric}", got=text
                )
            offset = (match["offset"] or "0").replace(" ", "")
            found.append(
                Constraint(metric, match[1], match["name"], float(match["number"] or offset))
            )
        return tuple(found)


class Inject(Strict):
    """The second stage: inject group vectors into a baseline."""

    target: str
    groups: Literal["worst"] | list[str] = "worst"
    lambda_: Any = Field("0.2:1:0.2", alias="lambda")


class SweepConfig(Strict):
    """A sweep file; see INTERFACE "Sweep file"."""

    recipe: Any
    grid: dict[str, Any]
    evaluate: Evaluate
    baselines: dict[str, str] = {}
    controls: list[Literal["random"]] = []
    select: Select = Select()
    inject: Inject | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _names(self) -> SweepConfig:
        for constraint in self.select.constraints():
            name = constraint.baseline
            if name is not None and name not in self.baselines:
                raise ValueError(
                    f"select.subject_to.{constraint.metric} names no baseline; got {name!r}; "
                    f"allowed: {', '.join(self.baselines) or 'none are given'}"
                )
        if self.inject and self.inject.target not in self.baselines:
            raise ValueError(
                f"inject.target names no baseline; got {self.inject.target!r}; "
                f"allowed: {', '.join(self.baselines) or 'none are given'}"
            )
        return self


@dataclass(frozen=True)
class Sweep:
    """A sweep file with everything it names read and checked.

    Attributes:
        grid: setting (`lambda`, `weight.<group>`) → its points.
        inject_grid: λ of the second stage; empty without one.
    """

    config: SweepConfig
    recipe: Recipe
    grid: dict[str, tuple[float, ...]]
    inject_grid: tuple[float, ...]
    where: str


def load_sweep(path: str | Path) -> Sweep:
    """Read a sweep file, its recipe, data description and grids.

    Paths of files (`recipe`, `evaluate.data`) are relative to the sweep file, those of models to
    the working directory, as in mergekit.

    Raises:
        ConfigError, RecipeError: with the file, the key, what was given and what is allowed.
    """
    raw = load_yaml(path)
    evaluate = raw.get("evaluate")
    if isinstance(evaluate, dict) and "tasks" in evaluate:
        raise ConfigError(
            "evaluate.tasks is not available in this version",
            where=path,
            got=evaluate["tasks"],
            fix="give evaluate.data, the data description that training used",
        )
    if isinstance(evaluate, dict) and "data" in evaluate:
        raw["evaluate"] = {**evaluate, "data": spec_inside(evaluate["data"], path)}
    config = parse(SweepConfig, raw, path)
    grid = _grid(config, path)
    inject = parse_grid(config.inject.lambda_, f"{path}: inject.lambda") if config.inject else ()
    sweep = Sweep(config, _recipe(config, path), grid, inject, str(path))
    _check_groups(sweep)
    return sweep


def _grid(config: SweepConfig, path: str | Path) -> dict[str, tuple[float, ...]]:
    if not config.grid:
        raise ConfigError("grid is empty", where=path, allowed="lambda, weight.<group>")
    for key in config.grid:
        if key != "lambda" and not key.startswith("weight."):
            raise ConfigError(
                "unknown grid setting", where=path, got=key, allowed="lambda, weight.<group>"
            )
    return {key: parse_grid(value, f"{path}: grid.{key}") for key, value in config.grid.items()}


def _recipe(config: SweepConfig, path: str | Path) -> Recipe:
    if isinstance(config.recipe, dict):
        return resolved(Recipe.from_mapping(config.recipe, f"{path}: recipe"))
    if isinstance(config.recipe, str):
        return resolved(Recipe.load(Path(path).parent / config.recipe))
    raise ConfigError("recipe must be a path or a mapping", where=path, got=config.recipe)


def _check_groups(sweep: Sweep) -> None:
    groups = sweep.recipe.groups()
    for key in sweep.grid:
        sweep.recipe.with_settings({key: 0.0})
    inject = sweep.config.inject
    if inject is None:
        return
    if not groups:
        raise ConfigError("inject needs a recipe whose models name their group", where=sweep.where)
    for name in inject.groups if isinstance(inject.groups, list) else ():
        if name not in groups:
            raise ConfigError(
                "inject.groups names no group of the recipe",
                where=sweep.where,
                got=name,
                allowed=sorted(groups),
            )
