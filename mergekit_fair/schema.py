"""Strict YAML: unknown keys are errors with the nearest known name, never ignored."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mergekit_fair.errors import ConfigError, FairError, MeasurementError
from mergekit_fair.files import is_special, text_of

# The key of a file's own digest, see `sealed`.
SEAL = "digest"

# Characters; a weights file or a device in place of a text file is not read to its end.
LONGEST = 100_000_000

# The tag of the key `<<`; each of several adds what it names.
_MERGED = "tag:yaml.org,2002:merge"

# Values that YAML's aliases may add to those that are written; a few lines can stand for billions.
MOST_ALIASED = 10_000

# Brackets in brackets.
MOST_NESTED = 200


def nearest(name: object, known: list[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, or an empty string."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def suggestion(name: object, known: list[str]) -> str | None:
    """The same as an error's `fix`: `did you mean 'x'?`, or None when no known name is near."""
    return nearest(name, known).removeprefix("; ") or None


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


class Record(BaseModel):
    """Base of all results: immutable, and what a result writes is what it reads again.

    Numbers are numbers (neither texts nor NaN nor infinite), and unknown keys are errors: another
    version has written them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values as JSON knows them; None means undefined."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, value: object, *, where: object = None) -> Self:
        """The inverse of `to_dict`.

        Args:
            value: parsed JSON.
            where: the file, for messages.

        Raises:
            MeasurementError: something is missing, unknown or of another type.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise MeasurementError(
                f"cannot be read: {_explain(error, value)}",
                where=where,
                fix="use the version of mergekit-fair that has written it, or measure again",
            ) from error


Block = TypeVar("Block", bound=Strict)


def parse(block: type[Block], value: Any, where: object) -> Block:
    """Validate `value` against `block`.

    Raises:
        ConfigError: names the file, the dotted key, what was given and what is allowed.
    """
    try:
        return block.model_validate(value)
    except ValidationError as error:
        raise ConfigError(_explain(error, value), where=where) from error


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: no such file, not YAML, or the top level is not a mapping.
    """
    return parse_yaml(read_text(path), path)


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        ConfigError: no such file, not UTF-8, or longer than any text file should be.
    """
    try:
        if is_special(path):
            raise ValueError("it is a pipe or a device")
        with Path(path).open(encoding="utf-8") as stream:
            text = stream.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise ValueError(f"it is longer than {LONGEST:,} characters")
        return text
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot be read ({_reason(error)})", where=path, fix="check the path"
        ) from error


def parse_yaml(text: str, where: object) -> dict[str, Any]:
    """Parse YAML text whose top level is a mapping; `where` names it in errors."""
    return _mapping(text, where, _StrictLoader)[0]


def parse_yaml_loosely(text: str, where: object) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The same as PyYAML reads it: of equal keys the last one counts.

    Returns:
        The mapping, and a sentence for each key that stands twice.
    """
    return _mapping(text, where, _LooseLoader)


def require_distinct_keys(path: str | Path) -> None:
    """Check that no mapping of a YAML file, whose tags may be those of others, has a key twice.

    Raises:
        ConfigError: one has; or as `load_yaml`.
    """
    with _loading(read_text(path), path, _StrictLoader) as loader:
        loader.get_single_node()


def count_documents(text: str) -> tuple[int, int]:
    """Of YAML text: documents between its `---`, and how many of them hold something."""
    count = empty = 0
    before: yaml.Event | None = None
    try:
        for event in yaml.parse(text, _LooseLoader):
            if isinstance(before, yaml.DocumentStartEvent):
                count += 1
                empty += (
                    isinstance(event, yaml.ScalarEvent) and event.implicit[0] and not event.value
                )
            before = event
    except (yaml.YAMLError, RecursionError):
        pass
    return count, count - empty


def _mapping(
    text: str, where: object, kind: type[_LooseLoader]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    with _loading(text, where, kind) as loader:
        value, repeated = loader.get_single_data(), tuple(loader.repeated)
    if not isinstance(value, dict):
        got = "nothing" if value is None else type(value).__name__
        raise ConfigError("the top level must be a mapping", where=where, got=got)
    return value, repeated


@contextmanager
def _loading(text: str, where: object, kind: type[_LooseLoader]) -> Iterator[_LooseLoader]:
    """A loader of the text, whatever of PyYAML's errors it raises."""
    try:
        loader = kind(text)
        try:
            yield loader
        finally:
            loader.dispose()
    except RecursionError as error:
        raise ConfigError("is not valid YAML: it is nested too deeply", where=where) from error
    except Exception as error:  # PyYAML raises whatever a date or a tagged value makes it raise
        line = " ".join(str(error).replace('in "<unicode string>", ', "in ").split())
        raise ConfigError(f"is not valid YAML: {line}", where=where) from error


def parse_json(text: str, **options: Any) -> Any:
    """As `json.loads`; too deep a nesting is a ValueError, like all else that is wrong."""
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its own digest as the last key, by which damage and edits are seen.

    It is no signature: whoever wants to can compute it again.

    >>> sealed({"acc": 0.75})["digest"][:16]
    '600389f6569a9381'
    >>> unsealed(sealed({"acc": 0.75}))
    ({'acc': 0.75}, True)
    """
    return {**content, SEAL: digest_of_json(content)}


def unsealed(content: Any) -> tuple[Any, bool | None]:
    """What `sealed` was given, and whether it still is that; None where there is no digest."""
    if not isinstance(content, dict) or SEAL not in content:
        return content, None
    rest = {key: value for key, value in content.items() if key != SEAL}
    return rest, digest_of_json(rest) == content[SEAL]


def read_sealed(
    path: Path,
    what: str,
    problem: type[FairError],
    *,
    fix: str,
    needs_seal: Callable[[Any], bool] = lambda _: False,
) -> Any:
    """The content of a JSON file that `sealed` has made, without its digest.

    Args:
        path: the file.
        what: it should be, for messages.
        problem: the error to raise.
        fix: what to do about it.
        needs_seal: of the content, whether a file without a digest has lost it; earlier versions
            wrote some without.

    Raises:
        FairError: of type `problem`: no such file, no JSON, or changed since it was written.
    """
    try:
        content, is_whole = unsealed(parse_json(text_of(path)))
    except (OSError, ValueError) as error:
        raise problem(f"is no {what} ({_reason(error)})", where=path, fix=fix) from error
    if is_whole is False:
        raise problem("was changed since it was written", where=path, fix=fix)
    if is_whole is None and needs_seal(content):
        raise problem("was changed since it was written: its digest is gone", where=path, fix=fix)
    return content


def digest_of_json(content: Any) -> str:
    """SHA-256 of JSON, in hexadecimal digits; the order of keys counts.

    >>> digest_of_json({"a": 1})[:16]
    'f9d86028c6e0d64e'
    """
    text = json.dumps(content, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def dump_yaml(value: dict[str, Any]) -> str:
    """YAML as people write it: keys in order, no anchors, unicode kept."""
    return yaml.dump(
        value, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )


class _LooseLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which keeps the last of equal keys; it follows not every alias."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[str] = []

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level >= MOST_NESTED:  # PyYAML's time grows with the square of the depth
            raise RecursionError
        super().fetch_flow_collection_start(token)

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        sizes: dict[int, float] = {}
        if node is not None and _size(node, sizes) > len(sizes) + MOST_ALIASED:
            raise yaml.composer.ComposerError(
                None, None, f"aliases stand for more than {MOST_ALIASED:,} values", node.start_mark
            )
        return node

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGED:
                if (key.tag, key.value) in seen:
                    self.repeats(key)
                seen.add((key.tag, key.value))
        return node

    def repeats(self, key: yaml.ScalarNode) -> None:
        """Told of a key that its mapping has already."""
        line = key.start_mark.line + 1
        self.repeated.append(f"key {key.value!r} stands twice (line {line}); the last one counts")


class _StrictLoader(_LooseLoader):
    def repeats(self, key: yaml.ScalarNode) -> None:
        raise yaml.composer.ComposerError(
            None, None, f"key {key.value!r} stands twice", key.start_mark
        )


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Nodes that it stands for, aliases followed; infinite if it holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        below = node.value if isinstance(node, yaml.SequenceNode) else ()
        if isinstance(node, yaml.MappingNode):
            below = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_size(part, known) for part in below)
    return known[id(node)]


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _explain(error: ValidationError, value: object) -> str:
    """All problems of one block in one sentence each, first come first."""
    problems = []
    for item in error.errors():
        if item.get("ctx") == {"expected": "False"} and isinstance(item["input"], Mapping):
            continue  # a block that may be left out: what is wrong in it is said beside this
        key = ".".join(_place(item["loc"], value, is_missing=item["type"] == "missing"))
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


def _place(loc: Sequence[str | int], value: Any, *, is_missing: bool) -> Iterator[str]:
    """The keys of `value` on the way; pydantic names the members of unions between them."""
    for part in loc:
        if isinstance(value, list | tuple):
            is_key = isinstance(part, int) and part < len(value)
        else:
            is_key = isinstance(value, Mapping) and part in value
        if is_key:
            value = value[part]
        if is_key or (is_missing and part is loc[-1]):
            yield str(part)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`key: old → new` for every leaf that differs, dotted keys, in order."""
    left, right = _leaves(old), _leaves(new)
    return [
        f"{key}: {left.get(key, '–')} → {right.get(key, '–')}"
        for key in [*left, *(key for key in right if key not in left)]
        if left.get(key) != right.get(key)
    ]


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        leaves |= _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    return leaves
