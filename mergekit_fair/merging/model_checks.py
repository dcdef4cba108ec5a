"""The models of a recipe, found, opened and checked before anything is merged.

The methods of this package are checked in full on every route: one architecture, the same tensors,
the same classes, heads of one origin, nothing quantised. Of mergekit's own methods, whose recipes
may mean otherwise, only what no merge survives is checked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.folder import (
    architecture_of,
    found_folder,
    read_config,
    require_equal,
    sibling,
)
from mergekit_fair.checkpoints.headers import TensorInfo
from mergekit_fair.checkpoints.hub import downloaded
from mergekit_fair.checkpoints.layout import Layout, RenamedReader, as_base, unwrapped, wrapper_of
from mergekit_fair.checkpoints.lora import AdapterReader
from mergekit_fair.checkpoints.reader import Reader, open_folder
from mergekit_fair.checkpoints.vector_folder import (
    VectorReader,
    is_vector_folder,
    open_beside,
    sketch_of,
)
from mergekit_fair.compat.mergekit import forget_models
from mergekit_fair.errors import CheckpointError, FairError, RecipeError, first_line
from mergekit_fair.merging.architecture import (
    Architecture,
    own_architecture,
    stock_architecture,
)
from mergekit_fair.merging.config_checks import (
    require_plausible,
    require_same_labels,
    require_same_settings,
)
from mergekit_fair.merging.configuration import MergeConfiguration, ModelReference
from mergekit_fair.merging.methods.head_policy import HeadPolicy, head_names, head_rule
from mergekit_fair.merging.methods.members import parameters_of
from mergekit_fair.merging.methods.registry import is_own, own_method
from mergekit_fair.merging.methods.task_vector_method import TensorInputs
from mergekit_fair.merging.parameters import constant_parameters, explained
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.saved_config import class_names
from mergekit_fair.merging.shared_heads import require_shared_heads
from mergekit_fair.merging.stored_vectors import require_kinds, require_whole_target


@dataclass(frozen=True)
class OpenModels:
    """The models of a merge, open for reading; the base first.

    Attributes:
        readers: model, as text → its tensors, under the base's names.
        folders: model, as text → where its config.json and tokenizer lie.
        layout: what transformers makes of the base's tensors.
        heads: the base's tensors that are a classification head.
        notes: what was read otherwise than it stands in a file, one sentence each.
        unmoved: adapter over the base itself → the tensors that it leaves alone.
    """

    readers: Mapping[str, Reader]
    folders: Mapping[str, Path]
    layout: Layout
    heads: frozenset[str]
    notes: tuple[str, ...] = ()
    unmoved: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def base(self) -> str:
        return next(iter(self.readers))

    @property
    def infos(self) -> dict[str, Mapping[str, TensorInfo]]:
        return {model: reader.tensors for model, reader in self.readers.items()}

    @property
    def vectors(self) -> dict[str, frozenset[str]]:
        """Of the task vectors among them: model → the tensors that its folder holds."""
        readers = self.readers.items()
        return {model: each.held for model, each in readers if isinstance(each, VectorReader)}


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
    resizes = resizes_vocabulary(config, options)
    readers: dict[str, Reader] = {}
    folders: dict[str, Path] = {}
    notes: list[str] = []
    sketch = cache(lambda: sketch_of(next(iter(readers.values()))))
    try:
        for model in config.referenced_models():
            folder = folders[str(model)] = located(model, options)
            if readers and model.lora is None and is_vector_folder(folder):
                require_whole_target(recipe, folder, is_resized=resizes)
                base = next(iter(readers))
                readers[str(model)] = open_beside(readers[base], folder, sketch)
                continue
            reader = _reader(model, folder, options, allow_pickle)
            readers[str(model)], more = unwrapped(reader)
            notes += more
        base = next(iter(readers))
        layout, settings = Layout(folders[base]), read_config(folders[base])
        heads = head_names(architecture_of(settings), readers[base].tensors)
        require_kinds(recipe, readers, heads)
        copied = _copied_heads(recipe, list(readers), heads)
        for name in list(readers)[1:]:
            if isinstance(readers[name], VectorReader):
                continue  # has the base's names
            its, more = _as_base(readers[base], readers[name], layout, copied.get(name))
            readers[name], notes = its, notes + more
        axes = _vocabulary_axes(readers[base], layout, settings) if resizes else {}
        notes += _require_fitting(readers, folders, copied, axes)
        if "head" not in (config.parameters or {}):
            whole = [each for each in readers.values() if not isinstance(each, VectorReader)]
            require_shared_heads(whole, heads, recipe.where)
        unmoved = _unmoved(config.referenced_models(), folders, readers)
        yield OpenModels(readers, folders, layout, heads, tuple(notes), unmoved)
    finally:
        for reader in readers.values():
            reader.close()


def _unmoved(
    models: Sequence[ModelReference], folders: Mapping[str, Path], readers: Mapping[str, Reader]
) -> dict[str, frozenset[str]]:
    """Adapter → the tensors that it leaves alone, of those over the very folder of a whole base."""
    base, *others = models
    found = {}
    for model in others:
        is_adapter = base.lora is None and model.lora is not None
        if is_adapter and folders[str(model)].samefile(folders[str(base)]):
            reader = readers[str(model)]
            assert isinstance(reader, (AdapterReader, RenamedReader))
            found[str(model)] = frozenset(reader.tensors) - reader.changed
    return found


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
        infos: of the base's tensors, as they are stored.
        notes: what looks like a mistake, one sentence each.
    """

    architecture: Architecture
    folders: Mapping[str, Path]
    files: Mapping[str, tuple[Path, ...]]
    names: frozenset[str]
    infos: Mapping[str, TensorInfo]
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
            require_plausible(readers[model], read_config(folder))
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
    theirs = recipe.for_mergekit(parts_of(config, folders))
    with explained(recipe.where):
        architecture = stock_architecture(theirs, options, tensors, layout)
    names = frozenset(tensors) | _planned_names(architecture, theirs, options)
    files = {model: reader.files for model, reader in readers.items()}
    return StockModels(architecture, folders, files, names, tensors, tuple(notes))


def _planned_names(architecture: Architecture, config: Any, options: Any) -> set[str]:
    from mergekit_fair.merging.architecture_records import weight_names

    return weight_names(architecture.info, config.referenced_models()[0], options)


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
        notes += _told(require_same_labels, base, config, model, read_config(folders[model]))
        notes += _told(require_shared_heads, pair, heads, where)
    return notes


def _told(check: Callable[..., None], *arguments: Any) -> list[str]:
    try:
        check(*arguments)
    except FairError as error:
        return [f"warning: {type(error)(error.problem, where=error.where, got=error.got)}"]
    return []


def planned_architecture(recipe: Recipe, models: OpenModels, options: Any) -> Architecture:
    """What mergekit plans a checked recipe of this package's methods by.

    Raises:
        CheckpointError: as `own_architecture`.
        RecipeError: a tokenizer to build, where nothing tells which tensors have rows of tokens.
    """
    config = recipe.configuration()
    names, layout = models.infos[models.base], models.layout
    architecture = own_architecture(
        config.referenced_models()[0],
        names,
        layout,
        trust_remote_code=options.trust_remote_code,
    )
    resizes = resizes_vocabulary(config, options)
    if resizes and not architecture.is_mergekits and not layout.is_known:
        raise RecipeError(
            "asks for another vocabulary, and nothing tells which tensors have rows of tokens",
            where=recipe.where,
            got=models.base,
            fix="bring the vocabularies together before the models are fine-tuned",
        )
    return architecture


def parts_of(config: MergeConfiguration, folders: Mapping[str, Path]) -> dict[str, Path]:
    """Name of the Hub → its folder, of the models themselves, without adapters."""
    return {
        str(model.model): folders[str(model)]
        for model in config.referenced_models()
        if not Path(model.model.path).is_dir()
    }


def resizes_vocabulary(config: MergeConfiguration, options: Any) -> bool:
    """Whether mergekit is told to bring vocabularies together, so that embeddings may differ."""
    return bool(config.tokenizer_source or config.tokenizer or options.unsafe_truncate_embeddings)


def located(model: ModelReference, options: Any) -> Path:
    """The folder of a model or task vector: the path itself, or the Hub's cache after a download.

    Raises:
        CheckpointError: neither; a mistyped path is not looked up on the Hub, whose names have one
            slash at most.
    """
    path = model.model.path
    if Path(path).is_dir() or _is_path(path):
        return found_folder(path)
    try:
        return downloaded(path, model.model.revision, options.transformers_cache)
    except (OSError, ValueError, RuntimeError) as error:
        raise _not_found(model.model, error) from error


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
        require_plausible(reader, read_config(folder))
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
        notes += require_same_settings(base, folders[base], model, folders[model])
        tensors = _at_vocabulary(readers[model].tensors, readers[base].tensors, axes)
        require_equal(base, readers[base].tensors, model, tensors)
        if model not in copied:
            require_same_labels(named, names, model, its)
            named, names = (named, names) if class_names(names) else (model, its)
    return notes


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
