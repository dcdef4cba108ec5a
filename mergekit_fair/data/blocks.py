"""The parts of a data set's YAML block: source, rows that count, input, label, groups, splits."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from mergekit_fair.schema import Strict

SplitName = Literal["train", "validation", "report"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "report")
FORMATS = ("csv", "tsv", "jsonl", "parquet")
UNUSED = ""  # the split of a row that is in none
COMPRESSED = (".gz", ".bz2", ".xz", ".zip")  # what may follow csv, tsv and jsonl
CROSSED = " & "  # between the names of an intersection
REST = "*"  # `negative: "*"`: every value that is not positive
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "ge": operator.ge,
    "gt": operator.gt,
    "le": operator.le,
    "lt": operator.lt,
}


def as_text(value: Any) -> str:
    """The text by which a value of YAML and a cell are compared.

    Nothing is "", and a whole float reads as an integer: 1, 1.0 and "1" are then one value,
    and an integer column that became float because a cell is missing renders as integers.
    """
    if value is None or value != value:  # NaN is the value that differs from itself
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def suffix_of(name: str) -> str:
    """The suffix in small letters, without that of a compressed file: `a.csv.gz` is csv."""
    plain = Path(name)
    if plain.suffix.lower() in COMPRESSED:
        plain = plain.with_suffix("")
    return plain.suffix.lstrip(".").lower()


def _values(value: Any) -> Any:
    """One value or a list of values → texts, as the cells of a table are compared."""
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if any(item is None or isinstance(item, (list, dict)) for item in items):
        raise ValueError(f"needs a value or a list of values, got {value!r}")
    return tuple(as_text(item) for item in items)


def _named_values(value: Any) -> Any:
    return {as_text(key): item for key, item in value.items()} if isinstance(value, dict) else value


def _crossed(value: Any) -> Any:
    """One column, or two and more whose values together are a name."""
    columns = (value,) if isinstance(value, str) else value
    is_list = isinstance(columns, (list, tuple)) and (len(columns) > 1 or columns[0:1] == (value,))
    if value is not None and not (is_list and all(x and isinstance(x, str) for x in columns)):
        raise ValueError(f"needs a column, or two or more whose values are crossed, got {value!r}")
    return value


Text = Annotated[str, Field(min_length=1)]
Character = Annotated[str, Field(min_length=1, max_length=1)]
Values = Annotated[tuple[str, ...], BeforeValidator(_values), Field(min_length=1)]


class Source(Strict):
    """Where the table is: a file, a data set of the Hub, or a file of an installed package.

    `columns` names the columns of a csv or tsv file whose first line is data already. `quotes` is
    `none` (a quote is a character like others), `standard`, or the character that quotes cells;
    without it a file whose cells hold lines that look like rows is refused.
    """

    path: Text | None = None
    hub: Text | None = None
    package: Text | None = None
    file: Text | None = None
    config: Text | None = None
    split: Text | None = None
    revision: Text | None = None
    format: Literal["csv", "tsv", "jsonl", "parquet"] | None = None
    separator: Character | None = None
    columns: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    encoding: Text | None = None
    decimal: Character | None = None
    quotes: Text | None = None

    @field_validator("encoding")
    @classmethod
    def _codec(cls, value: str | None) -> str | None:
        try:
            b" ".decode(value or "utf-8", errors="replace")
        except LookupError as error:  # unknown, or a codec of bytes, such as base64
            raise ValueError(
                f"no text encoding of Python's is called {value!r}; known are utf-8, utf-16, "
                "cp1252, latin-1, gb18030, shift_jis and many more"
            ) from error
        return value

    @field_validator("quotes")
    @classmethod
    def _quotes(cls, value: str | None) -> str | None:
        if value not in (None, "none", "standard") and len(value) != 1:
            raise ValueError(f"needs none, standard or one character, got {value!r}")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        exactly_one(self, "path", "hub", "package")
        if (self.package is None) != (self.file is None):
            raise ValueError("package and file go together: {package: module, file: data/x.csv}")
        if self.hub is None:
            _only_with(self, "hub", "config", "split", "revision")
            self.table_format  # noqa: B018  # an unknown suffix is found here, not when reading
        elif self.format is not None:
            raise ValueError("format goes with a file, not with hub")
        plain = _given(self, "separator", "columns", "decimal", "quotes")
        if plain and (self.hub or self.table_format not in ("csv", "tsv")):
            raise ValueError(f"{' and '.join(plain)}: only together with a csv or tsv file")
        if self.encoding and (self.hub or self.table_format == "parquet"):
            raise ValueError("encoding: only together with a csv, tsv or jsonl file")
        signs = {"separator": '"\r\n\0', "decimal": "+-", "quotes": f"{self.separator}\r\n\0"}
        for name, others in signs.items():
            sign = getattr(self, name) or ""
            if len(sign) == 1 and (sign in others or sign.isalnum()):
                raise ValueError(f"{name} cannot be {sign!r}")
        named = self.columns or ()
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"columns names {twice} twice")
        return self

    @property
    def table_format(self) -> str:
        """csv, tsv, jsonl or parquet: as written, else from the file's suffix."""
        name = self.path or self.file or ""
        kind = self.format or suffix_of(name)
        if kind not in FORMATS:
            raise ValueError(
                f"cannot tell the format of {name!r} from its name "
                f"(known: {', '.join(FORMATS)}); write it as `format: csv`"
            )
        return kind

    @property
    def shown(self) -> str:
        """The source in one word, for error messages."""
        if self.package:
            return f"package:{self.package}:{self.file}"
        return f"hub:{self.hub}" if self.hub else str(self.path)


class Threshold(Strict):
    """At most one of ge, gt, le and lt."""

    ge: FiniteFloat | None = None
    gt: FiniteFloat | None = None
    le: FiniteFloat | None = None
    lt: FiniteFloat | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Threshold:
        if len(_given(self, *COMPARE)) > 1:
            raise ValueError("only one of ge, gt, le and lt can be given")
        return self

    @property
    def bound(self) -> tuple[str, float] | None:
        """The operator's name and the value, or None."""
        for name in COMPARE:
            if (value := getattr(self, name)) is not None:
                return name, value
        return None


class Condition(Threshold):
    """`keep`: one condition on one column: named values, all but named values, or a threshold."""

    column: Text
    is_: Values | None = Field(default=None, alias="is")
    not_: Values | None = Field(default=None, alias="not")

    @model_validator(mode="after")
    def _one_rule(self) -> Condition:
        rules = [self.is_, self.not_, self.bound]
        if sum(rule is not None for rule in rules) != 1:
            raise ValueError("needs exactly one of is, not, ge, gt, le and lt")
        return self


class OneRowPer(Strict):
    """`one_row_per`: which rows are about one thing (one per annotator), and how they become one.

    `mean` columns are averaged, of `majority` columns the most frequent value counts. Without it
    the same input would stand in several splits, and in a group and out of it at once.
    """

    column: Text
    mean: tuple[Text, ...] = ()
    majority: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _once(self) -> OneRowPer:
        named = [self.column, *self.mean, *self.majority]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"{twice} cannot be merged in two ways")
        return self


class TextInput(Strict):
    """The input text: one column, or a template over columns.

    `values` says in words what the codes of a template's column mean: {column: {code: words}}.
    """

    column: Text | None = None
    template: Text | None = None
    values: dict[Text, Annotated[dict[str, Text], BeforeValidator(_named_values)]] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> TextInput:
        exactly_one(self, "column", "template")
        if self.template is not None and not any(name for _, name in self.pieces()):
            raise ValueError("a template needs a column in braces, as in '{age} years old'")
        _only_with(self, "template", "values")
        used = {name for _, name in self.pieces()}
        if unused := sorted(set(self.values or {}) - used):
            raise ValueError(f"values explains {unused}, which the template does not use")
        return self

    def pieces(self) -> list[tuple[str, str | None]]:
        """The template as (literal text, column that follows or None)."""
        pieces = []
        try:
            parsed = list(Formatter().parse(self.template or ""))
        except ValueError as error:
            raise ValueError(f"not a template ({error}); a brace in the text is '{{{{'") from error
        for literal, name, form, conversion in parsed:
            if form or conversion or name == "":
                raise ValueError("braces hold a column's name and nothing else, as in '{age}'")
            pieces.append((literal, name))
        return pieces


class ImageInput(Strict):
    """The input image: a column of file names, and the folder that they are in."""

    column: Text
    folder: Text = "."


class GroupColumns(Threshold):
    """Which subgroups a row belongs to: a column, a column of scores each, or a column of lists.

    Several names in `column` are intersections: the group of {sex: f, race: b} is "f & b".
    """

    column: Annotated[str | tuple[str, ...] | None, BeforeValidator(_crossed)] = None
    columns: dict[str, Text] | None = Field(default=None, min_length=1)
    list_: Text | None = Field(default=None, alias="list")
    separator: Text | None = None
    missing: Literal["error", "outside"] | None = None
    only: Values | None = None
    exclude: Annotated[tuple[str, ...], BeforeValidator(_values)] = ()
    rename: Annotated[dict[str, Text], BeforeValidator(_named_values)] = Field(default_factory=dict)

    @field_validator("columns", mode="before")
    @classmethod
    def _columns(cls, value: Any) -> Any:
        """A list of columns names the groups by their columns."""
        return {name: name for name in value} if isinstance(value, (list, tuple)) else value

    @model_validator(mode="after")
    def _one_form(self) -> GroupColumns:
        forms = _given(self, "column", "columns", "list_")
        if len(forms) != 1:
            shown = " and ".join(name.rstrip("_") for name in forms) or "none"
            raise ValueError(f"needs exactly one of column, columns and list; got {shown}")
        _only_with(self, "columns", *COMPARE, "missing")
        if self.list_ is None:
            _only_with(self, "list", "separator")
        if len(set(self.crossed)) < len(self.crossed):
            raise ValueError(f"column names one column twice: {list(self.crossed)}")
        return self

    @property
    def crossed(self) -> tuple[str, ...]:
        """The columns whose values together are a group; of `column: sex` one, of others none."""
        named = self.column or ()
        return (named,) if isinstance(named, str) else named

    @property
    def named(self) -> frozenset[str]:
        """The names that the block writes out, and the parts of intersections."""
        names = {*(self.only or ()), *self.exclude, *self.rename}
        parts = {part for name in names for part in name.split(CROSSED) if len(self.crossed) > 1}
        return frozenset(names | parts)


class Splits(Strict):
    """Which split a row is in: a column says it, a hash of the row, or both.

    Attributes:
        column, names, ignore: the column that says it, split → its values there, and the values
            of rows that are left out.
        shares: split → its share of the rows that are dealt.
        deal: values of `column` whose rows are dealt, where the others are fixed; "*" for every
            value that neither `names` nor `ignore` has.
        by: the column whose equal values are dealt together, in the place of equal inputs.
        seed: of the hash.
        limit: split → at most so many rows, a random sample.
        on_leak: what to do about equal inputs in two splits.
    """

    column: Text | None = None
    names: dict[SplitName, Values] | None = Field(default=None, min_length=1)
    ignore: Values | None = None
    deal: Values | None = None
    shares: dict[SplitName, PositiveFloat] | None = Field(default=None, min_length=1)
    by: Text | None = None
    seed: int = Field(default=0, ge=0)
    limit: dict[SplitName, PositiveInt] = Field(default_factory=dict)
    on_leak: Literal["warn", "error", "drop"] = "warn"

    @model_validator(mode="after")
    def _one_form(self) -> Splits:
        if self.column and self.shares:
            _only_with(self, "deal", "shares")
        else:
            exactly_one(self, "column", "shares")
            _only_with(self, "column", "names", "ignore", "deal")
            _only_with(self, "shares", "deal", "by")
        self._once()
        if self.shares and sum(self.shares.values()) > 1 + 1e-9:
            raise ValueError(f"the shares sum to {sum(self.shares.values()):g}; at most 1")
        if unknown := sorted(set(self.limit) - set(self.present)):
            raise ValueError(f"limit names {unknown}, but the splits are {list(self.present)}")
        return self

    def _once(self) -> None:
        """No value and no split says two things."""
        named = [value for values in (self.names or {}).values() for value in values]
        named += [*(self.ignore or ()), *(self.deal or ())]
        if twice := sorted({value for value in named if named.count(value) > 1}):
            raise ValueError(
                f"{twice} cannot be in two splits, in one and ignored, or in one and dealt"
            )
        if both := sorted(set(self.names or ()) & set(self.shares or ())):
            raise ValueError(f"{both} cannot be named and dealt: write it in names or in shares")
        if REST in (self.deal or ()) and len(self.deal or ()) > 1:
            raise ValueError(f"deal: {REST!r} is every other value already; write it alone")

    @property
    def present(self) -> tuple[SplitName, ...]:
        """The splits that the data set has, in the order train, validation, report."""
        named = {*(self.shares or ()), *(self.names or ())} or SPLITS
        return tuple(name for name in SPLITS if name in named)


def _given(block: Strict, *names: str) -> list[str]:
    return [name for name in names if getattr(block, name) is not None]


def exactly_one(block: Strict, *names: str) -> None:
    """Refuse a block that has none of the keys `names`, or more than one."""
    present = _given(block, *names)
    if len(present) != 1:
        allowed = f"{', '.join(names[:-1])} and {names[-1]}"
        raise ValueError(f"needs exactly one of {allowed}; got {' and '.join(present) or 'none'}")


def _only_with(block: Strict, owner: str, *names: str) -> None:
    """Refuse `names` in a block that does not have `owner`."""
    if getattr(block, owner, None) is None and (extra := _given(block, *names)):
        raise ValueError(f"{' and '.join(extra)}: only together with {owner}")
