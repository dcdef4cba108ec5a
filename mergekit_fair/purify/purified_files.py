"""A model's folder, copied, and single tensors written into the copy: the rest stays to the bit."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from mergekit_fair.checkpoints.file_kinds import deciding_files, is_weights
from mergekit_fair.checkpoints.folder import INDEX, inside, weight_files
from mergekit_fair.checkpoints.headers import Stored
from mergekit_fair.checkpoints.reader import DTYPES


def overwrite_tensor(stored: Stored, tensor: torch.Tensor) -> None:
    """Write a tensor where a file has one of this shape, in the dtype that it has there.

    Args:
        stored: its place, in a file of a folder that is being made.
        tensor: of any dtype and device.
    """
    rounded = tensor.to("cpu", DTYPES[stored.info.dtype]).contiguous()
    handle = os.open(stored.file, os.O_WRONLY)
    try:
        data, at = rounded.view(torch.uint8).numpy().tobytes(), stored.offset
        while data:
            done = os.pwrite(handle, data, at)
            data, at = data[done:], at + done
    finally:
        os.close(handle)


def copy_model(model: Path, target: Path) -> None:
    """Copy what decides a model's answers, without weights of other formats.

    Args:
        model: a folder with safetensors.
        target: another one, which may be there.

    Raises:
        CheckpointError: no such weights, or a link out of a downloaded model.
    """
    weights = {file.name for file in weight_files(model)}
    for path, file in deciding_files(model).items():
        is_other = "/" not in path and is_weights(path) and path not in weights
        if is_other or (path.endswith(".index.json") and path != INDEX):
            continue
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(inside(model, file), target / path)
