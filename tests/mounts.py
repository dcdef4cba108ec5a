"""File systems of other kinds and sizes, really mounted; skips where nothing may be mounted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal"],
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q"],
}


@contextmanager
def mounted(folder: Path, kind: str, megabytes: int) -> Iterator[Path]:
    """A folder on a file system of that size: `tmpfs`, or a kind of disk in a sparse file."""
    place, image = folder / "disk", folder / "image"
    place.mkdir()
    if kind == "tmpfs":
        commands = [["mount", "-t", "tmpfs", "-o", f"size={megabytes}M", "tmpfs", str(place)]]
    else:
        image.touch()
        os.truncate(image, megabytes << 20)
        commands = [[*_MAKE[kind], str(image)], ["mount", "-o", "loop", str(image), str(place)]]
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            pytest.skip(f"no {error.filename}")
        if done.returncode:
            pytest.skip(f"{command[0]}: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
