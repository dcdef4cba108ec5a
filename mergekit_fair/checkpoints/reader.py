"""Read slices of a model's tensors into buffers that the caller owns."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from mergekit_fair.checkpoints.folder import (
    PICKLES,
    digest_of,
    inside,
    model_folder,
    read_config,
    require_indexed,
    shard_files,
    stored_tensors,
    twice,
)
from mergekit_fair.checkpoints.headers import COPY_AGAIN, SIZES, Stored, TensorInfo, unreadable
from mergekit_fair.checkpoints.quantization import (
    quantized,
    quantized_tensors,
    require_unquantized,
)
from mergekit_fair.disk import opened_in_order
from mergekit_fair.errors import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Elements of two tensors that are compared at a time.
_BLOCK = 1 << 20


class Buffer:
    """Bytes that files are read into and written from; pinned where a device copies from it.

    Attributes:
        tensor: uint8, one-dimensional.
        memory: the same bytes for the operating system.
    """

    def __init__(self, size: int, *, pinned: bool = False) -> None:
        rounded = -(-size // 8) * 8
        self.tensor = torch.empty(rounded, dtype=torch.uint8, pin_memory=pinned)
        self.memory = memoryview(self.tensor.numpy())  # type: ignore[arg-type]
        self._views: dict[torch.dtype, torch.Tensor] = {}

    def view(self, dtype: torch.dtype, count: int, at: int = 0) -> torch.Tensor:
        """`count` elements from byte `at` on, without a copy; `at` is a multiple of their width."""
        whole = self._views.get(dtype)
        if whole is None:
            whole = self._views[dtype] = self.tensor.view(dtype)
        first = at // dtype.itemsize
        return whole[first : first + count]


class Reader(Protocol):
    """One model's tensors. Reading is safe from several threads, each with its own buffer."""

    name: str
    files: tuple[Path, ...]

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name → dtype and shape, sorted by name."""

    def read(self, name: str, start: int, stop: int, into: Buffer) -> torch.Tensor:
        """Elements start … stop − 1 of the flattened tensor, in the buffer, in `dtype`.

        Raises:
            CheckpointError: the file ends too early or cannot be read.
        """

    def identity(self) -> str:
        """A digest that changes when the files do: their sizes, times of change and headers."""

    def close(self) -> None:
        """Release the files."""


class StoredReader:
    """Tensors in safetensors files, by their places.

    Args:
        name: for errors.
        stored: tensor name → place, as the files' headers say.
    """

    def __init__(self, name: str, stored: Mapping[str, Stored]) -> None:
        self.name = name
        self._stored = stored
        self.tensors = {name: stored.info for name, stored in self._stored.items()}
        require_supported(self.name, self.tensors)
        self.places = {name: stored.file for name, stored in self._stored.items()}
        self.files = tuple(dict.fromkeys(self.places.values()))
        self._open: dict[Path, int] = {}
        try:
            for file in self.files:
                self._open[file] = opened_in_order(file)
        except OSError as error:
            self.close()
            raise unreadable(file, error) from error

    def read(self, name: str, start: int, stop: int, into: Buffer) -> torch.Tensor:
        stored = self._stored[name]
        width = SIZES[stored.info.dtype]
        room = into.memory[: (stop - start) * width]
        self._fill(stored, name, room, stored.offset + start * width)
        return into.view(DTYPES[stored.info.dtype], stop - start)

    def _fill(self, stored: Stored, name: str, room: memoryview, offset: int) -> None:
        """Read until `room` is full; one call returns 2 GB at most."""
        handle = self._open[stored.file]
        while room:
            try:
                count = os.preadv(handle, (room,), offset)
            except OSError as error:
                raise CheckpointError(
                    f"tensor {name} cannot be read ({error.strerror})",
                    where=stored.file,
                    fix=COPY_AGAIN,
                ) from error
            if count == 0:
                raise CheckpointError(
                    f"ends in the middle of tensor {name}; it was complete before the merge",
                    where=stored.file,
                    fix="merge again when nothing writes to it",
                )
            room, offset = room[count:], offset + count

    def identity(self) -> str:
        return digest_of(self.files)

    def close(self) -> None:
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()


class HeldReader:
    """Tensors in memory, or mapped into it.

    Args:
        name: for errors.
        files: that they are of.
        held: tensor name → tensor.
    """

    def __init__(
        self, name: str, files: tuple[Path, ...], held: Mapping[str, torch.Tensor]
    ) -> None:
        self.name, self.files = name, files
        self._held = dict(held)
        self.tensors = {
            name: TensorInfo(NAMES.get(value.dtype, str(value.dtype)), tuple(value.shape))
            for name, value in sorted(held.items())
        }
        require_supported(self.name, self.tensors)

    def read(self, name: str, start: int, stop: int, into: Buffer) -> torch.Tensor:
        whole = self._held[name]
        view = into.view(whole.dtype, stop - start)
        return view.copy_(whole.reshape(-1)[start:stop])

    def identity(self) -> str:
        return digest_of(self.files)

    def close(self) -> None:
        self._held.clear()


class SharedReader(HeldReader):
    """Tensors that somebody holds, on any device: what is read is a part of them, not a copy."""

    def read(self, name: str, start: int, stop: int, into: Buffer) -> torch.Tensor:
        del into
        return self._held[name].reshape(-1)[start:stop]


class PickleReader(HeldReader):
    """A folder of pickled weights, mapped into memory and unpickled without running its code."""

    def __init__(self, folder: str | Path) -> None:
        path = model_folder(folder)
        whole, index = (path / name for name in PICKLES)
        is_sharded = index.is_file()
        if is_sharded and whole.is_file():
            raise CheckpointError(
                f"holds {whole.name} and {index.name}", where=folder, fix="delete the outdated one"
            )
        files = shard_files(path, index) if is_sharded else (inside(path, whole),)
        held: dict[str, torch.Tensor] = {}
        places: dict[str, str] = {}
        for file in files:
            for name, value in unpickled(file).items():
                if name in held:
                    raise twice(name, folder, [places[name], file.name])
                held[name], places[name] = value, file.name
        if is_sharded:
            require_indexed(index, places)
        super().__init__(str(folder), files, held)


def unpickled(file: Path) -> dict[str, torch.Tensor]:
    """A state dictionary; `weights_only` refuses every object that is not a tensor."""
    reason = "it does not map names to dense tensors"
    try:
        # Files from before torch 1.6 are not archives, and cannot be mapped into memory.
        mmap = zipfile.is_zipfile(file)
        with warnings.catch_warnings(action="ignore"):
            content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
        if isinstance(content, dict) and all(map(_is_named, content.items())):
            return {name: value.detach() for name, value in content.items()}
    except OSError as error:
        raise unreadable(file, error) from error
    except Exception:  # of any kind, and torch's words advise to run the code in the file
        reason = "it is damaged, or holds more than tensors"
    raise CheckpointError(
        f"is not a pickled state dictionary that can be read safely ({reason})",
        where=file,
        fix="save the model with safetensors",
    )


def _is_named(item: tuple[Any, Any]) -> bool:
    name, value = item
    is_dense = torch.is_tensor(value) and value.layout == torch.strided
    return isinstance(name, str) and is_dense and value.device.type == "cpu"


def require_supported(where: str, tensors: Mapping[str, TensorInfo]) -> None:
    """Refuse tensors that can be neither added up nor copied as they are.

    Raises:
        CheckpointError: names the first tensor and its dtype.
    """
    for name, info in tensors.items():
        if info.dtype not in SIZES:
            raise CheckpointError(
                f"tensor {name} has a dtype that cannot be merged",
                where=where,
                got=info.dtype,
                allowed=SIZES,
                fix="save the model in bfloat16, float16 or float32 first",
            )


def open_folder(folder: str | Path, *, allow_pickle: bool = False) -> Reader:
    """The reader for a model folder.

    Raises:
        CheckpointError: as `stored_tensors`; a quantised model; pickled weights without
            `allow_pickle`; a dtype that cannot be merged.
    """
    path = model_folder(folder)
    if allow_pickle and is_pickled(path):
        require_unquantized(folder, path, _config(path), {})
        reader = PickleReader(folder)
        if telling := quantized_tensors(reader.tensors):
            reader.close()
            raise quantized(folder, f"{telling[1]}: it holds {telling[0]}")
        return reader
    stored = stored_tensors(folder)
    infos = {name: each.info for name, each in stored.items()}
    require_unquantized(folder, path, _config(path), infos)
    return StoredReader(str(folder), stored)


def is_pickled(folder: Path) -> bool:
    """Whether a model folder's weights are pickled, and nothing else is there to be read."""
    has_safetensors = any(folder.glob("*.safetensors")) or any(
        folder.glob("*.safetensors.index.json")
    )
    return not has_safetensors and any((folder / name).is_file() for name in PICKLES)


def _config(folder: Path) -> dict[str, Any]:
    """config.json, or nothing where it cannot be read: whoever needs it says so."""
    try:
        return read_config(folder)
    except CheckpointError:
        return {}


def read_whole(model: Reader, name: str) -> torch.Tensor:
    """One tensor in memory of its own.

    Raises:
        CheckpointError: as `Reader.read`.
    """
    info = model.tensors[name]
    return model.read(name, 0, info.count, Buffer(info.bytes)).view(info.shape)


def held_on(device: torch.device, model: Reader) -> SharedReader:
    """All tensors of a model in the memory of a device; its files are closed.

    Raises:
        CheckpointError: as `Reader.read`.
    """
    held = {name: read_whole(model, name).to(device) for name in model.tensors}
    model.close()
    return SharedReader(model.name, model.files, held)


def are_equal(model: Reader, name: str, other: Reader, there: str) -> bool:
    """Whether a tensor is another one rounded to its dtype; read in blocks.

    Raises:
        CheckpointError: as `Reader.read`.
    """
    info = model.tensors[name]
    if info.shape != other.tensors[there].shape:
        return False
    block = min(info.count, _BLOCK) * 8
    buffers = Buffer(block), Buffer(block)
    for start in range(0, info.count, _BLOCK):
        stop = min(start + _BLOCK, info.count)
        one = model.read(name, start, stop, buffers[0])
        if not torch.equal(one, other.read(there, start, stop, buffers[1]).to(one.dtype)):
            return False
    return True


@contextmanager
def one_thread_each() -> Iterator[int]:
    """While open, a torch operation runs on the thread that calls it; yields how many may run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield max(1, before)
    finally:
        torch.set_num_threads(before)
