"""What mergekit would refuse when it plans, or make nothing of: models, ranges of layers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.configuration import (
    MergeConfiguration,
    ModelReference,
    OutputModuleDefinition,
)
from mergekit_fair.merging.methods.declaration import MethodSpec, ParameterScope
from mergekit_fair.merging.recipe_keys import Unread, blocks, hint
from mergekit_fair.schema import nearest

# More than any model has.
MOST_LAYERS = 10_000

_NUMBER = re.compile(r"\d+")

Settings = Mapping[str, Any] | None


@dataclass(frozen=True)
class Inputs:
    """Models that are merged with each other.

    Attributes:
        models: each with its own parameters.
        base: the base of this merge.
        around: parameters that hold for all of them.
        where: the place in the recipe.
    """

    models: Sequence[tuple[ModelReference, Settings]]
    base: ModelReference | None
    around: Sequence[Settings]
    where: str

    def lacking(self, name: str, scope: ParameterScope) -> list[str]:
        """Who has no such parameter."""
        if any(name in (settings or {}) for settings in self.around):
            return []
        if scope == ParameterScope.SHARED:
            return ["the recipe"]
        return [
            "base_model, which mergekit merges as one more model"
            if model == self.base
            else str(model)
            for model, settings in self.models
            if name not in (settings or {})
            and not (scope == ParameterScope.NON_BASE and model == self.base)
        ]


def require_inputs(
    config: MergeConfiguration, spec: Any, where: str, warnings: Sequence[str]
) -> None:
    """Numbers of models, a base, and parameters without a default.

    Args:
        config: checked.
        spec: of its method, one of mergekit's.
        where: the recipe.
        warnings: of the recipe; one of them may be why something is missing.

    Raises:
        RecipeError: whatever mergekit would refuse once it has opened the models.
    """
    for inputs in _inputs(config, where):
        try:
            spec.contract.validate_ids([model for model, _ in inputs.models], inputs.base)
        except ValueError as error:
            reason = f"{str(error)[:1].lower()}{str(error)[1:]}"
            raise RecipeError(reason, where=inputs.where, fix=hint(warnings)) from error
        for parameter in spec.parameters:
            lacking = inputs.lacking(parameter.name, parameter.scope)
            if parameter.required and lacking:
                raise RecipeError(
                    f"{spec.name} needs parameters.{parameter.name} of {lacking[0]}",
                    where=inputs.where,
                    fix=hint(warnings),
                )


def require_layers(config: MergeConfiguration, where: str, unread: Unread) -> None:
    """mergekit would make a model without layers, or count up to the last one named.

    Raises:
        RecipeError: a range that leads backwards, too far, or slices that hold no layer at all.
    """
    for place, module in _modules(config, where):
        sources = {
            f"{place}slices[{index}].sources[{number}].layer_range": source.layer_range
            for index, part in enumerate(module.slices or ())
            for number, source in enumerate(part.sources)
        }
        is_empty = all(first == end for first, end in sources.values())
        for at, (first, end) in sources.items():
            problem = RecipeError(
                "is not a range of layers",
                where=at,
                got=[first, end],
                allowed=f"the first layer, and the one after the last, up to {MOST_LAYERS:,}",
            )
            if is_empty or not 0 <= first <= end <= MOST_LAYERS:
                raise problem
            if first == end:
                unread.say(problem, "holds no layer: the second number is the one after the last")


def unmatched_filters(
    raw: dict[str, Any], where: str, spec: MethodSpec, names: Collection[str]
) -> tuple[str, ...]:
    """A warning for every filter that matches no tensor; mergekit goes on to the next one.

    Numbers are all alike: slices give layers other numbers.

    Args:
        raw: a checked recipe.
        where: its file.
        spec: of its method.
        names: of the tensors.
    """
    known = {parameter.name for parameter in spec.parameters}
    tensors = {_NUMBER.sub("0", name) for name in names}
    words = sorted({word for name in tensors for word in name.split(".")})
    warnings = []
    for part in blocks(raw, "recipe", where):
        for key, setting in (part.content.get("parameters") or {}).items():
            conditions = setting if isinstance(setting, list) else [setting]
            filters = [item.get("filter") for item in conditions if isinstance(item, dict)]
            for text in filters if key in known else ():
                pattern = _NUMBER.sub("0", text or "*")
                if pattern != "*" and not any(pattern in name for name in tensors):
                    place = f"{part.place('parameters')}.{key}"
                    near = nearest(text, words)
                    warnings.append(f"{place}: filter {text!r} matches no tensor{near}")
    return tuple(dict.fromkeys(warnings))


def _modules(
    config: MergeConfiguration, where: str
) -> Iterator[tuple[str, OutputModuleDefinition]]:
    """Every module with its place; models and slices of the recipe itself are one."""
    if config.modules:
        for name, module in config.modules.items():
            yield f"{where}: modules.{name}.", module
    else:
        module = OutputModuleDefinition.model_construct(
            models=config.models, slices=config.slices, parameters=None
        )
        yield f"{where}: ", module


def _inputs(config: MergeConfiguration, where: str) -> Iterator[Inputs]:
    for place, module in _modules(config, where):
        around = (module.parameters, config.parameters)
        if module.models:
            models = [(item.model, item.parameters) for item in module.models]
            base = config.base_model
            if base and base not in [model for model, _ in models]:
                models.append((base, None))  # mergekit adds it
            yield Inputs(models, base, around, f"{place}models")
        for index, part in enumerate(module.slices or ()):
            yield Inputs(
                [(source.model, source.parameters) for source in part.sources],
                part.base_model or config.base_model,
                (part.parameters, *around),
                f"{place}slices[{index}]",
            )
