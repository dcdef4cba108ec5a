"""Vector folders in a recipe: where they may stand."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from mergekit_fair.checkpoints.folder import VECTOR
from mergekit_fair.checkpoints.reader import Reader
from mergekit_fair.checkpoints.vector_folder import VectorReader
from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.methods.head_policy import HeadPolicy
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.methods.registry import is_own, own_method
from mergekit_fair.merging.recipe import Recipe


def require_whole_target(recipe: Recipe, vector: Path, *, is_resized: bool) -> None:
    """A task vector is added to its target's own tensors, and has no head to be copied.

    Args:
        recipe: that lists it.
        vector: its folder.
        is_resized: whether the recipe changes the vocabulary.

    Raises:
        RecipeError: the recipe makes other tensors of the target's, or copies the head of `first`.
    """
    policy = parameters_of(recipe.raw).get("head", HeadPolicy.MERGE)
    for asked, is_asked in {
        "slices or modules": recipe.is_sliced,
        "another vocabulary": is_resized,
        f"head: {policy}": policy not in (HeadPolicy.MERGE, HeadPolicy.BASE),
    }.items():
        if is_asked:
            raise RecipeError(
                f"asks for {asked}, and lists a task vector, the difference from one model as it "
                "is",
                where=recipe.where,
                got=str(vector),
                fix="merge the vector into its target by a recipe of its own, and go on with what "
                "comes of it",
            )


def require_kinds(recipe: Recipe, readers: Mapping[str, Reader], heads: Collection[str]) -> None:
    """Check that a method that adds stored vectors gets no models, and vectors of a head alone.

    Args:
        recipe: of any method.
        readers: the base first.
        heads: the base's tensors that are a classification head; empty where nothing tells.

    Raises:
        RecipeError: names the model.
    """
    if not (is_own(recipe.method) and own_method(recipe.method).adds_differences):
        return
    for model, reader in list(readers.items())[1:]:
        if not isinstance(reader, VectorReader):
            raise RecipeError(
                f"{recipe.method} adds task vectors that are stored as such, and this is a model",
                where=f"{recipe.where}: model {model}",
                allowed=f"a folder with {VECTOR}, as `mergekit-fair heads` writes it",
                fix="use subgroup_task_addition, which subtracts base_model from every model",
            )
        outside = sorted(reader.held.difference(heads))
        if heads and outside:
            raise RecipeError(
                f"{recipe.method} changes the classification head alone, and this vector holds "
                f"{len(outside)} more tensors",
                where=f"{recipe.where}: model {model}",
                got=outside[:3],
                allowed=sorted(heads),
                fix="use subgroup_task_addition, which takes any task vector",
            )
