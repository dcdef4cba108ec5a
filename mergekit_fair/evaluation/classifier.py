"""Load a classifier and refuse what is none: no head, a random head, not two classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_fair.errors import CheckpointError


def auto_class(kind: str) -> Any:
    """transformers' auto class for `text` or `image` classification."""
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    return (
        AutoModelForImageClassification if kind == "image" else AutoModelForSequenceClassification
    )


def load_classifier(folder: str | Path, kind: str, device: str = "cpu") -> Any:
    """The model in evaluation mode.

    Raises:
        CheckpointError: no model, an architecture without a classification head, weights missing
            from the file (transformers would fill them with random numbers), or a head of other
            than two classes.
    """
    from transformers import AutoConfig

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError("no model here (no config.json)", where=folder)
    config = AutoConfig.from_pretrained(str(folder))
    require_head(config.architectures or [], kind, folder)
    if config.num_labels != 2:
        raise CheckpointError(
            "must have two classes", where=folder, got=config.num_labels, allowed="2"
        )
    model, report = auto_class(kind).from_pretrained(str(folder), output_loading_info=True)
    require_weights(absent_weights(report), folder)
    return model.to(device).eval()


# What transformers' classes of a kind are called; some have an end of their own behind it.
_HEADS = {"text": "ForSequenceClassification", "image": "ForImageClassification"}


def require_head(architectures: Sequence[str], kind: str, where: object) -> None:
    """The names of `architectures`, as in config.json, hold a head for `text` or `image`.

    Raises:
        CheckpointError: they do not.
    """
    if not any(_HEADS[kind] in name for name in architectures):
        raise CheckpointError(
            "its architecture has no classification head",
            where=where,
            got=list(architectures),
            allowed=f"…{_HEADS[kind]}",
            fix="use a fine-tuned or merged classifier",
        )


def absent_weights(report: Mapping[str, Any]) -> list[str]:
    """Names of the weights that transformers has filled with random numbers, sorted.

    Args:
        report: what `from_pretrained(…, output_loading_info=True)` returns beside the model.
    """
    mismatched = (key for key, *_ in report.get("mismatched_keys", ()))
    return sorted({*report.get("missing_keys", ()), *mismatched})


def require_weights(absent: Sequence[str], where: object) -> None:
    """No weight is absent.

    Raises:
        CheckpointError: with their number and the first of them.
    """
    if absent:
        raise CheckpointError(
            f"lacks {len(absent)} weights that the model needs, such as {list(absent[:3])}",
            where=where,
            fix="use a fine-tuned or merged classifier, not a bare encoder",
        )


def resolve_device(device: str) -> str:
    """`auto` → the accelerator if there is one, else `cpu`; anything else as given.

    Raises:
        CheckpointError: the device is not to be had here.
    """
    import torch

    if device == "auto":
        found = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        return found.type if found else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(
            f"this device cannot be used ({str(error).splitlines()[0]})",
            where="device",
            got=device,
            allowed="auto, cpu, or an accelerator that torch sees",
        ) from None
    return device
