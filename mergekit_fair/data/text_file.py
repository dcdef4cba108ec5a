"""A text file as lines: compressed or not, in any encoding, and never read in the wrong one."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

from mergekit_fair.errors import DataError

# Marks at a file's beginning and the codecs that take them off; UTF-32 before UTF-16, which its
# little-endian mark begins with.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What a line that is not UTF-8 is tried as, for the error's advice.
LIKELY = ("cp1252", "cp1250", "cp1251", "gb18030", "cp932", "cp949")
# Characters beyond ASCII that are valid UTF-8 by chance in a text of a codec of several bytes a
# character: about one pair in six is, so ten in a row are none.
BY_CHANCE = 10

DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile)


@contextmanager
def open_text(path: Path, encoding: str | None) -> Iterator[TextIO]:
    """The file's text; lines keep the ends that they are written with.

    A mark of UTF-8, UTF-16 or UTF-32 at the beginning decides; else `encoding`, else UTF-8. gzip,
    bzip2, xz and zip (of one file) are known by their content.

    Raises:
        DataError: not that encoding, damaged, or an archive of several files; also while reading.
        OSError: it cannot be opened.
    """
    with ExitStack() as stack:
        try:
            binary = _open_binary(path, stack)
            codec = _codec(path, binary, encoding)
            yield io.TextIOWrapper(binary, encoding=codec, newline="")
        except DAMAGED as error:
            raise DataError(
                f"is damaged or cut off ({error})", where=path, fix="copy it again"
            ) from error
        except UnicodeError as error:
            raise _undecodable(path, codec, encoding, error) from error


def _open_binary(path: Path, stack: ExitStack) -> Any:
    """The bytes that are inside, at their beginning; they can be read again from there."""
    file = stack.enter_context(path.open("rb"))
    head = file.read(10)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return stack.enter_context(gzip.open(file))
    if head.startswith(b"BZh") and head[4:] == b"1AY&SY":
        return stack.enter_context(bz2.open(file))
    if head.startswith(b"\xfd7zXZ\0"):
        return stack.enter_context(lzma.open(file))
    if head.startswith(b"PK\x03\x04"):
        archive = stack.enter_context(zipfile.ZipFile(file))
        return stack.enter_context(_only_member(path, archive))
    return file


def _only_member(path: Path, archive: zipfile.ZipFile) -> IO[bytes]:
    names = [
        info.filename
        for info in archive.infolist()
        if not info.is_dir() and not info.filename.startswith("__MACOSX/")
    ]
    if len(names) != 1:
        raise DataError(
            f"is an archive of {len(names)} files", where=path, fix="unpack it, and name one file"
        )
    try:
        return archive.open(names[0])
    except (RuntimeError, NotImplementedError) as error:  # encrypted; another compression
        raise DataError(f"cannot be unpacked ({error})", where=path, fix="unpack it") from error


def _codec(path: Path, binary: IO[bytes], encoding: str | None) -> str:
    head = binary.read(4)
    binary.seek(0)
    marked = next((codec for mark, codec in MARKS if head.startswith(mark)), None)
    if marked and encoding and not _name(encoding).startswith(marked.removesuffix("-sig")):
        raise DataError(
            f"begins with the mark of {marked.removesuffix('-sig').upper()}",
            where=path,
            got=f"encoding: {encoding}",
            fix="leave `encoding` out",
        )
    if encoding and not marked and not _name(encoding).startswith("utf"):
        _refuse_utf8(path, binary, encoding)
    return marked or encoding or "utf-8"


def _name(encoding: str) -> str:
    return codecs.lookup(encoding).name


def _refuse_utf8(path: Path, binary: IO[bytes], encoding: str) -> None:
    """Refuse a UTF-8 file that shall be read in another encoding: each letter would become two."""
    beyond = 0
    try:
        for line in binary:
            if not line.isascii():
                beyond += sum(ord(letter) > 127 for letter in line.decode("utf-8"))
    except UnicodeError:
        return
    finally:
        binary.seek(0)
    if beyond >= (1 if _is_of_single_bytes(encoding) else BY_CHANCE):
        raise DataError(
            f"is UTF-8 ({beyond} letters beyond ASCII, all of them valid)",
            where=path,
            got=f"encoding: {encoding}",
            fix="leave `encoding` out",
        )


def _is_of_single_bytes(encoding: str) -> bool:
    return len(bytes(range(128, 256)).decode(encoding, errors="replace")) == 128


def _undecodable(path: Path, codec: str, encoding: str | None, error: UnicodeError) -> DataError:
    """The first line that is not of the codec, and what others would make of it."""
    reason, fix = getattr(error, "reason", str(error)), "write its `encoding`"
    # Bytes are not cut into lines where a letter has two or four of them.
    wide = _name(codec).startswith(("utf-16", "utf-32"))
    fix += ", such as utf-8, utf-16-le or utf-16-be" * wide
    with ExitStack() as stack:
        for number, line in enumerate(() if wide else _open_binary(path, stack), start=1):
            try:
                line.decode(codec)
            except UnicodeDecodeError as problem:
                reason = f"{problem.reason} in line {number}"
                if readings := "; ".join(_readings(line, problem.start)):
                    fix += f", for example {readings}"
                break
    return DataError(
        f"is not {codec.removesuffix('-sig').upper()} ({reason})",
        where=path,
        got=f"encoding: {encoding}" if encoding else None,
        fix=fix,
    )


def _readings(line: bytes, start: int) -> Iterator[str]:
    """What likely codecs make of the letters around a byte, each text once."""
    seen = set()
    for codec in LIKELY:
        try:
            at = len(line[:start].decode(codec))
            text = line.decode(codec)[max(0, at - 12) : at + 12].strip()
        except UnicodeError:
            continue
        if text not in seen:
            seen.add(text)
            yield f"{codec} reads {text!r}"
