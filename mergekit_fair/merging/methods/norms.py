"""The norms of whole task vectors, which some methods need before the first tensor is merged.

The engine measures norms when a plan is opened; in mergekit's graph, where a kernel sees one tensor
at a time, they are computed from the files (`in_graph`). What is measured is kept under the cache
folder, so that `check`, `merge` and `sweep` measure once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mergekit_fair.checkpoints.geometry import task_vector_norms
from mergekit_fair.checkpoints.headers import TensorInfo
from mergekit_fair.checkpoints.reader import Reader
from mergekit_fair.files import cache_folder, write_cached
from mergekit_fair.progress import Progress, Silent, bar


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


def state_of(file: Path) -> tuple[str, int, int, int]:
    """With the time of the last change of any kind, which cannot be set by hand."""
    state = file.stat()
    return str(file.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _key(base: Reader, model: Reader, names: Sequence[str]) -> str:
    files = [state_of(file) for file in (*base.files, *model.files)]
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
