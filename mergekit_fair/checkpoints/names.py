"""What transformers calls the tensors of a model folder when the model is in memory.

peft names modules as they are in memory. For most files these are their names there, too; where
transformers renames (ViT since 5.0) or adds the name of the encoder (GPT-2's own file has none),
transformers is asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.folder import read_config, self_contained
from mergekit_fair.compat.remembered import remembered
from mergekit_fair.compat.transformers import loaded_names, meta_model


@dataclass(frozen=True)
class MemoryNames:
    """The names of one model; empty if transformers does not know its architecture.

    Attributes:
        in_file: tensor in memory → tensor in the file; fused tensors are left out.
        conv1d: tensors in the file that are stored as (in, out), by transformers' `Conv1D`.
        tied: tensor in memory → all names in memory of the same tensor, where it has several.
    """

    in_file: Mapping[str, str] = field(default_factory=dict)
    conv1d: frozenset[str] = frozenset()
    tied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_known(self) -> bool:
        return bool(self.in_file)


def memory_names(folder: Path, names: Collection[str]) -> MemoryNames:
    """Ask transformers, with the architecture of config.json on torch's `meta` device.

    Args:
        folder: with the config.json.
        names: of the tensors in the file.

    Raises:
        CheckpointError: config.json cannot be read.
    """
    if "auto_map" in read_config(folder):
        return MemoryNames()
    config, listed = self_contained(folder), sorted(names)
    about = None if config is None else [config, listed]
    try:
        found = remembered("names 1", about, lambda: _asked(meta_model(folder), listed))
    except Exception:  # whatever a config makes transformers raise; the merge checks it again
        return MemoryNames()
    tied = {name: tuple(group) for name, group in found["tied"].items()}
    return MemoryNames(found["in_file"], frozenset(found["conv1d"]), tied)


def _asked(model: Any, names: Sequence[str]) -> dict[str, Any]:
    """The fields of `MemoryNames`, as JSON.

    Raises:
        LookupError: no model of transformers' own.
    """
    if model is None:
        raise LookupError
    loaded = loaded_names(model, names)
    parts = Counter(loaded.values())
    in_file = {memory: name for name, memory in loaded.items() if memory and parts[memory] == 1}
    conv1d = (
        f"{name}.weight"
        for name, module in model.named_modules()
        if type(module).__name__ == "Conv1D"
    )
    stored = [in_file[name] for name in conv1d if name in in_file]
    return {"in_file": in_file, "conv1d": stored, "tied": _tied(model)}


def _tied(model: Any) -> dict[str, tuple[str, ...]]:
    """Such as an embedding that is the output layer, too."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name: tuple(group) for group in names.values() if len(group) > 1 for name in group}
