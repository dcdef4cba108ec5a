"""The merged model: it has the base's tensors, and transformers loads all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mergekit_fair.checkpoints.folder import read_config
from mergekit_fair.checkpoints.headers import TensorInfo
from mergekit_fair.checkpoints.reader import DTYPES, open_folder
from mergekit_fair.compat.transformers import load_on_meta, model_class, quiet
from mergekit_fair.errors import CheckpointError, first_line


def require_loadable(folder: Path, tensors: Mapping[str, TensorInfo]) -> bool:
    """Load the tensors as transformers would, without reading or allocating weights.

    transformers initialises at random what it does not find, with a warning at most: a merge of
    such a checkpoint is not the model that its user thinks it is.

    Args:
        folder: with the config.json.
        tensors: of the merged model; its keys are the base's.

    Returns:
        False if the architecture is not transformers' own (remote code): nothing was checked.

    Raises:
        CheckpointError: tensors that are missing, left over or of another shape.
    """
    if "auto_map" in read_config(folder):
        return False
    config, kind = model_class(folder)
    if kind is None:
        return False
    if _names_match(kind, config, tensors):
        return True
    meta = {
        name: torch.empty(info.shape, dtype=DTYPES[info.dtype], device="meta")
        for name, info in tensors.items()
    }
    try:
        report = load_on_meta(kind, config, meta)
    except Exception as error:  # a config makes transformers raise almost anything
        is_told = isinstance(error, (RuntimeError, ValueError))
        raise _unfit(folder, first_line(error) if is_told else repr(error)) from error
    problems = [
        f"{len(report[key])} {word} {sorted(map(str, report[key]))[:3]}"
        for key, word in (
            ("missing_keys", "missing"),
            ("unexpected_keys", "unexpected"),
            ("mismatched_keys", "of another shape"),
        )
        if report[key]
    ]
    if problems:
        raise _unfit(folder, f"tensors: {', '.join(problems)}")
    return True


def require_complete(expected: set[str], base: object, folder: Path) -> None:
    """Check that the output has the base's tensors, no more and no less.

    Raises:
        CheckpointError: names the first that are lost or new.
    """
    reader = open_folder(folder, allow_pickle=True)
    written = set(reader.tensors)
    reader.close()
    if expected != written:
        lost, new = sorted(expected - written), sorted(written - expected)
        raise CheckpointError(
            f"the merge lost {len(lost)} tensors {lost[:3]} and made {len(new)} new {new[:3]}",
            where=base,
            fix="report this architecture; nothing was written",
        )


def _names_match(kind: Any, config: Any, tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether the architecture's own state dictionary has just these names and shapes.

    Most checkpoints do; where ties and renamings have to be followed, transformers' loader is
    asked, which takes four times as long for thousands of tensors.
    """
    try:
        with torch.device("meta"), quiet():
            expected = kind(config).state_dict()
    except Exception:  # whatever a config makes an architecture raise, the loader will raise, too
        return False
    return expected.keys() == tensors.keys() and all(
        tuple(tensor.shape) == tensors[name].shape for name, tensor in expected.items()
    )


def _unfit(folder: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"transformers does not load these tensors into the architecture of config.json whole "
        f"({problem})",
        where=folder,
        fix="load and save the model with transformers once, as the class that you use it with",
    )
