"""Make mergekit merge every tensor of a checkpoint.

mergekit's own definition of an architecture is used when it names every tensor of the base
checkpoint. Otherwise (ViT, for one: 8 of its 40 tensors) the checkpoint's tensor names are the
architecture.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from mergekit.architecture import (
    ConfiguredModelArchitecture,
    ModelArchitecture,
    WeightInfo,
    arch_info_for_config,
)
from mergekit.architecture.base import ModuleDefinition
from mergekit.architecture.json_definitions import (
    JsonLayerTemplates,
    JsonModuleArchDef,
    JsonModuleArchitecture,
)
from mergekit.common import ModelReference

from mergekit_fair.checkpoints.headers import COPY_AGAIN
from mergekit_fair.compat.mergekit import defined, is_defined
from mergekit_fair.errors import CheckpointError


@contextmanager
def complete_architecture(
    base: ModelReference, tensors: Collection[str], *, trust_remote_code: bool = False
) -> Iterator[bool]:
    """While open, mergekit's definition for `base` covers every tensor of its checkpoint.

    Args:
        base: whose config.json names the architecture.
        tensors: the names in its checkpoint.
        trust_remote_code: let config.json name code to run.

    Yields:
        True if the architecture has layers (mergekit's own), False if it is flat.

    Raises:
        CheckpointError: the base has no config.json or names no single architecture.
    """
    config = _config(base, trust_remote_code)
    name = config.architectures[0]
    if _covers(config, set(tensors)):
        yield True
        return
    with defined(name, flat_architecture(name, config.model_type, tensors)):
        yield False


def flat_architecture(name: str, model_type: str, tensors: Collection[str]) -> ModelArchitecture:
    """One module without layers whose weights are the checkpoint's tensors, sorted by name."""
    definition = JsonModuleArchDef(
        model_type=model_type,
        architectures=[name],
        pre_weights=[WeightInfo(name=tensor) for tensor in sorted(tensors)],
        layer_templates=JsonLayerTemplates(weights=[]),
        post_weights=[],
        override_num_layers=0,
    )
    return ModelArchitecture(
        modules={
            "default": ModuleDefinition(architecture=JsonModuleArchitecture(definition=definition))
        },
        architectures=[name],
        model_type=model_type,
    )


def _config(base: ModelReference, trust_remote_code: bool) -> Any:
    try:
        config = base.config(trust_remote_code=trust_remote_code)
    except Exception as error:  # a config makes transformers raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"transformers does not take its config.json ({reason})", where=base, fix=COPY_AGAIN
        ) from error
    names = config.architectures
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise CheckpointError(
            "its config.json must name one architecture",
            where=base,
            got=names,
            fix="save the model with transformers, as the class that you use it with",
        )
    return config


def _covers(config: Any, names: set[str]) -> bool:
    if not is_defined(config.architectures[0]):
        return False
    known = arch_info_for_config(config)
    if known is None:
        return False
    weights = ConfiguredModelArchitecture(info=known, config=config).all_weights()
    if any(w.optional and w.aliases for w in weights):
        return False  # mergekit 0.1.5 fails on these while it plans
    present = {w.name for w in weights}
    required = {w.name for w in weights if not w.optional}
    return names <= present and required <= names
