"""A merge recipe: mergekit's configuration, read strictly and in a fixed model order."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergekit_fair.compat.mergekit import for_mergekit
from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.configuration import MergeConfiguration, models_in
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.methods.registry import is_own, own_method, register_methods, spec_of
from mergekit_fair.merging.parameter_names import find_parameter
from mergekit_fair.merging.recipe_check import check_recipe, parse_recipe
from mergekit_fair.merging.recipe_inputs import require_inputs, unmatched_filters
from mergekit_fair.merging.recipe_keys import without_measurement
from mergekit_fair.merging.references import found_beside, is_same_model, references
from mergekit_fair.schema import dump_yaml, read_text


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Attributes:
        raw: the YAML as a mapping; never changed, use `with_settings`.
        where: the file, for error messages.
        source: the YAML text, written verbatim into `mergekit_config.yml`.
        notes: what was resolved, one sentence each.
        warnings: what mergekit would pass over in silence; for methods of other packages only.
    """

    raw: dict[str, Any]
    where: str
    source: str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read and check a recipe file.

        Relative paths of models begin in the working directory, as in mergekit, or beside the file.

        Raises:
            ConfigError: the file cannot be read or is not a YAML mapping, or a path stands for one
                folder here and for another one beside the file.
            RecipeError: unknown keys, method, groups or parameters.
        """
        text, where = read_text(path), str(path)
        raw, repeated = parse_recipe(text, where)
        found = found_beside(raw, where)
        return cls._checked(found, where, text if found == raw else dump_yaml(found), repeated)

    @classmethod
    def from_mapping(cls, raw: dict[str, Any], where: str) -> Recipe:
        """The same for a mapping, with paths as they are; `where` names it in errors."""
        return cls._checked(raw, where, dump_yaml(raw))

    @classmethod
    def from_text(cls, text: str, where: str) -> Recipe:
        """The same for YAML text, which is kept verbatim."""
        raw, repeated = parse_recipe(text, where)
        return cls._checked(raw, where, text, repeated)

    @classmethod
    def _checked(
        cls, raw: dict[str, Any], where: str, source: str, warnings: tuple[str, ...] = ()
    ) -> Recipe:
        return cls(raw, where, source, warnings=(*warnings, *check_recipe(raw, where)))

    @property
    def remarks(self) -> tuple[str, ...]:
        """Notes and warnings, as a person reads them."""
        return (*self.notes, *(f"warning: {warning}" for warning in self.warnings))

    @property
    def method(self) -> str:
        return str(self.raw["merge_method"])

    @property
    def random_seed(self) -> int | None:
        """What a random method of mergekit draws from, as `fairness: {random_seed: 0}` says."""
        seed = (self.raw.get("fairness") or {}).get("random_seed")
        return None if seed is None else int(seed)

    def with_random_seed(self, seed: int) -> Recipe:
        """A copy that says what a random method draws from."""
        fairness = {**(self.raw.get("fairness") or {}), "random_seed": seed}
        return Recipe.from_mapping({**self.raw, "fairness": fairness}, self.where)

    @property
    def is_sliced(self) -> bool:
        """Whether it puts layers together, with `slices` or `modules`."""
        return bool(self.raw.get("slices") or self.raw.get("modules"))

    def configuration(self, folders: Mapping[str, Path] | None = None) -> MergeConfiguration:
        """What mergekit would read, with models as `references` spells them.

        Args:
            folders: as for `references`.

        Raises:
            RecipeError: no model, or an adapter whose base the recipe does not name.
        """
        config = MergeConfiguration.model_validate(self._references(folders))
        if not config.referenced_models():
            raise RecipeError("names no model", where=self.where)
        return config

    def for_mergekit(self, folders: Mapping[str, Path] | None = None) -> Any:
        """`configuration` as mergekit's own object, for its engine, which gets to know our methods.

        Raises:
            RecipeError: as `configuration`, and as `register_methods`.
        """
        register_methods()
        return for_mergekit(self._references(folders), models_in)

    def text(self) -> str:
        """The recipe as YAML that mergekit's own commands run: local relative paths are marked."""
        return dump_yaml(self._references())

    def _references(self, folders: Mapping[str, Path] | None = None) -> dict[str, Any]:
        differ = not is_own(self.method)
        return references(self.raw, self.where, folders, spellings_differ=differ)

    def require_inputs(self) -> None:
        """Numbers of models and missing parameters, of a recipe that mergekit runs.

        Raises:
            RecipeError: what mergekit would refuse once it has opened the models.
        """
        config = MergeConfiguration.model_validate(self.raw)
        require_inputs(config, spec_of(self.method), self.where, self.warnings)

    def on_tensors(self, names: Collection[str]) -> Recipe:
        """The recipe with a warning for every filter that matches none of these names."""
        spec = spec_of(self.method)
        more = unmatched_filters(self.raw, self.where, spec, names)
        return replace(self, warnings=(*self.warnings, *more))

    def groups(self) -> dict[str, str]:
        """Subgroup name → model path, in recipe order."""
        models = self.raw.get("models") or ()
        return {
            str(name): str(item["model"])
            for item in models
            if (name := parameters_of(item).get("group"))
        }

    def vectors(self) -> dict[str, str]:
        """Name → model, of all whose task vector is added: what a random control replaces.

        A model's name is its group, or its place among the models (`model 2`). The target of an
        injection is no such vector.
        """
        base, found = str(self.raw.get("base_model")), {}
        for place, item in enumerate(self.raw.get("models") or (), start=1):
            model, parameters = str(item["model"]), parameters_of(item)
            if not is_same_model(model, base) and parameters.get("role") != "target":
                found[str(parameters.get("group") or f"model {place}")] = model
        return found

    def resolved(self) -> Recipe:
        """The recipe with what its method finds out before a merge filled in.

        That is the worst group (`worst: auto`) and FedNova's missing steps, so that mergekit's own
        command runs the result.

        Returns:
            The recipe itself if nothing is open; else one whose `notes` say what was found, and
            whose `source` holds it.

        Raises:
            RecipeError: an evaluation or a train.json that does not have what is needed.
            MeasurementError: an evaluation by which no group is the worst.
            ConfigError: a file that cannot be read.
        """
        if not is_own(self.method) or self.is_sliced:
            return self
        resolution = own_method(self.method).resolve(self.raw, self.where)
        if resolution is None:
            return self
        raw, notes = resolution
        return replace(Recipe.from_mapping(raw, self.where), notes=tuple(notes))

    def with_settings(self, settings: Mapping[str, float | str]) -> Recipe:
        """A copy with some of its parameters set.

        >>> raw = {"merge_method": "task_negation", "base_model": "b", "models": [{"model": "a"}]}
        >>> recipe = Recipe.from_mapping(raw, "negation.yml")
        >>> recipe.with_settings({"lambda": 0.5}).raw["parameters"]
        {'lambda': 0.5}

        Args:
            settings: name in the grammar of `parameter_names` (`lambda`, `weight.<group>`, `t[2]`),
                or `worst` → value.

        Raises:
            RecipeError: as `find_parameter`; a value that the method does not take.
        """
        return Recipe.from_mapping(self.raw_with(settings), self.where)

    def raw_with(self, settings: Mapping[str, float | str]) -> dict[str, Any]:
        """The mapping of `with_settings`, whose values are not checked yet.

        Raises:
            RecipeError: as `find_parameter`.
        """
        raw, spec = without_measurement(self.raw), spec_of(self.method)
        raw["parameters"] = dict(parameters_of(raw))
        for key, value in settings.items():
            raw = find_parameter(raw, spec, key, self.where).set(raw, value)
        return raw


def family(raw: Mapping[str, Any]) -> str:
    """A text that recipes share if they differ only in numbers of their parameters, or `worst`.

    >>> a = {"merge_method": "task_negation", "parameters": {"lambda": 0.1}}
    >>> family(a) == family({**a, "parameters": {"lambda": 0.7}})
    True
    """
    items = raw.get("models") or ()
    # Where a model's filter matches no tensor, mergekit goes on to the recipe's own number.
    varied = {
        name
        for item in items
        for name, value in parameters_of(item).items()
        if isinstance(value, (list, dict))
    }

    def without_numbers(block: dict[str, Any], filtered: Collection[str] = ()) -> dict[str, Any]:
        return {
            name: value
            for name, value in parameters_of(block).items()
            if name in filtered
            or not (
                name == "worst" or (isinstance(value, (int, float)) and type(value) is not bool)
            )
        }

    models = [{**item, "parameters": without_numbers(item)} for item in items]
    parts = {**raw, "parameters": without_numbers(dict(raw), varied), "models": models}
    return json.dumps(parts, sort_keys=True, default=str)
