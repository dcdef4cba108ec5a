"""The norms of whole task vectors, which some methods need before the first tensor is merged.

A kernel sees one tensor at a time. The engine measures norms when a plan is opened; in mergekit's
graph, whose inputs are known by their `ModelReference`, they are computed from the files;
`merge_state_dicts` hands over all tensors at once. What is measured from files is kept
under the cache folder, so that `check`, `merge` and `sweep` measure once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit.merge_methods import TensorGroup

from mergekit_fair.checkpoints.folder import architecture_of, read_config
from mergekit_fair.checkpoints.geometry import squares, task_vector_norms
from mergekit_fair.checkpoints.headers import TensorInfo
from mergekit_fair.checkpoints.reader import Reader, open_folder
from mergekit_fair.checkpoints.vector_folder import VectorReader, is_vector_folder, open_vector
from mergekit_fair.compat.mergekit import loaded_folder, loaded_tensors
from mergekit_fair.files import cache_folder, write_cached
from mergekit_fair.merging.methods.head_policy import head_names, head_rule, is_head
from mergekit_fair.progress import Progress, Silent, bar

# Models of mergekit's graph → the state of their files, and what was found for it.
_IN_GRAPH: dict[tuple[Any, ...], tuple[Any, dict[Hashable, float]]] = {}


def merged_names(tensors: Mapping[str, TensorInfo], heads: Collection[str] = ()) -> list[str]:
    """The floating tensors that a norm is taken over.

    Args:
        tensors: of the base.
        heads: those that are copied.
    """
    return [name for name, info in tensors.items() if info.is_float and name not in heads]


def norms_of(
    base: Reader,
    models: Sequence[Reader],
    names: Sequence[str],
    progress: Progress | None = None,
) -> list[float]:
    """‖θ − θ₀‖₂ of every model over the tensors `names`, from the cache where it has them.

    Raises:
        CheckpointError: NaN or Inf; names model and tensor.
    """
    keys = [_key(base, model, names) for model in models]
    norms = {key: norm for key in keys if (norm := _cached(key)) is not None}
    missing = {key: model for key, model in zip(keys, models, strict=True) if key not in norms}
    if missing:
        total = sum(base.tensors[name].bytes for name in names) * (1 + len(missing))
        with bar(progress or Silent(), "norms", total) as advance:
            measured = task_vector_norms(base, list(missing.values()), names, advance)
        for key, norm in zip(missing, measured, strict=True):
            norms[key] = norm
            _cache(key, norm)
    return [norms[key] for key in keys]


def norms_in_graph(groups: Sequence[TensorGroup], *, merges_head: bool) -> dict[Hashable, float]:
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
        if group.base is None or (not merges_head and is_head(group.metadata.name)):
            continue
        flat = (entry.tensor.reshape(-1) for entry in group.non_base)
        rows = squares(group.base.tensor.reshape(-1), flat)
        for entry, row in zip(group.non_base, rows, strict=True):
            sums.setdefault(entry.id, []).append(math.fsum(row))
    return {model: math.sqrt(math.fsum(totals)) for model, totals in sums.items()}


def _from_files(base: Any, models: tuple[Any, ...], merges_head: bool) -> dict[Hashable, float]:
    """Asked for every tensor; files that stayed the same are not opened again."""
    folders = [_folder(model) for model in (base, *models)]
    state = [
        _state(file)
        for folder in folders
        for file in sorted(folder.iterdir())
        if file.suffix in (".safetensors", ".bin", ".json")
    ]
    key = (base, models, merges_head)
    if key in _IN_GRAPH and _IN_GRAPH[key][0] == state:
        return _IN_GRAPH[key][1]
    with contextlib.ExitStack() as stack:
        readers: list[Reader] = []
        for folder in folders:
            is_vector = readers and is_vector_folder(folder)
            reader = (
                VectorReader(readers[0], open_vector(folder), folder)
                if is_vector
                else open_folder(folder, allow_pickle=True)
            )
            readers.append(reader)
            stack.callback(reader.close)
        tensors = readers[0].tensors
        heads = () if merges_head else head_names(_architecture(folders[0]), tensors)
        names = merged_names(tensors, heads)
        norms = norms_of(readers[0], readers[1:], names)
    by_model: dict[Hashable, float] = dict(zip(models, norms, strict=True))
    _IN_GRAPH[key] = (state, by_model)
    return by_model


def is_head_in_graph(base: Hashable, name: str) -> bool:
    """Whether a tensor belongs to a head of the base, which mergekit's graph knows the files of."""
    from mergekit.common import ModelReference

    if not isinstance(base, ModelReference):
        return is_head(name)
    return head_rule(_architecture(_folder(base)), loaded_tensors(base))(name)


def _architecture(folder: Path) -> str | None:
    return architecture_of(read_config(folder))


def _folder(model: Any) -> Path:
    """Where mergekit has the model: the folder itself, a download, or a merged adapter."""
    is_here = model.lora is None and Path(model.model.path).is_dir()
    return Path(model.model.path) if is_here else loaded_folder(model)


def _state(file: Path) -> tuple[str, int, int, int]:
    """With the time of the last change of any kind, which cannot be set by hand."""
    state = file.stat()
    return str(file.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _key(base: Reader, model: Reader, names: Sequence[str]) -> str:
    files = [_state(file) for file in (*base.files, *model.files)]
    text = json.dumps([base.identity(), model.identity(), files, list(names)])
    return hashlib.sha256(text.encode()).hexdigest()


def _cached(key: str) -> float | None:
    try:
        norm = float(json.loads(_file(key).read_text(encoding="utf-8"))["norm"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return norm if math.isfinite(norm) else None


def _cache(key: str, norm: float) -> None:
    with contextlib.suppress(OSError):  # without it, the pass is made again
        _file(key).parent.mkdir(parents=True, exist_ok=True)
        write_cached(_file(key), json.dumps({"norm": norm}) + "\n")


def _file(key: str) -> Path:
    return cache_folder("norms") / f"{key}.json"
