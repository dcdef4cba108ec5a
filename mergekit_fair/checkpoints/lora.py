"""LoRA adapters read as if they were whole models: θ is computed for each slice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import NoneType

import torch

from mergekit_fair.checkpoints.adapter_base import require_base
from mergekit_fair.checkpoints.adapter_config import (
    CONFIG,
    MERGE_WITH_PEFT,
    read_adapter_config,
)
from mergekit_fair.checkpoints.adapter_tensors import PREFIX, open_weights, sorted_tensors
from mergekit_fair.checkpoints.adapter_updates import (
    Dora,
    Factors,
    Shift,
    TokenRows,
    Update,
)
from mergekit_fair.checkpoints.folder import read_config
from mergekit_fair.checkpoints.headers import COPY_AGAIN, SIZES, TensorInfo
from mergekit_fair.checkpoints.names import MemoryNames, memory_names
from mergekit_fair.checkpoints.reader import Buffer, Reader, are_equal, held_on, read_whole
from mergekit_fair.errors import CheckpointError
from mergekit_fair.schema import nearest

OTHER_BASE = f"give the base that it was trained on, or {MERGE_WITH_PEFT}"
UNTIE = (
    "give a base that was saved with both: model.get_output_embeddings().weight = torch.nn."
    "Parameter(model.get_input_embeddings().weight.clone()), model.config.tie_word_embeddings = "
    "False, model.save_pretrained(…)"
)


class AdapterReader:
    """A base and a LoRA adapter on it; neither merged on disk nor held dense.

    Args:
        base: the base's tensors; closed with this reader.
        base_folder: where its config.json lies.
        adapter: the folder that peft has saved.
        allow_pickle: read pickled weights where the adapter has no others.
        device: where the adapter's tensors are held, all of them; None leaves in its file what is
            not needed to open it.

    Attributes:
        tensors: the base's names, dtypes and shapes, whatever dtype `read` returns.
        own_files: the adapter's.
        config: the adapter's configuration.
        updates: tensor → what the adapter makes of it.
        saved: tensor → its name in the adapter, which holds it whole (`modules_to_save`, biases).

    Raises:
        CheckpointError: files that are missing or damaged, more than LoRA and DoRA, or an adapter
            that does not fit the base.
    """

    def __init__(
        self,
        base: Reader,
        base_folder: Path,
        adapter: str | Path,
        *,
        allow_pickle: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.name = f"{base.name}+{adapter}"
        self._base, self._base_folder, self._adapter = base, base_folder, Path(adapter)
        self.config = read_adapter_config(adapter)
        self._weights = open_weights(self._adapter, allow_pickle=allow_pickle)
        if device is not None:
            self._weights = held_on(device, self._weights)
        self.own_files = (*self._weights.files, self._adapter / CONFIG)
        self.files = (*base.files, *self.own_files)
        self.updates: dict[str, Update] = {}
        self.saved: dict[str, str] = {}
        try:
            self._open()
        except BaseException:
            self._weights.close()
            raise

    @property
    def factors(self) -> dict[str, Factors]:
        """Tensor → its low-rank update."""
        return {
            name: update for name, update in self.updates.items() if isinstance(update, Factors)
        }

    @property
    def changed(self) -> frozenset[str]:
        """The tensors that are others than the base's; all else is the base's own."""
        return frozenset((*self.updates, *self.saved))

    def is_part(self, name: str) -> bool:
        """Whether a tensor of the file is only a part of one in memory, such as an expert's."""
        return self._names.is_known and name not in self._in_memory

    def _open(self) -> None:
        found = sorted_tensors(self._weights)
        for module, parts in found.modules.items():
            self._take(module, parts)
        held = {self._whole(name, found.whole) for name in found.whole}
        self._require_complete(held)
        require_base(self._adapter, self.config.base, self._base, self._base_folder, self.updates)

    def _take(self, module: str, parts: Mapping[str, str]) -> None:
        """The updates of a module."""
        name = self._tensor(f"{module}.weight", "adapts a module")
        if "tokens" in parts:
            self._update(name, self._rows(name, module, parts["tokens"]))
        if parts.keys() == {"tokens"}:
            return
        if group := self._names.tied.get(f"{module}.weight"):
            raise _tied(self._adapter, f"{module}.weight", self._base.name, group)
        factors = self._factors(name, module, parts)
        self._update(name, self._directed(name, factors, parts))
        if "shift" in parts:
            bias = self._bias(module)
            self._update(bias, Shift(self._vector(parts["shift"], bias), factors.scale))

    def _update(self, name: str, update: Update) -> None:
        if name in self.updates:
            raise CheckpointError(
                f"adapts tensor {name} twice, under two names or in two ways",
                where=self._adapter,
                fix=COPY_AGAIN,
            )
        self.updates[name] = update

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._base.tensors

    def read(self, name: str, start: int, stop: int, into: Buffer) -> torch.Tensor:
        """Elements of θ: float64 where the adapter changes W, else in the dtype of their file."""
        saved = self.saved.get(name)
        if saved is not None:
            size = (stop - start) * SIZES[self._weights.tensors[saved].dtype]
            room = into if len(into.memory) >= size else Buffer(size)
            weight = self._weights.read(saved, start, stop, room)
        else:
            weight = self._base.read(name, start, stop, into)
        update = self.updates.get(name)
        return weight if update is None else update.of(weight, start)

    def identity(self) -> str:
        """A digest of the adapter's content and of the base's identity."""
        digest = hashlib.sha256(self._base.identity().encode())
        for file in self.own_files:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def close(self) -> None:
        self._weights.close()
        self._base.close()

    @cached_property
    def _names(self) -> MemoryNames:
        return memory_names(self._base_folder, self._base.tensors)

    @cached_property
    def _in_memory(self) -> dict[str, str]:
        """Tensor in the file → its name in memory."""
        return {file: name for name, file in self._names.in_file.items()}

    def _find(self, name: str) -> str | None:
        """The base's name for a tensor that the adapter knows by its name in memory."""
        tensors, in_file = self._base.tensors, self._names.in_file
        for each in (name, *self._names.tied.get(name, ())):
            for tensor in (each, in_file.get(each, each)):
                if tensor in tensors:
                    return tensor
        return None

    def _tensor(self, name: str, what: str) -> str:
        found = self._find(name)
        if found is not None:
            return found
        tensors, in_file = self._base.tensors, self._names.in_file
        module = name.rpartition(".")[0]
        modules = {known.rpartition(".")[0] for known in (*tensors, *in_file)}
        hint = nearest(module, sorted(modules - {module})).removeprefix("; ")
        raise CheckpointError(
            f"{what} that the base ({self._base.name}) does not have",
            where=self._adapter,
            got=module,
            fix=f"{hint} G{OTHER_BASE[1:]}" if hint else OTHER_BASE,
        )

    def _factors(self, name: str, module: str, parts: Mapping[str, str]) -> Factors:
        """The low-rank update of one tensor, checked against the base's."""
        pair = parts.keys() & {"A", "B", "embedding_A", "embedding_B"}
        if pair not in ({"A", "B"}, {"embedding_A", "embedding_B"}):
            raise CheckpointError(
                f"module {module} has no pair of lora_A and lora_B",
                where=self._adapter,
                got=sorted(f"lora_{part}" for part in pair),
                fix=COPY_AGAIN,
            )
        is_embedding = "embedding_A" in parts
        keys = [parts[f"embedding_{part}" if is_embedding else part] for part in "AB"]
        is_transposed = self._is_transposed(module, name, keys, is_embedding)
        a, b = (self._finite(key) for key in keys)
        if "base" in parts:
            self._require_base_layer(name, parts["base"])
        scale, module = self.config.scale_of(module), self._in_memory.get(name, module)
        return Factors(module.removesuffix(".weight"), a, b, scale, is_transposed, is_embedding)

    def _is_transposed(self, module: str, name: str, keys: list[str], is_embedding: bool) -> bool:
        """Whether W is stored as (in, out); raises if A and B fit it in neither way."""
        infos = [self._weights.tensors[key] for key in keys]
        a, b = (info.shape for info in infos)
        weight, rank = self._base.tensors[name], self.config.rank_of(module)
        if 0 in (*a, *b):
            raise CheckpointError(
                f"lora_A or lora_B of module {module} is empty: saved before its shards were "
                "gathered (DeepSpeed ZeRO-3, FSDP)",
                where=self._adapter,
                got=f"A {list(a)}, B {list(b)}",
                fix="save the adapter again with its parameters gathered",
            )
        fits = [False, False]
        dimensions = {len(info.shape) for info in (*infos, weight)}
        if all(info.is_float for info in (*infos, weight)) and dimensions not in ({0}, {1}):
            is_rank = len(dimensions) == 1 and a[0] == b[1] == rank
            out, *others = weight.shape
            ones = (1,) * (len(b) - 2)
            fits = [
                is_rank and b == (out, rank, *ones) and a[1:] == (*others,) and not is_embedding
            ]
            fits.append(is_rank and weight.shape == (*a[1:], b[0]))
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

    def _directed(self, name: str, factors: Factors, parts: Mapping[str, str]) -> Update:
        """The factors, or DoRA where the adapter has a magnitude for each output."""
        if self.config.is_dora != ("magnitude" in parts):
            raise CheckpointError(
                f"its {CONFIG} sets use_dora to {self.config.is_dora}, but its weights say "
                f"otherwise of module {factors.module}",
                where=self._adapter,
                fix=COPY_AGAIN,
            )
        if not self.config.is_dora:
            return factors
        magnitude = self._finite(parts["magnitude"]).flatten()
        if len(magnitude) != len(factors.b):
            raise self._misfit(parts["magnitude"], TensorInfo("F32", (len(factors.b),)))
        return Dora(factors, magnitude, self._base, name)

    def _rows(self, name: str, module: str, key: str) -> TokenRows:
        info, indices = self._base.tensors[name], self.config.tokens_of(module)
        rows = self._finite(key)
        is_fitting = len(info.shape) == 2 and rows.shape == (len(indices), info.shape[1])
        if not is_fitting or max(indices, default=-1) >= info.shape[0]:
            raise CheckpointError(
                f"its trainable_token_indices do not fit the base's tensor {name}, which is "
                f"{info.dtype} {list(info.shape)}",
                where=self._adapter,
                got=f"{len(indices)} indices up to {max(indices, default=None)}, for "
                f"{list(rows.shape)}",
                fix=OTHER_BASE,
            )
        return TokenRows(dict(zip(indices, rows, strict=True)))

    def _bias(self, module: str) -> str:
        found = self._find(f"{module}.bias")
        if found is None:
            raise CheckpointError(
                f"adds a bias (lora_bias) to module {module}, which has none in the base "
                f"({self._base.name}): no merged weights do that",
                where=self._adapter,
                fix="load it with peft, beside the model",
            )
        return found

    def _vector(self, key: str, name: str) -> torch.Tensor:
        info = self._base.tensors[name]
        if self._weights.tensors[key].shape != info.shape or not info.is_float:
            raise self._misfit(key, info)
        return self._finite(key)

    def _finite(self, key: str) -> torch.Tensor:
        tensor = read_whole(self._weights, key)
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{key} has NaN or Inf", where=self._adapter, fix="train it again"
            )
        return tensor

    def _whole(self, name: str, whole: Mapping[str, str]) -> str:
        """The base's tensor that the adapter replaces by its own."""
        tensor, key = self._tensor(name, "holds a tensor of a module"), whole[name]
        stored, info = self._weights.tensors[key], self._base.tensors[tensor]
        is_fitting = stored.shape == info.shape and stored.is_float == info.is_float
        is_taken = not isinstance(self.updates.get(tensor), (Shift, NoneType))
        if not is_fitting or is_taken:
            raise self._misfit(key, info)
        group = self._names.tied.get(name, (name,))
        # peft loads what is none of `modules_to_save` into the shared tensor.
        is_alone = self.config.saves(name.rpartition(".")[0]) and not whole.keys() >= {*group}
        weights = self._weights
        before = self.saved.get(tensor)
        is_other = before is not None and not are_equal(weights, before, weights, key)
        if is_other or (is_alone and not are_equal(weights, key, self._base, tensor)):
            if len(group) == 1:
                raise self._misfit(key, info)
            raise _tied(self._adapter, name, self._base.name, group)
        self.saved[tensor] = key
        return tensor

    def _misfit(self, key: str, info: TensorInfo) -> CheckpointError:
        stored = self._weights.tensors[key]
        fix = OTHER_BASE
        words = read_config(self._base_folder).get("vocab_size")
        if info.shape[:1] == (words,) and stored.shape[1:] == info.shape[1:]:
            fix = (
                f"if it was trained with another number of tokens, give the base with as many: "
                f"model.resize_token_embeddings({stored.shape[0]}), model.save_pretrained(…)"
            )
        return CheckpointError(
            f"its own tensor {key} does not fit the base's ({self._base.name})",
            where=self._adapter,
            got=f"{stored.dtype} {list(stored.shape)}",
            allowed=f"{info.dtype} {list(info.shape)}",
            fix=fix,
        )

    def _require_complete(self, held: set[str]) -> None:
        """Check that every tensor of `modules_to_save` is there."""
        if not self.config.saved:
            return
        for name, info in self._base.tensors.items():
            module = self._in_memory.get(name, name).rpartition(".")[0]
            if info.is_float and name not in held and self.config.saves(module):
                raise CheckpointError(
                    f"its modules_to_save hold {module}, but its weights have no tensor {name}",
                    where=self._adapter,
                    got=list(self.config.saved),
                    fix=COPY_AGAIN,
                )

    def _require_base_layer(self, name: str, key: str) -> None:
        """peft saves the embedding that it adapts; it has to be the base's."""
        if not are_equal(self._weights, key, self._base, name):
            raise CheckpointError(
                f"was trained on another {name} than the base's ({self._base.name})",
                where=self._adapter,
                fix=OTHER_BASE,
            )


def refuse_ties(adapter: Path, base_folder: Path) -> None:
    """Refuse A and B of a tensor that the base uses twice: peft adds s·B·A to both uses, or twice.

    Raises:
        CheckpointError: names the tensors; or the adapter's files are missing or damaged.
    """
    weights = open_weights(adapter, allow_pickle=True)
    try:
        names = list(weights.tensors)
    finally:
        weights.close()
    tied = memory_names(base_folder, ()).tied
    for key in names:
        module, is_adapted, _ = key.removeprefix(PREFIX).partition(".lora_")
        group = tied.get(f"{module}.weight")
        if is_adapted and group:
            raise _tied(adapter, f"{module}.weight", str(base_folder), group)


def _tied(adapter: Path, name: str, base: str, group: tuple[str, ...]) -> CheckpointError:
    """The adapter changes one use of a tensor; in a whole model it would change both."""
    others = [other for other in group if other != name]
    return CheckpointError(
        f"changes {name}, which the base ({base}) ties to {', '.join(others)}: merged, it would "
        "change that, too",
        where=adapter,
        fix=UNTIE,
    )
