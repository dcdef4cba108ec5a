"""Lengths and padding, so that a batch gives what its documents give one by one."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mergekit_fair.errors import CheckpointError

# The ends of the names of learned tables of positions.
_POSITIONS = ("position_embeddings", "embed_positions", "wpe")


def position_limit(model: Any) -> int | None:
    """Tokens that a model has positions for; None where positions are computed.

    RoBERTa and its like count positions from the padding's number on: of 514 rows, 512 are usable.
    """
    import torch

    for name, module in model.named_modules():
        if name.endswith(_POSITIONS) and isinstance(module, torch.nn.Embedding):
            padding = module.padding_idx
            used = getattr(module, "offset", 0) if padding is None else padding + 1
            return int(module.num_embeddings - used)
    return None


def picks_last_token(model: Any) -> bool:
    """Whether the head reads the last token that is not `config.pad_token_id` (Llama, GPT-2, …)."""
    return hasattr(model, "score")


def padding_id(
    configured: int | None, tokenizers: int | None, vocabulary: int, last: Collection[int]
) -> int:
    """The token to pad with: it must not be taken for text, nor text for it.

    Args:
        configured: the model's own, which its head looks for.
        tokenizers: the tokenizer's.
        vocabulary: number of the model's tokens.
        last: the last tokens of all documents. Without padding of its own, a model reads a single
            document's last token whatever it is; in a batch it must read the same.

    Raises:
        CheckpointError: documents end with every token that there is.
    """
    if configured is not None and 0 <= configured < vocabulary:
        return configured
    candidates = range(vocabulary) if tokenizers is None else (tokenizers, *range(vocabulary))
    for token in candidates:
        if 0 <= token < vocabulary and token not in last:
            return token
    raise CheckpointError(
        "has no token to pad with", where="config.json", fix="set pad_token_id, or batch_size=1"
    )
