"""The tensors of an adapter's file, told apart by their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mergekit_fair.checkpoints.adapter_config import MERGE_WITH_PEFT, PICKLE, WEIGHTS
from mergekit_fair.checkpoints.folder import inside, model_folder
from mergekit_fair.checkpoints.headers import COPY_AGAIN, read_header
from mergekit_fair.checkpoints.layout import unwrapped
from mergekit_fair.checkpoints.reader import HeldReader, Reader, StoredReader, unpickled
from mergekit_fair.errors import CheckpointError

PREFIX = "base_model.model."

# The end of a tensor's name → what it is of its module.
_PARTS = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_embedding_A": "embedding_A",
    ".lora_embedding_B": "embedding_B",
    ".lora_B.bias": "shift",
    ".lora_magnitude_vector": "magnitude",
    ".token_adapter.trainable_tokens_delta": "tokens",
    ".base_layer.weight": "base",
}
# With `bias: all`, peft saves the biases of `modules_to_save` three times.
_COPIES = (".modules_to_save.bias", ".original_module.bias")


@dataclass(frozen=True)
class AdapterTensors:
    """What an adapter holds, by the names of modules in memory.

    Attributes:
        modules: module → part (`A`, `B`, `embedding_A`, `embedding_B`, `shift`, `magnitude`,
            `tokens`, `base`) → tensor in the file.
        whole: tensor in memory → tensor in the file that replaces it.
    """

    modules: Mapping[str, Mapping[str, str]]
    whole: Mapping[str, str]


def open_weights(adapter: Path, *, allow_pickle: bool = False) -> Reader:
    """The tensors of an adapter's folder, under the names in its file.

    What torch.compile and the like put around modules is no part of a name.

    Raises:
        CheckpointError: there are none, they are damaged, or pickled without `allow_pickle`.
    """
    folder = model_folder(adapter)
    if (folder / WEIGHTS).is_file():
        file = inside(folder, folder / WEIGHTS)
        return unwrapped(StoredReader(str(adapter), read_header(file)))[0]
    is_pickled = (folder / PICKLE).is_file()
    if is_pickled and allow_pickle:
        file = inside(folder, folder / PICKLE)
        return unwrapped(HeldReader(str(adapter), (file,), unpickled(file)))[0]
    problem = "holds pickled weights only, and reading a pickle can run code"
    raise CheckpointError(
        problem if is_pickled else f"holds no {WEIGHTS}",
        where=folder,
        got=sorted(path.name for path in folder.iterdir())[:8],
        fix="load the adapter with peft and save it again (safe_serialization=True), or pass "
        "--allow-pickle where you trust it"
        if is_pickled
        else "give the folder of an adapter that was saved with peft",
    )


def sorted_tensors(weights: Reader) -> AdapterTensors:
    """Tell an adapter's tensors apart by their names.

    Raises:
        CheckpointError: a tensor that LoRA does not have, or none at all.
    """
    modules: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    for key in weights.tensors:
        name = key.removeprefix(PREFIX)
        end = next((end for end in _PARTS if name.endswith(end)), None)
        if name == key:
            raise _foreign(key, weights)
        if end is not None:
            modules.setdefault(name.removesuffix(end), {})[_PARTS[end]] = key
        elif not name.endswith(_COPIES):
            whole[_plain(name, key, weights)] = key
    if not modules and not whole:
        raise CheckpointError("adapts nothing", where=weights.name, fix=COPY_AGAIN)
    return AdapterTensors(modules, whole)


def _plain(name: str, key: str, weights: Reader) -> str:
    """The name in memory; peft puts the bias of an adapted module into a `base_layer`."""
    if name.endswith(".base_layer.bias"):
        name = name.replace(".base_layer.bias", ".bias")
    if ".lora_" in name or ".base_layer." in name or ".token_adapter." in name:
        raise _foreign(key, weights)
    return name


def _foreign(key: str, weights: Reader) -> CheckpointError:
    return CheckpointError(
        f"tensor {key} is none that peft's LoRA or DoRA saves",
        where=weights.name,
        fix=f"save the adapter by save_pretrained of its PeftModel, or {MERGE_WITH_PEFT}",
    )
