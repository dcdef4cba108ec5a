"""lm-eval's `--use_cache` is keyed by the prompt alone; here it is tied to one model.

Without a guard, a second model is silently given the first one's answers. A model's identity is
everything that decides its answers, as text that can be compared: weights, tokenizer, options.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.folder import digest_of
from mergekit_fair.errors import ConfigError

# Beside the answers, whose keys are digests in hexadecimal.
KEY = "mergekit-fair:model"

_FIX = "give --use_cache another path, or delete this file"


def tie_cache(cache: Any, name: str, identity: Mapping[str, object]) -> None:
    """Write whose answers an empty cache will hold, or check that they are this model's.

    Args:
        cache: lm-eval's SqliteDict, key → answer; None where there is no cache.
        name: of the model, for messages.
        identity: everything that decides its answers.

    Raises:
        ConfigError: the cache holds answers of another model, of one with other options, or of a
            model that nobody knows.
    """
    if cache is None:
        return
    where = f"--use_cache {getattr(cache, 'filename', '')}".strip()
    known = cache.get(KEY)
    if known is None:
        if len(cache):
            raise ConfigError(
                "this cache holds answers, and nothing says of which model", where=where, fix=_FIX
            )
        cache[KEY] = {"name": name, "identity": dict(identity)}
        cache.commit()
        return
    before = known["identity"]
    names = sorted({*before, *identity})
    differing = [key for key in names if before.get(key) != identity.get(key)]
    if differing:
        raise ConfigError(
            f"this cache holds answers of another model, or of one with other options "
            f"({known['name']}; not the same: {', '.join(differing)})",
            where=where,
            got=name,
            fix=_FIX,
        )


def require_key(holds: bool, what: str, where: str) -> None:
    """The prompt, which is the cache's key, decides the answer.

    Args:
        holds: whether it does.
        what: the model looks at, in place of the prompt.
        where: the task.

    Raises:
        ConfigError: it does not: other documents would be given this one's answer.
    """
    if not holds:
        raise ConfigError(
            f"--use_cache finds answers by the prompt, which does not hold the document's {what}",
            where=where,
            fix=f"leave --use_cache out, or let the task's prompt hold the {what}",
        )


# Files of a model folder that change answers: weights, configuration, tokenizer, processor.
_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".gguf", ".json", ".txt", ".model", ".py"})


def source_identity(source: str, revision: object = None, commit: object = None) -> str:
    """A digest of a folder's files (names, sizes, times of change, headers), or a name and commit.

    Args:
        source: a folder, or a name on the Hub.
        revision: of the name.
        commit: what the revision stood for, where it is known.
    """
    folder = Path(source)
    if folder.is_dir():
        files = (path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())
        return digest_of(sorted(files))
    return f"{source}@{commit or revision}"


def model_identity(model: Any) -> str:
    """A digest of a model in memory: its class, its configuration and every tensor."""
    import torch

    config = model.config.to_dict() if hasattr(model, "config") else {}
    # A model without a padding token is given one when it is used.
    config.pop("pad_token_id", None)
    digest = hashlib.sha256(type(model).__qualname__.encode())
    digest.update(json.dumps(config, sort_keys=True, default=repr).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def options_identity(options: dict[str, Any], defaults: dict[str, Any]) -> dict[str, str]:
    """Name → value as text, for options that were given a value of their own."""
    return {
        name: json.dumps(value, sort_keys=True, default=repr)
        for name, value in sorted(options.items())
        if name not in defaults or value != defaults[name]
    }
