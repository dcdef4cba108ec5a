"""mergekit's own options, for commands that merge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from mergekit.options import ShardSizeParamType, add_merge_options


class _Size(ShardSizeParamType):
    """mergekit's type, whose error would be a traceback."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return super().convert(value, param, ctx)
        except (ValueError, IndexError):
            return self.fail(f"{value!r} is no size, such as 500M or 5B", param, ctx)


def merge_options(command: Callable[..., Any]) -> Any:
    """Add them all; the command gets a `MergeOptions` as `merge_options`."""
    wrapped: Any = add_merge_options(command)
    for parameter in wrapped.__click_params__:
        if isinstance(parameter, click.Option) and isinstance(parameter.type, ShardSizeParamType):
            parameter.type = _Size()
    return wrapped
