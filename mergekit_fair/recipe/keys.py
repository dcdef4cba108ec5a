"""Keys that mergekit does not know are errors wherever they stand, with the nearest known name."""

from __future__ import annotations

from typing import Any

from mergekit.config import InputSliceDefinition, OutputModuleDefinition, OutputSliceDefinition
from mergekit.merge_methods import MergeMethodSpec
from mergekit.tokenizer.config import TokenizerConfig

from mergekit_fair.errors import RecipeError
from mergekit_fair.schema import nearest

# What `worst: auto` reads, and what a sweep writes beside its chosen recipe.
FAIRNESS = (
    *("report", "min_group_size", "exclude"),
    *("tool", "task", "rule", "feasible", "validation"),
)


def require_known_keys(raw: dict[str, Any], where: str) -> None:
    """Check the blocks `slices`, `modules`, `tokenizer` and `fairness` of a recipe.

    Raises:
        RecipeError: names the block, the key and the nearest known one.
    """
    for block, known in (
        ("tokenizer", tuple(TokenizerConfig.model_fields)),
        ("fairness", FAIRNESS),
    ):
        if isinstance(raw.get(block), dict):
            known_keys(raw[block], known, f"{where}: {block}")
    _slices(raw.get("slices"), f"{where}: slices")
    modules = raw.get("modules")
    for name, module in modules.items() if isinstance(modules, dict) else ():
        if isinstance(module, dict):
            place = f"{where}: modules.{name}"
            known_keys(module, tuple(OutputModuleDefinition.model_fields), place)
            _slices(module.get("slices"), f"{place}.slices")
            _each(module.get("models"), ("model", "parameters"), f"{place}.models")


def _slices(value: Any, where: str) -> None:
    _each(value, tuple(OutputSliceDefinition.model_fields), where)
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, dict):
            known = tuple(InputSliceDefinition.model_fields)
            _each(item.get("sources"), known, f"{where}[{index}].sources")


def _each(value: Any, known: tuple[str, ...], where: str) -> None:
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, dict):
            known_keys(item, known, f"{where}[{index}]")


def known_keys(
    given: dict[str, Any],
    known: tuple[str, ...],
    where: str,
    spec: MergeMethodSpec | None = None,
    *,
    of: str | None = None,
) -> None:
    """Refuse other keys; with `spec`, a key may be a parameter that belongs one level down."""
    inside = [parameter.name for parameter in spec.parameters] if spec else []
    for key in given:
        if key not in known:
            near = nearest(key, list(known)) or nearest(key, inside).replace("'", "'parameters.", 1)
            raise RecipeError(
                f"unknown key {key!r}{near}",
                where=where,
                allowed=[*known, *([f"({of})"] if of else [])],
            )
