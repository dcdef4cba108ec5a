"""The models that a recipe names, as mergekit gets them: one spelling for each folder.

mergekit takes `a/b` for a name of the Hub even where that folder exists, splits a path at `+`
(adapter) and `@` (revision), does not know `~`, and takes `base` and `./base` for two models.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.adapter_config import is_adapter_folder
from mergekit_fair.errors import RecipeError
from mergekit_fair.files import beside

_MODELS = ("model", "base_model")
_WORDS = ("union", "base")  # of tokenizers; folders of these names have to be spelled ./base


def references(
    raw: Mapping[str, Any],
    where: str,
    folders: Mapping[str, Path] | None = None,
    *,
    spellings_differ: bool = False,
) -> dict[str, Any]:
    """A copy of a recipe in which every local model is spelled so that mergekit finds it.

    The folder of a LoRA adapter becomes `base_model+folder`.

    Args:
        raw: the recipe.
        where: its file, for the error.
        folders: name of the Hub → where it was downloaded to, for names to be replaced.
        spellings_differ: take `base` and `./base` for two models, as mergekit does.

    Raises:
        RecipeError: an adapter, and no base_model that it can be put on.
    """
    base = raw.get("base_model")
    base_text = _spelled(base) if isinstance(base, str) else base
    spelled = _Spellings() if spellings_differ else _OneSpelling(base_text)
    is_plain = isinstance(base_text, str) and not is_adapter_folder(base_text)

    def reference(text: str, key: str) -> Any:
        parts = [spelled(part) for part in model_parts(text)]
        if key in _MODELS and len(parts) == 1 and is_adapter_folder(parts[0]):
            if key == "base_model" or not is_plain or len(model_parts(str(base))) > 1:
                raise RecipeError(
                    "is a LoRA adapter, and base_model is not a model that it can be put on",
                    where=f"{where}: model {text}",
                    got=base,
                    fix=f"write BASE+{text}, with the model that it was trained on",
                )
            parts = [str(base_text), *parts]
        return _reference([str((folders or {}).get(part, part)) for part in parts])

    return with_models(raw, reference)


def found_beside(raw: Mapping[str, Any], file: str) -> dict[str, Any]:
    """A copy of a recipe in which folders that lie beside its file are found from here, too.

    Args:
        raw: the recipe.
        file: that it was read from.

    Raises:
        ConfigError: a path stands for one folder here and for another one beside the file.
    """

    def found(text: str, key: str) -> str:
        return "+".join(beside(part, file, f"{file}: {key}") for part in model_parts(text))

    copy = with_models(raw, found)
    block = copy.get("fairness")
    if isinstance(block, dict) and isinstance(report := block.get("report"), str):
        copy["fairness"] = {**block, "report": beside(report, file, f"{file}: fairness.report")}
    return copy


def with_models(raw: Mapping[str, Any], change: Callable[[str, str], Any]) -> dict[str, Any]:
    """A copy of a recipe in which every model's name is what `change(name, key)` gives."""

    def changed(value: Any, key: str = "", *, is_tokenizer: bool = False) -> Any:
        if isinstance(value, list):
            return [changed(item, is_tokenizer=is_tokenizer) for item in value]
        if isinstance(value, dict):
            inside = is_tokenizer or key == "tokenizer"
            return {name: changed(item, name, is_tokenizer=inside) for name, item in value.items()}
        is_source = key == "tokenizer_source" or (is_tokenizer and key == "source")
        if isinstance(value, str) and (key in _MODELS or (is_source and value not in _WORDS)):
            return change(value, key)
        return value

    return {name: changed(item, name) for name, item in raw.items()}


def local_path(reference: str) -> str:
    """A folder's path as mergekit finds it; names of the Hub and absolute paths as they are.

    >>> local_path("no/such/folder")
    'no/such/folder'
    """
    return "+".join(_spelled(part) for part in model_parts(reference))


def base_and_adapter(model: str, base: str) -> tuple[str, str | None]:
    """A model as the folder of a whole one, as mergekit finds it, and that of an adapter on it.

    Args:
        model: as a recipe names it: a folder, of an adapter, too, or `base+adapter`.
        base: the recipe's, which an adapter named alone is put on; whatever path leads to its
            folder, this spelling is given.

    >>> base_and_adapter("no/base+no/adapter", "other")
    ('no/base', 'no/adapter')
    """
    first, *others = map(_spelled, model_parts(model))
    if not others and is_adapter_folder(first):
        return _spelled(base), first
    is_base = Path(first).is_dir() and Path(base).is_dir() and Path(first).samefile(base)
    return _spelled(base) if is_base else first, "+".join(others) or None


def own_folder(model: str) -> Path:
    """The folder of what tells a model from others: of an adapter its own, not its base's."""
    return Path(model_parts(model)[-1]).expanduser().resolve()


def is_same_model(one: str, other: str) -> bool:
    """Whether two spellings mean one model; links are not followed, no file is looked at.

    >>> is_same_model("base", "./base"), is_same_model("base/", "other")
    (True, False)
    """
    return _identity(one) == _identity(other)


def _identity(text: str) -> str:
    return os.path.normpath(Path(text).expanduser().absolute())


def model_parts(text: str) -> list[str]:
    """Model and adapter; a folder whose name has a `+` is one model."""
    if Path(text).expanduser().is_dir():
        return [text]
    whole = text.split("+")
    # `a+b+adapter`, where `a+b` is a folder.
    for end in range(len(whole) - 1, 0, -1):
        left = "+".join(whole[:end])
        if Path(left).expanduser().is_dir():
            return [left, "+".join(whole[end:])]
    return whole


def _spelled(path: str) -> str:
    """The path of a folder so that mergekit does not look it up on the Hub."""
    expanded = Path(path).expanduser()
    if not expanded.is_dir():
        return str(expanded) if path.startswith("~") else path
    text = os.path.normpath(expanded)
    return text if text.startswith(("/", "..")) or text == "." else f"./{text}"


class _OneSpelling:
    """The base's spelling for its folder, whatever path leads there."""

    def __init__(self, base: Any) -> None:
        self._base = base

    def __call__(self, part: str) -> str:
        path = _spelled(part)
        is_folder = isinstance(self._base, str) and Path(path).is_dir()
        return str(self._base) if is_folder and is_same_model(path, str(self._base)) else path


class _Spellings:
    """For every spelling of a folder a text of its own; the first one's is the usual one."""

    def __init__(self) -> None:
        self._parts: dict[str, str] = {}

    def __call__(self, part: str) -> str:
        path = _spelled(part)
        if Path(path).is_dir() and self._parts.get(path, part) != part:
            path = str(Path(path).absolute())
            while self._parts.get(path, part) != part:
                path += "/."
        self._parts[path] = part
        return path


def _reference(parts: list[str]) -> Any:
    """As text, or as a mapping where mergekit would split the text otherwise."""
    is_ambiguous = any(("+" in part or "@" in part) and Path(part).is_dir() for part in parts)
    if not is_ambiguous or len(parts) > 2:
        return "+".join(parts)
    return {
        key: {"path": part} if Path(part).is_dir() else part
        for key, part in zip(("model", "lora"), parts, strict=False)
    }
