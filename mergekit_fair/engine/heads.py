"""Do the classification heads share an origin?

A head is made at random when a bare encoder becomes a classifier. Task vectors of models whose
heads were made independently hold the difference of two random heads, not what was learned; a
merge of them is refused unless the recipe says what to do with the head.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from mergekit_fair.engine.checkpoint import weight_files
from mergekit_fair.errors import RecipeError
from mergekit_fair.methods.heads import HeadPolicy, is_head

# Independent random heads have a cosine of about 0 (±0.04 for 2 × 384 weights). A head that was
# fine-tuned from the base's falls below 0.1 only if it moved ten times its own length.
UNRELATED = 0.1


def require_shared_heads(base: str | Path, models: list[str], where: str) -> None:
    """Refuse models whose classification head is unrelated to the base's.

    The measure is the cosine of the heads' weight matrices, all taken as one vector each.

    Args:
        base: folder of θ₀; models without a head pass.
        models: the other folders, with the base's tensor names.
        where: the recipe, for the error.

    Raises:
        RecipeError: names the model and the cosine.
    """
    origin = head_weights(base)
    if origin is None or not origin.any():
        return
    for model in models:
        head = head_weights(model)
        if head is None or not head.any():
            continue
        cosine = float(torch.nn.functional.cosine_similarity(origin, head, dim=0))
        if cosine < UNRELATED:
            raise RecipeError(
                f"the classification head of {model} is unrelated to the base's ({base}): their "
                f"cosine is {cosine:.2f}, so the task vector would be the difference of two "
                "random heads",
                where=where,
                fix="fine-tune every model from one base that was saved with its head (`mergekit-"
                f"fair train` does), or say what to do with parameters.head "
                f"({', '.join(HeadPolicy)})",
            )


def head_weights(folder: str | Path) -> torch.Tensor | None:
    """The head's weight matrices as one float64 vector, biases left out; None without a head."""
    parts = []
    for file in weight_files(folder):
        with safe_open(str(file), framework="pt") as stream:
            for name in sorted(stream.keys()):
                if is_head(name) and len(stream.get_slice(name).get_shape()) > 1:
                    parts.append(stream.get_tensor(name).double().flatten())
    return torch.cat(parts) if parts else None
