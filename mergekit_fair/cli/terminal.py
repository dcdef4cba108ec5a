"""Progress on a terminal, and libraries told to keep quiet."""

from __future__ import annotations

import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger
from typing import Any

import click

from mergekit_fair.compat.tqdm import silence_bars
from mergekit_fair.escaping import in_json, one_line, printable


def terminal_width() -> int | None:
    """Columns of the terminal that standard output is; None if it is something else."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def echo(text: object, *, err: bool = False) -> None:
    """Print text, of which nothing reaches a terminal but what is seen."""
    click.echo(printable(text), err=err)


def echo_json(value: Any) -> None:
    """Print a result as `--json` shows it."""
    click.echo(in_json(value, indent=2))


class Terminal:
    """Progress on standard error: lines, and a bar when it is a terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Any = None

    def say(self, text: str) -> None:
        if not self._quiet:
            echo(one_line(text), err=True)

    def start(self, label: str, total: int) -> None:
        if self._quiet or not sys.stderr.isatty():
            return
        from tqdm import tqdm

        self._bar = tqdm(total=total, desc=one_line(label), leave=False, file=sys.stderr)

    def advance(self, units: int) -> None:
        if self._bar is not None:
            self._bar.update(units)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Timed(Terminal):
    """The same, each line with the time gone by and an estimate of what remains.

    Args:
        total: cost of all the work, in forward passes of one row.
        weights: label of a bar → forward passes per unit; 1 for others.
    """

    def __init__(self, total: float, weights: dict[str, float], *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._total = total
        self._weights = weights
        self._weight = 1.0
        self._done = 0.0
        self._begin = time.monotonic()

    def say(self, text: str) -> None:
        gone = time.monotonic() - self._begin
        left = ""
        if self._done:
            remaining = max(0.0, gone / self._done * (self._total - self._done))
            left = f", about {_clock(remaining)} left"
        super().say(f"[{_clock(gone)}{left}] {text}")

    def start(self, label: str, total: int) -> None:
        self._weight = self._weights.get(label, 1.0)
        super().start(label, total)

    def advance(self, units: int) -> None:
        self._done += units * self._weight
        super().advance(units)


def quiet_libraries(*, quiet: bool = False) -> None:
    """Keep the libraries' bars and reports off the screen; call before importing them.

    Args:
        quiet: no bar at all; else there are bars on a terminal.
    """
    if quiet or not sys.stderr.isatty():
        silence_bars()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # peft and transformers warn each other about their next major versions.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
    # What transformers reads when it is imported, which takes seconds: most commands never do.
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    if "transformers" in sys.modules:
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
    getLogger("lm_eval").setLevel(ERROR)


@contextmanager
def errors_alone() -> Iterator[None]:
    """While open, no library logs less than an error: mergekit warns of whatever it infers."""
    level = getLogger().level
    getLogger().setLevel(ERROR)
    try:
        yield
    finally:
        getLogger().setLevel(level)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
