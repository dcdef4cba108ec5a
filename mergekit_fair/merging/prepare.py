"""Open, check and plan a merge, as far as that goes without reading the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mergekit.common import ModelReference

from mergekit_fair.merging.architecture import complete_architecture
from mergekit_fair.merging.layout import Shard, shards
from mergekit_fair.merging.loading import require_loadable
from mergekit_fair.merging.mergekit_plan import refuse_gradients
from mergekit_fair.merging.norms_cache import norms_for
from mergekit_fair.merging.open_models import Models, opened
from mergekit_fair.merging.program import Program, build
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.progress import Progress


@dataclass(frozen=True)
class Settings:
    """What a merge may do beside mergekit's options.

    Attributes:
        overwrite: replace an existing output.
        allow_pickle: read pickled weights where a model has no others.
        hash_inputs: put the SHA-256 of every input file into the manifest.
        lambdas: write one model for each of these λ instead of the recipe's.
        as_adapter: write a LoRA adapter over the base instead of a whole model.
    """

    overwrite: bool = False
    allow_pickle: bool = False
    hash_inputs: bool = False
    lambdas: tuple[float, ...] | None = None
    as_adapter: bool = False


@dataclass(frozen=True)
class Prepared:
    """A merge that was checked as far as it can be without reading the weights.

    Attributes:
        models: open.
        program: what to compute.
        shards: the files of one output.
        has_layers: whether mergekit knows the architecture's layers.
        is_loadable: False if transformers does not know the architecture.
    """

    models: Models
    program: Program
    shards: tuple[Shard, ...]
    has_layers: bool
    is_loadable: bool

    @property
    def bytes_read(self) -> int:
        """Of all models, each tensor once."""
        readers = self.models.readers
        return sum(
            readers[model].tensors[tensor.name].bytes
            for tensor in self.program.tensors
            for model in tensor.models
        )

    @property
    def bytes_written(self) -> int:
        """Of one output."""
        return sum(shard.size for shard in self.shards)


@contextmanager
def prepared(
    recipe: Recipe, options: Any, settings: Settings, progress: Progress
) -> Iterator[Prepared]:
    """Open, check and plan a tensorwise merge; the models are open until the end of the block.

    Raises:
        CheckpointError: models that do not fit, or a result that would not load whole.
        RecipeError: whatever the method or mergekit's planner refuses.
    """
    with opened(recipe, options, allow_pickle=settings.allow_pickle) as models:
        names = models.infos[models.base]
        reference = ModelReference.parse(models.base)
        trusted = options.trust_remote_code
        with complete_architecture(reference, names, trust_remote_code=trusted) as has_layers:
            if not has_layers:
                refuse_gradients(recipe.configuration())
            norms = norms_for(recipe, models, progress)
            program = build(recipe, models.infos, options, lambdas=settings.lambdas, norms=norms)
            is_loadable = require_loadable(models.folders[models.base], names)
            files = shards(program.tensors, options.out_shard_size)
            yield Prepared(models, program, files, has_layers, is_loadable)
