"""What the config.json of a model must say so that its tensors may be merged with its base's."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.folder import read_config, self_contained
from mergekit_fair.checkpoints.headers import COPY_AGAIN
from mergekit_fair.checkpoints.reader import Reader
from mergekit_fair.compat.remembered import remembered
from mergekit_fair.compat.transformers import parsed_config
from mergekit_fair.errors import CheckpointError

# Settings by which tensors of the same shapes mean something else.
_MEANING = re.compile(r"^architectures$|(^|\.)(model_type|head_dim|n_heads?|num_heads)$|_heads$")

# What a config.json says about training, loading and names; classes are compared by themselves.
_BOOKKEEPING = re.compile(
    "^(transformers_version|_.*|.*dtype|use_cache|id2label|label2id|num_labels|problem_type"
    "|vocab_size|finetuning_task|task_specific_params|auto_map|return_dict|output_.*"
    "|.*drop.*|initializer_.*|gradient_checkpointing|torchscript|use_return_dict|is_decoder"
    "|add_cross_attention|chunk_size_.*|pruned_heads|tie_.*|attn_implementation|.*_loss_.*"
    "|classifier_.*|summary_.*)$"
)

# What transformers and mergekit count up to before they look at a tensor.
_COUNTS = (
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers"),
    *("decoder_layers", "num_labels"),
)
_MOST_LABELS, _HARMLESS = 1_000_000, 1_000


def require_same_settings(base: str, base_folder: Path, model: str, folder: Path) -> list[str]:
    """Refuse settings by which equal tensors mean something else; the others are told."""
    differing = differing_settings(base_folder, folder)
    for key, (expected, got) in differing.items():
        if _MEANING.search(key):
            raise CheckpointError(
                f"its config.json has other {key} than the base's ({base})",
                where=model,
                got=got,
                allowed=expected,
                fix="merge models of one architecture, fine-tuned from this base",
            )
    if not differing:
        return []
    told = [f"{key}: {got!r} for {expected!r}" for key, (expected, got) in differing.items()]
    return [f"{model}: its config.json differs from the base's, which is taken: {', '.join(told)}"]


def differing_settings(base_folder: Path, folder: Path) -> dict[str, tuple[Any, Any]]:
    """Key → the base's value and another model's, of settings by which tensors are used.

    Defaults that an old config.json leaves out are no difference.
    """
    stated, its = read_config(base_folder), read_config(folder)
    if _flat(stated) == _flat(its):  # parsing them takes ten times as long
        return {}
    settings, its = (
        _flat(_with_defaults(*pair)) for pair in ((base_folder, stated), (folder, its))
    )
    return {
        key: (settings.get(key), its.get(key))
        for key in sorted({*settings, *its})
        if settings.get(key) != its.get(key)
    }


def _with_defaults(folder: Path, stated: dict[str, Any]) -> dict[str, Any]:
    """A config.json as transformers reads it, where it is transformers' own."""
    text = self_contained(folder)
    parsed = None
    if text is not None:
        parsed = remembered("settings 1", text, lambda: parsed_config(folder))
    elif "auto_map" not in stated:
        parsed = parsed_config(folder)
    return {**(parsed or stated), "architectures": stated.get("architectures")}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What a configuration says about how tensors are used: parts beside each other, no nulls."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and key.endswith("_config"):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None and not _BOOKKEEPING.search(key):
            flat[prefix + key] = value
    return flat


def require_plausible(reader: Reader, config: dict[str, Any]) -> None:
    """A damaged number must not keep transformers and mergekit busy for hours."""
    count = len(reader.tensors)
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    for key, part in itertools.product(_COUNTS, parts):
        value = part.get(key)
        most = _MOST_LABELS if key == "num_labels" else max(count, _HARMLESS)
        if type(value) is int and value > most:
            raise CheckpointError(
                f"its config.json has a {key} that its {count} tensors cannot have",
                where=reader.name,
                got=value,
                fix=COPY_AGAIN,
            )


def require_same_labels(base: str, config: dict[str, Any], model: str, its: dict[str, Any]) -> None:
    """Class 0 of one model must not be class 1 of another."""
    labels = [each.get("id2label") or {} for each in (config, its)]
    for name, names in zip((base, model), labels, strict=True):
        if not isinstance(names, dict):
            raise CheckpointError(
                "the id2label of its config.json must be a mapping",
                where=name,
                got=names,
                fix=COPY_AGAIN,
            )
    named = [
        {str(key): str(name) for key, name in names.items() if not str(name).startswith("LABEL_")}
        for names in labels
    ]
    if all(named) and named[0] != named[1]:
        raise CheckpointError(
            f"its config.json names the classes otherwise than another model's ({base})",
            where=model,
            got=named[1],
            allowed=str(named[0]),
            fix="fine-tune every model with the same id2label",
        )
