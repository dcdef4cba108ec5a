"""Texts that are longer than a model is given: how many, and whose.

What is cut off is cut off more often in one group than in another, and gaps change with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import ConfigError
from mergekit_fair.schema import Record

# Shares of two groups that differ by so much are told.
_MATERIAL = 0.02
# transformers has 1e30 for "no limit".
_NO_LIMIT = 10**9


class Cut(Record):
    """Rows whose text was cut: their number, and their share of the rows in [0, 1]."""

    n: int
    share: float


class Truncation(Record):
    """How many rows of a split were cut, of all of them and of every group that has rows."""

    overall: Cut
    groups: dict[str, Cut]

    @classmethod
    def of(cls, is_cut: NDArray[np.bool_], groups: Mapping[str, NDArray[np.bool_]]) -> Truncation:
        """Count them.

        Args:
            is_cut: bool (n,), n > 0.
            groups: name → bool (n,).

        >>> groups = {"a": np.array([True, True, False]), "b": np.array([False, False, True])}
        >>> Truncation.of(np.array([True, False, False]), groups).to_dict()["groups"]
        {'a': {'n': 1, 'share': 0.5}, 'b': {'n': 0, 'share': 0.0}}
        """
        inside = {name: is_cut[mask] for name, mask in groups.items() if mask.any()}
        return cls(overall=_cut(is_cut), groups={name: _cut(cut) for name, cut in inside.items()})

    def sentence(self, max_length: int) -> str | None:
        """What a reader of the figures should know; None if nothing was cut.

        >>> groups = {"a": np.array([True, True, False]), "b": np.array([False, False, True])}
        >>> Truncation.of(np.array([True, False, False]), groups).sentence(128)
        "1 of 3 texts (33.3 %) were cut at max_length (128 tokens): most of 'a' (50.0 %), \
least of 'b' (0.0 %)"
        """
        if not self.overall.n:
            return None
        n = round(self.overall.n / self.overall.share)
        text = (
            f"{self.overall.n} of {n} texts ({_percent(self.overall)}) were cut at max_length "
            f"({max_length} tokens)"
        )
        if not self.groups:
            return text
        shares = {name: cut.share for name, cut in self.groups.items()}
        most, least = (pick(shares, key=lambda name: shares[name]) for pick in (max, min))
        if shares[most] - shares[least] < _MATERIAL:
            return f"{text}, about as often in every group"
        return (
            f"{text}: most of {most!r} ({_percent(self.groups[most])}), "
            f"least of {least!r} ({_percent(self.groups[least])})"
        )


def _cut(is_cut: NDArray[np.bool_]) -> Cut:
    return Cut(n=int(is_cut.sum()), share=float(is_cut.mean()))


def _percent(cut: Cut) -> str:
    return f"{cut.share * 100:.1f} %"


def own_length(tokenizer: Any) -> int | None:
    """Tokens that a tokenizer says a text may have; `train` writes there what a model was
    trained with. None without such a limit."""
    length = getattr(tokenizer, "model_max_length", None)
    return int(length) if length and length < _NO_LIMIT else None


def length_in(folder: str | Path) -> int | None:
    """The same of a model folder, read from its tokenizer's file alone."""
    try:
        content = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8"))
        length = content.get("model_max_length")
    except (OSError, ValueError, AttributeError):  # whoever loads the tokenizer says what is wrong
        return None
    return int(length) if isinstance(length, int | float) and 0 < length < _NO_LIMIT else None


def another_length(used: int, own: int | None, longest: int) -> str | None:
    """That texts are read at another length than the model's own, where one text shows it.

    Args:
        used: max_length of the evaluation.
        own: from `own_length`.
        longest: tokens of the longest text that is not cut; `used` or more if one is.
    """
    if own is None or used == own or longest < min(used, own):
        return None
    return (
        f"max_length is {used}, and {own} in the model's tokenizer, where `train` writes the "
        "length that a model was trained with"
    )


def length_notes(
    max_length: int | None, truncated: Mapping[str, Truncation | None], models: Iterable[str]
) -> list[str]:
    """What a sweep says of lengths: its models read the same texts in the same way.

    Args:
        max_length: that they were read at; None of pictures.
        truncated: task → its rows that are longer.
        models: folders.
    """
    if max_length is None:
        return []
    found = [cut for cut in truncated.values() if cut is not None]
    is_cut = any(cut.overall.n for cut in found)
    said = [cut.sentence(max_length) for cut in found]
    for own in dict.fromkeys(map(length_in, models)):
        is_longer = own is not None and own < max_length
        said.append(another_length(max_length, own, max_length if is_cut or is_longer else 0))
    return list(dict.fromkeys(filter(None, said)))


def require_length(max_length: object, positions: int | None, special: int = 0) -> None:
    """A length that a model can take, and that leaves room for a text.

    Args:
        max_length: what was given.
        positions: of the model's table of positions; None where positions are computed.
        special: tokens that the tokenizer adds to every text.

    Raises:
        ConfigError: says which lengths there are.
    """
    is_number = isinstance(max_length, int) and not isinstance(max_length, bool)
    least = special + 1
    if isinstance(max_length, int) and is_number and max_length >= least:
        if positions is None or max_length <= positions:
            return
        problem = "is more than the model has positions for"
    else:
        problem = "leaves no token of a text"
    raise ConfigError(
        problem,
        where="max_length",
        got=max_length,
        allowed=f"{least} to {positions}" if positions else f"{least} or more",
    )
