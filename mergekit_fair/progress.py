"""How long-running work reports its progress; only the command line prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """A line of text now and then, and one bar at a time."""

    def say(self, text: str) -> None:
        """One finished or beginning piece of work."""

    def start(self, label: str, total: int) -> None:
        """Begin a bar of `total` units."""

    def advance(self, units: int) -> None:
        """Units done since the last call."""

    def stop(self) -> None:
        """End the bar."""


class Silent:
    """Reports nothing."""

    def say(self, text: str) -> None:
        del text

    def start(self, label: str, total: int) -> None:
        del label, total

    def advance(self, units: int) -> None:
        del units

    def stop(self) -> None:
        pass


class Bars(Silent):
    """Shows the bars of another one, and says nothing.

    Args:
        shown: what has the bars.
    """

    def __init__(self, shown: Progress) -> None:
        self._shown = shown

    def start(self, label: str, total: int) -> None:
        self._shown.start(label, total)

    def advance(self, units: int) -> None:
        self._shown.advance(units)

    def stop(self) -> None:
        self._shown.stop()


@contextmanager
def bar(progress: Progress, label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar while the block runs; yields `advance`."""
    progress.start(label, total)
    try:
        yield progress.advance
    finally:
        progress.stop()
