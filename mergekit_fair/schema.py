"""Strict YAML: unknown keys are errors with the nearest known name, never ignored."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mergekit_fair.errors import ConfigError


def nearest(name: object, known: list[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, or an empty string."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


class Strict(BaseModel):
    """Base of all configuration blocks: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in value:
                if key not in known and key not in cls.model_fields:
                    raise ValueError(
                        f"unknown key {key!r}{nearest(key, known)} (known: {', '.join(known)})"
                    )
        return value


Block = TypeVar("Block", bound=Strict)


def parse(block: type[Block], value: Any, where: object) -> Block:
    """Validate `value` against `block`.

    Raises:
        ConfigError: names the file, the dotted key, what was given and what is allowed.
    """
    try:
        return block.model_validate(value)
    except ValidationError as error:
        raise ConfigError(_explain(error), where=where) from None


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: no such file, not YAML, or the top level is no mapping.
    """
    return parse_yaml(read_text(path), path)


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        ConfigError: no such file, or not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot be read ({_reason(error)})", where=path, fix="check the path"
        ) from None


def parse_yaml(text: str, where: object) -> dict[str, Any]:
    """Parse YAML text whose top level is a mapping; `where` names it in errors."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"is not valid YAML: {line}", where=where) from None
    if not isinstance(value, dict):
        kind = "nothing" if value is None else type(value).__name__
        raise ConfigError("the top level must be a mapping", where=where, got=kind)
    return value


def dump_yaml(value: dict[str, Any]) -> str:
    """YAML as people write it: keys in order, no anchors, unicode kept."""
    return yaml.dump(
        value, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _explain(error: ValidationError) -> str:
    """All problems of one block in one sentence each, first come first."""
    problems = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        text = str(item["msg"])
        if item["type"] == "value_error":
            text = text.removeprefix("Value error, ")
        else:
            text = text[:1].lower() + text[1:]
        shown = repr(item["input"])
        if item["type"] not in ("missing", "value_error") and len(shown) < 80:
            text += f"; got {shown}"
        problems.append(f"{key}: {text}" if key else text)
    return "; ".join(dict.fromkeys(problems))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
