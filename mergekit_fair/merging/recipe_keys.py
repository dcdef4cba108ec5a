"""The keys of a recipe: which there are, where they stand, and what nobody would read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.configuration import (
    InputModelDefinition,
    InputSliceDefinition,
    MergeConfiguration,
    ModelPath,
    ModelReference,
    ModelTokenEmbedding,
    OutputModuleDefinition,
    OutputSliceDefinition,
    TokenEmbeddingConfig,
    TokenizerConfig,
)
from mergekit_fair.merging.methods.registry import known_specs
from mergekit_fair.schema import nearest

# What a sweep says of the models that its chosen recipe was measured with.
MEASURED = ("point", "kind", "measuring", "inputs")
# What `worst: auto` reads, and what a sweep writes beside its chosen recipe.
FAIRNESS = (
    *("report", "min_group_size", "exclude"),
    *("tool", "task", "rule", "selected_on", "feasible", "validation"),
    "not_chosen",
    *MEASURED,
    # What random methods draw from, where the command is not told --random-seed.
    "random_seed",
)

# What people write where mergekit reads it off the model's name.
_IN_THE_NAME = {"revision": "model: NAME@REVISION", "lora": "model: NAME+ADAPTER"}


@dataclass(frozen=True)
class Kind:
    """One sort of block.

    Attributes:
        known: its keys; None where they are names of the user's own.
        inside: key → the kind of what is below it, a block or a list of them.
        each: the kind of every value, where keys are names.
    """

    known: tuple[str, ...] | None
    inside: Mapping[str, str] = field(default_factory=dict)
    each: str | None = None


def _fields(block: Any) -> tuple[str, ...]:
    return tuple(block.model_fields)


KINDS = {
    # `fairness` carries provenance; mergekit keeps unknown blocks in mergekit_config.yml.
    "recipe": Kind(
        (*_fields(MergeConfiguration), "fairness"),
        {
            "base_model": "reference",
            "tokenizer_source": "reference",
            "models": "model",
            "slices": "slice",
            "modules": "modules",
            "tokenizer": "tokenizer",
            "fairness": "fairness",
        },
    ),
    "model": Kind(_fields(InputModelDefinition), {"model": "reference"}),
    "slice": Kind(_fields(OutputSliceDefinition), {"sources": "source", "base_model": "reference"}),
    "source": Kind(_fields(InputSliceDefinition), {"model": "reference"}),
    "modules": Kind(None, each="module"),
    "module": Kind(_fields(OutputModuleDefinition), {"slices": "slice", "models": "model"}),
    "tokenizer": Kind(_fields(TokenizerConfig), {"source": "reference", "tokens": "tokens"}),
    "tokens": Kind(None, each="token"),
    "token": Kind(_fields(TokenEmbeddingConfig), {"source": "embedding"}),
    "embedding": Kind(_fields(ModelTokenEmbedding), {"model": "reference"}),
    "reference": Kind(_fields(ModelReference), {"model": "path", "lora": "path"}),
    "path": Kind(_fields(ModelPath)),
    "fairness": Kind(FAIRNESS),
}


@dataclass(frozen=True)
class Block:
    """A mapping in a recipe.

    Attributes:
        kind: a key of `KINDS`.
        content: the mapping.
        where: its place.
    """

    kind: str
    content: dict[Any, Any]
    where: str

    def place(self, key: object) -> str:
        """Of one of its keys."""
        return f"{self.where}{': ' if self.kind == 'recipe' else '.'}{key}"


def blocks(value: Any, kind: str, where: str) -> Iterator[Block]:
    """Every mapping of a recipe that has a kind; values of another type are left to mergekit."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from blocks(item, kind, f"{where}[{index}]")
    elif isinstance(value, dict):
        if kind == "embedding" and "kind" not in value:
            kind = "reference"
        block = Block(kind, value, where)
        yield block
        each = KINDS[kind].each
        inside = KINDS[kind].inside if each is None else dict.fromkeys(value, each)
        for key, below in inside.items():
            yield from blocks(value.get(key), below, block.place(key))


def without_measurement(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's mapping without what a sweep has said about it: for one that is to be changed.

    The seed of random methods stays: it decides the weights.
    """
    block = raw.get("fairness")
    if not isinstance(block, dict) or not any(key in block for key in MEASURED):
        return dict(raw)
    left = {key: value for key, value in raw.items() if key != "fairness"}
    kept = {key: block[key] for key in ("random_seed",) if key in block}
    return left | ({"fairness": kept} if kept else {})


class Unread:
    """What a recipe says and nobody would read: an error or, where mergekit accepts it, a warning.

    Args:
        is_error: as for the methods of this package.

    Attributes:
        warnings: one sentence each, with its place.
    """

    def __init__(self, *, is_error: bool) -> None:
        self.warnings: list[str] = []
        self._is_error = is_error

    def say(self, error: RecipeError, warning: str) -> None:
        """Raise the error, or note the warning at its place."""
        if self._is_error:
            raise error
        self.warnings.append(f"{error.where}: {warning}")


def hint(warnings: Sequence[str]) -> str | None:
    """What may be behind an error that follows."""
    return f"look at {'; '.join(warnings)}" if warnings else None


def known_keys(
    mapping: Mapping[Any, Any],
    known: tuple[str, ...],
    where: str,
    unread: Unread,
    *,
    inside: tuple[str, ...] = (),
    of: str | None = None,
) -> None:
    """Say every other key, with the near name.

    Args:
        mapping: a block.
        known: its keys.
        where: its place.
        unread: told of it.
        inside: keys that belong one level down, to `parameters`.
        of: the method whose parameters these are.
    """
    for key in mapping:
        if key not in known:
            near = _near(key, known, inside)
            allowed = [*known, *([f"(method {of})"] if of else [])]
            unread.say(
                RecipeError(f"unknown key {key!r}{near}", where=where, allowed=allowed),
                f"unknown key {key!r}{_of_others(key, of)}, which mergekit ignores{near}",
            )


def _of_others(key: Any, method: str | None) -> str:
    specs = known_specs().values() if method else ()
    known = {parameter.name for spec in specs for parameter in spec.parameters}
    return f", no parameter of {method}" if key in known else ""


def _near(key: Any, known: tuple[str, ...], inside: tuple[str, ...]) -> str:
    if near := nearest(key, list(known)):
        return near
    if near := nearest(key, list(inside)):
        return near.replace("'", "'parameters.", 1)
    if key in _IN_THE_NAME and "model" in known:
        return f"; did you mean {_IN_THE_NAME[key]}?"
    if key in _fields(MergeConfiguration):
        return "; it belongs to the recipe's top level"
    return ""
