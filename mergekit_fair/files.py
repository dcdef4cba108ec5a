"""Folders and files that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

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
        raise ConfigError(
            "exists already and is not a folder", where=out, fix="choose another folder"
        )
    if out.exists() and not overwrite:
        raise ConfigError(
            "exists already", where=out, fix="choose another folder or pass --overwrite"
        )


@contextmanager
def _parents(out: Path) -> Iterator[None]:
    """Make the folders above `out`; a failed block takes away those that it made."""
    missing = [folder for folder in out.parents if not os.path.lexists(folder)]
    try:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(
                "is not a folder, so that nothing can be made in it",
                where=out.parent,
                fix="choose another place for the output",
            ) from error
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # not made after all, or another process works in it
                folder.rmdir()
        raise


@contextmanager
def _placed(out: Path) -> Iterator[None]:
    """A failure of the system names `out`, not a hidden file or, as a full disk does, nothing."""
    try:
        yield
    except OSError as error:
        # filelock names the whole path of what it was given by a relative one.
        hidden = os.path.normpath(out.parent.absolute() / f".{out.name}.")
        path = os.path.normpath(Path(error.filename or hidden).absolute())
        if error.errno is not None and path.startswith(hidden):
            error.filename, error.filename2 = str(out), None
        raise


def lock_folder(folder: Path) -> ExitStack:
    """Make `folder` and hold it for this process until the result is closed or the process ends.

    Raises:
        ConfigError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, held = _locked(folder / ".lock", folder), ExitStack()
    held.callback(lock.release)
    return held


def _locked(file: Path, folder: Path) -> FileLock:
    """Held by the system, not by the file's being there: a killed process leaves no lock."""
    lock = FileLock(file, timeout=0)
    try:
        try:
            lock.acquire()
        except Timeout:
            # filelock also waits where no file can be made: the system says why, if that is so.
            with tempfile.TemporaryFile(prefix=f"{file.name}.", dir=file.parent):
                raise
        if not file.exists():  # whoever held it has just removed it
            lock.release()
            raise Timeout(str(file))
    except Timeout as error:
        raise ConfigError(
            "another process is working in this folder",
            where=folder,
            fix="wait for it, or choose another folder",
        ) from error
    return lock


def _unlock(lock: FileLock) -> None:
    """Remove the lock's file while it is still held: a waiting process fails and says so."""
    with suppress(OSError):  # Windows keeps files that are open
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def cache_folder(name: str) -> Path:
    """A folder for what can be made again: in $MERGEKIT_FAIR_CACHE, else in the user's cache."""
    if folder := os.environ.get("MERGEKIT_FAIR_CACHE"):
        return Path(folder).expanduser() / name
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "mergekit-fair" / name


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


def flush_data(handle: int) -> None:
    """Have the system write a file's content to the disk; macOS has no `fdatasync`."""
    getattr(os, "fdatasync", os.fsync)(handle)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
