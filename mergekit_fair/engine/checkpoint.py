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
        CheckpointError: no such folder, no weights, or pickled weights only.
    """
    folder = Path(folder)
    if not folder.is_dir():
        near = _sibling(folder)
        raise CheckpointError(f"no such model folder{near}", where=folder)
    if (folder / _INDEX).is_file():
        shards = set(json.loads((folder / _INDEX).read_text())["weight_map"].values())
        files = tuple(folder / name for name in sorted(shards))
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
    """A digest that changes when the model changes: config, headers, sizes and times of files."""
    digest = hashlib.sha256()
    for file in (*weight_files(folder), Path(folder) / "config.json"):
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


def _header(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if not 0 < size <= min(file.stat().st_size, 100_000_000):
                raise ValueError("header length out of range")
            header = json.loads(stream.read(size))
    except (OSError, ValueError) as error:
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


def _sibling(folder: Path) -> str:
    parent = folder.parent
    if not parent.is_dir():
        return ""
    return nearest(folder.name, [path.name for path in parent.iterdir() if path.is_dir()])
