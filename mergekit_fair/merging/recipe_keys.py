"""Keys that mergekit does not know are errors wherever they stand, with the nearest known name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mergekit.config import InputSliceDefinition, OutputModuleDefinition, OutputSliceDefinition
from mergekit.merge_methods import MergeMethodSpec
from mergekit.tokenizer.config import ModelTokenEmbedding, TokenEmbeddingConfig, TokenizerConfig

from mergekit_fair.errors import RecipeError
from mergekit_fair.schema import nearest

# What `worst: auto` reads, and what a sweep writes beside its chosen recipe.
FAIRNESS = (
    *("report", "min_group_size", "exclude"),
    *("tool", "task", "rule", "selected_on", "feasible", "validation"),
)

# More than any model has.
MOST_LAYERS = 10_000


def require_known_keys(raw: dict[str, Any], where: str) -> None:
    """Check the blocks `slices`, `modules`, `tokenizer` and `fairness` of a recipe.

    Raises:
        RecipeError: names the block, the key and the nearest known one; a range of layers that is
            none.
    """
    for block, known in (
        ("tokenizer", tuple(TokenizerConfig.model_fields)),
        ("fairness", FAIRNESS),
    ):
        given = raw.get(block)
        if isinstance(given, dict):
            known_keys(given, known, f"{where}: {block}")
        elif given is not None:
            raise RecipeError("must be a mapping", where=f"{where}: {block}", got=given)
    _tokens(raw.get("tokenizer"), f"{where}: tokenizer.tokens")
    _slices(raw.get("slices"), f"{where}: slices")
    modules = raw.get("modules")
    for name, module in modules.items() if isinstance(modules, dict) else ():
        if isinstance(module, dict):
            place = f"{where}: modules.{name}"
            known_keys(module, tuple(OutputModuleDefinition.model_fields), place)
            _slices(module.get("slices"), f"{place}.slices")
            _each(module.get("models"), ("model", "parameters"), f"{place}.models")


def parameter_blocks(raw: dict[str, Any], where: str) -> Iterator[tuple[Any, str]]:
    """Every `parameters` below `slices` and `modules`, with its place."""
    for block in ("slices", "modules"):
        yield from _blocks(raw.get(block), f"{where}: {block}")


def _blocks(value: Any, where: str) -> Iterator[tuple[Any, str]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _blocks(item, f"{where}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "parameters":
                yield item, f"{where}.{key}"
            else:
                yield from _blocks(item, f"{where}.{key}")


def _tokens(tokenizer: Any, where: str) -> None:
    tokens = tokenizer.get("tokens") if isinstance(tokenizer, dict) else None
    for token, item in tokens.items() if isinstance(tokens, dict) else ():
        if isinstance(item, dict):
            known_keys(item, tuple(TokenEmbeddingConfig.model_fields), f"{where}.{token}")
            source = item.get("source")
            if isinstance(source, dict) and "kind" in source:
                known = tuple(ModelTokenEmbedding.model_fields)
                known_keys(source, known, f"{where}.{token}.source")


def _slices(value: Any, where: str) -> None:
    _each(value, tuple(OutputSliceDefinition.model_fields), where)
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, dict):
            known = tuple(InputSliceDefinition.model_fields)
            _each(item.get("sources"), known, f"{where}[{index}].sources")
            _ranges(item.get("sources"), f"{where}[{index}].sources")


def _ranges(sources: Any, where: str) -> None:
    """mergekit would make a model without layers, or count up to the last one named."""
    for index, item in enumerate(sources if isinstance(sources, list) else ()):
        span = item.get("layer_range") if isinstance(item, dict) else None
        if not isinstance(span, list) or [type(end) for end in span] != [int, int]:
            continue  # mergekit says that it is no pair
        if not 0 <= span[0] < span[1] <= MOST_LAYERS:
            raise RecipeError(
                "is no range of layers",
                where=f"{where}[{index}].layer_range",
                got=span,
                allowed=f"the first layer, and the one after the last, up to {MOST_LAYERS:,}",
            )


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
