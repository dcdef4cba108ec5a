"""What a checkpoint is and which lm-eval model runs it; classifiers without a head are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.folder import adapters_below
from mergekit_fair.errors import CheckpointError, FairError, first_line
from mergekit_fair.files import text_of
from mergekit_fair.merging.references import model_parts


def auto_class(kind: str) -> Any:
    """transformers' auto class for `text` or `image` classification."""
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    return (
        AutoModelForImageClassification if kind == "image" else AutoModelForSequenceClassification
    )


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
        CheckpointError: the device is not available here.
    """
    import torch

    if device == "auto":
        accelerator = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        return accelerator.type if accelerator else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(
            f"this device cannot be used ({first_line(error)})",
            where="device",
            got=device,
            allowed="auto, cpu, or an accelerator that torch sees",
        ) from error
    return device


@contextmanager
def opening(model: object, what: str = "cannot be opened") -> Iterator[None]:
    """Whatever libraries raise while they open a model becomes one error that names the model.

    A damaged file, values in its configuration that are not what they should be, and packages that
    are missing have no type in common. What the system says of files and memory stays as it is.

    Raises:
        CheckpointError: with the first line of what was raised, which is its cause.
    """
    try:
        yield
    except (FairError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise CheckpointError(
            f"{what} ({type(error).__name__}: {first_line(error).rstrip('.')})",
            where=model,
            fix="check its config.json, weights and tokenizer, and how it is to be opened; copy or "
            "save it again if they are damaged",
        ) from error


def backend_of(model: str, *, trust_remote_code: bool = False) -> tuple[str, dict[str, Any]]:
    """lm-eval's model name and the arguments that name the checkpoint.

    A classifier goes to `fair-classifier` or `fair-image-classifier`, anything else to `hf`; the
    folder of an adapter goes with the base that it names, `base+adapter` with that base.

    Args:
        model: a folder, a name on the Hub, or `base+adapter`.
        trust_remote_code: let it bring code of its own.

    Raises:
        CheckpointError: no model there, or one with code of its own that is not trusted.
    """
    base, *adapters = model_parts(model)
    if adapters and (Path(adapters[0]) / "adapter_config.json").is_file():
        name, arguments = backend_of(base, trust_remote_code=trust_remote_code)
        return name, {**arguments, "peft": adapters[0]}
    adapter = Path(model) / "adapter_config.json"
    if adapter.is_file():
        return _adapted(adapter, trust_remote_code=trust_remote_code)
    if not (Path(model) / "config.json").is_file() and (error := adapters_below(Path(model))):
        raise error
    architectures = _architectures(model, trust_remote_code=trust_remote_code)
    if any("ForSequenceClassification" in name for name in architectures):
        return "fair-classifier", {"pretrained": model}
    if any("ForImageClassification" in name for name in architectures):
        return "fair-image-classifier", {"pretrained": model}
    return "hf", {"pretrained": model}


def _adapted(path: Path, *, trust_remote_code: bool) -> tuple[str, dict[str, Any]]:
    try:
        config = json.loads(text_of(path))
        base = config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"names no base model ({error})", where=path) from error
    if not isinstance(base, str) or not base:
        raise CheckpointError("names no base model", where=path, got=base)
    try:
        name, arguments = backend_of(base, trust_remote_code=trust_remote_code)
    except CheckpointError as error:
        raise CheckpointError(
            f"the base that it names cannot be opened ({error.problem})",
            where=path,
            got=base,
            fix="set its base_model_name_or_path to where the base lies now",
        ) from error
    if config.get("task_type") == "SEQ_CLS":
        name = "fair-classifier"
    return name, {**arguments, "peft": str(path.parent)}


def _architectures(model: str, *, trust_remote_code: bool) -> list[str]:
    return list(model_config(model, trust_remote_code=trust_remote_code).architectures or ())


def model_config(model: str, *, trust_remote_code: bool = False) -> Any:
    """The configuration of a model, without a question about its code on the terminal.

    Raises:
        CheckpointError: there is no model, or one with code of its own that is not trusted.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    # Values of a wrong type raise whatever each configuration class makes of them.
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise CheckpointError(
                "its config.json names code of its own",
                where=model,
                fix="pass --trust-remote-code if you trust that code",
            ) from error
        raise CheckpointError(
            f"no model here ({first_line(error)})",
            where=model,
            fix="give a model folder, or a name on the Hub that can be reached",
        ) from error
