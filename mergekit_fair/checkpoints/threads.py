"""Parallel work over slices: many threads that each run torch on one core."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread_each() -> Iterator[int]:
    """While open, a torch operation runs on the thread that calls it; yields how many may run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield max(1, before)
    finally:
        torch.set_num_threads(before)
