"""Plain text tables of what was measured, with the targets beside the figures."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

from processes import Usage

Samples = dict[str, list[Usage]]


def start_of(name: str) -> str:
    """The key of a program's runs on the smallest model."""
    return f"start of {name}"


def apart(samples: Samples, name: str, *, flushed: bool) -> list[float]:
    """Seconds of every run without process start, each less the start of its own round.

    Args:
        samples: runs by job.
        name: `ours` or `stock`.
        flushed: count the fsync that followed, too.
    """
    runs, starts = samples[name], samples[start_of(name)]
    a_round = max(1, len(runs) // len(starts))  # stock runs eleven times in a round of the grid
    return [
        (run.durable if flushed else run.wall) - starts[number // a_round].wall
        for number, run in enumerate(runs)
    ]


def ratios(above: list[float], below: list[float]) -> list[float]:
    """Pair by pair, never a ratio of two medians."""
    return [a / b for a, b in zip(above, below, strict=True)]


def plain(samples: Samples) -> dict[str, list[dict[str, Any]]]:
    """The same for JSON."""
    return {name: [asdict(run) for run in runs] for name, runs in samples.items()}


def print_usages(samples: Samples) -> None:
    """One line a job: medians over its runs."""
    print(f"{'medians':16s}   wall s   - start   + fsync   CPU s  RssAnon MB  VmHWM MB   GB/s")
    for name, runs in samples.items():
        middle = {
            key: statistics.median(getattr(run, key) for run in runs)
            for key in ("wall", "fsync", "cpu", "anon", "peak", "rate")
        }
        net = "-"
        if start_of(name) in samples:
            net = f"{statistics.median(apart(samples, name, flushed=False)):.2f}"
        print(
            f"{name:16s}{middle['wall']:9.2f}{net:>10s}{middle['fsync']:10.2f}"
            f"{middle['cpu']:8.2f}{middle['anon'] / 1e6:12.0f}{middle['peak'] / 1e6:10.0f}"
            f"{middle['rate']:7.2f}"
        )


def print_heading(title: str = "pair by pair") -> None:
    """The heading above `print_figure` lines."""
    print(f"{title:44s}  median          range   target")


def print_figure(
    name: str, values: list[float], target: float | None = None, *, is_least: bool = False
) -> None:
    """One line: median and range of `values`, and whether the median meets the target.

    Starts are measured apart, so noise can make a difference of times negative: no verdict then.
    """
    middle = statistics.median(values)
    digits = 0 if middle > 100 else 2
    spread = f"{min(values):.{digits}f}-{max(values):.{digits}f}"
    verdict = ""
    if min(values) <= 0:
        verdict = "no verdict: shorter than its start"
    elif target is not None:
        is_met = middle >= target if is_least else middle <= target
        verdict = f"{'>=' if is_least else '<='} {target:.4g}  {'met' if is_met else 'MISSED'}"
    print(f"{name:44s}{middle:8.{digits}f}{spread:>15s}   {verdict}".rstrip(), flush=True)
