"""What a method declares: its name, its parameters, how many models it takes.

mergekit's own declarations hold the same, and importing them imports torch. `in_graph` makes
mergekit's of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter

MISSING = object()


class ParameterScope(StrEnum):
    """What a parameter has a value for: the recipe, every model, every model but the base."""

    SHARED = "shared"
    INPUT = "input"
    NON_BASE = "non_base"


@dataclass(frozen=True)
class ParameterSpec:
    """A parameter.

    Attributes:
        name: in recipes.
        value_type: as pydantic reads it.
        scope: what it has a value for.
        default: MISSING if it has to be given.
        description: in the list of methods.
    """

    name: str
    value_type: Any
    scope: ParameterScope
    default: Any = MISSING
    description: str | None = None

    @property
    def required(self) -> bool:
        return self.default is MISSING

    def validate(self, value: Any) -> Any:
        """A value as the method gets it.

        Raises:
            ValidationError: another type, or out of range.
        """
        return self._adapter.validate_python(value)

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.value_type)


@dataclass(frozen=True)
class MethodSpec:
    """A method that needs a base.

    Attributes:
        name: in recipes.
        pretty_name: in cards.
        reference_url: the paper.
        parameters: in the order in which they are listed.
        fewest: models beside the base.
        most: the same; None for any number.
    """

    name: str
    pretty_name: str
    reference_url: str
    parameters: tuple[ParameterSpec, ...]
    fewest: int = 1
    most: int | None = None

    @property
    def shared_parameters(self) -> tuple[ParameterSpec, ...]:
        """Those of the whole recipe."""
        return tuple(self._of(ParameterScope.SHARED))

    @property
    def input_parameters(self) -> tuple[ParameterSpec, ...]:
        """Those of each model."""
        return tuple(self._of(ParameterScope.INPUT, ParameterScope.NON_BASE))

    def _of(self, *scopes: ParameterScope) -> Iterator[ParameterSpec]:
        return (parameter for parameter in self.parameters if parameter.scope in scopes)
