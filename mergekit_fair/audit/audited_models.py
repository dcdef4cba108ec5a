"""The models of an audit: the base, every parent and the merge, each with a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mergekit_fair.audit.audit_results import BASE, MERGE
from mergekit_fair.checkpoints.fingerprint import model_fingerprint
from mergekit_fair.checkpoints.hub import downloaded
from mergekit_fair.errors import CheckpointError
from mergekit_fair.files import text_of
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.references import (
    is_same_model,
    model_parts,
    own_folder,
    with_models,
)
from mergekit_fair.progress import Progress
from mergekit_fair.schema import digest_of_json, parse_yaml_loosely


@dataclass(frozen=True)
class ModelToAudit:
    """One of them.

    Attributes:
        name: in tables and requirements.
        kind: `base`, `parent` or `merge`.
        source: a folder, or `base+adapter`; None of a merge that the recipe makes.
        folders: what its weights are made of.
        digest: of those folders' files, and of the recipe.
    """

    name: str
    kind: Literal["base", "parent", "merge"]
    source: str | None
    folders: tuple[Path, ...]
    digest: str


def with_local_models(recipe: Recipe) -> Recipe:
    """The recipe with models of the Hub in its cache's folders, downloaded if need be.

    Raises:
        CheckpointError: a model that is neither a folder nor on the Hub.
    """

    def local(text: str, key: str) -> str:
        del key
        return "+".join(_found(part) for part in model_parts(text))

    raw = with_models(recipe.raw, local)
    return recipe if raw == recipe.raw else Recipe.from_mapping(raw, recipe.where)


def _found(name: str) -> str:
    if Path(name).expanduser().is_dir():
        return name
    try:
        return str(downloaded(name))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"is no folder, and cannot be had from the Hub ({type(error).__name__})",
            where=name,
            fix="check the name, the network, and HF_HUB_OFFLINE",
        ) from error


def models_to_audit(
    recipe: Recipe, merged: Path | None = None, progress: Progress | None = None
) -> list[ModelToAudit]:
    """The base if there is one, the parents in the recipe's order, the merge.

    Args:
        recipe: with local models.
        merged: the folder of the merge, if it exists; None: it is made from the recipe.
        progress: told how many bytes are read.

    Raises:
        CheckpointError: a folder without a model.
    """
    base = recipe.raw.get("base_model")
    sources = [str(model) for model in recipe.configuration().referenced_models()]
    parents = [
        source for source in sources if not isinstance(base, str) or not is_same_model(source, base)
    ]
    named: list[tuple[str, Literal["base", "parent", "merge"], str | None]] = []
    if isinstance(base, str):
        named.append((BASE, "base", base))
    named += [(name, "parent", each) for name, each in _names(recipe, parents).items()]
    named.append((MERGE, "merge", None if merged is None else str(merged)))
    prints = {
        folder: model_fingerprint(folder, progress).digest
        for source in dict.fromkeys([*sources, *([str(merged)] if merged else [])])
        for folder in _folders(source)
    }
    found = []
    for name, kind, source in named:
        of = sources if source is None else [source]
        folders = tuple(dict.fromkeys(folder for each in of for folder in _folders(each)))
        made = [prints[folder] for folder in folders]
        what = digest_of_json([*made, *([] if source else [recipe.source])])
        found.append(ModelToAudit(name, kind, source, folders, what))
    return found


def doubt_of(merged: Path, recipe: Recipe) -> str | None:
    """Why a folder may not be the recipe's merge, by the recipe that lies in it; None if it is."""
    file = merged / "mergekit_config.yml"
    if not file.is_file():
        return f"{merged} does not say what it was merged from: it is taken for the recipe's merge"
    made, _ = parse_yaml_loosely(text_of(file), file)
    said, ours = (
        (raw.get("merge_method"), raw.get("parameters"), _members(raw))
        for raw in (made, recipe.raw)
    )
    return None if said == ours else f"{merged} was merged by another recipe ({file.name})"


def _members(raw: Mapping[str, Any]) -> list[tuple[str, Any]]:
    items = raw.get("models") or ()
    return [(own_folder(str(item["model"])).name, item.get("parameters")) for item in items]


def _folders(source: str) -> list[Path]:
    """Of an adapter on a base, both."""
    return [own_folder(part) for part in model_parts(source)]


def _names(recipe: Recipe, parents: Sequence[str]) -> dict[str, str]:
    """Name → parent: its group or role in the recipe, or the shortest end of its path that tells it
    from the others."""
    listed = {
        own_folder(str(item["model"])): parameters_of(item)
        for item in recipe.raw.get("models") or ()
    }
    folders = {source: own_folder(source) for source in parents}
    for depth in range(1, 1 + max((len(each.parts) for each in folders.values()), default=0)):
        ends = {source: "/".join(each.parts[-depth:]) for source, each in folders.items()}
        names = {
            source: str(_called(listed.get(folders[source], {})) or ends[source])
            for source in parents
        }
        is_told = len(set(names.values())) == len(names)
        if is_told and not {BASE, MERGE} & set(names.values()):
            return {name: source for source, name in names.items()}
    return {f"parent {number}": source for number, source in enumerate(parents, 1)}


def _called(parameters: dict[str, object]) -> object:
    role = parameters.get("role")
    return parameters.get("group") or (role if role == "target" else None)
