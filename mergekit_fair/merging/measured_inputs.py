"""The models that a chosen recipe was measured with: what is merged of it is what was measured.

A sweep writes into the `fairness` block of the recipe that it has chosen the point's id and the
fingerprint of every model. The id digests recipe and fingerprints, so that neither can change
without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mergekit_fair.checkpoints.fingerprint import model_fingerprint
from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.recipe_keys import MEASURED
from mergekit_fair.merging.references import base_and_adapter, own_folder, with_models
from mergekit_fair.schema import parse_yaml_loosely


@dataclass(frozen=True)
class MeasuredInputs:
    """What the scores of a chosen recipe's model depend on.

    Attributes:
        point: the id of the point of the sweep.
        kind: of that point.
        measuring: a digest of what models were asked, and how they were run.
        inputs: model, as the recipe names it → its fingerprint's digest, of an adapter's own files.
    """

    point: str
    kind: str
    measuring: str
    inputs: Mapping[str, str]

    @classmethod
    def of(cls, recipe: Recipe) -> Self | None:
        """What a recipe says about itself; None for a recipe that no sweep has chosen.

        Raises:
            RecipeError: it says a part of it, or it is not the recipe that was measured.
        """
        raw, _ = parse_yaml_loosely(recipe.source, recipe.where)  # folders as they are written
        block = raw.get("fairness")
        said = (
            {key: block[key] for key in MEASURED if key in block} if isinstance(block, dict) else {}
        )
        if not said:
            return None
        where = f"{recipe.where}: fairness"
        inputs = said.get("inputs")
        if len(said) < len(MEASURED) or not isinstance(inputs, dict):
            raise RecipeError(
                "does not say what was measured", where=where, allowed=MEASURED, fix=_WITHOUT
            )
        found = cls(
            str(said["point"]),
            str(said["kind"]),
            str(said["measuring"]),
            {str(model): str(digest) for model, digest in inputs.items()},
        )
        drawn = {} if recipe.random_seed is None else {"random_seed": recipe.random_seed}
        if found.point != point_id(found.kind, raw, found.inputs, found.measuring, **drawn):
            raise RecipeError(
                "is of another recipe: this one was changed after it was measured",
                where=where,
                got=found.point,
                fix=_WITHOUT,
            )
        return found


# A head's vectors lie in the sweep's own folder: where that is changes no score.
_BY_CONTENT = "head"
_WITHOUT = "take the recipe that the sweep has written, or leave out its fairness block"


def point_id(
    kind: str,
    recipe: Mapping[str, Any] | None,
    inputs: Mapping[str, str],
    measuring: str,
    **apart: str | int,
) -> str:
    """16 hexadecimal digits: a digest of everything that a point's scores depend on.

    How they are read (reference, group sizes, confidence, ...) is no part of it: the same scores
    are read again in another way.

    Args:
        kind: of the point.
        recipe: what is merged, whose `fairness` block does not count; None for a baseline.
        inputs: model → its fingerprint's digest.
        measuring: a digest of what models are asked, and how they are run.
        apart: what else tells it from other points, such as the seed of random vectors, or of a
            random method.
    """
    raw = None if recipe is None else {k: v for k, v in recipe.items() if k != "fairness"}
    models: dict[str, str] | list[str] = dict(inputs)
    if kind == _BY_CONTENT and raw is not None:
        raw = with_models(raw, lambda model, _: inputs.get(model, model))
        models = sorted(inputs.values())
    content = {
        "kind": kind,
        "recipe": raw,
        "models": models,
        "measuring": measuring,
        **apart,
    }
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def require_measured(recipe: Recipe, folders: Mapping[str, Path]) -> dict[str, str]:
    """Check that the models of a chosen recipe are those that it was measured with.

    Args:
        recipe: of any origin; nothing is checked of one that no sweep has chosen.
        folders: model → where it lies; of `base+adapter` the base.

    Returns:
        Model → its fingerprint's digest; empty without a check.

    Raises:
        RecipeError: the recipe was changed, or a model was, or is another one.
        CheckpointError: a file that cannot be read.
    """
    measured = MeasuredInputs.of(recipe)
    if measured is None:
        return {}
    known = {own_folder(model): digest for model, digest in measured.inputs.items()}
    own = {model: _own(model, folder) for model, folder in folders.items()}
    prints = {model: model_fingerprint(folder).digest for model, folder in own.items()}
    for model, folder in own.items():
        if known.get(folder.resolve()) != prints[model]:
            raise RecipeError(
                "is not the model that was measured: its files have changed since",
                where=f"{recipe.where}: {model}",
                got=prints[model][:16],
                allowed=str(known.get(folder.resolve()))[:16],
                fix="run the sweep again, which measures what is there now; or leave out the "
                "recipe's fairness block",
            )
    return prints


def _own(model: str, folder: Path) -> Path:
    """The folder whose files tell a model from others: of an adapter its own."""
    _, adapter = base_and_adapter(model, model)
    return folder if adapter is None else Path(adapter)
