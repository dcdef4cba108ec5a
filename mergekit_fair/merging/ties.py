"""Tensors that a configuration ties, and that a merge has told apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.folder import read_config, tensor_infos
from mergekit_fair.checkpoints.names import memory_names
from mergekit_fair.checkpoints.reader import Reader, are_equal, open_folder
from mergekit_fair.errors import CheckpointError

_KEY = "tie_word_embeddings"


def separate_ties(folder: Path) -> bool:
    """Set `tie_word_embeddings` to false where a merged model's two tensors differ.

    transformers reads one of two tied tensors for both: an output layer that was trained apart
    from the embedding would be lost without a word when the model is loaded.

    Args:
        folder: of the merged model, with its config.json and weights.

    Returns:
        Whether config.json was changed.

    Raises:
        CheckpointError: tensors that differ, and that another setting ties.
    """
    with closing(open_folder(folder, allow_pickle=True)) as reader:
        if _apart(reader, folder) is None:
            return False
        config = read_config(folder)
        config[_KEY] = False
        _untie(config)
        (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        pair = _apart(reader, folder)
    if pair is not None:
        raise CheckpointError(
            f"{pair[0]} and {pair[1]} are one tensor to transformers, but not in the merged model",
            where="the merged model",
            fix="merge models whose configuration does not tie them",
        )
    return True


def apart_in(models: Sequence[Path], base: Path) -> set[str]:
    """The tensors that models hold by themselves, and that their base ties to each other.

    Args:
        models: folders.
        base: the base of all of them.
    """
    groups = {*memory_names(base, ()).tied.values()} if models else set()
    apart: set[str] = set()
    for folder in models:
        tensors = tensor_infos(folder)
        in_file = memory_names(folder, tensors).in_file
        for group in groups:
            held = {in_file[name] for name in group if name in in_file}
            apart |= held if len(held) > 1 else set()
    return apart


def _apart(reader: Reader, folder: Path) -> tuple[str, str] | None:
    """Two tensors of a file that are tied and differ."""
    names = memory_names(folder, reader.tensors)
    for group in {*names.tied.values()}:
        stored = [names.in_file.get(name, name) for name in group]
        present = [name for name in stored if name in reader.tensors]
        for other in present[1:]:
            if not are_equal(reader, present[0], reader, other):
                return present[0], other
    return None


def _untie(config: dict[str, Any]) -> None:
    """In the parts of a multimodal configuration, too."""
    for key, value in config.items():
        if key == _KEY:
            config[key] = False
        elif isinstance(value, dict):
            _untie(value)
