"""A fair head as files and as a merge: vector folders, the recipe, and what the merge predicts."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from mergekit_fair.checkpoints.adapted import SlicedTensor
from mergekit_fair.checkpoints.folder import tensor_infos
from mergekit_fair.checkpoints.vector_folder import write_vector
from mergekit_fair.heads.directions import cells_of
from mergekit_fair.heads.fair_head import FairHead
from mergekit_fair.heads.head_results import HeadVector
from mergekit_fair.heads.last_layer import Array, FeatureRows, LastLayer, gaps_by
from mergekit_fair.merging.merge_options import MergeOptions
from mergekit_fair.merging.methods.arithmetic import merge_tensor
from mergekit_fair.merging.methods.fair_head_method import fair_head_recipe
from mergekit_fair.merging.plan import MergePlan
from mergekit_fair.merging.recipe import Recipe


def write_vectors(
    fair: FairHead,
    metric: str,
    layer: LastLayer,
    train: FeatureRows,
    target: str,
    folder: Path,
    *,
    below: str = "",
    fit: str | None = None,
) -> list[HeadVector]:
    """A vector folder for every direction.

    Args:
        fair: with the directions.
        metric: that it was fitted for, which says what its cells are.
        layer: that the vectors move.
        train: the rows of the probes.
        target: the model's folder.
        folder: to write into.
        below: a path below it.
        fit: a digest of how they were fitted, for the markers.

    Returns:
        The vectors with the head's coefficients, in the directions' order.
    """
    cells = {str(cell): cell for cell in cells_of(metric, list(train.rows.groups))}
    written = []
    for number, (direction, weight) in enumerate(
        zip(fair.directions, fair.coefficients.tolist(), strict=True)
    ):
        name = f"{below}{number:02d}-{file_name(direction.name)}"
        tensors = layer.vector(direction.weight, direction.bias)
        cell = cells.get(direction.name)
        rows = None if cell is None else int(cell.mask(train.rows).sum())
        write_vector(
            folder / name,
            direction.name,
            {key: torch.from_numpy(value) for key, value in tensors.items()},
            target,
            {"data": train.rows.task, "rows": rows} | ({} if fit is None else {"fit": fit}),
        )
        norm = math.sqrt(math.fsum(float((value**2).sum()) for value in tensors.values()))
        written.append(
            HeadVector(name=direction.name, folder=name, weight=weight, rows=rows, norm=norm)
        )
    return written


def file_name(name: str) -> str:
    """What of a name can stand in a file's.

    >>> file_name("Black or African American, 1")
    'Black-or-African-American-1'
    """
    return re.sub(r"[^\w]+", "-", name).strip("-")[:40] or "cell"


def recipe_of_head(
    target: str, vectors: Mapping[str, tuple[str, float]], lambda_: float = 1.0
) -> dict[str, Any]:
    """The merge, as plain YAML; λ = 0 is the target, λ = 1 the head as it was fitted.

    Args:
        target: its folder.
        vectors: as of `fair_head_recipe`.
        lambda_: λ.
    """
    dtypes = {info.dtype for info in tensor_infos(target).values() if info.is_float}
    return fair_head_recipe(target, vectors, dtypes, lambda_=lambda_)


def merged_gaps(
    recipe: Recipe,
    layer: LastLayer,
    features: Any,
    options: MergeOptions | None = None,
    dtype: torch.dtype | None = None,
) -> Array:
    """Logit gaps (n,) of the merged head: its very weights, in the model's own arithmetic.

    Args:
        recipe: of the merge.
        layer: of the target.
        features: float32 (n, H), what the layer takes.
        options: mergekit's, by which models are opened.
        dtype: that the merged model is run in; None: what its layer is stored in.
    """
    tensors = {
        name: tensor if dtype is None else tensor.to(dtype)
        for name, tensor in _merged_tensors(recipe, layer.name, options or MergeOptions())
    }
    weight, bias = tensors[f"{layer.name}.weight"], tensors.get(f"{layer.name}.bias")
    return gaps_by(weight, bias, features, layer.classes)


def _merged_tensors(
    recipe: Recipe, layer: str, options: MergeOptions
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a layer by the program that a merge to disk runs."""
    with MergePlan.open(recipe, options) as plan:
        for tensor in plan.at().tensors:
            if tensor.name.rpartition(".")[0] != layer:
                continue
            inputs: dict[Hashable, SlicedTensor] = {
                model: SlicedTensor(
                    plan.models.readers[model],
                    tensor.name,
                    tensor.compute_dtype,
                    rounds=model in tensor.cast,
                )
                for model in tensor.models
            }
            yield tensor.name, merge_tensor(tensor.formula, inputs, tensor.name).to(tensor.dtype)
