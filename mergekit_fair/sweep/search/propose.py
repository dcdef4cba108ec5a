"""Who says which λs to measure next.

A proposer keeps no state: what it asks depends on its settings (space, goal, seed) and on the
history, in order, alone. A search that is killed and resumed therefore asks the same points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mergekit_fair.sweep.search.observation import Observation
from mergekit_fair.sweep.search.space import Coordinates, Space, distinct

# Rounds of drawing before a small space counts as exhausted.
_ROUNDS = 50


class Proposer(Protocol):
    """Asks for points to measure."""

    def ask(self, history: Sequence[Observation], count: int) -> list[Coordinates]:
        """Up to ``count`` distinct points that are not in the history.

        Fewer, or none, come back when there are no more.
        """
        ...


@dataclass(frozen=True)
class RandomProposer:
    """Uniform points."""

    space: Space
    seed: int = 0

    def ask(self, history: Sequence[Observation], count: int) -> list[Coordinates]:
        """See :class:`Proposer`."""
        return draw_new(self.space, count, seen(history), generator(self.seed, history))


def generator(seed: int, history: Sequence[Observation]) -> np.random.Generator:
    """The random numbers of the next question; they depend on nothing that is remembered."""
    return np.random.default_rng([seed, len(history)])


def seen(history: Sequence[Observation]) -> set[Coordinates]:
    """The points that have been measured, failed ones included."""
    return {observation.x for observation in history}


def start(space: Space, seed: int, history: Sequence[Observation], count: int) -> list[Coordinates]:
    """The next points of a quasi-random start of 2G + 2 points; none when it is over."""
    length = start_length(space)
    wanted = min(count, length - len(history))
    if wanted <= 0:
        return []
    taken = seen(history)
    return distinct(space.sobol(length + len(taken), seed), taken)[:wanted]


def start_length(space: Space) -> int:
    """2G + 2: enough for a model that is quadratic in each λ alone, and one to check it."""
    return 2 * space.dimensions + 2


def draw_new(
    space: Space, count: int, taken: set[Coordinates], rng: np.random.Generator
) -> list[Coordinates]:
    """``count`` distinct uniform points outside ``taken``; fewer if the space has hardly more."""
    found: list[Coordinates] = []
    for _ in range(_ROUNDS):
        found = distinct([*found, *space.random(count, rng)], taken)
        if len(found) >= count:
            break
    return found[:count]
