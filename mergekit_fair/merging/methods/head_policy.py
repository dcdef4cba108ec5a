"""Which tensors are a classification head, and what a recipe wants done with it."""

from __future__ import annotations

from enum import StrEnum

# The first component of the head's tensor names in transformers' sequence- and
# image-classification models.
HEAD_MODULES = frozenset(
    {"classifier", "pre_classifier", "score", "classification_head", "logits_proj"}
)


class HeadPolicy(StrEnum):
    """`merge` treats the head as any tensor, `base` and `first` copy it from that model."""

    MERGE = "merge"
    BASE = "base"
    FIRST = "first"


def is_head(tensor_name: str | None) -> bool:
    """True for tensors such as `classifier.weight`, `score.weight`, `pre_classifier.bias`."""
    return tensor_name is not None and tensor_name.split(".", 1)[0] in HEAD_MODULES
