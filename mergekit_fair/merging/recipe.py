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
from mergekit_fair.merging.recipe_adapters import with_bases
from mergekit_fair.merging.recipe_check import check_recipe
from mergekit_fair.schema import dump_yaml, parse_yaml, read_text


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
        notes: what was resolved, one sentence each.
    """

    raw: dict[str, Any]
    where: str
    source: str
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read and check a recipe file.

        Raises:
            ConfigError: the file cannot be read or is no YAML mapping.
            RecipeError: unknown keys, method, groups or parameters.
        """
        return cls.from_text(read_text(path), str(path))

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

        mergekit asks the Hub about a path `a/b` even where that folder exists. The folder of a
        LoRA adapter becomes `base_model+folder`.

        Raises:
            RecipeError: no model, or an adapter whose base the recipe does not name.
        """
        config = OrderedConfiguration.model_validate(self._references())
        if not config.referenced_models():
            raise RecipeError("names no model", where=self.where)
        return config

    def text(self) -> str:
        """The recipe as YAML that mergekit's own commands run: local relative paths are marked."""
        return dump_yaml(self._references())

    def _references(self) -> Any:
        return with_bases(_with_local_paths(self.raw), self.where)

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
            RecipeError: `weight.<group>` of a group that the recipe does not have, another name
                with a dot, or a parameter whose gradient or filter a number would erase.
        """
        raw = copy.deepcopy(self.raw)
        raw["parameters"] = dict(raw.get("parameters") or {})
        for key, value in settings.items():
            parameters, name = raw["parameters"], key
            if key == "weight" or "." in key:
                name, _, group = key.partition(".")
                parameters = self._group_parameters(raw, name, group)
            if isinstance(parameters.get(name), (list, dict)):
                raise RecipeError(
                    f"{key} is a gradient or filter; a number in its place would erase it",
                    where=self.where,
                    fix=f"give {key} as a number in the recipe, or sweep another parameter",
                )
            parameters[name] = value
        return Recipe.from_mapping(raw, self.where)

    def _group_parameters(self, raw: dict[str, Any], name: str, group: str) -> dict[str, Any]:
        """The parameters of the model of `group` in `raw`, for a setting `<name>.<group>`."""
        if name != "weight":
            raise RecipeError(
                "only weights are set per group",
                where=self.where,
                got=f"{name}.{group}",
                fix=f"write weight.{group}",
            )
        for item in raw.get("models") or ():
            parameters = item.get("parameters") or {}
            if parameters.get("group") == group:
                return parameters
        raise RecipeError(
            "weight of a group that the recipe does not have",
            where=self.where,
            got=group,
            allowed=list(self.groups()),
        )


def lambda_eff(raw: dict[str, Any]) -> float | None:
    """Σ_g λ_g: how far the merge moves in all; None where gradients or filters decide it.

    None too for methods of other packages.
    """
    scale, weights = _coefficients(raw)
    if not weights or not all(isinstance(value, (int, float)) for value in [scale, *weights]):
        return None
    total = float(scale) * math.fsum(weights)
    mean = (raw.get("parameters") or {}).get("normalize") == "mean"
    return total / len(weights) if mean else total


def total_lambda(raw: dict[str, Any]) -> float | None:
    """Σ_g |λ_g|: how far the vectors move in all; None as in `lambda_eff`."""
    scale, weights = _coefficients(raw)
    if not weights or not all(isinstance(value, (int, float)) for value in [scale, *weights]):
        return None
    total = abs(float(scale)) * math.fsum(map(abs, weights))
    mean = (raw.get("parameters") or {}).get("normalize") == "mean"
    return total / len(weights) if mean else total


def adds_nothing(raw: dict[str, Any]) -> bool:
    """λ = 0, or every weight 0: the merge is its base or target. Weights 1 and −1 are not that."""
    scale, weights = _coefficients(raw)
    return scale == 0 or (bool(weights) and all(weight == 0 for weight in weights))


def _coefficients(raw: dict[str, Any]) -> tuple[Any, list[Any]]:
    """λ and the weight of every group, as the recipe has them: numbers, gradients or filters."""
    parameters = raw.get("parameters") or {}
    scale = parameters.get("lambda", 1.0)
    if raw["merge_method"] == "worst_group_injection":
        return scale, [1.0]
    return scale, [
        (item.get("parameters") or {}).get("weight", parameters.get("weight", 1.0))
        for item in raw.get("models") or ()
        if (item.get("parameters") or {}).get("group")
    ]


def _with_local_paths(value: Any) -> Any:
    """A copy in which every `model` and `base_model`, in slices and modules too, is marked."""
    if isinstance(value, list):
        return [_with_local_paths(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: local_path(item)
        if key in ("model", "base_model") and isinstance(item, str)
        else _with_local_paths(item)
        for key, item in value.items()
    }


def local_path(reference: str) -> str:
    """`a/b` → `./a/b` where that folder exists; Hub ids, absolute paths and adapters likewise."""

    def mark(path: str) -> str:
        is_relative = not path.startswith(("/", ".", "~"))
        return f"./{path}" if is_relative and Path(path).is_dir() else path

    return "+".join(mark(part) for part in reference.split("+"))
