"""A merge recipe: mergekit's own configuration, read strictly and in a fixed model order."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration

from mergekit_fair.errors import RecipeError
from mergekit_fair.recipe.check import check_recipe
from mergekit_fair.schema import dump_yaml, load_yaml, parse_yaml


class OrderedConfiguration(MergeConfiguration):
    """mergekit's configuration with its models in recipe order, the base first.

    mergekit collects them in a set, so cards and inferred architectures vary with
    PYTHONHASHSEED.
    """

    def referenced_models(self) -> list[ModelReference]:
        models = [self.base_model] if self.base_model else []
        models += [item.model for item in self.models or ()]
        for part in self.slices or ():
            models += [source.model for source in part.sources]
        for module in (self.modules or {}).values():
            models += [item.model for item in module.models or ()]
            for part in module.slices or ():
                models += [source.model for source in part.sources]
        return list(dict.fromkeys(models))


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Attributes:
        raw: the YAML as a mapping; never changed, use `with_settings`.
        where: the file, for error messages.
        source: the YAML text, written verbatim into `mergekit_config.yml`.
    """

    raw: dict[str, Any]
    where: str
    source: str

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read and check a recipe file.

        Raises:
            ConfigError: the file cannot be read or is no YAML mapping.
            RecipeError: unknown keys, method, groups or parameters.
        """
        raw = load_yaml(path)
        return cls._checked(raw, str(path), Path(path).read_text(encoding="utf-8"))

    @classmethod
    def from_mapping(cls, raw: dict[str, Any], where: str) -> Recipe:
        """The same for an inline mapping; `where` names it in errors."""
        return cls._checked(raw, where, dump_yaml(raw))

    @classmethod
    def from_text(cls, text: str, where: str) -> Recipe:
        """The same for YAML text, which is kept verbatim."""
        return cls._checked(parse_yaml(text, where), where, text)

    @classmethod
    def _checked(cls, raw: dict[str, Any], where: str, source: str) -> Recipe:
        check_recipe(raw, where)
        return cls(raw, where, source)

    @property
    def method(self) -> str:
        return str(self.raw["merge_method"])

    def configuration(self) -> OrderedConfiguration:
        """mergekit's configuration object; local relative paths begin with `./`.

        mergekit asks the Hub about a path `a/b` even where that folder exists.
        """
        config = OrderedConfiguration.model_validate(_with_local_paths(self.raw))
        if not config.referenced_models():
            raise RecipeError("names no model", where=self.where)
        return config

    def groups(self) -> dict[str, str]:
        """Subgroup name → model path, in recipe order."""
        found = {}
        for item in self.raw.get("models") or ():
            name = (item.get("parameters") or {}).get("group")
            if name:
                found[str(name)] = str(item["model"])
        return found

    def with_settings(self, settings: dict[str, float | str]) -> Recipe:
        """A copy with `lambda`, `weight.<group>` or `worst` set.

        Raises:
            RecipeError: `weight.<group>` of a group that the recipe does not have, or `lambda`
                where the recipe has a gradient or filter that a number would erase.
        """
        raw = copy.deepcopy(self.raw)
        parameters = raw["parameters"] = dict(raw.get("parameters") or {})
        for key, value in settings.items():
            name, _, group = key.partition(".")
            if name == "weight":
                _model_of(raw, group, self.where).setdefault("parameters", {})["weight"] = value
            elif isinstance(parameters.get(name), (list, dict)):
                raise RecipeError(
                    f"parameters.{name} is a gradient or filter; a grid over it would erase it",
                    where=self.where,
                    fix=f"give parameters.{name} as a number, or sweep weight.<group> instead",
                )
            else:
                parameters[name] = value
        return Recipe.from_mapping(raw, self.where)


def lambda_eff(raw: dict[str, Any]) -> float | None:
    """Σ_g λ_g: how far the merge moves in all; None where gradients or filters decide it."""
    parameters = raw.get("parameters") or {}
    scale = parameters.get("lambda", 1.0)
    if raw["merge_method"] == "worst_group_injection":
        weights = [1.0]
    else:
        weights = [
            (item.get("parameters") or {}).get("weight", parameters.get("weight", 1.0))
            for item in raw.get("models") or ()
            if (item.get("parameters") or {}).get("group")
        ]
    if not all(isinstance(value, (int, float)) for value in [scale, *weights]):
        return None
    total = float(scale) * math.fsum(weights)
    return total / len(weights) if parameters.get("normalize") == "mean" else total


def _model_of(raw: dict[str, Any], group: str, where: str) -> dict[str, Any]:
    groups = []
    for item in raw.get("models") or ():
        name = (item.get("parameters") or {}).get("group")
        if name == group:
            return dict_in(item)
        groups.append(str(name))
    raise RecipeError(
        "weight of a group that the recipe does not have", where=where, got=group, allowed=groups
    )


def dict_in(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise RecipeError("a model entry must be a mapping", got=item)
    return item


def _with_local_paths(raw: dict[str, Any]) -> dict[str, Any]:
    raw = copy.deepcopy(raw)
    if isinstance(raw.get("base_model"), str):
        raw["base_model"] = local_path(raw["base_model"])
    for item in raw.get("models") or ():
        if isinstance(item, dict) and isinstance(item.get("model"), str):
            item["model"] = local_path(item["model"])
    return raw


def local_path(reference: str) -> str:
    """`a/b` → `./a/b` where that folder exists; Hub ids, absolute paths and adapters likewise."""

    def mark(path: str) -> str:
        is_relative = not path.startswith(("/", ".", "~"))
        return f"./{path}" if is_relative and Path(path).is_dir() else path

    return "+".join(mark(part) for part in reference.split("+"))
