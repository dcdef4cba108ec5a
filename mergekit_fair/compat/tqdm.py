"""What tqdm has no option for."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def silence_bars() -> None:
    """No tqdm bar of any library in this process.

    lm-eval and transformers say themselves whether their bars are shown, which is why tqdm's own
    TQDM_DISABLE does not silence them: the class's `__init__` is wrapped.
    """
    from tqdm import std

    show = std.tqdm.__init__

    def disabled(bar: Any, *args: Any, **options: Any) -> None:
        show(bar, *args, **{**options, "disable": True})

    std.tqdm.__init__ = disabled
