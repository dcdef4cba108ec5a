"""One model's tensors under the names that its base has for them.

Two checkpoints of one architecture need not hold the same names. One saver wrote a tied output
layer, too, another a buffer that transformers makes anew; older versions had other names; wrappers
of training frameworks leave a prefix. What transformers loads alike is no difference here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from mergekit_fair.checkpoints.folder import (
    architecture_of,
    read_config,
    require_equal,
    self_contained,
)
from mergekit_fair.checkpoints.reader import Buffer, Reader, are_equal
from mergekit_fair.compat.remembered import remembered
from mergekit_fair.compat.transformers import (
    loaded_names,
    meta_model,
    tied_names,
    vocabulary_axes,
)
from mergekit_fair.errors import CheckpointError

# What torch.compile, DistributedDataParallel, FSDP and activation checkpointing put around modules.
_WRAPPER = re.compile(
    r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
    r"|^module\."
)

_NUMBER = re.compile(r"\d+")


T = TypeVar("T")


class _UnknownModelError(Exception):
    """No architecture of transformers' own."""


class Layout:
    """What transformers makes of a checkpoint's tensors, by the architecture of a config.json.

    Args:
        folder: with the config.json.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def architecture(self) -> str | None:
        """The class that config.json names."""
        return architecture_of(read_config(self.folder))

    @property
    def is_known(self) -> bool:
        """False for remote code, and for what transformers cannot build."""
        return bool(self._answer("known 1", None, lambda _: True, unknown=False))

    def loaded(self, names: Iterable[str]) -> dict[str, str | None]:
        """Name in a file → tensor in memory that it becomes a part of; None: it is left out."""
        listed = sorted(names)
        unknown: dict[str, str | None] = dict.fromkeys(listed)
        return self._answer("loaded 1", listed, lambda m: loaded_names(m, listed), unknown=unknown)

    @cached_property
    def tied(self) -> dict[str, str]:
        """Tensor in memory → the one that it is tied to."""
        return self._answer("tied 1", None, tied_names, unknown={})

    def _answer(self, question: str, about: Any, ask: Callable[[Any], T], *, unknown: T) -> T:
        """What is said of the model that transformers builds, now or before."""

        def asked() -> T:
            if self._model is None:
                raise _UnknownModelError
            return ask(self._model)

        config = self_contained(self.folder)
        try:
            answer: T = remembered(question, None if config is None else [config, about], asked)
        except _UnknownModelError:
            return unknown
        return answer

    @cached_property
    def _model(self) -> Any:
        if "auto_map" in read_config(self.folder):
            return None
        try:
            return meta_model(self.folder)
        except Exception:  # whatever a config makes transformers raise; the merge checks it again
            return None

    def left_out(self, names: Iterable[str]) -> list[str]:
        """The names that transformers does not load, and nothing is missed without.

        Not those of a layer beyond the last one that config.json counts: there the config is wrong.
        """
        loaded = self.loaded(names)
        shapes = {_NUMBER.sub("", name) for name, at in loaded.items() if at is not None}
        return [
            name
            for name, at in loaded.items()
            if self.is_known and at is None and _NUMBER.sub("", name) not in shapes
        ]

    def vocabulary_axes(self, names: Iterable[str]) -> dict[str, int]:
        """Name in a file → the axis that has an entry for each token; others are left out."""
        axes: dict[str, int] = self._answer("axes 1", None, vocabulary_axes, unknown={})
        loaded = self.loaded(names)
        return {name: axes[at] for name, at in loaded.items() if at is not None and at in axes}

    def source(self, memory: str) -> str:
        """The tensor that holds the values of a tied one; itself if it is not tied."""
        return self.tied.get(memory, memory)


class RenamedReader:
    """A model whose tensors have other names, or are another model's.

    Args:
        model: what is read.
        places: name → reader and the name there, in order of names.
    """

    def __init__(self, model: Reader, places: Mapping[str, tuple[Reader, str]]) -> None:
        self._model, self._places = model, dict(places)
        self.name, self.files = model.name, model.files
        self.tensors = {
            name: reader.tensors[there] for name, (reader, there) in self._places.items()
        }

    @property
    def changed(self) -> frozenset[str]:
        """Of an adapter: the tensors that are others than its base's."""
        return frozenset(
            name
            for name, (reader, there) in self._places.items()
            if there in getattr(reader, "changed", ())
        )

    def read(self, name: str, start: int, stop: int, into: Buffer) -> torch.Tensor:
        reader, there = self._places[name]
        return reader.read(there, start, stop, into)

    def identity(self) -> str:
        return self._model.identity()

    def close(self) -> None:
        self._model.close()


def unwrapped(model: Reader) -> tuple[Reader, list[str]]:
    """The model without the prefixes of training frameworks, and a note if it had any.

    Raises:
        CheckpointError: two tensors would have one name.
    """
    names = {name: _WRAPPER.sub("", name) for name in model.tensors}
    prefixes = sorted({found[0] for name in names if (found := _WRAPPER.search(name))})
    if not prefixes:
        return model, []
    if len(set(names.values())) < len(names):
        raise CheckpointError(
            f"holds tensors with and without the prefix {prefixes[0]!r}",
            where=model.name,
            fix="save the model again without the wrapper",
        )
    places = {plain: (model, name) for name, plain in sorted(names.items(), key=lambda x: x[1])}
    note = (
        f"{model.name}: its tensor names have the prefix {prefixes[0]!r} of a training framework; "
        "they are read without it (transformers would load none of them)"
    )
    return RenamedReader(model, places), [note]


def wrapper_of(names: Iterable[str]) -> str | None:
    """The first prefix of a training framework in names of tensors.

    >>> wrapper_of(["_orig_mod.model.norm.weight"])
    '_orig_mod.'
    """
    return next((found[0] for name in names if (found := _WRAPPER.search(name))), None)


@dataclass(frozen=True)
class _Match:
    """A model's tensors beside its base's.

    Attributes:
        places: the base's name → where the model has that tensor.
        real: tensors that only the model has, and that transformers would load.
        left_out: what transformers does not load: of the model, and of the base.
    """

    places: Mapping[str, tuple[Reader, str]]
    real: Sequence[str] = ()
    left_out: tuple[Sequence[str], Sequence[str]] = ((), ())


def as_base(base: Reader, model: Reader, layout: Layout) -> tuple[Reader, list[str]]:
    """The model under the base's names, and notes on what was left out or filled in.

    Args:
        base: whose names the merged model has.
        model: any tensors.
        layout: of the base's config.json.

    Returns:
        The model itself where names are the same. Shapes are not looked at.

    Raises:
        CheckpointError: tensors that only one of them has, and that transformers would load.
    """
    if base.tensors.keys() == model.tensors.keys():
        return model, []
    match = _matched(base, model, layout)
    if match.real or len(match.places) < len(base.tensors):
        known = {name: reader.tensors[there] for name, (reader, there) in match.places.items()}
        lacks = len(match.places) < len(base.tensors)  # then what is unused may be why
        more = [*match.real, *(match.left_out[0] if lacks else ())]
        known |= {name: model.tensors[name] for name in sorted(more)}
        require_equal(base.name, base.tensors, model.name, known)
    notes = [
        f"{model.name}: {len(names)} tensors that transformers does not load {what}: "
        f"{_listed(names)}"
        for names, what in zip(match.left_out, ("are left out", "are the base's"), strict=True)
        if names
    ]
    return RenamedReader(model, {name: match.places[name] for name in base.tensors}), notes


def readable_as_base(base: Reader, model: Reader, layout: Layout) -> Reader:
    """As `as_base`, of models that are checked: without the tensors that only one of them has."""
    if base.tensors.keys() == model.tensors.keys():
        return model
    return RenamedReader(model, dict(sorted(_matched(base, model, layout).places.items())))


def _matched(base: Reader, model: Reader, layout: Layout) -> _Match:
    missing = [name for name in base.tensors if name not in model.tensors]
    extra = [name for name in model.tensors if name not in base.tensors]
    loaded = layout.loaded([*base.tensors, *extra])
    left_out = set(layout.left_out(loaded))
    places = {name: (model, name) for name in base.tensors if name in model.tensors}
    places |= {name: (base, name) for name in missing if name in left_out}
    places |= _tied_or_renamed(base, model, layout, loaded, missing)
    used = {there for reader, there in places.values() if reader is model}
    unused = [name for name in extra if name not in used]
    ours = [name for name in unused if name in left_out]
    theirs = [name for name in missing if name in left_out]
    real = [
        name
        for name in unused
        if name not in left_out and not _is_double(model, layout, loaded, name)
    ]
    return _Match(places, real, (ours, theirs))


def _tied_or_renamed(
    base: Reader,
    model: Reader,
    layout: Layout,
    loaded: Mapping[str, str | None],
    missing: Sequence[str],
) -> dict[str, tuple[Reader, str]]:
    """Where the model has what the base calls otherwise, or has tied to something else."""
    by_memory: dict[str, list[str]] = {}
    for name in model.tensors:
        memory = loaded.get(name)
        if memory is not None:
            by_memory.setdefault(memory, []).append(name)
    places: dict[str, tuple[Reader, str]] = {}
    for name in missing:
        memory = loaded[name]
        if memory is None:
            continue
        source = layout.source(memory)
        group = [memory, source, *(at for at, tied_to in layout.tied.items() if tied_to == source)]
        alike = [there for at in group for there in by_memory.get(at, ())]
        if alike and model.tensors[alike[0]].shape == base.tensors[name].shape:
            places[name] = (model, alike[0])
    return places


def _is_double(model: Reader, layout: Layout, loaded: Mapping[str, str | None], name: str) -> bool:
    """Whether a tensor is tied to another one that the model holds, with the same values."""
    memory = loaded[name]
    if memory is None:
        return False
    source = layout.source(memory)
    return any(
        are_equal(model, name, model, other)
        for other in model.tensors
        if other != name and (at := loaded.get(other)) and layout.source(at) == source
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
