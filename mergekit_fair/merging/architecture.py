"""What a merge knows of an architecture: its tensors in mergekit's order, and the layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mergekit_fair.checkpoints.folder import self_contained
from mergekit_fair.checkpoints.headers import TensorInfo, described
from mergekit_fair.checkpoints.layout import Layout
from mergekit_fair.compat.remembered import remembered
from mergekit_fair.merging.definitions import definition_for
from mergekit_fair.merging.placed_weights import PlacedWeight, named_config, placed_by_name

# Architectures whose definitions mergekit makes by code of its own.
MADE_BY_CODE = ("AfmoeForCausalLM", "Glm4MoeForCausalLM")


@dataclass(frozen=True)
class Architecture:
    """What a recipe is planned by.

    Attributes:
        make_info: makes `info`.
        is_mergekits: its own definition or inference; else made of the checkpoint's names.
        weights: of a recipe of this package's methods, in mergekit's order.
    """

    make_info: Callable[[], Any]
    is_mergekits: bool
    weights: tuple[PlacedWeight, ...] = ()

    @cached_property
    def info(self) -> Any:
        """mergekit's record, for its engine; importing mergekit takes seconds."""
        return self.make_info()


def own_architecture(
    base: Any,
    tensors: Mapping[str, TensorInfo],
    layout: Layout,
    *,
    trust_remote_code: bool = False,
) -> Architecture:
    """For the methods of this package: mergekit's definition if it names just these tensors.

    What transformers makes of a config.json is asked once and kept.

    Args:
        base: the `ModelReference` whose config.json names the architecture.
        tensors: of the base.
        layout: of the base.
        trust_remote_code: let config.json name code to run.

    Raises:
        CheckpointError: the base has no config.json or names no single architecture.
    """

    def record() -> Any:
        from mergekit_fair.merging.architecture_records import own_record

        return own_record(base, tensors, layout, trust_remote_code=trust_remote_code)

    def asked() -> dict[str, Any]:
        config = named_config(base, trust_remote_code)
        if config.architectures[0] in MADE_BY_CODE:
            from mergekit_fair.merging.architecture_records import places

            info, is_mergekits = record()
            return _answer(is_mergekits, places(info, base, trust_remote_code))
        defined = definition_for(config)
        if defined is not None and defined.covers(set(tensors)):
            return _answer(True, defined.weights)
        return _answer(False, placed_by_name(tensors))

    config = None if base.override_architecture else self_contained(layout.folder)
    about = None if config is None else [config, described(tensors)]
    answer = remembered("architecture 2", about, asked)
    return Architecture(
        lambda: record()[0],
        answer["is_mergekits"],
        tuple(PlacedWeight(*weight) for weight in answer["weights"]),
    )


def _answer(is_mergekits: bool, weights: Iterable[PlacedWeight]) -> dict[str, Any]:
    listed = [(weight.name, weight.place, weight.dtype) for weight in weights]
    return {"is_mergekits": is_mergekits, "weights": listed}


def stock_architecture(
    recipe: Any, options: Any, tensors: Mapping[str, TensorInfo], layout: Layout
) -> Architecture:
    """For mergekit's methods: what mergekit would use, unless tensors of the base would get lost.

    Args:
        recipe: mergekit's configuration.
        options: of the merge.
        tensors: of the base.
        layout: of the base.

    Raises:
        CheckpointError: as `own_architecture`.
        Exception: whatever mergekit refuses, such as models of several architectures.
    """
    from mergekit_fair.merging.architecture_records import stock_record

    info, is_mergekits = stock_record(recipe, options, tensors, layout)
    return Architecture(lambda: info, is_mergekits)
