"""The inner products of whole task vectors, measured from the files before a tensor is merged.

The engine measures when a plan is opened; in mergekit's graph, where a kernel sees one tensor at a
time, the files are found by the models (`in_graph`). What is measured is kept under the cache
folder, each pair of models by itself, so that `check`, `merge` and `sweep` measure once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mergekit_fair.checkpoints.headers import TensorInfo
from mergekit_fair.checkpoints.inner_products import task_vector_products
from mergekit_fair.checkpoints.reader import Reader
from mergekit_fair.files import cache_folder, write_cached
from mergekit_fair.merging.methods.whole_vectors import Pair
from mergekit_fair.progress import Progress, Silent, bar


def merged_names(tensors: Mapping[str, TensorInfo], heads: Collection[str] = ()) -> list[str]:
    """The floating tensors that whole vectors are made of.

    Args:
        tensors: of the base.
        heads: those that are copied.
    """
    return [name for name, info in tensors.items() if info.is_float and name not in heads]


def products_of(
    base: Reader,
    models: Sequence[Reader],
    pairs: Sequence[Pair],
    names: Sequence[str],
    progress: Progress | None = None,
) -> list[float]:
    """⟨θ_i − θ₀, θ_j − θ₀⟩ of pairs over the tensors `names`, from the cache where it has them.

    Raises:
        CheckpointError: NaN or Inf; names model and tensor.
    """
    keys = _keys(base, models, pairs, names)
    found = {key: value for key in keys if (value := _cached(key)) is not None}
    missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in found}
    if missing:
        read = sorted({place for pair in missing.values() for place in pair})
        places = [(read.index(one), read.index(other)) for one, other in missing.values()]
        total = sum(base.tensors[name].bytes for name in names) * (1 + len(read))
        label = "norms" if all(one == other for one, other in places) else "inner products"
        with bar(progress or Silent(), label, total) as advance:
            readers = [models[place] for place in read]
            measured = task_vector_products(base, readers, places, names, advance)
        for key, value in zip(missing, measured, strict=True):
            found[key] = value
            _cache(key, value)
    return [found[key] for key in keys]


def state_of(file: Path) -> tuple[str, int, int, int]:
    """With the time of the last change of any kind, which cannot be set by hand."""
    state = file.stat()
    return str(file.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _keys(
    base: Reader, models: Sequence[Reader], pairs: Sequence[Pair], names: Sequence[str]
) -> list[str]:
    start, *ends = (
        json.dumps([reader.identity(), [state_of(file) for file in reader.files]])
        for reader in (base, *models)
    )
    over = json.dumps(list(names))

    def key(one: int, other: int) -> str:
        text = json.dumps([start, *sorted((ends[one], ends[other])), over])
        return hashlib.sha256(text.encode()).hexdigest()

    return [key(one, other) for one, other in pairs]


def _cached(key: str) -> float | None:
    try:
        value = float(json.loads(_file(key).read_text(encoding="utf-8"))["product"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return value if math.isfinite(value) else None


def _cache(key: str, value: float) -> None:
    with contextlib.suppress(OSError):  # without it, the pass is made again
        _file(key).parent.mkdir(parents=True, exist_ok=True)
        write_cached(_file(key), json.dumps({"product": value}) + "\n")


def _file(key: str) -> Path:
    return cache_folder("products") / f"{key}.json"
