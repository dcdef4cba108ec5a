"""How a number of a recipe is named, so that a grid or a search can change it.

    NAME              a parameter: `lambda`, `t`, `epsilon`; `density` of all models
    NAME.MODEL        of one model, by its group, path, or the path's last part: `weight.Female`
    NAME[2]           an element of a layer gradient, counted from 0: `t[2]`, `weight.Female[1]`
    NAME[FILTER]      the value of a filter: `t[self_attn]`; `t[*]` where none is given
    NAME[FILTER][2]   an element of the gradient that a filter has

What a method knows as a parameter, and whether each model has its own, is what it declares to
mergekit. The recipe decides what brackets mean: of a gradient they name an element, of filters one
of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from pydantic import TypeAdapter

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.methods.declaration import MethodSpec, ParameterScope, ParameterSpec
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.references import is_same_model
from mergekit_fair.schema import nearest

FORMS = "NAME, NAME.MODEL, NAME[ELEMENT], NAME[FILTER], such as lambda, weight.Female, t[2]"

_PARTS = re.compile(r"(?P<name>[^\W\d]\w*)(?:\.(?P<model>.+?))?(?P<inside>(?:\[[^\[\]]*\])*)", re.S)
_INSIDE = re.compile(r"\[([^\[\]]*)\]")
_ANY = (None, "*")  # filters that every tensor passes


@dataclass(frozen=True)
class Place:
    """Where a recipe has a number.

    Attributes:
        block: index in `models`; None for the recipe's own parameters.
        name: of the parameter.
        inside: keys and indices below it, of filters and gradients.
    """

    block: int | None
    name: str
    inside: tuple[int | str, ...] = ()

    def overlaps(self, other: Place) -> bool:
        """Whether both have a number in common."""
        depth = min(len(self.inside), len(other.inside))
        return (self.block, self.name, self.inside[:depth]) == (
            other.block,
            other.name,
            other.inside[:depth],
        )


@dataclass(frozen=True)
class NamedParameter:
    """A name, found in a recipe.

    Attributes:
        key: the name.
        parameter: as its method declares it.
        places: where a value goes.
        cleared: models whose own value gives way to the recipe's, which holds for all.
    """

    key: str
    parameter: ParameterSpec
    places: tuple[Place, ...]
    cleared: tuple[int, ...] = ()

    @property
    def all_places(self) -> tuple[Place, ...]:
        """With those that give way."""
        name = self.parameter.name
        return (*self.places, *(Place(block, name) for block in self.cleared))

    def set(self, raw: Mapping[str, Any], value: Any) -> dict[str, Any]:
        """The recipe with this value; what it shares with `raw` is not changed."""
        if isinstance(value, float) and value.is_integer() and _type(self.parameter) == "integer":
            value = int(value)
        changed = dict(raw)
        for block in self.cleared:
            parameters = _own_block(changed, block)
            parameters.pop(self.parameter.name, None)
        for place in self.places:
            parameters = _own_block(changed, place.block)
            before = parameters.get(place.name)
            parameters[place.name] = _replaced(before, place.inside, value)
        return changed


def find_parameter(
    raw: Mapping[str, Any], spec: MethodSpec, key: str, where: str
) -> NamedParameter:
    """What a name stands for in a recipe.

    Args:
        raw: a checked recipe without slices.
        spec: of its method.
        key: the name, in the grammar of this module.
        where: the recipe, for errors.

    Raises:
        RecipeError: no such parameter, model, element or filter, each with the near name; one that
            holds for the whole recipe and is named with a model; a number in the place of a
            gradient or filters, which it would erase.

    >>> from mergekit_fair.merging.methods.registry import spec_of
    >>> raw = {"merge_method": "slerp", "base_model": "a", "models": [{"model": "b"}],
    ...        "parameters": {"t": [0, 0.5, 1]}}
    >>> find_parameter(raw, spec_of("slerp"), "t[1]", "slerp.yml").set(raw, 0.75)["parameters"]
    {'t': [0, 0.75, 1]}
    """
    parts = _PARTS.fullmatch(key)
    if parts is None:
        raise RecipeError("is not the name of a parameter", where=where, got=key, allowed=FORMS)
    parameter = _parameter(spec, key, parts["name"], where)
    if place := _in_slices(raw, parameter.name):
        raise RecipeError(
            f"stands in {place}, where no name reaches it",
            where=where,
            got=key,
            fix="give it in the recipe's own parameters",
        )
    inside = tuple(text.strip() for text in _INSIDE.findall(parts["inside"]))
    if parts["model"] is None:
        return _of_all(raw, key, parameter, inside, where)
    if parameter.scope == ParameterScope.SHARED:
        raise RecipeError(
            "holds for the whole recipe and has no value of one model",
            where=where,
            got=key,
            fix=f"write {parameter.name}{parts['inside']}",
        )
    block, inside = _model(raw, parameter, parts["model"], inside, where)
    if not inside:
        effective = _value(raw, block, parameter.name, _value(raw, None, parameter.name, 0))
        _require_scalar(effective, key, where)
        return NamedParameter(key, parameter, (Place(block, parameter.name),))
    own = _value(raw, block, parameter.name)
    path = _path(own, inside, key, where)
    return NamedParameter(key, parameter, (Place(block, parameter.name, path),))


def require_numeric(found: NamedParameter, spec: MethodSpec, where: str) -> None:
    """Check that a named parameter takes numbers.

    Raises:
        RecipeError: it takes words, or true and false.
    """
    if _type(found.parameter) is None:
        raise RecipeError(
            f"{found.parameter.name} takes no numbers",
            where=where,
            got=found.key,
            allowed=_numbers(spec),
        )


def name_of(key: str) -> str:
    """The parameter's own name: `weight` of `weight.Female[1]`.

    >>> name_of("weight.Female[1]")
    'weight'
    """
    parts = _PARTS.fullmatch(key)
    return key if parts is None else parts["name"]


def require_distinct_places(found: Sequence[NamedParameter], where: str) -> None:
    """Check that no number has two names.

    Raises:
        RecipeError: names both.
    """
    for number, one in enumerate(found):
        for other in found[:number]:
            if any(a.overlaps(b) for a in one.all_places for b in other.all_places):
                raise RecipeError(
                    f"sets the same number as {other.key}",
                    where=where,
                    got=one.key,
                    fix="name each model or element by itself, or leave one of them out",
                )


def is_whole(found: NamedParameter) -> bool:
    """Whether a parameter takes whole numbers only."""
    return _type(found.parameter) == "integer"


def numeric_names(spec: MethodSpec) -> list[str]:
    """The parameters of a method that take numbers; per model also as `NAME.<model>`."""
    names = []
    for parameter in spec.parameters:
        if _type(parameter) is not None:
            names.append(parameter.name)
            if parameter.scope != ParameterScope.SHARED:
                names.append(f"{parameter.name}.<model>")
    return names


def _numbers(spec: MethodSpec) -> list[str]:
    return numeric_names(spec) or [f"none: no parameter of {spec.name} is a number"]


def _type(parameter: ParameterSpec) -> str | None:
    """`number` or `integer`; None of what takes words or booleans."""
    schema = TypeAdapter(parameter.value_type).json_schema()
    kinds = [schema, *schema.get("anyOf", [])]
    types = [kind.get("type") for kind in kinds]
    return next((name for name in ("number", "integer") if name in types), None)


def _parameter(spec: MethodSpec, key: str, name: str, where: str) -> ParameterSpec:
    known = {parameter.name: parameter for parameter in spec.parameters}
    if name in known:
        return known[name]
    raise RecipeError(
        f"{spec.name} has no parameter {name!r}{nearest(name, list(known))}",
        where=where,
        got=key,
        allowed=_numbers(spec),
    )


def _in_slices(raw: Mapping[str, Any], name: str) -> str | None:
    """The first of slices and modules in which a parameter is given."""

    def holds(value: Any) -> bool:
        if isinstance(value, list):
            return any(map(holds, value))
        if not isinstance(value, dict):
            return False
        return name in (value.get("parameters") or {}) or any(map(holds, value.values()))

    return next((key for key in ("slices", "modules") if holds(raw.get(key))), None)


def _of_all(
    raw: Mapping[str, Any],
    key: str,
    parameter: ParameterSpec,
    inside: tuple[str, ...],
    where: str,
) -> NamedParameter:
    """A parameter of the recipe, or of all its models."""
    blocks: list[int | None] = [None]
    if parameter.scope != ParameterScope.SHARED:
        blocks += [block for block, _ in _models_with(raw, parameter)]
    given = [b for b in blocks if parameter.name in _block(raw, b)]
    if not inside:
        for block in given:
            _require_scalar(_value(raw, block, parameter.name), key, where)
        cleared = tuple(block for block in given if block is not None)
        return NamedParameter(key, parameter, (Place(None, parameter.name),), cleared)
    places = [
        Place(block, parameter.name, _path(_value(raw, block, parameter.name), inside, key, where))
        for block in given or [None]
    ]
    return NamedParameter(key, parameter, tuple(places))


def _models_with(
    raw: Mapping[str, Any], parameter: ParameterSpec
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Index and entry of the models that have a value of their own."""
    base = raw.get("base_model")
    for index, item in enumerate(raw.get("models") or ()):
        is_base = base is not None and is_same_model(str(item["model"]), str(base))
        if not (is_base and parameter.scope == ParameterScope.NON_BASE):
            yield index, item


def _model(
    raw: Mapping[str, Any],
    parameter: ParameterSpec,
    text: str,
    inside: tuple[str, ...],
    where: str,
) -> tuple[int, tuple[str, ...]]:
    """The index of a model, and what is left of the brackets: a group's name may end with some."""
    models = dict(_models_with(raw, parameter))
    names = [
        {index: str(parameters_of(dict(item)).get("group", "")) for index, item in models.items()},
        {index: str(item["model"]) for index, item in models.items()},
        {index: PurePath(str(item["model"])).name for index, item in models.items()},
    ]
    for kept in range(len(inside), -1, -1):
        whole = text + "".join(f"[{part}]" for part in inside[:kept])
        for known in names:
            found = [index for index, name in known.items() if name == whole]
            if len(found) == 1:
                return found[0], inside[kept:]
            if found:
                raise RecipeError(
                    "is the last part of several models' names",
                    where=where,
                    got=whole,
                    allowed=[str(models[index]["model"]) for index in found],
                )
    shown = [names[0][index] or names[1][index] for index in models]
    every = [name for known in names for name in known.values() if name]
    raise RecipeError(
        f"names no model of the recipe that has a {parameter.name}{nearest(text, every)}",
        where=where,
        got=text,
        allowed=shown,
    )


def _path(setting: Any, inside: tuple[str, ...], key: str, where: str) -> tuple[int | str, ...]:
    """Keys and indices of a number within a setting."""
    path: list[int | str] = []
    for text in inside:
        if isinstance(setting, dict) or _is_filtered(setting):
            conditions = [setting] if isinstance(setting, dict) else setting
            index = _condition(conditions, text, key, where)
            path += ["value"] if isinstance(setting, dict) else [index, "value"]
            setting = conditions[index]["value"]
        elif isinstance(setting, list):
            element = _element(setting, text, key, where)
            path.append(element)
            setting = setting[element]
        else:
            raise RecipeError(
                "has brackets, which name an element of a layer gradient or a filter",
                where=where,
                got=key,
                fix=f"leave [{text}] out, or give the recipe a gradient or filters",
            )
    _require_scalar(setting, key, where)
    return tuple(path)


def _is_filtered(setting: Any) -> bool:
    return isinstance(setting, list) and any(isinstance(item, dict) for item in setting)


def _condition(conditions: Sequence[Mapping[str, Any]], text: str, key: str, where: str) -> int:
    filters = [item.get("filter") for item in conditions]
    for index, given in enumerate(filters):
        if given == text or (given in _ANY and text == "*"):
            return index
    known = [str(given or "*") for given in filters]
    raise RecipeError(
        f"names no filter of the recipe{nearest(text, known)}", where=where, got=key, allowed=known
    )


def _element(gradient: Sequence[Any], text: str, key: str, where: str) -> int:
    if text.isdecimal() and int(text) < len(gradient):
        return int(text)
    raise RecipeError(
        "names no element of the layer gradient",
        where=where,
        got=key,
        allowed=f"0 to {len(gradient) - 1}",
    )


def _require_scalar(setting: Any, key: str, where: str) -> None:
    if isinstance(setting, (list, dict)):
        is_filtered = isinstance(setting, dict) or _is_filtered(setting)
        inside = "[FILTER]" if is_filtered else "[0]"
        raise RecipeError(
            f"{key} is a gradient or filter; a number in its place would erase it",
            where=where,
            got=setting,
            fix=f"name what is to change of it, such as {key}{inside}, or give a number in the "
            "recipe",
        )


def _block(raw: Mapping[str, Any], block: int | None) -> dict[str, Any]:
    return parameters_of(dict(raw if block is None else raw["models"][block]))


def _value(raw: Mapping[str, Any], block: int | None, name: str, default: Any = None) -> Any:
    return _block(raw, block).get(name, default)


def _own_block(raw: dict[str, Any], block: int | None) -> dict[str, Any]:
    """Parameters of a block that may be changed: `raw` itself is the caller's own."""
    parameters = dict(_block(raw, block))
    if block is None:
        raw["parameters"] = parameters
    else:
        raw["models"] = list(raw["models"])
        raw["models"][block] = {**raw["models"][block], "parameters": parameters}
    return parameters


def _replaced(setting: Any, inside: Collection[int | str], value: Any) -> Any:
    """A copy of a setting with a number in it replaced."""
    if not inside:
        return value
    key, *below = inside
    copy: Any = dict(setting) if isinstance(setting, dict) else list(setting)
    copy[key] = _replaced(setting[key], below, value)
    return copy
