"""The models that a sweep reads: whole ones, task vectors, and LoRA adapters over its base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mergekit_fair.checkpoints.fingerprint import ModelFingerprint, model_fingerprint
from mergekit_fair.checkpoints.folder import (
    files_in,
    found_folder,
    require_equal,
    require_no_vector,
)
from mergekit_fair.checkpoints.layout import Layout, as_base, unwrapped
from mergekit_fair.checkpoints.lora import AdapterReader
from mergekit_fair.checkpoints.reader import Reader, open_folder
from mergekit_fair.checkpoints.vector_folder import is_vector_folder, open_vector
from mergekit_fair.errors import CheckpointError
from mergekit_fair.evaluation.model_inputs import same_tokenizer
from mergekit_fair.merging.config_checks import differing_settings
from mergekit_fair.merging.references import base_and_adapter
from mergekit_fair.progress import Progress

MEASURE_APART = "leave it out of the sweep, and measure it with `mergekit-fair eval`"


@dataclass(frozen=True)
class InputModel:
    """One of them.

    Attributes:
        files: of its weights.
        bytes: that are held of it: of an adapter its own, its base being held once.
        moved: floating tensor that it may be others than the base's → elements.
        fingerprint: of its own folder.
    """

    files: tuple[Path, ...]
    bytes: int
    moved: Mapping[str, int]
    fingerprint: ModelFingerprint


def input_model(name: str, base: str, progress: Progress | None = None) -> InputModel:
    """Find a model, and read what it is.

    Args:
        name: as the sweep's files name it: a folder, or `base+adapter`.
        base: the sweep's, which an adapter has to be over.
        progress: told how many bytes are read.

    Raises:
        CheckpointError: there is none, one without a config.json, or an adapter that is over
            another model, or is more than `merge` takes.
    """
    _, adapter = base_and_adapter(name, base)
    folder = found_folder(name) if adapter is None else Path(adapter)
    if adapter is None:
        files_in(folder)
        if not (folder / "config.json").is_file():
            raise CheckpointError("no model here (no config.json)", where=name)
    with opened(name, base) as reader:
        moved = {key: info.count for key, info in reader.tensors.items() if info.is_float}
        files, size = reader.files, sum(info.bytes for info in reader.tensors.values())
        if isinstance(reader, AdapterReader):
            moved = {key: moved[key] for key in sorted(reader.changed & moved.keys())}
            files = reader.own_files
            size = sum(file.stat().st_size for file in files)
    return InputModel(files, size, moved, model_fingerprint(folder, progress))


def is_adapter(name: str, base: str) -> bool:
    """Whether a model of a sweep is an adapter."""
    return base_and_adapter(name, base)[1] is not None


def require_fitting(base: str, *others: str) -> None:
    """Check that finished models have the base's tensors, as transformers loads them.

    Raises:
        CheckpointError: names the model and the first tensors that differ.
    """
    layout = Layout(Path(base))
    with ExitStack() as stack:
        start, _ = unwrapped(stack.enter_context(closing(open_folder(base))))
        for other in others:
            require_no_vector(other)
            its, _ = as_base(start, stack.enter_context(opened(other, base)), layout)
            require_equal(base, start.tensors, other, its.tensors)
            _, adapter = base_and_adapter(other, base)
            _require_same_reading(base, adapter or other)


@contextmanager
def opened(name: str, base: str) -> Iterator[Reader]:
    """The tensors of a model of a sweep.

    Raises:
        CheckpointError: as `input_model`.
    """
    start, adapter = base_and_adapter(name, base)
    if adapter is None:
        reader = open_vector(name) if is_vector_folder(name) else open_folder(name)
    elif not Path(start).is_dir() or not Path(start).samefile(base):
        raise CheckpointError(
            "is an adapter over another model than the base of the sweep, whose weights are held",
            where=name,
            got=start,
            allowed=base,
            fix="merge it into its base first, with a recipe of it alone over that",
        )
    else:
        whole = open_folder(base)
        reader = AdapterReader(whole, Path(base), adapter)
    with closing(reader):
        yield unwrapped(reader)[0]


def _require_same_reading(base: str, other: str) -> None:
    """A finished model's weights are run in the base's architecture, on the base's tokens.

    Raises:
        CheckpointError: by its own files they would say something else.
    """
    folder = Path(other)
    if (folder / "config.json").is_file():
        for key, (expected, got) in differing_settings(Path(base), folder).items():
            if not key.endswith("_token_id"):  # of a classifier's input, padding alone
                raise CheckpointError(
                    f"its config.json has other {key} than the base's, by which a sweep runs it",
                    where=other,
                    got=got,
                    allowed=expected,
                    fix=MEASURE_APART,
                )
    if not same_tokenizer(base, other):
        raise CheckpointError(
            "its tokenizer is another than the base's, by which a sweep reads texts",
            where=other,
            fix=MEASURE_APART,
        )
