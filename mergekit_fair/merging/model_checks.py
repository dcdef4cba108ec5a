"""The models of a recipe, found, opened and checked before anything is merged.

The methods of this package are checked in full on every route: one architecture, the same tensors,
the same classes, heads of one origin, nothing quantised. Of mergekit's own methods, whose recipes
may mean otherwise, only what no merge survives is checked.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mergekit.common import ModelReference

from mergekit_fair.checkpoints.folder import (
    architecture_of,
    model_folder,
    read_config,
    require_equal,
    sibling,
)
from mergekit_fair.checkpoints.headers import COPY_AGAIN, TensorInfo
from mergekit_fair.checkpoints.hub import downloaded
from mergekit_fair.checkpoints.layout import Layout, RenamedReader, as_base, unwrapped, wrapper_of
from mergekit_fair.checkpoints.lora import AdapterReader
from mergekit_fair.checkpoints.reader import Reader, open_folder, read_whole
from mergekit_fair.compat.mergekit import forget_models
from mergekit_fair.compat.transformers import parsed_config
from mergekit_fair.errors import CheckpointError, FairError, RecipeError, first_line
from mergekit_fair.merging.architecture import Architecture, stock_architecture, weight_names
from mergekit_fair.merging.methods.head_policy import HeadPolicy, head_names, head_rule
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.methods.registry import is_own, own_method
from mergekit_fair.merging.methods.task_vector_method import TensorInputs
from mergekit_fair.merging.parameters import constant_parameters, explained
from mergekit_fair.merging.recipe import OrderedConfiguration, Recipe
from mergekit_fair.merging.saved_config import class_names

# Independent random heads have a cosine of about 0 (±0.04 for 2 × 384 weights). A head that was
# fine-tuned from the base's falls below 0.1 only if it moved ten times its own length.
UNRELATED = 0.1

# Settings by which tensors of the same shapes mean something else.
_MEANING = re.compile(r"^architectures$|(^|\.)(model_type|head_dim|n_heads?|num_heads)$|_heads$")

# What a config.json says about training, loading and names; classes are compared by themselves.
_BOOKKEEPING = re.compile(
    "^(transformers_version|_.*|.*dtype|use_cache|id2label|label2id|num_labels|problem_type"
    "|architectures|vocab_size|finetuning_task|task_specific_params|auto_map|return_dict|output_.*"
    "|.*drop.*|initializer_.*|gradient_checkpointing|torchscript|use_return_dict|is_decoder"
    "|add_cross_attention|chunk_size_.*|pruned_heads|tie_.*|attn_implementation|.*_loss_.*"
    "|classifier_.*|summary_.*)$"
)

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
        readers: model, as text → its tensors, under the base's names.
        folders: model, as text → where its config.json and tokenizer lie.
        layout: what transformers makes of the base's tensors.
        heads: the base's tensors that are a classification head.
        notes: what was read otherwise than it stands in a file, one sentence each.
    """

    readers: Mapping[str, Reader]
    folders: Mapping[str, Path]
    layout: Layout
    heads: frozenset[str]
    notes: tuple[str, ...] = ()

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
    notes: list[str] = []
    try:
        for model in config.referenced_models():
            folders[str(model)] = located(model, options)
            reader = _reader(model, folders[str(model)], options, allow_pickle)
            readers[str(model)], more = unwrapped(reader)
            notes += more
        base = next(iter(readers))
        layout, settings = Layout(folders[base]), read_config(folders[base])
        heads = head_names(architecture_of(settings), readers[base].tensors)
        copied = _copied_heads(recipe, list(readers), heads)
        for model in list(readers)[1:]:
            its, more = _as_base(readers[base], readers[model], layout, copied.get(model))
            readers[model], notes = its, notes + more
        resizes = resizes_vocabulary(config, options)
        axes = _vocabulary_axes(readers[base], layout, settings) if resizes else {}
        notes += _require_fitting(readers, folders, copied, axes)
        if "head" not in (config.parameters or {}):
            require_shared_heads(list(readers.values()), heads, recipe.where)
        yield OpenModels(readers, folders, layout, heads, tuple(notes))
    finally:
        for reader in readers.values():
            reader.close()


def _copied_heads(
    recipe: Recipe, models: Sequence[str], heads: frozenset[str]
) -> dict[str, frozenset[str]]:
    """Model → the head's tensors, for models whose head the recipe neither merges nor copies."""
    policy = parameters_of(recipe.raw).get("head", HeadPolicy.MERGE)
    if policy == HeadPolicy.MERGE or not is_own(recipe.method):
        return {}
    base, *others = models
    donor = None
    if policy == HeadPolicy.FIRST:
        method = own_method(recipe.method)
        parameters = constant_parameters(recipe, method.spec)
        if parameters is None:
            return {}
        donor = str(method.first(TensorInputs("", base, tuple(others)), parameters))
    return {model: heads for model in others if model != donor}


def _as_base(
    base: Reader, model: Reader, layout: Layout, head: frozenset[str] | None
) -> tuple[Reader, list[str]]:
    """As `as_base`; a head that is not read is the base's, whatever the model's is like."""
    is_in_head = head_rule(layout.architecture, model.tensors)
    its = {name: info.shape for name, info in model.tensors.items() if is_in_head(name)}
    if head is None or its == {name: base.tensors[name].shape for name in head}:
        return as_base(base, model, layout)
    encoder, notes = as_base(_without(base, head.__contains__), _without(model, is_in_head), layout)
    places: dict[str, tuple[Reader, str]] = {
        name: (base if name in head else encoder, name) for name in base.tensors
    }
    return RenamedReader(model, places), notes


def _without(model: Reader, is_in_head: Callable[[str], bool]) -> Reader:
    names = (name for name in model.tensors if not is_in_head(name))
    return RenamedReader(model, {name: (model, name) for name in names})


@dataclass(frozen=True)
class StockModels:
    """The models of a recipe that mergekit runs.

    Attributes:
        architecture: what it is to plan by.
        folders: model, as text → its folder, the base's first.
        files: model, as text → the files of its weights.
        names: of the base's tensors, as they are stored and as mergekit plans them.
        notes: what looks like a mistake, one sentence each.
    """

    architecture: Architecture
    folders: Mapping[str, Path]
    files: Mapping[str, tuple[Path, ...]]
    names: frozenset[str]
    notes: tuple[str, ...] = ()


def stock_models(recipe: Recipe, options: Any, *, allow_pickle: bool = False) -> StockModels:
    """Find the models of a recipe that mergekit runs, and choose its architecture.

    What mergekit would read wrongly is refused: quantised models, names under a prefix. All else is
    left to mergekit.

    Args:
        recipe: of one of mergekit's methods.
        options: mergekit's `MergeOptions`.
        allow_pickle: let mergekit read pickled weights.

    Raises:
        CheckpointError: a model that is not found or cannot be merged.
        RecipeError: whatever mergekit refuses.
    """
    forget_models()  # a process may merge twice while files change
    config = recipe.configuration()
    folders = {str(model): located(model, options) for model in config.referenced_models()}
    for source in (config.tokenizer_source, config.tokenizer and config.tokenizer.source):
        if isinstance(source, ModelReference):
            located(source, options)
    with contextlib.ExitStack() as stack:
        readers: dict[str, Reader] = {}
        for model, folder in folders.items():
            readers[model] = open_folder(folder, allow_pickle=allow_pickle)
            stack.callback(readers[model].close)
            _require_plausible(readers[model], read_config(folder))
            if prefix := wrapper_of(readers[model].tensors):
                raise CheckpointError(
                    f"its tensor names have the prefix {prefix!r} of a training framework, and "
                    "mergekit's methods would find none of them",
                    where=model,
                    fix="save the model again without the wrapper",
                )
        tensors = next(iter(readers.values())).tensors
        notes = [] if recipe.is_sliced else _suspicions(readers, folders, recipe.where)
    layout = Layout(next(iter(folders.values())))
    config = recipe.configuration(parts_of(config, folders))
    with explained(recipe.where):
        architecture = stock_architecture(config, options, tensors, layout)
    names = frozenset(tensors) | weight_names(architecture, config.referenced_models()[0], options)
    files = {model: reader.files for model, reader in readers.items()}
    return StockModels(architecture, folders, files, names, tuple(notes))


def _suspicions(
    readers: Mapping[str, Reader], folders: Mapping[str, Path], where: str
) -> list[str]:
    """What this package's methods refuse, and mergekit's merge without a word."""
    base, *others = folders
    config = read_config(folders[base])
    heads = head_names(architecture_of(config), readers[base].tensors)
    notes = []
    for model in others:
        pair = [readers[base], readers[model]]
        notes += _told(_require_same_labels, base, config, model, read_config(folders[model]))
        notes += _told(require_shared_heads, pair, heads, where)
    return notes


def _told(check: Callable[..., None], *arguments: Any) -> list[str]:
    try:
        check(*arguments)
    except FairError as error:
        return [f"warning: {type(error)(error.problem, where=error.where, got=error.got)}"]
    return []


def parts_of(config: OrderedConfiguration, folders: Mapping[str, Path]) -> dict[str, Path]:
    """Name of the Hub → its folder, of the models themselves, without adapters."""
    return {
        str(model.model): folders[str(model)]
        for model in config.referenced_models()
        if not Path(model.model.path).is_dir()
    }


def resizes_vocabulary(config: OrderedConfiguration, options: Any) -> bool:
    """Whether mergekit is told to bring vocabularies together, so that embeddings may differ."""
    return bool(config.tokenizer_source or config.tokenizer or options.unsafe_truncate_embeddings)


def located(model: ModelReference, options: Any) -> Path:
    """The model's folder: the path itself, or the Hub's cache, after a download if need be.

    Raises:
        CheckpointError: neither; a mistyped path is not looked up on the Hub, whose names have one
            slash at most.
    """
    path = model.model.path
    if Path(path).is_dir() or _is_path(path):
        return model_folder(path)
    try:
        return downloaded(path, model.model.revision, options.transformers_cache)
    except (OSError, ValueError, RuntimeError) as error:
        raise _not_found(model.model, error) from error


def require_shared_heads(models: Sequence[Reader], heads: Collection[str], where: str) -> None:
    """Refuse models whose classification head is unrelated to the base's.

    A head is made at random when a bare encoder becomes a classifier. Task vectors of models whose
    heads were made independently hold the difference of two random heads, not what was learned.
    The measure is the cosine of the heads' weight matrices, all taken as one vector each.

    Args:
        models: the base first; models without a head pass.
        heads: the base's tensors that are a head.
        where: the recipe, for the error.

    Raises:
        RecipeError: names the model and the cosine.
    """
    base, *others = models
    origin = head_weights(base, heads)
    if origin is None or not origin.any():
        return
    for model in others:
        head = head_weights(model, heads)
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


def head_weights(model: Reader, heads: Collection[str]) -> torch.Tensor | None:
    """The head's weight matrices as one float64 vector, biases left out; None without a head."""
    parts = [
        read_whole(model, name).double().flatten()
        for name, info in sorted(model.tensors.items())
        if name in heads and info.is_float and len(info.shape) > 1
    ]
    return torch.cat(parts) if parts else None


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or name.count("/") > 1


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
    readers: Mapping[str, Reader],
    folders: Mapping[str, Path],
    copied: Mapping[str, frozenset[str]],
    axes: Mapping[str, int],
) -> list[str]:
    """Check configurations, shapes and classes; returns notes on settings that differ.

    Along `axes`, tensors may differ: vocabularies are brought together.
    """
    base, *others = readers
    config = read_config(folders[base])
    named, names = base, config  # of the first model that names its classes
    notes = []
    for model in others:
        its = read_config(folders[model])
        notes += _require_same_settings(base, folders[base], model, folders[model])
        tensors = _at_vocabulary(readers[model].tensors, readers[base].tensors, axes)
        require_equal(base, readers[base].tensors, model, tensors)
        if model not in copied:
            _require_same_labels(named, names, model, its)
            named, names = (named, names) if class_names(names) else (model, its)
    return notes


def _require_same_settings(base: str, base_folder: Path, model: str, folder: Path) -> list[str]:
    """Refuse settings by which equal tensors mean something else; the others are told.

    Defaults that an old config.json leaves out are no difference.
    """
    settings = _settings(base_folder)
    if folder == base_folder or (its := _settings(folder)) == settings:
        return []
    differing = {
        key: (settings.get(key), its.get(key))
        for key in sorted({*settings, *its})
        if settings.get(key) != its.get(key)
    }
    for key, (expected, got) in differing.items():
        if _MEANING.search(key):
            raise CheckpointError(
                f"its config.json has other {key} than the base's ({base})",
                where=model,
                got=got,
                allowed=expected,
                fix="merge models of one architecture, fine-tuned from this base",
            )
    told = [f"{key}: {got!r} for {expected!r}" for key, (expected, got) in differing.items()]
    return [f"{model}: its config.json differs from the base's, which is taken: {', '.join(told)}"]


def _settings(folder: Path) -> dict[str, Any]:
    """What config.json says about how tensors are used, flat, with transformers' defaults."""
    raw = read_config(folder)
    settings = parsed_config(folder) if "auto_map" not in raw else None
    flat: dict[str, Any] = {}

    def flatten(part: Mapping[str, Any], prefix: str) -> None:
        for key, value in part.items():
            if isinstance(value, Mapping) and key.endswith("_config"):
                flatten(value, f"{prefix}{key}.")
            elif value is not None and not _BOOKKEEPING.search(key):
                flat[prefix + key] = value

    flatten(settings or raw, "")
    flat["architectures"] = raw.get("architectures")
    return flat


def _vocabulary_axes(base: Reader, layout: Layout, config: dict[str, Any]) -> dict[str, int]:
    """Tensor → the axis that has an entry for each token."""
    if layout.is_known:
        return layout.vocabulary_axes(base.tensors)
    size = (config.get("vocab_size"),)  # remote code
    return {name: 0 for name, info in base.tensors.items() if info.shape[:1] == size}


def _at_vocabulary(
    tensors: Mapping[str, TensorInfo],
    expected: Mapping[str, TensorInfo],
    axes: Mapping[str, int],
) -> Mapping[str, TensorInfo]:
    """Tensors as if the vocabulary were as large as the base's."""
    resized = dict(tensors)
    for name, axis in axes.items():
        if name in tensors:
            shape = list(tensors[name].shape)
            shape[axis : axis + 1] = expected[name].shape[axis : axis + 1]
            resized[name] = TensorInfo(tensors[name].dtype, tuple(shape))
    return resized


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
            f"its config.json names the classes otherwise than another model's ({base})",
            where=model,
            got=named[1],
            allowed=str(named[0]),
            fix="fine-tune every model with the same id2label",
        )
