"""Folders and files that appear complete or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mergekit_fair.errors import ConfigError


@contextmanager
def staged_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A hidden sibling of `out`, flushed to disk and renamed to `out` when the block succeeds.

    A failed block leaves nothing behind; a killed one leaves the sibling, which the next call for
    the same `out` removes.

    Raises:
        ConfigError: `out` exists (as a file, or as a folder without `overwrite`).
    """
    if out.exists() and (not overwrite or not out.is_dir()):
        raise ConfigError(
            "exists already", where=out, fix="choose another folder or pass --overwrite"
        )
    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in sorted(partial.rglob("*")):
            if path.is_file():
                _flush(path)
        _replace_folder(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def lock_folder(folder: Path) -> TextIO:
    """Make `folder` and hold it for this process until the returned file is closed or it ends.

    Raises:
        ConfigError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise ConfigError(
            "another process is working in this folder",
            where=folder,
            fix="wait for it, or choose another folder with -o",
        ) from None
    return lock


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that readers see the old content or all of the new one."""
    content = data.encode("utf-8") if isinstance(data, str) else data
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    _flush(partial)
    partial.replace(path)


def _replace_folder(partial: Path, out: Path) -> None:
    if out.exists():
        old = out.parent / f".{out.name}.old"
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
        partial.rename(out)
        shutil.rmtree(old)
    else:
        partial.rename(out)


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
