"""Where the kernels inside mergekit's graph get the norms of whole task vectors from.

A kernel sees one tensor at a time. In mergekit's graph its inputs are known by their
`ModelReference`, so the norms are computed from the files, once; `merge_state_dicts` hands over
all tensors at once.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from mergekit.merge_methods import TensorGroup

from mergekit_fair.checkpoints.folder import weight_files
from mergekit_fair.checkpoints.norms import squares, task_vector_norms
from mergekit_fair.checkpoints.reader import SafetensorsReader
from mergekit_fair.merging.methods.head_policy import is_head

_KNOWN: dict[tuple[Any, ...], tuple[Any, dict[Hashable, float]]] = {}


def norms_of(groups: Sequence[TensorGroup], *, merges_head: bool) -> dict[Hashable, float]:
    """Model → ‖θ − θ₀‖₂ over all floating tensors, the head's only if it is merged.

    Args:
        groups: all that are merged, or one of mergekit's graph, whose files hold the others.
        merges_head: whether heads count.
    """
    from mergekit.common import ModelReference

    entries = groups[0].entries
    if all(isinstance(entry.id, ModelReference) for entry in entries):
        base = next(entry.id for entry in entries if entry.is_base)
        models = tuple(entry.id for entry in entries if not entry.is_base)
        return _from_files(base, models, merges_head)
    sums: dict[Hashable, list[float]] = {}
    for group in groups:
        if group.base is None or (is_head(group.metadata.name) and not merges_head):
            continue
        flat = (entry.tensor.reshape(-1) for entry in group.non_base)
        found = squares(group.base.tensor.reshape(-1), flat)
        for entry, rows in zip(group.non_base, found, strict=True):
            sums.setdefault(entry.id, []).append(math.fsum(rows))
    return {model: math.sqrt(math.fsum(totals)) for model, totals in sums.items()}


def merged_names(tensors: Any, *, merges_head: bool) -> list[str]:
    """The floating tensors that a norm is taken over."""
    return [
        name
        for name, info in tensors.items()
        if info.is_float and (merges_head or not is_head(name))
    ]


def _from_files(base: Any, models: tuple[Any, ...], merges_head: bool) -> dict[Hashable, float]:
    """Computed once for the same files; a file that changed is read again."""
    folders = [_folder(model) for model in (base, *models)]
    state = [
        (str(file), file.stat().st_size, file.stat().st_mtime_ns)
        for folder in folders
        for file in weight_files(folder)
    ]
    key = (base, models, merges_head)
    if key in _KNOWN and _KNOWN[key][0] == state:
        return _KNOWN[key][1]
    readers = [SafetensorsReader(folder) for folder in folders]
    try:
        names = merged_names(readers[0].tensors, merges_head=merges_head)
        norms = task_vector_norms(readers[0], readers[1:], names)
    finally:
        for reader in readers:
            reader.close()
    found: dict[Hashable, float] = dict(zip(models, norms, strict=True))
    _KNOWN[key] = (state, found)
    return found


def _folder(model: Any) -> Path:
    """Where mergekit has the model: the folder itself, a download, or a merged adapter."""
    if model.lora is None and Path(model.model.path).is_dir():
        return Path(model.model.path)
    from mergekit.io.tasks import LoaderCache

    return Path(LoaderCache().get(model).index.base_path)
