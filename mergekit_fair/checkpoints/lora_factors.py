"""What a LoRA adapter holds: low-rank updates of some tensors, others whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mergekit_fair.checkpoints.adapter_config import MERGE_FIRST
from mergekit_fair.checkpoints.headers import AGAIN
from mergekit_fair.checkpoints.reader import StoredReader
from mergekit_fair.errors import CheckpointError

PREFIX = "base_model.model."


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
                f"tensor {key} is none of a plain LoRA", where=stored.name, fix=MERGE_FIRST
            )
        else:
            whole.append(name)
    if not modules and not whole:
        raise CheckpointError("adapts nothing", where=stored.name, fix=AGAIN)
    return modules, whole
