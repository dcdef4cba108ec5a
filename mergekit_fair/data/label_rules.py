"""The blocks of a label: which values are positive, or which class or labels a row has."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mergekit_fair.data.blocks import REST, Text, Threshold, Values, as_text

LabelKind = Literal["binary", "classes", "labels"]
MOST_CLASSES = 100  # class numbers are int8


def _classes(value: Any) -> Any:
    """A list of classes, whose names are their values, or name → its values."""
    named = isinstance(value, dict)
    items = list(value.items()) if named else [(each, each) for each in _list(value)]
    if any(isinstance(name, bool) for name, _ in items):
        raise ValueError(
            "a class is called yes, no, on or off: quote it, or YAML reads true, false"
        )
    found = {as_text(name): its for name, its in items}
    if len(found) < len(items):
        raise ValueError(f"names a class twice: {[as_text(name) for name, _ in items]}")
    return found


def _list(value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)) or any(isinstance(x, (list, dict)) for x in value):
        raise ValueError(f"needs a list of classes, or a mapping name → values, got {value!r}")
    return list(value)


def checked_names(names: list[str], what: str) -> None:
    """Refuse names that a reader of a table, or a model's answer, could not tell apart."""
    if bad := [name for name in names if not name or name != name.strip() or "\n" in name]:
        raise ValueError(f"{bad[0]!r} is no name of a {what}: no blanks at its ends, one line")
    alike = {name.casefold() for name in names}
    if len(alike) < len(names):
        raise ValueError(f"names that differ in case only, of a {what}: {names}")


class OneLabel(Threshold):
    """Which rows have a label: named values, a threshold, or a column that is 0/1 already.

    The value "*" of `negative` is every other value.
    """

    column: Text
    positive: Values | None = None
    negative: Values | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> OneLabel:
        if (self.positive is None) != (self.negative is None):
            raise ValueError(
                f"positive and negative go together (negative: {REST!r} is every other value)"
            )
        if self.positive is not None and self.bound:
            raise ValueError("give positive and negative, or a threshold, not both")
        if both := set(self.positive or ()) & set(self.negative or ()):
            raise ValueError(f"{sorted(both)} cannot be positive and negative")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their numbers; empty: yes or no."""
        return ()

    @property
    def values_of(self) -> tuple[tuple[str, ...], ...]:
        """The values of class 0, 1, …, where the rule names them; else ()."""
        return () if self.positive is None else (self.negative or (), self.positive)

    @property
    def named(self) -> frozenset[str]:
        """The values that the rule writes out."""
        return frozenset({value for its in self.values_of for value in its} - {REST})


class Label(OneLabel):
    """Which rows are positive, or of which class each row is.

    `classes` is name → values, in the order of class numbers; a list of names is for values that
    are called so. The value "*" of one class is every other value.
    """

    classes: (
        Annotated[
            dict[str, Values],
            BeforeValidator(_classes),
            Field(min_length=2, max_length=MOST_CLASSES),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _distinct(self) -> Label:
        if self.classes is None:
            return self
        if self.positive is not None or self.bound:
            raise ValueError("give classes, or positive and negative, or a threshold; one of them")
        checked_names(list(self.classes), "class")
        values = [value for its in self.classes.values() for value in its]
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"classes: {twice} cannot be of two classes")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.classes or ())

    @property
    def values_of(self) -> tuple[tuple[str, ...], ...]:
        return tuple(self.classes.values()) if self.classes else super().values_of
