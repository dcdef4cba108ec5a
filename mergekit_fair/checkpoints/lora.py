"""LoRA adapters read as if they were whole models: θ = W + s·B·A, computed for each slice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from mergekit_fair.checkpoints.adapter_config import (
    CONFIG,
    MERGE_WITH_PEFT,
    PICKLE,
    WEIGHTS,
    read_adapter_config,
)
from mergekit_fair.checkpoints.folder import inside, model_folder
from mergekit_fair.checkpoints.headers import COPY_AGAIN, SIZES, TensorInfo, read_header
from mergekit_fair.checkpoints.names import MemoryNames, memory_names
from mergekit_fair.checkpoints.reader import DTYPES, Buffer, Reader, StoredReader, read_whole
from mergekit_fair.errors import CheckpointError
from mergekit_fair.schema import nearest

PREFIX = "base_model.model."

OTHER_BASE = f"give the base that it was trained on, or {MERGE_WITH_PEFT}"

# Elements of a tensor that are compared at a time.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Factors:
    """The low-rank update of one tensor: s·B·A, or its transpose.

    Attributes:
        module: the adapter's name for the module.
        a: (r, in), as stored.
        b: (out, r), as stored.
        scale: s.
        is_transposed: the tensor is (in, out): an embedding or a `Conv1D`.
        is_embedding: the adapter's names are those of an embedding.
    """

    module: str
    a: torch.Tensor
    b: torch.Tensor
    scale: float
    is_transposed: bool
    is_embedding: bool

    @property
    def rank(self) -> int:
        return len(self.a)

    def add_to(self, weight: torch.Tensor, start: int) -> torch.Tensor:
        """θ of a slice, in float64.

        Only the rows that the slice touches are multiplied out. The last bits of their float64
        may depend on how many they are, as the processor's library multiplies.

        Args:
            weight: elements start, start + 1, … of the flattened W, any floating dtype.
            start: where the slice begins.
        """
        left, right = (self.a.T, self.b.T) if self.is_transposed else (self.b, self.a)
        columns, count = right.shape[1], len(weight)
        first, last = start // columns, -(-(start + count) // columns)
        rows = torch.empty((last - first, columns), dtype=torch.float64)
        part = rows.view(-1)[start - first * columns :][:count].copy_(weight)
        rows.addmm_(left[first:last].double(), right.double(), alpha=self.scale)
        return part


class AdapterReader:
    """A base and a LoRA adapter on it; neither merged on disk nor held dense.

    Args:
        base: the base's tensors; closed with this reader.
        base_folder: where its config.json lies.
        adapter: the folder that peft has saved.

    Attributes:
        tensors: the base's names, dtypes and shapes, whatever dtype `read` returns.
        config: the adapter's configuration.
        factors: tensor → its update.
        saved: tensor → its name in the adapter, which holds it whole (`modules_to_save`).

    Raises:
        CheckpointError: files that are missing or damaged, more than plain LoRA, or an adapter
            that does not fit the base.
    """

    def __init__(self, base: Reader, base_folder: Path, adapter: str | Path) -> None:
        self.name = f"{base.name}+{adapter}"
        self._base, self._base_folder, self._adapter = base, base_folder, Path(adapter)
        self.config = read_adapter_config(adapter, base_folder)
        file = weights_file(self._adapter)
        self._stored = StoredReader(str(adapter), read_header(file))
        self.files = (*base.files, file, self._adapter / CONFIG)
        self.factors: dict[str, Factors] = {}
        self.saved: dict[str, str] = {}
        try:
            self._open()
        except BaseException:
            self._stored.close()
            raise

    def _open(self) -> None:
        modules, whole = sorted_tensors(self._stored)
        for module, parts in modules.items():
            name = self._tensor(f"{module}.weight", "adapts a module")
            if name in self.factors:
                raise CheckpointError(
                    f"adapts tensor {name} twice, under two names",
                    where=self._adapter,
                    got=[self.factors[name].module, module],
                    fix=COPY_AGAIN,
                )
            self.factors[name] = self._factors(name, module, parts)
        for name in whole:
            self.saved[self._whole(name)] = PREFIX + name
        self._require_complete()

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._base.tensors

    def read(self, name: str, start: int, stop: int, into: Buffer) -> torch.Tensor:
        """Elements of θ: float64 where the adapter changes W, else in the dtype of their file."""
        saved = self.saved.get(name)
        if saved is not None:
            size = (stop - start) * SIZES[self._stored.tensors[saved].dtype]
            room = into if len(into.memory) >= size else Buffer(size)
            return self._stored.read(saved, start, stop, room)
        weight = self._base.read(name, start, stop, into)
        factors = self.factors.get(name)
        return weight if factors is None else factors.add_to(weight, start)

    def identity(self) -> str:
        """A digest of the adapter's content and of the base's identity."""
        digest = hashlib.sha256(self._base.identity().encode())
        for file in self.files[-2:]:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def close(self) -> None:
        self._stored.close()
        self._base.close()

    @cached_property
    def _names(self) -> MemoryNames:
        return memory_names(self._base_folder)

    def _tensor(self, name: str, what: str) -> str:
        """The base's name for a tensor that the adapter knows by its name in memory."""
        tensors = self._base.tensors
        tensor = name if name in tensors else self._names.in_file.get(name, name)
        if tensor in tensors:
            return tensor
        module = name.rpartition(".")[0]
        modules = {known.rpartition(".")[0] for known in (*tensors, *self._names.in_file)}
        hint = nearest(module, sorted(modules)).removeprefix("; ")
        raise CheckpointError(
            f"{what} that the base ({self._base.name}) does not have",
            where=self._adapter,
            got=module,
            fix=f"{hint} G{OTHER_BASE[1:]}" if hint else OTHER_BASE,
        )

    def _factors(self, name: str, module: str, parts: Mapping[str, str]) -> Factors:
        """The update of one tensor, checked against the base's."""
        if parts.keys() - {"base"} not in ({"A", "B"}, {"embedding_A", "embedding_B"}):
            raise CheckpointError(
                f"module {module} has no pair of lora_A and lora_B",
                where=self._adapter,
                got=sorted(f"lora_{part}" for part in parts.keys() - {"base"}),
                fix=COPY_AGAIN,
            )
        is_embedding = "embedding_A" in parts
        keys = [parts[f"embedding_{part}" if is_embedding else part] for part in "AB"]
        is_transposed = self._is_transposed(module, name, keys, is_embedding)
        a, b = (self._factor(key) for key in keys)
        if is_embedding:
            self._require_untied(name)
        if "base" in parts:
            self._require_base_layer(name, parts["base"])
        return Factors(module, a, b, self.config.scale_of(module), is_transposed, is_embedding)

    def _is_transposed(self, module: str, name: str, keys: list[str], is_embedding: bool) -> bool:
        """Whether W is stored as (in, out); raises if A and B fit it in neither way."""
        infos = [self._stored.tensors[key] for key in keys]
        a, b = (info.shape for info in infos)
        weight, rank = self._base.tensors[name], self.config.rank_of(module)
        fits = [False, False]
        if all(info.is_float and len(info.shape) == 2 for info in (*infos, weight)):
            (out, width), is_rank = weight.shape, a[0] == b[1] == rank and min(*a, *b) > 0
            fits = [is_rank and (b[0], a[1]) == (out, width) and not is_embedding]
            fits.append(is_rank and (b[0], a[1]) == (width, out))
        if not any(fits):
            raise CheckpointError(
                f"lora_A and lora_B of module {module} do not fit the base's tensor {name}, which "
                f"is {weight.dtype} {list(weight.shape)}",
                where=self._adapter,
                got=f"A {list(a)}, B {list(b)}, r {rank}",
                fix=OTHER_BASE,
            )
        if all(fits):
            is_known = self._names.is_known
            return name in self._names.conv1d if is_known else self.config.fan_in_fan_out
        return fits[1]

    def _factor(self, key: str) -> torch.Tensor:
        factor = read_whole(self._stored, key)
        if not bool(torch.isfinite(factor).all()):
            raise CheckpointError(
                f"{key.removeprefix(PREFIX)} has NaN or Inf",
                where=self._adapter,
                fix="train it again",
            )
        return factor

    def _whole(self, name: str) -> str:
        """The base's tensor that the adapter replaces by its own."""
        tensor = self._tensor(name, "holds a tensor of a module")
        stored, info = self._stored.tensors[PREFIX + name], self._base.tensors[tensor]
        is_taken = tensor in self.factors or tensor in self.saved
        if stored.shape != info.shape or stored.is_float != info.is_float or is_taken:
            raise CheckpointError(
                f"its own tensor {name} does not fit the base's ({self._base.name})",
                where=self._adapter,
                got=f"{stored.dtype} {list(stored.shape)}",
                allowed=f"{info.dtype} {list(info.shape)}",
                fix=OTHER_BASE,
            )
        self._require_untied(tensor)
        return tensor

    def _require_untied(self, name: str) -> None:
        """The adapter changes one use of a tensor; in a whole model it would change both."""
        other = self._names.tied.get(name)
        if other is not None:
            raise CheckpointError(
                f"changes {name}, which the base ({self._base.name}) ties to {other}: merged, it "
                "would change that, too",
                where=self._adapter,
                fix="train it again without that module, or on a base that was saved with both "
                "(tie_word_embeddings: false)",
            )

    def _require_complete(self) -> None:
        """Check that every tensor of `modules_to_save` is there."""
        if not self.config.saved:
            return
        in_memory = {file: name for name, file in self._names.in_file.items()}
        for name, info in self._base.tensors.items():
            module = in_memory.get(name, name).rpartition(".")[0]
            if info.is_float and name not in self.saved and self.config.saves(module):
                raise CheckpointError(
                    f"its modules_to_save hold {module}, but {WEIGHTS} has no tensor {name}",
                    where=self._adapter,
                    got=list(self.config.saved),
                    fix=COPY_AGAIN,
                )

    def _require_base_layer(self, name: str, key: str) -> None:
        """peft saves the embedding that it adapts; it has to be the base's."""
        layer, count = self._stored.tensors[key], self._base.tensors[name].count
        is_same = layer.shape == self._base.tensors[name].shape
        for start in range(0, count if is_same else 0, _BLOCK):
            stop = min(start + _BLOCK, count)
            mine = self._stored.read(key, start, stop, Buffer((stop - start) * 8))
            theirs = self._base.read(name, start, stop, Buffer((stop - start) * 8))
            is_same = is_same and torch.equal(mine, theirs.to(DTYPES[layer.dtype]))
        if not is_same:
            raise CheckpointError(
                f"was trained on another {name} than the base's ({self._base.name})",
                where=self._adapter,
                fix=OTHER_BASE,
            )


def weights_file(adapter: Path) -> Path:
    """The safetensors file of an adapter.

    Raises:
        CheckpointError: there is none, or pickled weights only.
    """
    folder = model_folder(adapter)
    if (folder / WEIGHTS).is_file():
        return inside(folder, folder / WEIGHTS)
    is_pickled = (folder / PICKLE).is_file()
    problem = "holds pickled weights only, and reading a pickle can run code"
    raise CheckpointError(
        problem if is_pickled else f"holds no {WEIGHTS}",
        where=folder,
        got=sorted(path.name for path in folder.iterdir())[:8],
        fix="load the adapter with peft and save it again (safe_serialization=True)"
        if is_pickled
        else "give the folder of an adapter that was saved with peft",
    )


def sorted_tensors(stored: StoredReader) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Tell an adapter's tensors apart by their names.

    Returns:
        Module → part (`A`, `B`, `embedding_A`, `embedding_B`, `base`) → tensor; and the names,
        without the prefix, of the tensors that are held whole.

    Raises:
        CheckpointError: a tensor that plain LoRA does not have, or none at all.
    """
    ends = {
        ".lora_A.weight": "A",
        ".lora_B.weight": "B",
        ".lora_embedding_A": "embedding_A",
        ".lora_embedding_B": "embedding_B",
        ".base_layer.weight": "base",
    }
    modules: dict[str, dict[str, str]] = {}
    whole: list[str] = []
    for key in stored.tensors:
        name = key.removeprefix(PREFIX)
        end = next((end for end in ends if name.endswith(end)), None)
        if end is not None and name != key:
            modules.setdefault(name.removesuffix(end), {})[ends[end]] = key
        elif name == key or ".lora_" in name or ".base_layer." in name:
            raise CheckpointError(
                f"tensor {key} is none of a plain LoRA", where=stored.name, fix=MERGE_WITH_PEFT
            )
        else:
            whole.append(name)
    if not modules and not whole:
        raise CheckpointError("adapts nothing", where=stored.name, fix=COPY_AGAIN)
    return modules, whole
