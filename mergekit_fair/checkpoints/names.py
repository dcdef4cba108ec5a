"""What transformers calls the tensors of a model folder when the model is in memory.

peft names modules as they are in memory. For most architectures these are the names in the file;
where transformers renames (ViT since 5.0), its own table of renames is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.folder import read_config
from mergekit_fair.compat.transformers import meta_model, names_in_file


@dataclass(frozen=True)
class MemoryNames:
    """The names of one architecture; empty if transformers does not know it.

    Attributes:
        in_file: tensor in memory → tensor in the file; fused or split tensors are left out.
        conv1d: tensors in the file that are stored as (in, out), by transformers' `Conv1D`.
        tied: tensor in memory → all names in memory of the same tensor, where it has several.
    """

    in_file: Mapping[str, str] = field(default_factory=dict)
    conv1d: frozenset[str] = frozenset()
    tied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_known(self) -> bool:
        return bool(self.in_file)


def memory_names(folder: Path) -> MemoryNames:
    """Ask transformers, with the architecture of config.json on torch's `meta` device.

    Raises:
        CheckpointError: config.json cannot be read.
    """
    if "auto_map" in read_config(folder):
        return MemoryNames()
    try:
        model = meta_model(folder)
    except Exception:  # whatever a config makes transformers raise; the merge checks it again
        return MemoryNames()
    if model is None:
        return MemoryNames()
    in_file = names_in_file(model)
    conv1d = (
        f"{name}.weight"
        for name, module in model.named_modules()
        if type(module).__name__ == "Conv1D"
    )
    stored = frozenset(in_file.get(name, name) for name in conv1d)
    return MemoryNames(in_file, stored, _tied(model))


def _tied(model: Any) -> dict[str, tuple[str, ...]]:
    """Such as an embedding that is the output layer, too."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name: tuple(group) for group in names.values() if len(group) > 1 for name in group}
