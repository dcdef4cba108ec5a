"""mergekit's definitions of architectures, read from its files without importing its engine.

A test compares every tensor and its place with mergekit's own plan, over all families of models.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from mergekit_fair.compat.mergekit import definitions
from mergekit_fair.merging.placed_weights import PlacedWeight, place_of


@dataclass(frozen=True)
class Definition:
    """What mergekit plans of a model by a definition.

    Attributes:
        weights: in mergekit's order.
        required: names that every checkpoint has.
        is_planned: False of what mergekit 0.1.5 raises for: optional tensors with other names.
    """

    weights: tuple[PlacedWeight, ...]
    required: frozenset[str]
    is_planned: bool

    def covers(self, names: set[str]) -> bool:
        """Whether it names just these tensors, each once."""
        every = [weight.name for weight in self.weights]
        is_single = len(every) == len(set(every))
        return self.is_planned and is_single and self.required <= names <= set(every)


class _Template(string.Template):
    idpattern = r"(?a:[_a-z][_a-z0-9]*([+-]1)?)"


def definition_for(config: Any) -> Definition | None:
    """mergekit's definition, of a model of this configuration; None if it has none that holds.

    Args:
        config: of transformers, which names one architecture.
    """
    (name,) = config.architectures
    found = definitions(name)
    if len(found) > 1:
        found = [each for each in found if each["model_type"] == config.model_type][:1]
    if not found:
        return None
    parts = found[0].get("modules") or {"default": {"architecture": found[0]}}
    try:
        weights = [weight for part in parts.values() for weight in _weights(part, config)]
    except (AttributeError, LookupError, TypeError, ValueError):  # it asks for what is not there
        return None
    return Definition(
        tuple(weight for weight, _ in weights),
        frozenset(weight.name for weight, raw in weights if not raw.get("optional")),
        not any(raw.get("optional") and raw.get("aliases") for _, raw in weights),
    )


def _weights(
    part: Mapping[str, Any], config: Any
) -> Iterator[tuple[PlacedWeight, Mapping[str, Any]]]:
    """Of a module, each with what the file says of it."""
    module, prefix = part["architecture"], part.get("weight_prefix") or ""
    count = module.get("override_num_layers")
    if count is None:
        count = attrgetter(module["num_layers_config_key"])(config)

    def placed(
        raws: Sequence[Mapping[str, Any]], place: float, layer: int | None = None
    ) -> Iterator[tuple[PlacedWeight, Mapping[str, Any]]]:
        numbers = {f"num_layers{text}": count + step for text, step in _STEPS}
        if layer is not None:
            numbers |= {f"layer_index{text}": layer + step for text, step in _STEPS}
        for raw in raws:
            name = _Template(raw["name"]).substitute(numbers)
            yield PlacedWeight(prefix + name, place, raw.get("force_dtype")), raw

    yield from placed(module["pre_weights"], 0.0)
    for layer in range(count):
        templates = module["layer_templates"]["weights"]
        yield from placed(templates, place_of(layer, count), layer)
    yield from placed(module["post_weights"], 0.0)


_STEPS = (("", 0), ("+1", 1), ("-1", -1))
