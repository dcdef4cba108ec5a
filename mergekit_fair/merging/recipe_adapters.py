"""LoRA adapters in recipes: `model: base+adapter`, or the adapter's folder alone."""

from __future__ import annotations

from typing import Any

from mergekit_fair.checkpoints.adapter_config import is_adapter_folder
from mergekit_fair.errors import RecipeError


def with_bases(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """A copy in which every adapter folder is written as `base_model+folder`.

    Args:
        raw: a recipe whose paths are as mergekit gets them.
        where: the recipe, for the error.

    Raises:
        RecipeError: an adapter, and no base_model that it can be put on.
    """
    base = raw.get("base_model")

    def changed(value: Any, key: str = "") -> Any:
        if isinstance(value, list):
            return [changed(item) for item in value]
        if isinstance(value, dict):
            return {name: changed(item, name) for name, item in value.items()}
        is_adapter = key in ("model", "base_model") and _is_adapter(value)
        if is_adapter and (key == "base_model" or not _is_plain(base)):
            raise RecipeError(
                "is a LoRA adapter, and base_model is not a model that it can be put on",
                where=f"{where}: model {value}",
                got=base,
                fix=f"write BASE+{value}, with the model that it was trained on",
            )
        return f"{base}+{value}" if is_adapter else value

    found: dict[str, Any] = changed(raw)
    return found


def _is_adapter(value: Any) -> bool:
    return isinstance(value, str) and "+" not in value and is_adapter_folder(value)


def _is_plain(base: Any) -> bool:
    return isinstance(base, str) and "+" not in base and not is_adapter_folder(base)
