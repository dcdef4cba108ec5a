"""What decides a model's answers, as text that can be compared: weights, tokenizer, options."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.folder import digest_of

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


def tokenizer_identity(tokenizer: Any) -> str:
    """A digest of what a tokenizer does, as it was loaded."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # A call leaves its truncation and padding behind; every call sets them anew.
        whole = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    else:
        whole = {"class": type(tokenizer).__qualname__, "vocabulary": tokenizer.get_vocab()}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def options_identity(options: dict[str, Any], defaults: dict[str, Any]) -> dict[str, str]:
    """Name → value as text, for options that were given a value of their own."""
    return {
        name: json.dumps(value, sort_keys=True, default=repr)
        for name, value in sorted(options.items())
        if name not in defaults or value != defaults[name]
    }
