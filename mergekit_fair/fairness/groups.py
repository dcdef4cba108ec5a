"""Who belongs to which group: every accepted way to say it, as one boolean matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.labels import is_nan, unmasked

Labels = frozenset[str]
_COLLECTIONS = (list, tuple, set, frozenset, np.ndarray)


@dataclass(frozen=True, eq=False)
class Groups:
    """Group membership of n rows; a row may be in none, one or several groups.

    Attributes:
        names: the G group names.
        membership: bool, shape (n, G), read-only; `membership[i, g]` says that row i carries
            `names[g]`.
    """

    names: tuple[str, ...]
    membership: NDArray[np.bool_]

    def __post_init__(self) -> None:
        shape, dtype = self.membership.shape, self.membership.dtype
        if len(shape) != 2 or shape[1] != len(self.names) or dtype.kind != "b":
            raise MeasurementError(
                "needs one boolean column per name",
                where="membership",
                got=f"shape {shape}, dtype {dtype}",
                allowed=f"shape (n, {len(self.names)}), dtype bool",
            )
        if len(set(self.names)) < len(self.names):
            raise MeasurementError(
                "two groups have the same name", where="groups", got=self.names, fix="rename one"
            )
        object.__setattr__(self, "membership", read_only(self.membership))

    @classmethod
    def of(cls, groups: Any, n: int) -> Groups:
        """Read group labels in any of their three forms.

        Args:
            groups: one label per row; or a collection (list, tuple, set, frozenset, array) of
                labels per row; or a mapping from name to a boolean mask of shape (n,), which a
                data frame of boolean columns is, too. `None` and an empty collection mean "in no
                group". A string is one label, never a collection of characters. Labels are
                compared as strings.
            n: number of rows.

        Names are sorted as strings, except that a mapping keeps its own order.

        Raises:
            MeasurementError: no rows, a wrong number of rows, a NaN label, a mask that is not
                boolean, or a matrix whose columns have no names.

        >>> Groups.of([["a", "b"], [], "b"], 3).membership.tolist()
        [[True, True], [False, False], [False, True]]
        >>> Groups.of({"all": [True, True], "none": [False, False]}, 2).names
        ('all', 'none')
        """
        if n < 1:
            raise MeasurementError(
                "there are no rows",
                where="groups",
                fix="check the split and the filters of the data",
            )
        if isinstance(groups, Mapping):
            return _from_masks(groups, n)
        if hasattr(groups, "columns") and hasattr(groups, "items"):  # pandas; not imported here
            return _from_masks(dict(groups.items()), n)
        return _from_labels(groups, n)

    def by_name(self) -> Groups:
        """The same groups in the order of their names.

        >>> Groups.of({"b": [True, True], "a": [False, True]}, 2).by_name().names
        ('a', 'b')
        """
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        if order == list(range(len(order))):
            return self
        return Groups(tuple(self.names[i] for i in order), self.membership[:, order])


def cross(first: Groups, second: Groups) -> Groups:
    """Intersections of two attributes: groups named "a × b", for pairs that occur.

    A row is in "a × b" when it carries both a and b; one that lacks either attribute is in none.

    Args:
        first, second: of the same n rows, such as gender and race.

    Raises:
        MeasurementError: different numbers of rows, or names that make an intersection ambiguous.

    >>> gender, race = Groups.of(["f", "m", "f"], 3), Groups.of(["x", "x", "y"], 3)
    >>> cross(gender, race).names
    ('f × x', 'f × y', 'm × x')
    """
    if len(first.membership) != len(second.membership):
        raise MeasurementError(
            "attributes of different rows cannot be crossed",
            where="groups",
            got=f"{len(first.membership)} and {len(second.membership)} rows",
        )
    names, columns = [], []
    for a, in_a in zip(first.names, first.membership.T, strict=True):
        for b, in_b in zip(second.names, second.membership.T, strict=True):
            if (in_a & in_b).any():
                names.append(f"{a} × {b}")
                columns.append(in_a & in_b)
    membership = np.stack(columns, axis=1) if columns else np.zeros((len(first.membership), 0))
    return Groups(tuple(names), membership.astype(np.bool_))


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view that cannot be written to; the caller's own array stays as it is."""
    view = array.view()
    view.flags.writeable = False
    return view


def _from_masks(masks: Mapping[Any, Any], n: int) -> Groups:
    names = tuple(str(name) for name in masks)
    if len(set(names)) < len(names):
        raise MeasurementError(
            "two masks have the same name", where="groups", got=list(names), fix="rename one"
        )
    columns = [_mask(name, mask, n) for name, mask in zip(names, masks.values(), strict=True)]
    membership = np.stack(columns, axis=1) if columns else np.zeros((n, 0), dtype=bool)
    return Groups(names, membership)


def _mask(name: str, mask: Any, n: int) -> NDArray[np.bool_]:
    array = np.asarray(unmasked(mask))
    where = f"groups[{name!r}]"
    if array.dtype != bool:
        raise MeasurementError(
            "a mask must be boolean",
            where=where,
            got=f"dtype {array.dtype}",
            allowed="dtype bool",
            fix="write a condition such as column == 'value', or cast with astype(bool)",
        )
    if array.shape != (n,):
        raise MeasurementError(
            "a mask needs one value per row",
            where=where,
            got=f"shape {array.shape}",
            allowed=f"shape {(n,)}",
        )
    return array.astype(np.bool_)


def _from_labels(groups: Any, n: int) -> Groups:
    rows = _rows(groups)
    if len(rows) != n:
        raise MeasurementError(
            "needs one label, or one collection of labels, per row",
            where="groups",
            got=f"{len(rows)} rows",
            allowed=f"{n} rows",
            fix="pass the groups of the same rows as y_true, in the same order",
        )
    labels = [_labels(row, index) for index, row in enumerate(rows)]
    names = tuple(sorted(frozenset().union(*labels)))
    column = {name: index for index, name in enumerate(names)}
    membership = np.zeros((n, len(names)), dtype=bool)
    for index, row_labels in enumerate(labels):
        for label in row_labels:
            membership[index, column[label]] = True
    return Groups(names, membership)


def _rows(groups: Any) -> Sequence[Any]:
    if isinstance(groups, np.ndarray) and groups.ndim > 1 and groups.dtype.kind in "biuf":
        # Read as labels, a one-hot matrix would silently make the groups '0' and '1'.
        raise MeasurementError(
            "a matrix does not name its groups",
            where="groups",
            got=f"shape {groups.shape}, dtype {groups.dtype}",
            fix="pass a mapping name -> boolean mask",
        )
    if isinstance(groups, str) or not isinstance(groups, Iterable):
        raise MeasurementError(
            "is not one entry per row",
            where="groups",
            got=groups,
            allowed="labels per row, collections of labels per row, or a mapping name -> mask",
        )
    # list() first: a pandas Series indexes by label, not by position.
    return list(groups)


def _labels(row: Any, index: int) -> Labels:
    if row is None:
        return frozenset()
    # A masked label and an array of one string are arrays without an axis.
    several = isinstance(row, _COLLECTIONS) and getattr(row, "ndim", 1) > 0
    members = row if several else (row,)
    return frozenset(_label(member, index) for member in members)


def _label(label: Any, index: int) -> str:
    # An array of texts holds NaN as the text "nan".
    if label is None or is_nan(label) or (isinstance(label, np.str_) and label == "nan"):
        raise MeasurementError(
            f"missing group label in row {index}",
            where="groups",
            got=label if label is None else str(label),
            fix="use None or an empty list for a row in no group, or name it, e.g. 'unknown'",
        )
    return str(label)
