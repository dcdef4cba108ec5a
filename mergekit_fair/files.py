"""Folders and files that appear complete or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from mergekit_fair.errors import ConfigError


@contextmanager
def staged_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A hidden sibling of `out`, flushed to disk and renamed to `out` when the block succeeds.

    A failed block leaves nothing behind. A killed one leaves the sibling, which the next call for
    the same `out` removes, or the old folder under a hidden name, which it puts back.

    Raises:
        ConfigError: `out` exists (as a file or link, or as a folder without `overwrite`), or
            another process is making it.
        OSError: the system's, with `out` as its place.
    """
    out = out if out.name not in ("", "..") else out.resolve()
    partial, old = (out.parent / f".{out.name}.{word}" for word in ("partial", "old"))
    with _parents(out), _placed(out):
        lock = _locked(out.parent / f".{out.name}.lock", out)
        try:
            _recover(partial, out, old)
            _require_free(out, overwrite=overwrite)
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


def _require_free(out: Path, *, overwrite: bool) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ConfigError("exists already and is no folder", where=out, fix="choose another folder")
    if out.exists() and not overwrite:
        raise ConfigError(
            "exists already", where=out, fix="choose another folder or pass --overwrite"
        )


@contextmanager
def _parents(out: Path) -> Iterator[None]:
    """Make the folders above `out`; a failed block takes away those that it made."""
    made = [folder for folder in out.parents if not os.path.lexists(folder)]
    try:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ConfigError(
                "is no folder, so that nothing can be made in it",
                where=out.parent,
                fix="choose another place for the output",
            ) from None
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):  # not made after all, or another process works in it
                folder.rmdir()
        raise


@contextmanager
def _placed(out: Path) -> Iterator[None]:
    """A failure of the system names `out`, not a hidden file or, as a full disk does, nothing."""
    try:
        yield
    except OSError as error:
        hidden = str(out.parent / f".{out.name}.")
        if error.errno is not None and str(error.filename or hidden).startswith(hidden):
            error.filename, error.filename2 = str(out), None
        raise


def lock_folder(folder: Path) -> TextIO:
    """Make `folder` and hold it for this process until the returned file is closed or it ends.

    Raises:
        ConfigError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return _locked(folder / ".lock", folder)


def _locked(file: Path, folder: Path) -> TextIO:
    lock = file.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(lock.fileno()), file.stat()):
            raise FileNotFoundError  # whoever held it has just removed it
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
    try:
        if out.exists():
            out.rename(old)
        partial.rename(out)
        _flush(out.parent)
    except BaseException:
        if not partial.exists():
            out.rename(partial)
        if old.is_dir():
            old.rename(out)
        raise
    _discard(old, partial)


def _recover(partial: Path, out: Path, old: Path) -> None:
    """What a killed process left: the old folder is put back or, if replaced, taken away."""
    shutil.rmtree(partial, ignore_errors=True)
    if old.is_dir() and not os.path.lexists(out):
        old.rename(out)
    _discard(old, partial)


def _discard(old: Path, partial: Path) -> None:
    """Under the name of `partial`, so that a folder named `old` is whole at all times."""
    if old.is_dir():
        with suppress(OSError):  # the next call tries again
            old.rename(partial)
            shutil.rmtree(partial, ignore_errors=True)


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
