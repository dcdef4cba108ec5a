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

    A failed block leaves nothing behind. A killed one leaves the sibling, which the next call for
    the same `out` removes, or the old folder under a hidden name, which it puts back.

    Raises:
        ConfigError: `out` exists (as a file, or as a folder without `overwrite`), or another
            process is making it.
    """
    partial, old = (out.parent / f".{out.name}.{word}" for word in ("partial", "old"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(
            "is no folder, so that nothing can be made in it",
            where=out.parent,
            fix="choose another place for the output",
        ) from None
    lock = _locked(out.parent / f".{out.name}.lock", out)
    try:
        if old.is_dir() and not out.exists():
            old.rename(out)
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)
        if os.path.lexists(out) and (not overwrite or not out.is_dir()):
            raise ConfigError(
                "exists already", where=out, fix="choose another folder or pass --overwrite"
            )
        partial.mkdir()
        try:
            yield partial
            _flush_tree(partial)
            _replace_folder(partial, out, old)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        _unlock(lock)


def lock_folder(folder: Path) -> TextIO:
    """Make `folder` and hold it for this process until the returned file is closed or it ends.

    Raises:
        ConfigError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return _locked(folder / ".lock", folder)


def _locked(file: Path, folder: Path) -> TextIO:
    lock = file.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise ConfigError(
            "another process is working in this folder",
            where=folder,
            fix="wait for it, or choose another folder",
        ) from None
    return lock


def _unlock(lock: TextIO) -> None:
    """Remove the lock's file while it is still held: a waiting process fails and says so."""
    Path(lock.name).unlink(missing_ok=True)
    lock.close()


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that readers see the old content or all of the new one."""
    content = data.encode("utf-8") if isinstance(data, str) else data
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    _flush(partial)
    partial.replace(path)


def _replace_folder(partial: Path, out: Path, old: Path) -> None:
    """Between the renames there is no `out`: whoever comes next finds `old` and puts it back."""
    if out.exists():
        out.rename(old)
    partial.rename(out)
    _flush(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush_tree(folder: Path) -> None:
    """Files first, then the folders that name them, the deepest first."""
    paths = sorted(folder.rglob("*"), reverse=True)
    for path in [*(p for p in paths if p.is_file()), *(p for p in paths if p.is_dir()), folder]:
        _flush(path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
