"""lm-eval's `hf` with a guard: no classifier taken for a language model, no random head.

Stock `hf` loads a Qwen2ForSequenceClassification checkpoint as a language model, fills the head
with random numbers and reports an accuracy.
"""

from __future__ import annotations

from typing import Any

from mergekit_fair.errors import CheckpointError, ConfigError
from mergekit_fair.evaluation.lm.checked_hf import CheckedHFLM

STOCK_NAMES = ("hf", "hf-auto", "huggingface")

_OURS = {
    "ForSequenceClassification": "fair-classifier",
    "ForImageClassification": "fair-image-classifier",
}


class GuardedHFLM(CheckedHFLM):
    """lm-eval's `hf`, the same in everything that it does right.

    Raises:
        CheckpointError: a classifier, or an adapter of one; weights that the checkpoint lacks.
        ConfigError: a cache of another model.
    """

    def _get_backend(self, config: Any, *args: Any, **options: Any) -> None:
        """Called by `hf` between configuration and weights, so a wrong model costs no loading."""
        super()._get_backend(config, *args, **options)
        for name in self.architectures():
            if name.endswith("Classification") or "ForImageClassification" in name:
                raise _classifier(self.where, name)
        if self.adapter is not None and self.adapter.is_classifier:
            raise _classifier(f"peft={self.adapter.name}", "ForSequenceClassification")


def _classifier(where: str, name: str) -> CheckpointError:
    ours = next((model for end, model in _OURS.items() if end in name), None)
    return CheckpointError(
        "its architecture is a classifier; as a language model it would have a random head",
        where=where,
        got=name,
        fix=f"use --model {ours}" if ours else "use a model with a language model head",
    )


def guard_stock_models() -> None:
    """lm-eval's `hf`, `hf-auto` and `huggingface` become `GuardedHFLM` in this process.

    Raises:
        ConfigError: lm-eval's registry is frozen.
    """
    from lm_eval.api.registry import model_registry

    # Importing this module has let lm-eval register its own class under these names. `register`
    # refuses another one, hence the private mapping.
    registered = model_registry._objs
    if not isinstance(registered, dict):
        raise ConfigError(
            "lm-eval's registry of models is frozen",
            where="guard_stock_models",
            fix="call it before freeze_all()",
        )
    registered.update(dict.fromkeys(STOCK_NAMES, GuardedHFLM))
