"""The merged model: it has the base's tensors, and transformers loads all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from mergekit_fair.checkpoints.folder import read_config, self_contained
from mergekit_fair.checkpoints.headers import TensorInfo, described
from mergekit_fair.checkpoints.layout import Layout
from mergekit_fair.checkpoints.reader import DTYPES, open_folder
from mergekit_fair.compat.remembered import remembered
from mergekit_fair.compat.transformers import load_on_meta, model_class, quiet
from mergekit_fair.errors import CheckpointError, first_line


def require_loadable(
    folder: Path, tensors: Mapping[str, TensorInfo], layout: Layout
) -> list[str] | None:
    """Check that transformers loads the tensors, without reading or allocating weights.

    transformers initialises at random what it does not find, with a warning at most: a merge of
    such a checkpoint is not the model that its user thinks it is. What transformers leaves out is
    no fault, unless it is a layer that config.json does not count.

    Args:
        folder: with the config.json.
        tensors: of the merged model; its keys are the base's.
        layout: of the base.

    Returns:
        The tensors that transformers leaves out; None if the architecture is not its own (remote
        code): nothing was checked.

    Raises:
        CheckpointError: tensors that are missing, left over or of another shape.
    """
    config = self_contained(folder)
    about = None if config is None else [config, described(tensors)]
    left_out: list[str] | None = remembered(
        "loads 1", about, lambda: _left_out(folder, tensors, layout)
    )
    return left_out


def _left_out(folder: Path, tensors: Mapping[str, TensorInfo], layout: Layout) -> list[str] | None:
    problems = load_problems(folder, tensors)
    if problems is None:
        return None
    left_out = []
    if problems["unexpected"]:
        left_out = layout.left_out(tensors)
        problems["unexpected"] = [
            name
            for name, at in layout.loaded(tensors).items()
            if at is None and name not in left_out
        ]
    if any(problems.values()):
        raise _unfit(folder, problems)
    return left_out


def unloaded(base: str, names: Sequence[str]) -> list[str]:
    """A note on tensors that are merged, and that transformers will not load."""
    if not names:
        return []
    listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return [f"{base}: transformers does not load {len(names)} of its tensors: {listed}"]


def require_loadable_result(base: Path, folder: Path) -> None:
    """Check that a merge by mergekit lost nothing: what of the base loads, loads of the result.

    Args:
        base: the folder of the base.
        folder: the merged model.

    Raises:
        CheckpointError: tensors that transformers would make at random.
    """
    with closing(open_folder(folder, allow_pickle=True)) as reader:
        problems = load_problems(folder, reader.tensors)
    if problems is None or not (problems["missing"] or problems["reshaped"]):
        return
    with closing(open_folder(base, allow_pickle=True)) as reader:
        before = load_problems(base, reader.tensors) or {}
    lost = {
        kind: [name for name in problems[kind] if name not in before.get(kind, ())]
        for kind in ("missing", "reshaped")
    }
    if any(lost.values()):
        raise _unfit(folder, lost)


def load_problems(folder: Path, tensors: Mapping[str, TensorInfo]) -> dict[str, list[str]] | None:
    """What transformers reports of these tensors; None if the architecture is not its own.

    Returns:
        `missing`, `unexpected`, `reshaped` → names.

    Raises:
        CheckpointError: a configuration that transformers does not take.
    """
    problems: dict[str, list[str]] = {"missing": [], "unexpected": [], "reshaped": []}
    if "auto_map" in read_config(folder):
        return None
    config, kind = model_class(folder)
    if kind is None:
        return None
    if _names_match(kind, config, tensors):
        return problems
    meta = {
        name: torch.empty(info.shape, dtype=DTYPES[info.dtype], device="meta")
        for name, info in tensors.items()
    }
    try:
        report = load_on_meta(kind, config, meta)
    except Exception as error:  # a config makes transformers raise almost anything
        is_told = isinstance(error, (RuntimeError, ValueError))
        raise _unfit(folder, first_line(error) if is_told else repr(error)) from error
    for key, word in (
        ("missing_keys", "missing"),
        ("unexpected_keys", "unexpected"),
        ("mismatched_keys", "reshaped"),
    ):
        problems[word] = sorted(map(_name, report[key]))
    return problems


def require_complete(expected: set[str], base: object, folder: Path) -> None:
    """Check that the output has the tensors that were planned, no more and no less.

    Raises:
        CheckpointError: names the first that are lost or new.
    """
    with closing(open_folder(folder, allow_pickle=True)) as reader:
        written = set(reader.tensors)
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


def _name(key: Any) -> str:
    """Of a key of transformers' report, which has shapes beside mismatched names."""
    return str(key[0]) if isinstance(key, tuple) else str(key)


def _unfit(folder: Path, problem: str | Mapping[str, Sequence[str]]) -> CheckpointError:
    if not isinstance(problem, str):
        parts = [
            f"{len(names)} {word} {list(names)[:3]}" for word, names in problem.items() if names
        ]
        problem = f"tensors: {', '.join(parts)}"
    return CheckpointError(
        f"transformers does not load these tensors into the architecture of config.json whole "
        f"({problem})",
        where=folder,
        fix="load and save the model with transformers once, as the class that you use it with",
    )
