"""How files of weights lie on the disk: read in order, written past the page cache, shared."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from mergekit_fair.errors import ConfigError

_CLONE = 0x40049409  # FICLONE of Linux; other systems refuse it


def flush_data(handle: int) -> None:
    """Have the system write a file's content to the disk; macOS has no `fdatasync`."""
    getattr(os, "fdatasync", os.fsync)(handle)


def opened_in_order(file: Path) -> int:
    """A handle for reading a file from front to back, by several threads at once.

    Where the system takes advice it reads further ahead: it would guess from reads that come out
    of turn that there is no order in them.

    Raises:
        OSError: it cannot be read.
    """
    handle = os.open(file, os.O_RDONLY)
    if hasattr(os, "posix_fadvise"):  # not on macOS
        with suppress(OSError):  # advice alone
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    return handle


def set_direct(handle: int, wanted: bool) -> bool:
    """Have writes to an open file pass by the page cache, or not, where system and disk can.

    Returns:
        Whether they do now. They then need aligned memory, places and lengths.
    """
    flag = getattr(os, "O_DIRECT", 0)  # Linux
    if not flag:
        return False
    import fcntl

    now = fcntl.fcntl(handle, fcntl.F_GETFL)
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, now | flag if wanted else now & ~flag)
    except OSError:  # some file systems have no such writes
        return False
    return wanted


class Sharing(StrEnum):
    """How a file comes to lie in a second place.

    `clone`: the two share what is on the disk until one is changed (btrfs, XFS). `link`: one file
    with two names, which is made read-only, as a change in one place is a change in the other.
    `copy`: the bytes are written twice.
    """

    CLONE = "clone"
    LINK = "link"
    COPY = "copy"


def sharing_in(folder: Path, *, hard_links: bool) -> Sharing:
    """The best way of the file system that a folder is on; links only if they are wanted.

    Raises:
        ConfigError: links are wanted, and the file system has neither them nor clones.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        first = Path(scratch) / "first"
        first.write_bytes(bytes(4096))
        for way in (Sharing.CLONE, Sharing.LINK) if hard_links else (Sharing.CLONE,):
            try:
                share_file(first, Path(scratch) / way, way)
            except OSError:
                continue
            return way
    if hard_links:
        raise ConfigError(
            "the file system has no hard links", where=folder.parent, fix="leave out --hard-links"
        )
    return Sharing.COPY


def share_file(source: Path, target: Path, way: Sharing) -> None:
    """Put a file in a second place on the same file system, as a clone or a link.

    Raises:
        OSError: `target` is there, or the file system cannot.
    """
    if way == Sharing.LINK:
        os.link(source, target)
        source.chmod(0o444)
        return
    import fcntl

    with source.open("rb") as whole, target.open("xb") as stream:
        fcntl.ioctl(stream.fileno(), _CLONE, whole.fileno())
