"""Which tensors are a classification head, and what a recipe wants done with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from enum import StrEnum
from functools import lru_cache

from mergekit_fair.compat.remembered import remembered
from mergekit_fair.compat.transformers import model_prefix

# The first component of the head's names in transformers' sequence- and image-classification
# models: what is looked for where the architecture does not tell.
HEAD_MODULES = frozenset(
    {"classifier", "pre_classifier", "score", "classification_head", "logits_proj"}
)

# Classes of transformers whose part outside the encoder is made for a fine-tune's task.
_TASKS = ("Classification", "ForMultipleChoice", "ForQuestionAnswering")


class HeadPolicy(StrEnum):
    """`merge` treats the head as any tensor, `base` and `first` copy it from that model."""

    MERGE = "merge"
    BASE = "base"
    FIRST = "first"


def is_head(name: str | None) -> bool:
    """Whether a module or tensor is a head by its name alone: `classifier.weight`, `score.weight`.

    >>> is_head("classifier.weight"), is_head("bert.pooler.dense.weight"), is_head(None)
    (True, False, False)
    """
    return name is not None and name.split(".", 1)[0] in HEAD_MODULES


def head_names(architecture: str | None, names: Iterable[str]) -> frozenset[str]:
    """The tensors of a classification head: all between the encoder and the logits.

    Of transformers' classes for classification that is what lies outside the encoder, poolers that
    are made with the classifier included (DeBERTa's `pooler`; BERT's belongs to the encoder, and is
    pretrained). Of others it is what `is_head` says.

    >>> names = ["deberta.encoder.w", "pooler.dense.weight", "classifier.weight"]
    >>> sorted(head_names("DebertaV2ForSequenceClassification", names))
    ['classifier.weight', 'pooler.dense.weight']
    >>> head_names("LlamaForCausalLM", ["model.norm.weight", "lm_head.weight"])
    frozenset()

    Args:
        architecture: as config.json names it; None if it is not known.
        names: the checkpoint's tensors.
    """
    listed = list(names)
    return frozenset(filter(head_rule(architecture, listed), listed))


def head_rule(architecture: str | None, names: Collection[str]) -> Callable[[str], bool]:
    """`head_names` as a test of a name, for names that a file does not have.

    Args:
        architecture: as config.json names it; None if it is not known.
        names: the checkpoint's tensors.
    """
    encoder = _encoder(architecture or "")
    if encoder and any(name.startswith(f"{encoder}.") for name in names):
        return lambda name: not name.startswith(f"{encoder}.")
    return is_head


@lru_cache
def _encoder(architecture: str) -> str | None:
    """The module that holds the encoder, of a class of transformers for classification."""
    if not any(task in architecture for task in _TASKS):
        return None
    prefix: str | None = remembered("encoder 1", architecture, lambda: model_prefix(architecture))
    return prefix
