"""Would transformers load these tensors whole? Asked without reading or allocating weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mergekit_fair.checkpoints.folder import read_config, tensor_infos
from mergekit_fair.checkpoints.headers import TensorInfo
from mergekit_fair.checkpoints.model_class import model_class
from mergekit_fair.checkpoints.reader import DTYPES
from mergekit_fair.errors import CheckpointError


def require_loadable(folder: Path, tensors: Mapping[str, TensorInfo]) -> bool:
    """Load the tensors as transformers would, on torch's `meta` device.

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
    with _quiet():
        try:
            _, info = kind.from_pretrained(
                None,
                config=config,
                state_dict=meta,
                device_map="meta",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except Exception as error:  # a config makes transformers raise almost anything
            is_told = isinstance(error, (RuntimeError, ValueError))
            reason = str(error).strip().splitlines()[0] if is_told else repr(error)
            raise _unfit(folder, reason) from None
    problems = [
        f"{len(info[key])} {word} {sorted(map(str, info[key]))[:3]}"
        for key, word in (
            ("missing_keys", "missing"),
            ("unexpected_keys", "unexpected"),
            ("mismatched_keys", "of another shape"),
        )
        if info[key]
    ]
    if problems:
        raise _unfit(folder, f"tensors: {', '.join(problems)}")
    return True


def _names_match(kind: Any, config: Any, tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether the architecture's own state dictionary has just these names and shapes.

    Most checkpoints do; where ties and renamings have to be followed, transformers' loader is
    asked, which takes four times as long for thousands of tensors.
    """
    try:
        with torch.device("meta"), _quiet():
            expected = kind(config).state_dict()
    except Exception:  # whatever a config makes an architecture raise, the loader will raise, too
        return False
    return expected.keys() == tensors.keys() and all(
        tuple(tensor.shape) == tensors[name].shape for name, tensor in expected.items()
    )


def require_complete(expected: set[str], base: object, folder: Path) -> None:
    """The output has the base's tensors, no more and no less.

    Raises:
        CheckpointError: names the first that are lost or new.
    """
    found = set(tensor_infos(folder))
    if expected != found:
        lost, new = sorted(expected - found), sorted(found - expected)
        raise CheckpointError(
            f"the merge lost {len(lost)} tensors {lost[:3]} and made {len(new)} new {new[:3]}",
            where=base,
            fix="report this architecture; nothing was written",
        )


def _unfit(folder: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"transformers does not load these tensors into the architecture of config.json whole "
        f"({problem})",
        where=folder,
        fix="load and save the model with transformers once, as the class that you use it with",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report and bar: what they say is raised here."""
    from transformers.utils import logging

    logger: Any = logging
    level, has_bar = logger.get_verbosity(), logger.is_progress_bar_enabled()
    logger.set_verbosity(logger.CRITICAL)
    logger.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.set_verbosity(level)
        if has_bar:
            logger.enable_progress_bar()
