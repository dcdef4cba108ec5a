"""Whether a base is the one that an adapter was trained on."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import torch

from mergekit_fair.checkpoints.adapter_config import CONFIG
from mergekit_fair.checkpoints.reader import Buffer, Reader, open_folder
from mergekit_fair.errors import CheckpointError

# Elements of each tensor by which a base is told from another.
_SAMPLE = 4096


def require_base(
    adapter: Path, named: str, base: Reader, base_folder: Path, names: Iterable[str]
) -> None:
    """Check the base that an adapter names, if it is still there: it, or a copy, has to be given.

    A name of the Hub, and a folder that is gone, say nothing here.

    Args:
        adapter: its folder.
        named: `base_model_name_or_path` of its adapter_config.json.
        base: the one that is given.
        base_folder: where that lies.
        names: of the tensors that the adapter changes.

    Raises:
        CheckpointError: names the tensor that has other numbers there.
    """
    try:
        if not Path(named).is_dir() or Path(named).samefile(base_folder):
            return
        reader = open_folder(named)
    except (OSError, ValueError, CheckpointError):
        return
    with closing(reader):
        name = next((name for name in names if not _is_alike(base, reader, name)), None)
    if name is not None:
        raise CheckpointError(
            f"was trained on another base than the one given ({base.name}), whose {name} has other "
            "numbers",
            where=adapter,
            got=named,
            fix=f"write {named}+{adapter} if that is its base, or correct "
            f"base_model_name_or_path in its {CONFIG}",
        )


def _is_alike(base: Reader, other: Reader, name: str) -> bool:
    """Whether a tensor begins alike in both, in the narrower dtype; true if the other has none."""
    mine, theirs = base.tensors[name], other.tensors.get(name)
    if theirs is None or theirs.shape != mine.shape:
        return theirs is None
    stop = min(mine.count, _SAMPLE)
    one = base.read(name, 0, stop, Buffer(stop * 8))
    two = other.read(name, 0, stop, Buffer(stop * 8))
    narrow = min(one.dtype, two.dtype, key=lambda dtype: dtype.itemsize)
    return torch.equal(one.cpu().to(narrow), two.cpu().to(narrow))
