"""Which rows are the same row: a key of the input, by which rows are dealt and recognised."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import DataError

Keys = NDArray[np.uint64]


def row_key(content: bytes) -> int:
    """A row's identity wherever it stands: 64 bits, BLAKE2b of its input (RFC 7693).

    Two different inputs among n have one key with a probability of n²/2⁶⁵: 3e-8 for a million.

    Args:
        content: the rendered text in UTF-8, or the bytes of the picture's file.

    >>> f"{row_key(b'She is 41 years old.'):016x}"
    '02eae7b04000a22a'
    """
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def row_keys(inputs: Sequence[str], kind: Literal["text", "image"]) -> Keys:
    """The keys of inputs, uint64 (n,); reads every picture's file.

    Raises:
        DataError: a picture that cannot be read.
    """
    return text_keys(inputs) if kind == "text" else _keys(map(_picture, inputs))


def text_keys(texts: Iterable[str]) -> Keys:
    """The keys of texts, uint64 (n,)."""
    return _keys(text.encode("utf-8", "surrogatepass") for text in texts)


def places(keys: Keys, stream: str) -> NDArray[np.float64]:
    """Where rows stand in [0, 1), float64 (n,): uniform, and by the row's own key alone.

    Args:
        keys: uint64 (n,).
        stream: another name gives independent places.
    """
    distinct, inverse = np.unique(keys, return_inverse=True)
    digests = _keys(f"{stream} {key:016x}".encode() for key in distinct.tolist())
    # 53 bits are what a float holds: the largest is below 1.
    placed = (digests >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.asarray(placed[inverse.reshape(-1)])


def _keys(contents: Iterable[bytes]) -> Keys:
    return np.fromiter(map(row_key, contents), dtype=np.uint64)


def _picture(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from error
