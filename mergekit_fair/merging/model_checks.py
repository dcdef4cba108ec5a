"""The models of a recipe, found, opened and checked before anything is merged.

The methods of this package are checked in full on every route: one architecture, the same tensors,
the same classes, heads of one origin, nothing quantised. Of mergekit's own methods, whose recipes
may mean otherwise, only what no merge survives is checked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mergekit.common import ModelReference

from mergekit_fair.checkpoints.folder import (
    model_folder,
    read_config,
    require_equal,
    require_same_tensors,
    sibling,
    tensor_infos,
    weight_files,
)
from mergekit_fair.checkpoints.headers import COPY_AGAIN, TensorInfo
from mergekit_fair.checkpoints.lora import AdapterReader
from mergekit_fair.checkpoints.reader import Reader, open_folder, read_whole
from mergekit_fair.compat.mergekit import forget_models
from mergekit_fair.errors import CheckpointError, RecipeError, first_line
from mergekit_fair.merging.architecture import complete_architecture
from mergekit_fair.merging.methods.head_policy import HeadPolicy, is_head
from mergekit_fair.merging.parameters import refuse_gradients
from mergekit_fair.merging.recipe import OrderedConfiguration, Recipe

# Independent random heads have a cosine of about 0 (±0.04 for 2 × 384 weights). A head that was
# fine-tuned from the base's falls below 0.1 only if it moved ten times its own length.
UNRELATED = 0.1

# What transformers and mergekit count up to before they look at a tensor.
_COUNTS = (
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers"),
    *("decoder_layers", "num_labels"),
)
_MOST_LABELS, _HARMLESS = 1_000_000, 1_000


@dataclass(frozen=True)
class OpenModels:
    """The models of a merge, open for reading; the base first.

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
def open_models(
    recipe: Recipe, options: Any, *, allow_pickle: bool = False
) -> Iterator[OpenModels]:
    """Open every model and check that it fits the base.

    Args:
        recipe: of any method whose models are whole.
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
        _require_fitting(readers, folders, resizes=resizes_vocabulary(config, options))
        if "head" not in (config.parameters or {}):
            require_shared_heads(list(readers.values()), recipe.where)
        yield OpenModels(readers, folders)
    finally:
        for reader in readers.values():
            reader.close()


@contextmanager
def checked_stock_models(config: OrderedConfiguration, options: Any) -> Iterator[bool]:
    """Check the models of a recipe that mergekit runs, and let it see all their tensors.

    Yields:
        Whether that was done: slices, and vocabularies or architectures that mergekit is told to
        reconcile, are left to mergekit.

    Raises:
        CheckpointError: a model that is not found, or models that do not fit each other.
        RecipeError: a layer gradient over an architecture without known layers.
    """
    # A process may merge twice while files change.
    forget_models()
    models = config.referenced_models()
    sources = (config.tokenizer_source, config.tokenizer and config.tokenizer.source)
    _require_found([*models, *(item for item in sources if isinstance(item, ModelReference))])
    # An adapter has the tensors of its base.
    is_local = all(Path(model.model.path).is_dir() for model in models)
    is_left = config.slices or config.modules or options.allow_crimes
    is_left = is_left or resizes_vocabulary(config, options) or not options.safe_serialization
    if is_left or not is_local:
        yield False
        return
    base, *others = [model.model.path for model in models]
    require_same_tensors(base, others)
    with complete_architecture(models[0], tensor_infos(base)) as has_layers:
        if not has_layers:
            refuse_gradients(config)
        yield True


def resizes_vocabulary(config: OrderedConfiguration, options: Any) -> bool:
    """Whether mergekit is told to bring vocabularies together, so that embeddings may differ."""
    return bool(config.tokenizer_source or config.tokenizer or options.unsafe_truncate_embeddings)


def located(model: ModelReference, options: Any) -> Path:
    """The model's folder: the path itself, or the Hub's cache after a download.

    Raises:
        CheckpointError: neither; a mistyped path is not looked up on the Hub, whose names have one
            slash at most.
    """
    path = model.model.path
    if Path(path).is_dir() or _is_path(path):
        return model_folder(path)
    try:
        return Path(model.local_path(cache_dir=options.transformers_cache, ignore_lora=True))
    except (OSError, ValueError, RuntimeError) as error:
        raise _not_found(model.model, error) from error


def require_shared_heads(models: Sequence[Reader], where: str) -> None:
    """Refuse models whose classification head is unrelated to the base's.

    A head is made at random when a bare encoder becomes a classifier. Task vectors of models whose
    heads were made independently hold the difference of two random heads, not what was learned.
    The measure is the cosine of the heads' weight matrices, all taken as one vector each.

    Args:
        models: the base first; models without a head pass.
        where: the recipe, for the error.

    Raises:
        RecipeError: names the model and the cosine.
    """
    base, *others = models
    origin = head_weights(base)
    if origin is None or not origin.any():
        return
    for model in others:
        head = head_weights(model)
        if head is None or not head.any() or head.shape != origin.shape:
            continue
        cosine = float(torch.nn.functional.cosine_similarity(origin, head, dim=0))
        if cosine < UNRELATED:
            raise RecipeError(
                f"the classification head of {model.name} is unrelated to the base's "
                f"({base.name}): their cosine is {cosine:.2f}, so the task vector would be the "
                "difference of two random heads",
                where=where,
                fix="fine-tune every model from one base that was saved with its head (`mergekit-"
                f"fair train` does), or say what to do with parameters.head "
                f"({', '.join(HeadPolicy)})",
            )


def head_weights(model: Reader) -> torch.Tensor | None:
    """The head's weight matrices as one float64 vector, biases left out; None without a head."""
    parts = [
        read_whole(model, name).double().flatten()
        for name, info in sorted(model.tensors.items())
        if is_head(name) and info.is_float and len(info.shape) > 1
    ]
    return torch.cat(parts) if parts else None


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or name.count("/") > 1


def _require_found(models: list[ModelReference]) -> None:
    """As `located`, without a download: mergekit gets models of the Hub by its own options."""
    for model in models:
        for part in (model.model, model.lora):
            if part is not None and not Path(part.path).is_dir() and _is_path(part.path):
                weight_files(part.path)
        if not Path(model.model.path).is_dir():
            try:
                model.config()
            except ValueError:  # needs options that only mergekit has, such as --trust-remote-code
                continue
            except OSError as error:
                raise _not_found(model, error) from error


def _not_found(model: Any, error: Exception) -> CheckpointError:
    path = Path(model.path) if hasattr(model, "path") else Path(str(model))
    return CheckpointError(
        f"neither a folder here nor found on the Hub ({first_line(error)}){sibling(path)}",
        where=model,
        fix="check the path",
    )


def _reader(model: ModelReference, folder: Path, options: Any, allow_pickle: bool) -> Reader:
    reader = open_folder(folder, allow_pickle=allow_pickle)
    try:
        _require_plausible(reader, read_config(folder))
        if model.lora is None:
            return reader
        adapter = located(ModelReference(model=model.lora), options)
        return AdapterReader(reader, folder, adapter, allow_pickle=allow_pickle)
    except BaseException:
        reader.close()
        raise


def _require_fitting(
    readers: Mapping[str, Reader], folders: Mapping[str, Path], *, resizes: bool
) -> None:
    base, *others = readers
    config = read_config(folders[base])
    _require_unquantized(base, config)
    for model in others:
        its = read_config(folders[model])
        _require_unquantized(model, its)
        for key in ("architectures", "model_type", "num_attention_heads", "num_key_value_heads"):
            if its.get(key) != config.get(key):
                raise CheckpointError(
                    f"its config.json has other {key} than the base's ({base})",
                    where=model,
                    got=its.get(key),
                    allowed=config.get(key),
                    fix="merge models of one architecture, fine-tuned from this base",
                )
        tensors = readers[model].tensors
        if resizes:
            sizes = (its.get("vocab_size"), config.get("vocab_size"))
            tensors = _at_vocabulary(tensors, readers[base].tensors, *sizes)
        require_equal(base, readers[base].tensors, model, tensors)
        _require_same_labels(base, config, model, its)


def _at_vocabulary(
    tensors: Mapping[str, TensorInfo], expected: Mapping[str, TensorInfo], size: Any, base_size: Any
) -> dict[str, TensorInfo]:
    """Tensors with a row for each token, as if the vocabulary were as large as the base's."""
    return {
        name: TensorInfo(info.dtype, (base_size, *info.shape[1:]))
        if name in expected
        and info.shape[:1] == (size,)
        and expected[name].shape[:1] == (base_size,)
        else info
        for name, info in tensors.items()
    }


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
                fix=COPY_AGAIN,
            )


def _require_same_labels(
    base: str, config: dict[str, Any], model: str, its: dict[str, Any]
) -> None:
    """Class 0 of one model must not be class 1 of another."""
    labels = [each.get("id2label") or {} for each in (config, its)]
    for name, names in zip((base, model), labels, strict=True):
        if not isinstance(names, dict):
            raise CheckpointError(
                "the id2label of its config.json must be a mapping",
                where=name,
                got=names,
                fix=COPY_AGAIN,
            )
    named = [
        {str(key): str(name) for key, name in names.items() if not str(name).startswith("LABEL_")}
        for names in labels
    ]
    if all(named) and named[0] != named[1]:
        raise CheckpointError(
            f"its config.json names the classes otherwise than the base's ({base})",
            where=model,
            got=named[1],
            allowed=str(named[0]),
            fix="fine-tune every model with the same id2label",
        )


def _require_unquantized(model: str, config: dict[str, Any]) -> None:
    if "quantization_config" in config:
        raise CheckpointError(
            "is quantized (config.json has quantization_config); its weights cannot be added up",
            where=model,
            fix="merge the unquantized models, then quantize the result",
        )
