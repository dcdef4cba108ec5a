"""The rows of a data set, as training and evaluation take them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mergekit_fair.data.blocks import SPLITS
from mergekit_fair.data.label_rules import LabelKind
from mergekit_fair.data.row_keys import Keys, row_keys
from mergekit_fair.errors import DataError
from mergekit_fair.schema import suggestion

if TYPE_CHECKING:
    from mergekit_fair.data.description import DataSpec


@dataclass(frozen=True, eq=False)
class Rows:
    """n rows of a data set, G groups, several groups (or none) per row.

    Attributes:
        name: the data set.
        kind: "text", or "image" (the inputs are paths).
        inputs: n texts or paths.
        labels: int8 (n,), 1 = positive; or (n,), class numbers 0 … C − 1; or (n, L), 1 where a row
            has the label.
        group_names: G names.
        excluded: the groups without a meaning of their own ("other"); they are reported, but
            decide no maximum and are never the worst group.
        membership: bool (n, G).
        split: str (n,): train, validation or report.
        ids: int64 (n,): row number in the source, from 0.
        weights: float64 (n,), finite and >= 0, how much each row counts for; None: all alike.
        clusters: int64 (n,), equal for rows that are sampled together; None: each is its own.
        label_names: the C classes in the order of their numbers, or the L labels; empty where the
            label is yes or no.
        warnings: what a reader of the results should know about the data set.
        spec: the description that they were read by; None if they were made otherwise.

    Example:
        >>> rows = Rows(
        ...     name="hiring", kind="text", inputs=("a", "b", "c"),
        ...     labels=np.array([1, 0, 1], dtype=np.int8),
        ...     group_names=("f", "m"), excluded=frozenset(),
        ...     membership=np.array([[True, False], [False, True], [True, True]]),
        ...     split=np.array(["train", "train", "report"]), ids=np.arange(3),
        ... )
        >>> len(rows), len(rows.of("train")), rows.in_group("m").inputs
        (3, 2, ('b', 'c'))
        >>> rows.counts()[1]
        {'split': 'train', 'group': 'f', 'n': 1, 'n_pos': 1, 'excluded': False}
        >>> rows.take([2, 0]).fingerprint()[:8]  # of the content, not of the data set's name
        '529f8bfa'
    """

    name: str
    kind: Literal["text", "image"]
    inputs: tuple[str, ...]
    labels: np.ndarray
    group_names: tuple[str, ...]
    excluded: frozenset[str]
    membership: np.ndarray
    split: np.ndarray
    ids: np.ndarray
    weights: np.ndarray | None = None
    clusters: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    spec: DataSpec | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def label_kind(self) -> LabelKind:
        """`binary` (yes or no), `classes` (one of C for every row) or `labels` (any of L)."""
        if self.labels.ndim == 2:
            return "labels"
        return "classes" if self.label_names else "binary"

    @property
    def having(self) -> np.ndarray:
        """Bool (n, V): whether a row has class or label v; of a binary label (n, 1), positive."""
        if self.label_kind == "classes":
            return np.asarray(self.labels[:, None] == np.arange(len(self.label_names)))
        return np.asarray((self.labels if self.labels.ndim == 2 else self.labels[:, None]) == 1)

    def take(self, indices: Any) -> Rows:
        """The rows at `indices` (integers, in that order) or where a bool mask (n,) is true."""
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        return replace(
            self,
            inputs=tuple(self.inputs[index] for index in chosen.tolist()),
            labels=self.labels[chosen],
            membership=self.membership[chosen],
            split=self.split[chosen],
            ids=self.ids[chosen],
            weights=None if self.weights is None else self.weights[chosen],
            clusters=None if self.clusters is None else self.clusters[chosen],
        )

    def of(self, split: str) -> Rows:
        """The rows of one split.

        Raises:
            DataError: unknown split, or one without rows.
        """
        if split not in SPLITS:
            raise DataError(
                f"unknown split {split!r}",
                where=self._where,
                allowed=SPLITS,
                fix=suggestion(split, list(SPLITS)),
            )
        chosen = self.split == split
        if not chosen.any():
            raise DataError(
                f"the split {split!r} has no rows",
                where=self._where,
                allowed=[name for name in SPLITS if (self.split == name).any()],
            )
        return self.take(chosen)

    def in_group(self, name: str) -> Rows:
        """The rows that carry one group, possibly none.

        Raises:
            DataError: unknown group.
        """
        if name not in self.group_names:
            raise DataError(
                f"unknown group {name!r}",
                where=self._where,
                allowed=self.group_names,
                fix=suggestion(name, list(self.group_names)),
            )
        return self.take(self.membership[:, self.group_names.index(name)])

    def counts(self) -> list[dict[str, Any]]:
        """Per split that has rows: one record for all its rows (group None), then one per group.

        Keys: split, group, n, n_pos, excluded; of classes and labels, in the place of n_pos, n_of,
        name → rows that have it. Rows are counted, whatever they weigh.
        """
        records, having = [], self.having
        for split in SPLITS:
            inside = self.split == split
            if not inside.any():
                continue
            groups: list[tuple[str | None, np.ndarray]] = [(None, inside)]
            for index, name in enumerate(self.group_names):
                groups.append((name, inside & self.membership[:, index]))
            records += [
                {
                    "split": split,
                    "group": group,
                    "n": int(rows.sum()),
                    **self._counted(having[rows]),
                    "excluded": group in self.excluded,
                }
                for group, rows in groups
            ]
        return records

    @property
    def label_counts(self) -> dict[str, Any]:
        """`n_pos`: positive rows; of classes and labels `n_of`: name → rows that have it."""
        return self._counted(self.having)

    def _counted(self, having: np.ndarray) -> dict[str, Any]:
        counts: list[int] = having.sum(axis=0).tolist()
        if self.label_kind == "binary":
            return {"n_pos": counts[0]}
        return {"n_of": dict(zip(self.label_names, counts, strict=True))}

    def keys(self) -> Keys:
        """What makes each row the same row elsewhere, uint64 (n,); reads every image file."""
        return row_keys(self.inputs, self.kind)

    def fingerprint(self) -> str:
        """sha256 (hex) of the content: equal for equal rows, wherever their files are.

        Covers inputs (of images: the files' bytes), labels and their names, groups, membership,
        split, ids, weights and clusters, but not the data set's name and warnings. Reads every
        image file.
        """
        digest = hashlib.sha256()

        def add(part: bytes) -> None:
            digest.update(len(part).to_bytes(8, "little"))  # so that "ab","c" is not "a","bc"
            digest.update(part)

        add(self.kind.encode())
        for name in self.group_names:
            add(f"{name in self.excluded:d}{name}".encode())
        if self.label_kind != "binary":  # of which earlier versions wrote no kind
            add(f"{self.label_kind} {len(self.label_names)}".encode())
            for name in self.label_names:
                add(name.encode())
        add(np.asarray(self.labels, dtype="<i1").tobytes())
        add(np.asarray(self.membership, dtype="?").tobytes())
        add(np.asarray(self.ids, dtype="<i8").tobytes())
        add("\n".join(self.split.tolist()).encode())
        if self.weights is not None:
            add(np.asarray(self.weights, dtype="<f8").tobytes())
        if self.clusters is not None:
            add(np.asarray(self.clusters, dtype="<i8").tobytes())
        for item in self.inputs:
            add(item.encode("utf-8", "surrogatepass") if self.kind == "text" else _image(item))
        return digest.hexdigest()

    @property
    def _where(self) -> str:
        return f"data set {self.name!r}"


def _image(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()
