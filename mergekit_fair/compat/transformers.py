"""What this package uses of transformers that transformers does not promise to keep."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def model_class(folder: Path) -> tuple[Any, Any]:
    """The configuration, and the class; None for a class that is not among transformers' models.

    Private: `_attn_implementation`. A config.json can ask for an implementation of attention that
    is fetched from the Hub. Every model has one of its own, which is as good for what is asked
    without weights.

    Raises:
        Exception: whatever a configuration makes transformers raise.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    config._attn_implementation = "eager"
    kind: Any = getattr(transformers, (config.architectures or [""])[0], None)
    is_model = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
    return config, kind if is_model else None


def configuration_of(model: Any, *, trust_remote_code: bool = False) -> Any:
    """The configuration of a `ModelReference`, ours or mergekit's, as mergekit reads it.

    Raises:
        Exception: whatever a configuration makes transformers raise.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(
        model.model.path, revision=model.model.revision, trust_remote_code=trust_remote_code
    )
    if model.override_architecture:
        config.architectures = [model.override_architecture]
    return config


def model_prefix(architecture: str) -> str | None:
    """The module of a class of transformers that holds the bare model; None for other classes."""
    import transformers

    prefix: str | None = getattr(
        getattr(transformers, architecture, None), "base_model_prefix", None
    )
    return prefix


def loaded_names(model: Any, names: Iterable[str]) -> dict[str, str | None]:
    """Tensor in a file → the tensor in memory that it becomes, or is made a part of.

    None for what the model does not have: `from_pretrained` leaves it out, with a report or
    without.

    Private: `core_model_loading.rename_source_key` and the table of conversions, as
    `convert_and_load_state_dict_in_model` uses them.

    Args:
        model: on the `meta` device.
        names: of the tensors in the file.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    state = model.state_dict()
    mapping = get_model_conversion_mapping(model)
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    prefix = model.base_model_prefix

    def loaded(name: str) -> str | None:
        for pair in ((renamings, converters), ([], [])):
            key, _ = rename_source_key(name, *pair, prefix, state)
            if key in state:
                return key
        return None

    return {name: loaded(name) for name in names}


def vocabulary_axes(model: Any) -> dict[str, int]:
    """Tensor in memory → the axis that has an entry for each token of the vocabulary.

    mergekit's `infer_vocabulary_axes`, which tells them by the input and output embeddings; not
    among what it documents.
    """
    from mergekit.architecture.auto import infer_vocabulary_axes

    model.tie_weights()
    try:
        return dict(infer_vocabulary_axes(model))
    except (NotImplementedError, AttributeError):  # a model without embeddings, of images
        return {}


def tied_names(model: Any) -> dict[str, str]:
    """Tensor in memory → the tensor that it is tied to, as the configuration says.

    Private: `all_tied_weights_keys`, which `from_pretrained` ties by.
    """
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


def parsed_config(folder: Path) -> dict[str, Any] | None:
    """config.json with the defaults of its class filled in; None if transformers refuses it."""
    import transformers

    try:
        with quiet():
            config: dict[str, Any] = transformers.AutoConfig.from_pretrained(folder).to_dict()
    except Exception:  # whatever a config makes transformers raise
        return None
    return config


def meta_model(folder: Path) -> Any:
    """The architecture of a config.json on the `meta` device; None if it is not transformers' own.

    Raises:
        Exception: whatever a configuration makes transformers raise.
    """
    import torch

    config, kind = model_class(folder)
    if kind is None:
        return None
    with torch.device("meta"), quiet():
        return kind(config)


def load_on_meta(kind: Any, config: Any, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `from_pretrained` says of these `meta` tensors: `missing_keys`, `unexpected_keys`, ….

    Private in the combination: no path, a state dictionary, `device_map="meta"`.
    """
    with quiet():
        _, info = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(tensors),
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    report: Mapping[str, Any] = info
    return report


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' report and bar: what they say is raised by the caller.

    `is_progress_bar_enabled` and its like are documented for the module, not for its logger.
    """
    from transformers.utils import logging

    logger: Any = logging
    level, has_bar = logger.get_verbosity(), logger.is_progress_bar_enabled()
    logger.set_verbosity(logger.CRITICAL)
    logger.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.set_verbosity(level)
        if has_bar:
            logger.enable_progress_bar()
