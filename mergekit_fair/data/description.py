"""The YAML block that describes a data set. Reading it touches no data."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from mergekit_fair.data.blocks import (
    Condition,
    GroupColumns,
    ImageInput,
    OneRowPer,
    Source,
    Splits,
    Text,
    TextInput,
    exactly_one,
)
from mergekit_fair.data.label_rules import Label, LabelKind, OneLabel, checked_names
from mergekit_fair.errors import ConfigError
from mergekit_fair.escaping import conceal
from mergekit_fair.schema import Strict, load_yaml, parse


class DataSpec(Strict):
    """One data set: source, rows that count, their input, label, groups, split, weight, cluster.

    `label` is one question about a row, with two answers or with C classes; `labels` are several,
    label → its rule, of which a row may have any number.
    """

    name: Text
    source: Source
    keep: Annotated[tuple[Condition, ...], Field(min_length=1)] | None = None
    one_row_per: OneRowPer | None = None
    text: TextInput | None = None
    image: ImageInput | None = None
    label: Label | None = None
    labels: dict[Text, OneLabel] | None = Field(default=None, min_length=1)
    groups: GroupColumns
    splits: Splits
    weight: Text | None = None
    cluster: Text | None = None

    @field_validator("source", mode="before")
    @classmethod
    def _source(cls, value: Any) -> Any:
        """`package:module:file`, `hub:owner/name` and `file.csv` are short for mappings."""
        if not isinstance(value, str):
            return value
        if value.startswith("hub:"):
            return {"hub": value.removeprefix("hub:")}
        if not value.startswith("package:"):
            return {"path": value}
        module, _, file = value.removeprefix("package:").partition(":")
        if not module or not file:
            raise ValueError(f"a package source is 'package:module:file', got {value!r}")
        return {"package": module, "file": file}

    @field_validator("text", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        """A text with a brace is a template, any other text is a column."""
        if not isinstance(value, str):
            return value
        return {"template" if "{" in value else "column": value}

    @model_validator(mode="after")
    def _one_input(self) -> DataSpec:
        exactly_one(self, "text", "image")
        exactly_one(self, "label", "labels")
        checked_names(list(self.labels or ()), "label")
        return self

    @property
    def label_rules(self) -> tuple[OneLabel, ...]:
        """The rule of `label`, or those of `labels` in their order."""
        return (self.label,) if self.label else tuple((self.labels or {}).values())

    @property
    def label_kind(self) -> LabelKind:
        """`binary` (yes or no), `classes` (one of C for every row) or `labels` (any of L)."""
        if self.labels:
            return "labels"
        return "classes" if self.label_names else "binary"

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes in the order of their numbers, or the labels; empty: yes or no."""
        return self.label.class_names if self.label else tuple(self.labels or ())

    @property
    def columns_read(self) -> frozenset[str]:
        """The columns that input, label, groups, splits, weights and clusters are read from."""
        named: set[str | None] = {rule.column for rule in self.label_rules}
        named |= {self.groups.list_, *self.groups.crossed}
        named |= {self.splits.column, self.splits.by}
        named |= {self.weight, self.cluster, *(self.groups.columns or {}).values()}
        if self.text:
            named |= {self.text.column, *(name for _, name in self.text.pieces())}
        if self.image:
            named.add(self.image.column)
        return frozenset(name for name in named if name)

    def to_dict(self) -> dict[str, Any]:
        """The block with its defaults, short forms and paths written out; JSON-able.

        `load_spec(spec.to_dict()) == spec`. The order of `groups.columns` is the groups' order.
        """
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def load_spec(
    source: str | Path | Mapping[str, Any],
    where: object = None,
    *,
    folder: str | Path | None = None,
) -> DataSpec:
    """Read and check the description of a data set; no data is read.

    Args:
        source: a YAML file, or the block itself.
        where: what errors call it; default: the file, or "data".
        folder: what relative paths start from; default: the YAML file's folder, or the
            current folder for a mapping.

    Raises:
        ConfigError: unreadable file, unknown key, wrong value, unset environment variable.

    Example:
        >>> spec = load_spec({
        ...     "name": "hiring",
        ...     "source": "rows.csv",               # or hub:owner/name, package:module:file
        ...     "text": "{age} years old, {job}",   # a template, or a column's name
        ...     "label": {"column": "hired", "positive": "yes", "negative": "no"},
        ...     "groups": {"column": "sex"},
        ...     "splits": {"shares": {"train": 0.5, "validation": 0.25, "report": 0.25}},
        ... })
        >>> spec.source.table_format, spec.splits.present
        ('csv', ('train', 'validation', 'report'))
        >>> sorted(spec.columns_read)
        ['age', 'hired', 'job', 'sex']
    """
    if isinstance(source, Mapping):
        value, base, where = dict(source), Path(folder or "."), where or "data"
    else:
        value, base, where = load_yaml(source), Path(folder or Path(source).parent), where or source
    spec = parse(DataSpec, value, where)
    changes: dict[str, Any] = {}
    if spec.source.path:
        path = _resolved(spec.source.path, base, f"{where}: source.path")
        changes["source"] = spec.source.model_copy(update={"path": path})
    if spec.image:
        path = _resolved(spec.image.folder, base, f"{where}: image.folder")
        changes["image"] = spec.image.model_copy(update={"folder": path})
    return spec.model_copy(update=changes)


def _resolved(path: str, base: Path, where: str) -> str:
    """`path` with ${VAR} and ~ expanded, absolute."""

    def value_of(match: re.Match[str]) -> str:
        name = match[1]
        # An empty value would turn ${DATA}/x.csv into /x.csv, so it counts as unset.
        if not (value := os.environ.get(name)):
            raise ConfigError(
                f"the environment variable {name} is not set",
                where=where,
                got=path,
                fix=f"set it (export {name}=...) or write the path out",
            )
        conceal(value, match[0])
        return value

    expanded = re.sub(r"\$\{([^}]*)\}", value_of, path)
    # Not resolve(): a link into a cache may point at a file without a suffix.
    return os.path.normpath((base / Path(expanded).expanduser()).absolute())


def spec_inside(value: Any, path: str | Path) -> DataSpec:
    """The data description inside another YAML file: a mapping, or its own file beside `path`.

    Raises:
        ConfigError: neither a mapping nor a path, or as `load_spec`.
    """
    folder = Path(path).parent
    if isinstance(value, str):
        return load_spec(folder / value)
    if not isinstance(value, Mapping):
        raise ConfigError(
            "data must be a mapping or the path of a YAML file", where=path, got=value
        )
    return load_spec(value, where=f"{path}: data", folder=folder)
