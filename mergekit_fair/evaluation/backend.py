"""Which lm-eval model runs a checkpoint: what its configuration says it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mergekit_fair.errors import CheckpointError

# lm-eval's name of a model → the rows of one forward pass, unless something else is asked for.
BATCH_SIZES = {"fair-classifier": 64, "fair-image-classifier": 64}
OTHER_BATCH_SIZE = 8
_ADAPTER = "adapter_config.json"


def backend_of(model: str) -> tuple[str, dict[str, Any]]:
    """lm-eval's model name and the arguments that name the checkpoint.

    A classifier goes to `fair-classifier` or `fair-image-classifier`, anything else to `hf`; the
    folder of an adapter goes with the base that it names.

    Args:
        model: a folder, or a name on the Hub.

    Raises:
        CheckpointError: no model there.
    """
    adapter = Path(model) / _ADAPTER
    if adapter.is_file():
        return _adapted(adapter)
    architectures = _architectures(model)
    if any("ForSequenceClassification" in name for name in architectures):
        return "fair-classifier", {"pretrained": model}
    if any("ForImageClassification" in name for name in architectures):
        return "fair-image-classifier", {"pretrained": model}
    return "hf", {"pretrained": model}


def _adapted(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        base = config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"names no base model ({error})", where=path) from None
    if not isinstance(base, str) or not base:
        raise CheckpointError("names no base model", where=path, got=base)
    name, arguments = backend_of(base)
    if config.get("task_type") == "SEQ_CLS":
        name = "fair-classifier"
    return name, {**arguments, "peft": str(path.parent)}


def _architectures(model: str) -> list[str]:
    from transformers import AutoConfig

    try:
        return list(AutoConfig.from_pretrained(model).architectures or ())
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"no model here ({str(error).splitlines()[0]})",
            where=model,
            fix="give a model folder, or a name on the Hub that can be reached",
        ) from None
