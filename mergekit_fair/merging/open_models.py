"""Open and check a recipe's models: found, readable, of one architecture, with one head."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit.common import ModelReference

from mergekit_fair.checkpoints.folder import model_folder, read_config, require_equal, sibling
from mergekit_fair.checkpoints.headers import AGAIN, TensorInfo
from mergekit_fair.checkpoints.lora_reader import AdapterReader
from mergekit_fair.checkpoints.reader import Reader, open_folder
from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.head_check import require_shared_heads
from mergekit_fair.merging.recipe import OrderedConfiguration, Recipe

# What transformers and mergekit count up to before they look at a tensor.
_COUNTS = (
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers"),
    *("decoder_layers", "num_labels"),
)
_MOST_LABELS, _HARMLESS = 1_000_000, 1_000


@dataclass(frozen=True)
class Models:
    """The models of a tensorwise merge, open for reading; the base first.

    Attributes:
        readers: model, as text → its tensors.
        folders: model, as text → where its config.json and tokenizer lie.
    """

    readers: Mapping[str, Reader]
    folders: Mapping[str, Path]

    @property
    def base(self) -> str:
        return next(iter(self.readers))

    @property
    def infos(self) -> dict[str, Mapping[str, TensorInfo]]:
        return {model: reader.tensors for model, reader in self.readers.items()}


@contextmanager
def opened(recipe: Recipe, options: Any, *, allow_pickle: bool = False) -> Iterator[Models]:
    """Open every model and check that it fits the base.

    Args:
        recipe: of one of this package's methods.
        options: mergekit's `MergeOptions`.
        allow_pickle: read pickled weights where there are no others.

    Raises:
        CheckpointError: a model that is not found, is damaged or does not fit the base.
        RecipeError: unrelated classification heads.
    """
    config = recipe.configuration()
    readers: dict[str, Reader] = {}
    folders: dict[str, Path] = {}
    try:
        for model in config.referenced_models():
            folders[str(model)] = located(model, options)
            readers[str(model)] = _reader(model, folders[str(model)], options, allow_pickle)
        _require_fitting(readers, folders)
        if "head" not in (config.parameters or {}):
            require_shared_heads(list(readers.values()), recipe.where)
        yield Models(readers, folders)
    finally:
        for reader in readers.values():
            reader.close()


def is_tensorwise(config: OrderedConfiguration, options: Any) -> bool:
    """Whether every output tensor is made of the same tensor of every model.

    Not so for slices, and for vocabularies or architectures that mergekit is told to reconcile.
    """
    reconciles = config.tokenizer_source or config.tokenizer
    reconciles = reconciles or options.allow_crimes or options.unsafe_truncate_embeddings
    return not (config.slices or config.modules or reconciles) and options.safe_serialization


def located(model: ModelReference, options: Any) -> Path:
    """The model's folder: the path itself, or the Hub's cache after a download.

    Raises:
        CheckpointError: neither; a mistyped path is not looked up on the Hub, whose names have one
            slash at most.
    """
    path = model.model.path
    if Path(path).is_dir() or path.startswith(("/", ".", "~")) or path.count("/") > 1:
        return model_folder(path)
    try:
        return Path(model.local_path(cache_dir=options.transformers_cache, ignore_lora=True))
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"neither a folder here nor found on the Hub ({_first_line(error)})"
            f"{sibling(Path(path))}",
            where=model.model,
            fix="check the path",
        ) from None


def _reader(model: ModelReference, folder: Path, options: Any, allow_pickle: bool) -> Reader:
    reader = open_folder(folder, allow_pickle=allow_pickle)
    try:
        _require_plausible(reader, read_config(folder))
        if model.lora is None:
            return reader
        adapter = located(ModelReference(model=model.lora), options)
        return AdapterReader(reader, folder, adapter)
    except BaseException:
        reader.close()
        raise


def _require_fitting(readers: Mapping[str, Reader], folders: Mapping[str, Path]) -> None:
    base, *others = readers
    config = read_config(folders[base])
    _require_unquantized(base, config)
    for model in others:
        own = read_config(folders[model])
        _require_unquantized(model, own)
        for key in ("architectures", "model_type", "num_attention_heads", "num_key_value_heads"):
            if own.get(key) != config.get(key):
                raise CheckpointError(
                    f"its config.json has other {key} than the base's ({base})",
                    where=model,
                    got=own.get(key),
                    allowed=config.get(key),
                    fix="merge models of one architecture, fine-tuned from this base",
                )
        require_equal(base, readers[base].tensors, model, readers[model].tensors)
        _require_same_labels(base, config, model, own)


def _require_plausible(reader: Reader, config: dict[str, Any]) -> None:
    """A damaged number must not keep transformers and mergekit busy for hours."""
    count = len(reader.tensors)
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    for key, part in itertools.product(_COUNTS, parts):
        value = part.get(key)
        most = _MOST_LABELS if key == "num_labels" else max(count, _HARMLESS)
        if type(value) is int and value > most:
            raise CheckpointError(
                f"its config.json has a {key} that its {count} tensors cannot have",
                where=reader.name,
                got=value,
                fix=AGAIN,
            )


def _require_same_labels(
    base: str, config: dict[str, Any], model: str, own: dict[str, Any]
) -> None:
    """Class 0 of one model must not be class 1 of another."""
    labels = [found.get("id2label") or {} for found in (config, own)]
    for name, found in zip((base, model), labels, strict=True):
        if not isinstance(found, dict):
            raise CheckpointError(
                "the id2label of its config.json must be a mapping",
                where=name,
                got=found,
                fix=AGAIN,
            )
    named = [
        {str(key): str(name) for key, name in found.items() if not str(name).startswith("LABEL_")}
        for found in labels
    ]
    if all(named) and named[0] != named[1]:
        raise CheckpointError(
            f"its config.json names the classes otherwise than the base's ({base})",
            where=model,
            got=named[1],
            allowed=named[0],
            fix="fine-tune every model with the same id2label",
        )


def _require_unquantized(model: str, config: dict[str, Any]) -> None:
    if "quantization_config" in config:
        raise CheckpointError(
            "is quantized (config.json has quantization_config); its weights cannot be added up",
            where=model,
            fix="merge the unquantized models, then quantize the result",
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
