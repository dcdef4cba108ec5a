"""Vector folders: a task vector by itself, in a file of the tensors that it changes.

A fair head's vectors are zero outside the head: kilobytes, where θ_target + v would be a whole
checkpoint. Such a folder holds the differences v in float32 (`model.safetensors`; what is absent is
zero), the target's `config.json`, and `task_vector.json`, which says whose difference it is. It is
no model: whoever needs a whole one refuses it (`folder.require_no_vector`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors.torch import save

from mergekit_fair.checkpoints.fingerprint import sha256
from mergekit_fair.checkpoints.folder import (
    SINGLE,
    VECTOR,
    digest_of,
    found_folder,
    inside,
    read_config,
    stored_in,
)
from mergekit_fair.checkpoints.headers import COPY_AGAIN, TensorInfo
from mergekit_fair.checkpoints.layout import unwrapped
from mergekit_fair.checkpoints.reader import (
    DTYPES,
    Buffer,
    Reader,
    StoredReader,
    open_folder,
    read_whole,
)
from mergekit_fair.errors import CheckpointError, MeasurementError
from mergekit_fair.files import staged_folder
from mergekit_fair.schema import Record, nearest, read_sealed, sealed

_FIT_AGAIN = "fit it anew on this target (`mergekit-fair heads`)"
# Elements of a tensor that a sketch reads: blocks at even distances, the first and the last among
# them. Smaller tensors are read whole, as all of a head or a normalisation are.
_BLOCK, _BLOCKS = 1024, 16
_AT_ONCE = 1 << 20


class Target(Record):
    """The model that a task vector is added to.

    Attributes:
        sketch: as of `sketch_of`.
        model: its folder or name, as it was given.
    """

    sketch: str = Field(pattern="^[0-9a-f]{64}$")
    model: str


class VectorMarker(Record):
    """What `task_vector.json` says.

    Attributes:
        name: of the vector, such as a group and a label.
        weights: SHA-256 of its file of tensors; None where a writer has left it out.
        about: what else its writer has noted.
    """

    schema_version: Literal[1] = 1
    kind: Literal["task_vector"] = "task_vector"
    name: str = Field(min_length=1)
    target: Target
    weights: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    about: dict[str, Any] = {}


def is_vector_folder(folder: str | Path) -> bool:
    """Whether a folder has the marker of a task vector; nothing is read."""
    return (Path(folder) / VECTOR).is_file()


def read_marker(folder: str | Path) -> VectorMarker:
    """The marker of a vector folder.

    Raises:
        CheckpointError: there is none, or it is damaged, was edited, or is of another kind or
            version.
    """
    what = "marker of a task vector"
    path = found_folder(folder) / VECTOR
    content = read_sealed(inside(path.parent, path), what, CheckpointError, fix=_FIT_AGAIN)
    try:
        return VectorMarker.from_dict(content, where=path)
    except MeasurementError as error:
        raise CheckpointError(
            f"is no {what} ({error.problem})", where=path, fix=_FIT_AGAIN
        ) from error


def write_vector(
    folder: str | Path,
    name: str,
    tensors: Mapping[str, torch.Tensor],
    target: str | Path,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a task vector, complete or not at all.

        write_vector("heads/vectors/Female-1", "Female, 1", {"classifier.weight": v}, "runs/fft")

    Args:
        folder: to make.
        name: of the vector.
        tensors: the differences v = θ − θ_target, by the target's names; rounded to float32.
        target: the folder of the model that v is added to.
        about: what else the marker says; values of JSON.

    Raises:
        CheckpointError: no tensors, one that the target does not have in this shape, or values
            that float32 does not hold; a target that cannot be read.
        ConfigError: the folder is there already.
    """
    with closing(unwrapped(open_folder(target))[0]) as reader:
        vector = {key: value.detach().to("cpu", torch.float32) for key, value in tensors.items()}
        infos = {key: TensorInfo("F32", tuple(value.shape)) for key, value in vector.items()}
        require_fitting(folder, infos, str(target), reader.tensors)
        for key, value in vector.items():
            if not bool(torch.isfinite(value).all()):
                raise _not_finite(folder, key)
        sketch = sketch_of(reader)
    config = read_config(target)
    stored = {key: value.contiguous() for key, value in vector.items()}
    content = save(stored, metadata={"format": "pt"})
    marker = VectorMarker(
        name=name,
        target=Target(sketch=sketch, model=str(target)),
        weights=hashlib.sha256(content).hexdigest(),
        about=dict(about or {}),
    )
    with staged_folder(Path(folder)) as staging:
        (staging / SINGLE).write_bytes(content)
        (staging / "config.json").write_text(_json(config), encoding="utf-8")
        (staging / VECTOR).write_text(_json(sealed(marker.to_dict())), encoding="utf-8")


class VectorReader:
    """A task vector at all of a model's names: what it does not hold is zero, integers are there.

    Args:
        base: the model that the vector is added to.
        vector: of `open_vector`; it is closed with this one.

    Attributes:
        held: the tensors that the folder holds.
        places: the same → the file that each is in.
    """

    def __init__(self, base: Reader, vector: StoredReader, folder: Path) -> None:
        self._base, self._vector = base, vector
        self.name, self.files = vector.name, (*vector.files, folder / VECTOR)
        self.held = frozenset(vector.tensors)
        self.places = vector.places
        self.tensors = {name: vector.tensors.get(name, info) for name, info in base.tensors.items()}

    def read(self, name: str, start: int, stop: int, into: Buffer) -> torch.Tensor:
        if name in self.held:
            return self._vector.read(name, start, stop, into)
        if not self.tensors[name].is_float:
            return self._base.read(name, start, stop, into)
        return into.view(DTYPES[self.tensors[name].dtype], stop - start).zero_()

    def identity(self) -> str:
        return digest_of(self.files)

    def close(self) -> None:
        self._vector.close()


def open_beside(base: Reader, folder: Path, sketch: Callable[[], str]) -> VectorReader:
    """The vector of a folder at the names of the model that it is added to.

    Args:
        base: that model.
        folder: of the vector.
        sketch: gives that of the model.

    Raises:
        CheckpointError: as `open_vector`, or a vector that does not fit the model or was made for
            another one.
    """
    vector = open_vector(folder)
    try:
        require_fitting(folder, vector.tensors, base.name, base.tensors)
        require_target(folder, base.name, sketch())
        return VectorReader(base, vector, folder)
    except BaseException:
        vector.close()
        raise


def open_vector(folder: str | Path) -> StoredReader:
    """The tensors that a vector folder holds, checked: floats, all finite.

    Raises:
        CheckpointError: as `read_marker`; weights that are missing, damaged, not those that the
            marker was written for, not floats or not finite.
    """
    path = found_folder(folder)
    weights = read_marker(path).weights
    reader = StoredReader(str(folder), stored_in(path))
    try:
        if not reader.tensors:
            raise _empty(folder)
        if weights is not None and [sha256(file) for file in reader.files] != [weights]:
            raise CheckpointError(
                f"is not the file that its {VECTOR} was written for",
                where=reader.files[0],
                fix=COPY_AGAIN,
            )
        for name, info in reader.tensors.items():
            if not info.is_float:
                raise CheckpointError(
                    f"tensor {name} is not a difference of weights",
                    where=folder,
                    got=info.dtype,
                    allowed="floats",
                    fix=COPY_AGAIN,
                )
            if not all(bool(torch.isfinite(block).all()) for block in _blocks(reader, name)):
                raise _not_finite(folder, name)
        return reader
    except BaseException:
        reader.close()
        raise


def read_vector(folder: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a vector folder, in memory.

    Raises:
        CheckpointError: as `open_vector`.
    """
    with closing(open_vector(folder)) as reader:
        return {name: read_whole(reader, name) for name in reader.tensors}


def require_fitting(
    folder: str | Path,
    infos: Mapping[str, TensorInfo],
    target: str,
    expected: Mapping[str, TensorInfo],
) -> None:
    """Check that a task vector's tensors are floating tensors of its target, of the same shapes.

    Raises:
        CheckpointError: names the first that is not; or there are none.
    """
    if not infos:
        raise _empty(folder)
    for name, info in infos.items():
        if name not in expected or not expected[name].is_float:
            raise CheckpointError(
                f"tensor {name} is no floating tensor of the target ({target})"
                f"{nearest(name, list(expected))}",
                where=folder,
                got=name,
                fix=_FIT_AGAIN,
            )
        if info.shape != expected[name].shape:
            raise CheckpointError(
                f"tensor {name} has another shape than the target's ({target})",
                where=folder,
                got=info.shape,
                allowed=str(expected[name].shape),
                fix=_FIT_AGAIN,
            )


def require_target(folder: str | Path, target: str, sketch: str) -> None:
    """Check that a task vector was made for a model, which is known by its sketch.

    Raises:
        CheckpointError: it was made for another one, or the model has changed since.
    """
    said = read_marker(folder).target
    if said.sketch != sketch:
        raise CheckpointError(
            f"is the difference from another model than base_model ({target}), or that has changed "
            "since: what was fitted on one model's features says nothing of another's",
            where=folder,
            got=said.model,
            allowed=target,
            fix=f"{_FIT_AGAIN}, or give {said.model} as base_model",
        )


def sketch_of(model: str | Path | Reader) -> str:
    """A cheap digest of a model's weights: equal for equal weights, however they are sharded.

    Of every tensor name, dtype, shape and values; of more than 16,384 elements, 16 blocks of 1,024
    at even distances stand for all. Fine-tuning changes every one of them; a change that leaves
    all blocks as they are is not seen.

    Args:
        model: a folder, or a reader of a model that is open.

    Returns:
        64 hexadecimal digits.

    Raises:
        CheckpointError: it cannot be read.
    """
    if isinstance(model, (str, Path)):
        with closing(unwrapped(open_folder(model))[0]) as reader:
            return sketch_of(reader)
    digest = hashlib.sha256()
    buffer = Buffer(_BLOCK * 8)
    for name, info in sorted(model.tensors.items()):
        digest.update(f"{name}\0{info.dtype}\0{info.shape}\n".encode())
        for start in _starts(info.count):
            stop = min(start + _BLOCK, info.count)
            block = model.read(name, start, stop, buffer)
            digest.update(block.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _starts(count: int) -> range | list[int]:
    """Where the blocks of a tensor of so many elements begin."""
    if count <= _BLOCK * _BLOCKS:
        return range(0, count, _BLOCK)
    return [(count - _BLOCK) * number // (_BLOCKS - 1) for number in range(_BLOCKS)]


def _blocks(reader: Reader, name: str) -> Iterator[torch.Tensor]:
    count = reader.tensors[name].count
    buffer = Buffer(min(count, _AT_ONCE) * 8)
    for start in range(0, count, _AT_ONCE):
        yield reader.read(name, start, min(start + _AT_ONCE, count), buffer)


def _empty(folder: object) -> CheckpointError:
    return CheckpointError("holds no tensors, and changes nothing", where=folder, fix=_FIT_AGAIN)


def _not_finite(folder: object, name: str) -> CheckpointError:
    return CheckpointError(f"tensor {name} has NaN or Inf", where=folder, fix=_FIT_AGAIN)


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
