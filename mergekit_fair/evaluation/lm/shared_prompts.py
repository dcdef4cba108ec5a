"""Log-likelihoods of a causal model's choices: what a document's requests share is read once.

lm-eval gives every choice a row of its own, prompt included, and the vocabulary's logits at every
token. Here a document is one row

    prompt | rest of choice 1 | rest of choice 2 | …

whose positions go on from the prompt in every rest. A rest sees the prompt and itself, by the
attention mask, and logits are made only where choices are read. The figures are lm-eval's up to
the rounding of sums of another order.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

import torch

from mergekit_fair.compat.lm_eval import TokenPairs, is_plain_causal, loglikelihood_of_tokens
from mergekit_fair.evaluation.forward import length_sorted_batches

Answer = tuple[float, bool]

_PROMPT, _PADDING = 0, -1
_ATTENTION = ("eager", "sdpa")  # take a mask of their own for every token
# Keys of config.json: how far a token sees.
_WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")
# By how much a token's log-probability may differ from lm-eval's.
_ROUNDING = {torch.float32: 2e-3, torch.float64: 2e-3}
_COARSE = 0.25
# Torch module → whether its answers are lm-eval's.
_known: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class _Choice:
    """One request: its place among all, what the model reads, and what it is asked to say."""

    position: int
    read: list[int]
    said: list[int]


@dataclass(frozen=True)
class _Row:
    """One document."""

    choices: list[_Choice]

    @cached_property
    def prompt(self) -> list[int]:
        """What all choices begin with: what the first and the last in order do."""
        reads = [choice.read for choice in self.choices]
        alike = [a == b for a, b in zip(min(reads), max(reads), strict=False)]
        return min(reads)[: [*alike, False].index(False)]

    @cached_property
    def rests(self) -> dict[tuple[int, ...], int]:
        """What follows the prompt → where it begins in the row; choices of one token share it."""
        start = len(self.prompt)
        rests = dict.fromkeys(tuple(choice.read[start:]) for choice in self.choices)
        return dict(zip(rests, accumulate(map(len, rests), initial=start), strict=False))

    @cached_property
    def length(self) -> int:
        return len(self.prompt) + self.width

    @cached_property
    def width(self) -> int:
        """Tokens beside the prompt."""
        return sum(map(len, self.rests))

    @cached_property
    def kept(self) -> int:
        """From the first column that is asked about to the end."""
        return self.length - min(column for _, column, _ in self.asked())

    @cached_property
    def reach(self) -> int:
        """The longest choice with its prompt."""
        return max(len(choice.read) for choice in self.choices)

    @property
    def tokens(self) -> list[int]:
        return [*self.prompt, *(token for rest in self.rests for token in rest)]

    @property
    def positions(self) -> list[int]:
        start = len(self.prompt)
        return [*range(start), *(start + at for rest in self.rests for at in range(len(rest)))]

    @property
    def parts(self) -> list[int]:
        """The part that each token belongs to: the prompt, or a rest."""
        numbers = [number for number, rest in enumerate(self.rests, start=1) for _ in rest]
        return [_PROMPT] * len(self.prompt) + numbers

    def asked(self) -> Iterator[tuple[int, int, int]]:
        """Request, column and token: the model's word at the column is about the token."""
        start = len(self.prompt)
        for choice in self.choices:
            begin = self.rests[tuple(choice.read[start:])]
            first = len(choice.read) - len(choice.said)
            for at, token in enumerate(choice.said, start=first):
                yield choice.position, at if at < start else begin + at - start, token


class SharedPrompts:
    """Requests of one kind, packed; answered as often as the weights change.

    Args:
        lm: an lm-eval model for which `scores_tokens`.
        pairs: of `token_pairs`.
        owners: the document of every request.
    """

    def __init__(self, lm: Any, pairs: TokenPairs, owners: Sequence[Hashable]) -> None:
        self._lm, self._pairs, self._owners = lm, pairs, owners

    @cached_property
    def _rows(self) -> list[_Row]:
        """A request that is too long loses the first tokens, as in lm-eval."""
        most = self._lm.max_length + 1
        by_owner: dict[Hashable, list[_Choice]] = {}
        for position, (_, context, said) in enumerate(self._pairs):
            choice = _Choice(position, [*context, *said][-most:][:-1], list(said))
            by_owner.setdefault(self._owners[position], []).append(choice)
        return [_Row(choices) for choices in by_owner.values()]

    def answers(self, *, quiet: bool = True) -> list[Answer]:
        """(log p of the tokens, whether each is the likeliest one) of every request.

        By lm-eval itself where the model has no way to read rows like these, or would give other
        figures: some documents are answered both ways once for every model.

        Args:
            quiet: without a bar.
        """
        lm = self._lm
        if not self._fits():
            return loglikelihood_of_tokens(lm, self._pairs, quiet=quiet)
        from accelerate.utils import find_executable_batch_size
        from tqdm import tqdm

        answers: dict[int, Answer] = {}
        left = list(range(len(self._rows)))
        with tqdm(total=len(self._pairs), desc="Reading choices", disable=quiet) as bar:

            def run(batch_size: int) -> None:
                lengths = [self._rows[row].length for row in left]
                batches = length_sorted_batches(lengths, batch_size)
                for rows in [[left[index] for index in batch] for batch in batches]:
                    found = _answered(lm, [self._rows[row] for row in rows])
                    answers.update(found)
                    for position, answer in found.items():
                        lm.cache_hook.add_partial("loglikelihood", self._pairs[position][0], answer)
                    left[:] = [row for row in left if row not in set(rows)]
                    bar.update(len(found))

            if lm.batch_size == "auto":
                find_executable_batch_size(run, starting_batch_size=lm.max_batch_size)()
            else:
                run(int(lm.batch_size))
        return [answers[position] for position in range(len(self._pairs))]

    def _fits(self) -> bool:
        lm = self._lm
        if not self._pairs or not _takes_masks(lm):
            return False
        if max(row.reach for row in self._rows) > _window(lm.model.config):
            return False
        if lm.model not in _known:
            agrees = _agrees(lm, self._sample(), self._pairs)
            if agrees is None:
                return False
            _known[lm.model] = agrees
        return _known[lm.model]

    def _sample(self) -> list[_Row]:
        """Documents that differ as much as they can: long, short, of many words to say."""
        by_length = sorted(self._rows, key=lambda row: row.length)
        widest = max(self._rows, key=lambda row: row.width)
        farthest = max(self._rows, key=lambda row: row.reach)
        picked = [by_length[0], by_length[len(by_length) // 2], widest, farthest]
        return list({id(row): row for row in picked}.values())


def _takes_masks(lm: Any) -> bool:
    """Whether lm-eval's own way is a plain call, and the model may be told what a token sees."""
    if not is_plain_causal(lm) or lm.mixed_precision_dtype is not None:
        return False
    parameters = _parameters(lm.model)
    attention = getattr(lm.model.config, "_attn_implementation", None)
    return attention in _ATTENTION and {"attention_mask", "position_ids"} <= parameters


def _parameters(model: Any) -> set[str]:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return set(inspect.signature(inner.forward).parameters)


def _window(config: Any) -> float:
    sizes = [getattr(config, name, None) for name in _WINDOWS]
    return min((size for size in sizes if isinstance(size, int)), default=math.inf)


def _agrees(lm: Any, rows: list[_Row], pairs: TokenPairs) -> bool | None:
    """Whether both ways say the same of some documents; None if lm-eval's is not finite."""
    positions = [choice.position for row in rows for choice in row.choices]
    expected = loglikelihood_of_tokens(lm, [pairs[position] for position in positions])
    theirs = torch.tensor([answer[0] for answer in expected], dtype=torch.float64)
    if not bool(theirs.isfinite().all()):
        return None
    try:
        found = _answered(lm, rows)
        obeys = lm.model.dtype in _ROUNDING or _obeys(lm, rows)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False  # such as a module that shapes masks itself
    ours = torch.tensor([found[position][0] for position in positions], dtype=torch.float64)
    counts = torch.tensor([len(pairs[position][2]) for position in positions])
    most = counts * _ROUNDING.get(lm.model.dtype, _COARSE)
    return obeys and bool(((ours - theirs).abs() <= most).all())


def _obeys(lm: Any, rows: list[_Row]) -> bool:
    """Whether mask and positions are heeded, where rounding is too coarse to tell by figures.

    Other padding and another first rest change no bit of prompts and other rests; other positions
    change some.
    """
    batch = _Batch.of(rows)
    plain = batch.logits(lm)
    is_apart = (batch.parts == _PADDING) | (batch.parts == _PROMPT + 1)
    changed = replace(
        batch, tokens=torch.where(is_apart, 1 - batch.tokens.clamp(max=1), batch.tokens)
    )
    moved = replace(batch, positions=batch.positions // 2)
    others = ~is_apart[:, -plain.shape[1] :]
    is_same = torch.equal(changed.logits(lm)[others], plain[others])
    return is_same and not torch.equal(moved.logits(lm), plain)


@dataclass(frozen=True)
class _Batch:
    """Rows padded on the left, (rows, length).

    Attributes:
        tokens, positions, parts: of every column; a padding's part is −1.
        kept: columns at the end that hold all that is asked about.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    parts: torch.Tensor
    kept: int

    @classmethod
    def of(cls, rows: list[_Row]) -> _Batch:
        length = max(row.length for row in rows)
        tokens, positions, parts = torch.zeros(3, len(rows), length, dtype=torch.long)
        parts.fill_(_PADDING)
        for number, row in enumerate(rows):
            place = number, slice(length - row.length, None)
            tokens[place] = torch.tensor(row.tokens)
            positions[place] = torch.tensor(row.positions)
            parts[place] = torch.tensor(row.parts)
        return cls(tokens, positions, parts, max(row.kept for row in rows))

    def logits(self, lm: Any) -> torch.Tensor:
        """(rows, the last `kept` columns or more, vocabulary)."""
        dtype, known = lm.model.dtype, _parameters(lm.model)
        seen, seeing = self.parts[:, None, :], self.parts[:, :, None]
        is_seen = (seen == seeing) | ((seen == _PROMPT) & (seeing != _PADDING))
        is_seen &= torch.ones(is_seen.shape[1:], dtype=torch.bool).tril()
        mask = torch.zeros(is_seen.shape, dtype=dtype)
        mask.masked_fill_(~is_seen, torch.finfo(dtype).min)
        inputs = {
            "input_ids": self.tokens,
            "attention_mask": mask[:, None],
            "position_ids": self.positions,
        }
        options = {"use_cache": False, "logits_to_keep": self.kept}
        with torch.no_grad():
            found: torch.Tensor = lm.model(
                **{name: value.to(lm.device) for name, value in inputs.items()},
                **{name: value for name, value in options.items() if name in known},
            ).logits
        return found


def _answered(lm: Any, rows: list[_Row]) -> dict[int, Answer]:
    """Request → its answer, by one forward pass of one row a document."""
    batch = _Batch.of(rows)
    logits = batch.logits(lm)
    asked = [
        (number, logits.shape[1] - row.length + at, token, request)
        for number, row in enumerate(rows)
        for request, at, token in row.asked()
    ]
    number, column, token, request = torch.tensor(asked, device=logits.device).unbind(1)
    said = torch.log_softmax(logits[number, column], dim=-1, dtype=lm.softmax_dtype)
    is_best = (said.argmax(dim=-1) == token).cpu()
    values = said.gather(1, token[:, None])[:, 0].float().cpu()
    requests, owner = torch.unique(request.cpu(), return_inverse=True)
    sums = torch.zeros(len(requests)).index_add_(0, owner, values)
    misses = torch.zeros(len(requests)).index_add_(0, owner, (~is_best).float())
    answers = zip(requests.tolist(), sums.tolist(), misses.tolist(), strict=True)
    return {request: (value, missed == 0) for request, value, missed in answers}
