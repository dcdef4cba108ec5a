"""What a model is: the SHA-256 of every file that decides its answers, and one digest of them all.

The digest is that of the text `sha256sum` prints for these files, sorted by name, so that it can
be checked without this package.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import xxhash

from mergekit_fair.checkpoints.file_kinds import deciding_files, json_of
from mergekit_fair.checkpoints.folder import inside
from mergekit_fair.checkpoints.headers import unreadable
from mergekit_fair.errors import CheckpointError
from mergekit_fair.files import cache_folder, write_atomic
from mergekit_fair.progress import Progress, Silent, bar

State = tuple[int, ...]


class Digest(Protocol):
    """A digest in the making."""

    def update(self, data: Any, /) -> None:
        """Take the next bytes."""

    def hexdigest(self) -> str:
        """Of all bytes so far."""


# What a file is checked by. xxh3 finds damage as surely, 40 times as fast; it keeps out no forger.
DIGESTS: Mapping[str, Callable[[], Digest]] = {
    "sha256": hashlib.sha256,
    "xxh3_128": xxhash.xxh3_128,
}
_BLOCK = 8 << 20
# Smaller files are always read; of larger ones the digest is kept by what the system says of them.
_KEPT_FROM = 1 << 20
# A file that was just changed could be changed again within one tick of the system's clock.
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class ModelFingerprint:
    """The files of a model at one moment.

    Attributes:
        name: as the model was given, for errors.
        folder: where it lies.
        files: path in the folder → SHA-256, in hexadecimal digits.
        states: file → size, times and number, by which a later change is seen without reading.
    """

    name: str
    folder: Path
    files: Mapping[str, str]
    states: Mapping[Path, State] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """64 hexadecimal digits."""
        return digest_of_files(self.files)

    def require_unchanged(self) -> None:
        """Check that nothing was written to the model since.

        Raises:
            CheckpointError: names the file.
        """
        for file, state in self.states.items():
            if not file.is_file() or _state(file) != state:
                raise CheckpointError(
                    f"{file.name} was changed while the model was measured",
                    where=self.name,
                    fix="run the command again when nothing writes to it",
                )


def digest_of_files(files: Mapping[str, str]) -> str:
    """The digest of lines `SHA-256, two blanks, name`.

    >>> digest_of_files({"config.json": 64 * "0"})[:16]
    '927597cf42b7d2af'
    """
    lines = [f"{digest}  {name}\n" for name, digest in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def model_fingerprint(
    model: str | Path,
    progress: Progress | None = None,
    *,
    revision: str | None = None,
    anew: bool = False,
) -> ModelFingerprint:
    """Read every file of a model that decides what it answers.

    Of an adapter, its own files alone: its base is another model.

    Args:
        model: a folder, or a name of the Hub whose files lie in its cache.
        progress: told how many bytes are done.
        revision: of a name of the Hub.
        anew: read large files again, also where the system says that nothing has changed since
            they were read the last time.

    Raises:
        CheckpointError: no such model here, a file that cannot be read, or a link out of a model
            that was downloaded.
    """
    folder = _located(str(model), revision)
    files = deciding_files(folder)
    if not files:
        raise CheckpointError("holds no file of a model", where=model)
    paths = {name: inside(folder, path) for name, path in files.items()}
    states = {path: _state(path) for path in paths.values()}
    digest = sha256 if anew else _kept
    with bar(progress or Silent(), "fingerprint", sum(s[0] for s in states.values())) as advance:
        digests = {name: digest(path, advance) for name, path in paths.items()}
    return ModelFingerprint(str(model), folder, digests, states)


def sha256(file: Path, advance: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits.

    Raises:
        CheckpointError: it cannot be read.
    """
    return file_digest(file, "sha256", advance)


def file_digest(file: Path, kind: str, advance: Callable[[int], None] | None = None) -> str:
    """The same of any kind of `DIGESTS`."""
    digest = DIGESTS[kind]()
    try:
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
                if advance is not None:
                    advance(len(block))
    except OSError as error:
        raise unreadable(file, error) from error
    return digest.hexdigest()


def _kept(file: Path, advance: Callable[[int], None]) -> str:
    """As `sha256`; what was read before is not read again unless the system tells of a change."""
    state = _state(file)
    if state[0] < _KEPT_FROM:
        return sha256(file, advance)
    place = hashlib.sha256(str(file.resolve()).encode()).hexdigest()
    kept = cache_folder("fingerprints") / f"{place}.json"
    content = json_of(kept)
    if isinstance(content, dict) and content.get("state") == list(state):
        advance(state[0])
        return str(content.get("sha256"))
    found = sha256(file, advance)
    is_settled = time.time_ns() - max(state[1:3]) > _SETTLED_NS
    if is_settled and _state(file) == state:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(kept, json.dumps({"state": list(state), "sha256": found}))
        except OSError:
            pass  # it is read again the next time
    return found


def _state(file: Path) -> State:
    """Size, times of change of content and of the entry, number on its device."""
    found = file.stat()
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


def _located(model: str, revision: str | None) -> Path:
    if Path(model).is_dir():
        return Path(model)
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(model, revision=revision, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "is no folder, and no model of this name lies in the Hub's cache", where=model
        ) from error
    return Path(found)
