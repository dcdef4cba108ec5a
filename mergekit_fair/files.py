"""Folders and files that appear complete or not at all.

Everything that this package writes is written here, or into a folder that `staged_folder` gave.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mergekit_fair.errors import ConfigError
from mergekit_fair.escaping import is_seen

# Of a folder: the paths in it, with `/`, that whoever made it has recorded.
Known = Callable[[Path], Iterable[str]]

# What file managers leave in any folder.
_DROPPINGS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
# Bytes of a file's name that file systems take, less those of `.NAME.partial`.
_LONGEST_NAME = 240
_LARGEST_TEXT = 500_000_000  # bytes
# What the system says of a write, as libraries that are not Python pass it on.
_UNWRITTEN = (errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES)
_RUST = re.compile(r"os error (\d+)|code: (\d+)")
_TORCH = re.compile(r"PytorchStreamWriter|iostream error|unexpected pos")


def is_file_name(name: str) -> bool:
    r"""Whether a foreign name can be one file or folder, here and on other systems.

    >>> [is_file_name(name) for name in ("Female", "a/b", "..", "C:x", "a\nb", "")]
    [True, False, False, False, False, False]
    """
    if name != name.strip() or name.startswith((".", "-", "~")) or name.endswith("."):
        return False
    has_sign = any(letter in '/\\:*?"<>|' or not is_seen(letter) for letter in name)
    return bool(name) and not has_sign and len(name.encode()) <= _LONGEST_NAME


def is_special(path: str | Path) -> bool:
    """Whether it is there and neither file nor folder: a pipe or device waits, or never ends."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def text_of(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        OSError: the system's, or that it is a pipe or a device, or too large.
        UnicodeDecodeError: it is no text.
    """
    if is_special(path):
        raise OSError(errno.EINVAL, "it is a pipe or a device", str(path))
    if path.stat().st_size > _LARGEST_TEXT:
        raise OSError(errno.EFBIG, "it is larger than any such file should be", str(path))
    return path.read_text(encoding="utf-8")


def is_within(path: Path, folder: Path) -> bool:
    """Whether a path lies in a folder, links followed."""
    return path.resolve().is_relative_to(folder.resolve())


def _nothing(folder: Path) -> Iterable[str]:
    del folder
    return ()


@contextmanager
def staged_folder(out: Path, *, overwrite: bool = False, known: Known = _nothing) -> Iterator[Path]:
    """A hidden sibling of `out`, flushed to disk and renamed to `out` when the block succeeds.

    A failed block leaves nothing behind. A killed one leaves the sibling, which the next call for
    the same `out` removes, or the old folder under a hidden name, which it puts back.

    Args:
        out: the folder.
        overwrite: replace it, if it is empty or holds nothing but what `known` accounts for.
        known: what may be replaced.

    Raises:
        ConfigError: `out` exists (as a file or link, as a folder without `overwrite`, or with
            something else in it), or another process is making it.
        OSError: the system's, with `out` as its place.
    """
    out = out if out.name not in ("", "..") else out.resolve()
    partial, old = (out.parent / f".{out.name}.{word}" for word in ("partial", "old"))
    with made_folder(out.parent), placed(out):
        lock = _locked(out.parent / f".{out.name}.lock", out)
        try:
            _recover(partial, out, old)
            _require_free(out, overwrite=overwrite, known=known)
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


def _require_free(out: Path, *, overwrite: bool, known: Known) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ConfigError(
            "exists already and is not a folder", where=out, fix="choose another folder"
        )
    if not out.exists():
        return
    if not overwrite:
        raise ConfigError(
            "exists already", where=out, fix="choose another folder or pass --overwrite"
        )
    accounted = set(known(out))
    foreign = sorted(name for name in contents(out) if name not in accounted)
    if foreign:
        raise ConfigError(
            f"holds {len(foreign)} files that no run of this command has recorded, and they would "
            "be lost",
            where=out,
            got=foreign[:5],
            fix="choose another folder, or move them away yourself",
        )


def contents(folder: Path) -> list[str]:
    """The paths below a folder, with `/`: files, and links to folders, which are not followed."""
    found: list[str] = []
    for top, folders, files in os.walk(folder):
        paths = [Path(top, name) for name in files if name not in _DROPPINGS]
        paths += [path for name in folders if (path := Path(top, name)).is_symlink()]
        found += [path.relative_to(folder).as_posix() for path in paths]
    return found


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder and those above; a failed block takes away those that it made, if empty.

    Raises:
        ConfigError: a file is in its place.
    """
    missing = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(
                "is not a folder, so that nothing can be made in it",
                where=folder,
                fix="choose another place for the output",
            ) from error
        yield
    except BaseException:
        _remove_empty(missing)
        raise


def require_writable(folder: Path) -> None:
    """Before long work: its results can be written into this folder, which exists.

    Raises:
        OSError: they cannot; names the folder.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        error.filename = str(folder)
        raise


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # not made after all, or something is in it
            folder.rmdir()


@contextmanager
def placed(out: Path) -> Iterator[None]:
    """A failure of the system names `out`, not a hidden file or, as a full disk does, nothing.

    safetensors and torch say in words of their own that they could not write.
    """
    try:
        yield
    except OSError as error:
        # filelock names the whole path of what it was given by a relative one.
        hidden = os.path.normpath(out.parent.absolute() / f".{out.name}.")
        path = os.path.normpath(Path(error.filename or hidden).absolute())
        if error.errno is not None and path.startswith(hidden):
            error.filename, error.filename2 = str(out), None
        raise
    except Exception as error:
        number = _unwritten(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(out)) from error


def _unwritten(error: Exception) -> int | None:
    """The system's number of why a library could not write."""
    if type(error).__name__ == "SafetensorError" and (said := _RUST.search(str(error))):
        number = int(said[1] or said[2])
        return number if number in _UNWRITTEN else None
    is_torch = isinstance(error, RuntimeError) and _TORCH.search(str(error))
    return errno.ENOSPC if is_torch else None


def lock_folder(folder: Path) -> ExitStack:
    """Make `folder` and hold it for this process until the result is closed or the process ends.

    If nothing is in it then, it is taken away again.

    Raises:
        ConfigError: another process holds it.
    """
    missing = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    with ExitStack() as held:
        held.callback(_remove_empty, missing)
        with made_folder(folder):
            held.callback(_unlock, _locked(folder / ".lock", folder))
        return held.pop_all()


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
    """Write a file so that readers see the old content or all of the new one.

    Raises:
        OSError: the system's, with `path` as its place; the old content is still there.
    """
    write_together({path: data})


def write_together(files: Mapping[Path, bytes | str]) -> None:
    """The same for files that belong together: none appears before all are on the disk.

    Raises:
        OSError: the system's, with the file as its place; all have their old content.
    """
    partials = {path: path.with_name(f".{path.name}.partial") for path in files}
    try:
        for path, data in files.items():
            content = data.encode("utf-8") if isinstance(data, str) else data
            with placed(path):
                partials[path].unlink(
                    missing_ok=True
                )  # of a killed process; a link is not followed
                with partials[path].open("xb") as stream:
                    stream.write(content)
                _flush(partials[path])
        for path, partial in partials.items():
            with placed(path):
                partial.replace(path)
    except BaseException:
        for partial in partials.values():
            with suppress(OSError):
                partial.unlink()
        raise


def beside(name: str, file: str | Path, where: object) -> str:
    """A relative path that a file holds: from the working directory, as in mergekit, or from there.

    Args:
        name: of a file or folder.
        file: that holds it.
        where: file and key, for the error.

    Returns:
        `name` if that is there from the working directory, or nowhere; else the path that begins
        beside the file.

    Raises:
        ConfigError: there are two different ones.
    """
    path, there = Path(name), Path(file).parent / name
    if not name or name.startswith("~") or path.is_absolute() or not there.exists():
        return name
    if not path.exists():
        return os.path.normpath(there)
    if not path.samefile(there):
        raise ConfigError(
            "stands for two: one in the working directory and one beside this file",
            where=where,
            got=name,
            allowed=[str(path.absolute()), str(there.absolute())],
            fix="write the one that is meant as an absolute path",
        )
    return name


def require_no_other(files: Mapping[Path, str], *, overwrite: bool = False) -> None:
    """Check that none of the files is there with another content, which writing them would lose.

    Raises:
        ConfigError: one is.
    """
    for path, text in files.items():
        if overwrite or not os.path.lexists(path):
            continue
        if not path.is_file() or path.read_bytes() != text.encode("utf-8"):
            raise ConfigError(
                "exists already, with another content",
                where=path,
                fix="choose another place, or move it away",
            )


def write_cached(path: Path, data: bytes | str) -> None:
    """The same for a file of a cache, which several processes may write at a time."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        fresh = Path(folder) / path.name
        fresh.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
        _flush(fresh)
        fresh.replace(path)


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
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
