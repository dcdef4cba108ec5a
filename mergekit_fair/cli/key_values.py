"""`key=value,key=value` on the command line."""

from __future__ import annotations

from typing import Any

import click
import yaml


class Pairs(click.ParamType):  # type: ignore[type-arg]
    """A mapping; values are read as YAML reads them (`2` is a number, `true` a truth value)."""

    name = "key=value,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(value, dict):
            return value
        found: dict[str, Any] = {}
        for part in filter(None, str(value).split(",")):
            key, equals, text = part.partition("=")
            if not equals or not key.strip():
                self.fail(f"{part!r} is not key=value", param, ctx)
            try:
                found[key.strip()] = yaml.safe_load(text)
            except yaml.YAMLError:
                found[key.strip()] = text
        return found
