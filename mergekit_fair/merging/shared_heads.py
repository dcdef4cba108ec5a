"""Whether the classification heads of models come from one head."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from mergekit_fair.checkpoints.reader import Reader, read_whole
from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.methods.head_policy import HeadPolicy

# Independent random heads have a cosine of about 0 (±0.04 for 2 × 384 weights). A head that was
# fine-tuned from the base's falls below 0.1 only if it moved ten times its own length.
UNRELATED = 0.1


def require_shared_heads(models: Sequence[Reader], heads: Collection[str], where: str) -> None:
    """Refuse models whose classification head is unrelated to the base's.

    A head is made at random when a bare encoder becomes a classifier. Task vectors of models whose
    heads were made independently hold the difference of two random heads, not what was learned.
    The measure is the cosine of the heads' weight matrices, all taken as one vector each.

    Args:
        models: the base first; models without a head pass.
        heads: the base's tensors that are a head.
        where: the recipe, for the error.

    Raises:
        RecipeError: names the model and the cosine.
    """
    base, *others = models
    origin = head_weights(base, heads)
    if origin is None or not origin.any():
        return
    for model in others:
        head = head_weights(model, heads)
        if head is None or not head.any() or head.shape != origin.shape:
            continue
        cosine = float(torch.nn.functional.cosine_similarity(origin, head, dim=0))
        if cosine < UNRELATED:
            raise RecipeError(
                f"the classification head of {model.name} is unrelated to the base's "
                f"({base.name}): their cosine is {cosine:.2f}, so the task vector would be the "
                "difference of two random heads",
                where=where,
                fix="fine-tune every model from one base that was saved with its head (`mergekit-"
                f"fair train` does), or say what to do with parameters.head "
                f"({', '.join(HeadPolicy)})",
            )


def head_weights(model: Reader, heads: Collection[str]) -> torch.Tensor | None:
    """The head's weight matrices as one float64 vector, biases left out; None without a head."""
    parts = [
        read_whole(model, name).double().flatten()
        for name, info in sorted(model.tensors.items())
        if name in heads and info.is_float and len(info.shape) > 1
    ]
    return torch.cat(parts) if parts else None
