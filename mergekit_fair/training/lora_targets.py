"""LoRA by peft: which layers, and how an adapter becomes full weights again."""

from __future__ import annotations

from typing import Any

from mergekit_fair.errors import TrainingError
from mergekit_fair.merging.methods.head_policy import HEAD_MODULES, is_head
from mergekit_fair.training.train_config import Lora

# Query and value projections as transformers names them: BERT, RoBERTa, ViT (query, value);
# DistilBERT (q_lin, v_lin); Llama, Qwen2, Gemma, DeBERTa-v2 (…_proj); T5 (q, v); GPT-2 (c_attn).
_QUERY_AND_VALUE = frozenset(
    {
        *("query", "value", "q_lin", "v_lin", "q_proj", "v_proj"),
        *("query_proj", "value_proj", "q", "v", "c_attn", "query_key_value"),
    }
)


def lora_targets(model: Any, wanted: list[str] | None = None) -> list[str]:
    """The last name components of the layers to adapt, sorted.

    Args:
        model: a transformers classifier.
        wanted: names from the recipe; None finds the attention's query and value projections.

    Raises:
        TrainingError: a wanted name does not exist, or none is found; lists the linear layers.
    """
    linear = sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if type(module).__name__ in ("Linear", "Conv1D") and not is_head(name)
        }
    )
    found = [name for name in linear if name in (wanted or _QUERY_AND_VALUE)]
    missing = sorted(set(wanted or ()) - set(found))
    if missing or not found:
        raise TrainingError(
            "lora.targets are not in the model" if missing else "no attention layers are known",
            where=type(model).__name__,
            got=missing or None,
            allowed=linear,
            fix="name the layers to adapt under lora.targets",
        )
    return found


def add_adapter(model: Any, settings: Lora) -> Any:
    """The model with a fresh LoRA; the classification head is trained in full."""
    from peft import LoraConfig, get_peft_model

    heads = sorted({name.split(".", 1)[0] for name, _ in model.named_parameters()} & HEAD_MODULES)
    return get_peft_model(
        model,
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=lora_targets(model, settings.targets),
            modules_to_save=heads,
        ),
    )
