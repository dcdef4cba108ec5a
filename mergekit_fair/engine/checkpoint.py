"""What lies in a model folder: tensor names, shapes, a fingerprint; no weights are read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_fair.errors import CheckpointError
from mergekit_fair.schema import nearest

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


@dataclass(frozen=True)
class TensorInfo:
    """One tensor's entry in a safetensors header."""

    dtype: str
    shape: tuple[int, ...]


def weight_files(folder: str | Path) -> tuple[Path, ...]:
    """The safetensors files of a model folder, shards in order.

    Raises:
        CheckpointError: no such folder, no weights, pickled weights only, a damaged index, or
            two sets of weights.
    """
    folder = Path(folder)
    if not folder.is_dir():
        near = _sibling(folder)
        raise CheckpointError(f"no such model folder{near}", where=folder)
    if (folder / _INDEX).is_file():
        if (folder / _SINGLE).is_file():
            raise CheckpointError(
                f"holds {_SINGLE}, which transformers reads, and {_INDEX}, which mergekit reads",
                where=folder,
                fix="delete the outdated one",
            )
        files = tuple(folder / name for name in _shards(folder / _INDEX))
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise CheckpointError(
                "shards named in the index are missing", where=folder, got=missing
            )
        return files
    if (folder / _SINGLE).is_file():
        return (folder / _SINGLE,)
    found = sorted(path.name for path in folder.iterdir())[:8]
    raise CheckpointError(
        f"holds no {_SINGLE}",
        where=folder,
        got=found,
        fix="save the model with safetensors (pickled weights are refused: they run code)",
    )


def tensor_infos(folder: str | Path) -> dict[str, TensorInfo]:
    """Tensor name → dtype and shape, over all shards, sorted by name.

    Raises:
        CheckpointError: as `weight_files`, or a header that cannot be read.
    """
    infos: dict[str, TensorInfo] = {}
    for file in weight_files(folder):
        for name, entry in _header(file).items():
            if name != "__metadata__":
                infos[name] = TensorInfo(entry["dtype"], tuple(entry["shape"]))
    return dict(sorted(infos.items()))


def fingerprint(folder: str | Path) -> str:
    """A digest that changes when the model changes: config, headers, sizes and times of files.

    Raises:
        CheckpointError: as `tensor_infos`, or no config.json.
    """
    digest = hashlib.sha256()
    config = Path(folder) / "config.json"
    files = weight_files(folder)
    if not config.is_file():
        raise CheckpointError("no model here (no config.json)", where=folder)
    for file in (*files, config):
        state = file.stat()
        digest.update(f"{file.name}:{state.st_size}:{state.st_mtime_ns}\n".encode())
        if file.suffix == ".safetensors":
            digest.update(json.dumps(_header(file), sort_keys=True).encode())
    return digest.hexdigest()


def require_same_tensors(base: str | Path, models: list[str]) -> None:
    """Every model must have exactly the base's tensor names and shapes.

    Raises:
        CheckpointError: names the model and the first tensors that differ.
    """
    expected = tensor_infos(base)
    for model in models:
        found = tensor_infos(model)
        missing = [name for name in expected if name not in found]
        extra = [name for name in found if name not in expected]
        if missing or extra:
            raise CheckpointError(
                f"its tensors are not the base's ({base}): {len(missing)} missing "
                f"{missing[:3]}, {len(extra)} more {extra[:3]}",
                where=model,
                fix="merge models of one architecture, fine-tuned from this base",
            )
        for name, info in expected.items():
            if found[name].shape != info.shape:
                raise CheckpointError(
                    f"tensor {name} has another shape than the base's ({base})",
                    where=model,
                    got=found[name].shape,
                    allowed=str(info.shape),
                )


def _shards(index: Path) -> list[str]:
    try:
        return sorted({str(name) for name in json.loads(index.read_text())["weight_map"].values()})
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"is not a readable index of shards ({error!r})",
            where=index,
            fix="copy or train the model again",
        ) from None


def _header(file: Path) -> dict[str, Any]:
    """A safetensors header: tensor name → dtype, shape, data_offsets."""
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if not 0 < size <= min(file.stat().st_size, 100_000_000):
                raise ValueError("header length out of range")
            header = json.loads(stream.read(size))
        if not isinstance(header, dict) or not all(map(_is_entry, header.items())):
            raise ValueError("the header does not describe tensors")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"is not a readable safetensors file ({error})",
            where=file,
            fix="copy or train the model again",
        ) from None
    end = max(
        (entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"),
        default=0,
    )
    if file.stat().st_size != 8 + size + end:
        raise CheckpointError(
            "is truncated or damaged",
            where=file,
            got=f"{file.stat().st_size} bytes",
            allowed=f"{8 + size + end} bytes, as its header says",
            fix="copy or train the model again",
        )
    return dict(header)


def _is_entry(item: tuple[str, Any]) -> bool:
    name, entry = item
    if name == "__metadata__":
        return True
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    return _are_sizes(shape) and _are_sizes(offsets) and len(offsets or ()) == 2


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _sibling(folder: Path) -> str:
    parent = folder.parent
    if not parent.is_dir():
        return ""
    return nearest(folder.name, [path.name for path in parent.iterdir() if path.is_dir()])
