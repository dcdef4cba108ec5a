"""`cluster: COLUMN`: rows that are sampled together, such as those of one template or author."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.data.blocks import SPLITS
from mergekit_fair.data.cells import column, missing, texts
from mergekit_fair.data.row_keys import Keys, text_keys

if TYPE_CHECKING:
    import pandas as pd


def read_cluster_keys(frame: pd.DataFrame, name: str, where: str) -> tuple[Keys, np.ndarray]:
    """The key of every row's cluster, uint64 (n,), and whether it has one, bool (n,).

    The key is that of the cell's text: rows that are appended change none, and no name is written.

    Raises:
        DataError: unknown column.
    """
    cells = column(frame, name, f"{where}, cluster")
    return text_keys(texts(cells)), ~np.asarray(missing(cells), dtype=bool)


def cluster_codes_of(keys: Keys, known: np.ndarray, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 (n,) >= 0, equal for rows of one cluster; a row without one is a cluster by itself.

    Args:
        keys, known: from `read_cluster_keys`.
        ids: (n,), row numbers in the source.
    """
    alone = text_keys(f"\0row {row}" for row in ids.tolist())
    return (np.where(known, keys, alone) >> np.uint64(1)).astype(np.int64)


def clusters_apart(codes: NDArray[np.int64], split: np.ndarray) -> Iterator[str]:
    """Said of clusters that have rows in more than one split."""
    parts = [np.unique(codes[split == name]) for name in SPLITS]
    found, times = np.unique(np.concatenate(parts), return_counts=True)
    if apart := int((times > 1).sum()):
        yield (
            f"cluster: {apart} of {len(found)} clusters have rows in two splits or more, so that "
            "what is measured was in part seen before; `splits: {shares: …}` deals whole clusters"
        )
