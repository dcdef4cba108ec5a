"""The class that a config.json names, as transformers has it; no weights, no code of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def model_class(folder: Path) -> tuple[Any, Any]:
    """The configuration, and the class; None for a class that is not among transformers' models.

    A config.json can ask for an implementation of attention that is fetched from the Hub. Every
    model has an own, which is as good for what is asked without weights.

    Raises:
        Exception: whatever a configuration makes transformers raise.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    config._attn_implementation = "eager"
    kind: Any = getattr(transformers, (config.architectures or [""])[0], None)
    is_model = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
    return config, kind if is_model else None
