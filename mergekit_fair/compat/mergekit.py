"""What this package uses of mergekit that mergekit does not promise to keep (written for 0.1.5)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any


def for_mergekit(recipe: Mapping[str, Any], models_in: Callable[[Any], list[Any]]) -> Any:
    """mergekit's own configuration, for its engine; imports peft and most of transformers.

    Args:
        recipe: as mergekit's YAML.
        models_in: lists the models of a configuration, in the order that mergekit is to see.
    """
    return _ordered(models_in).model_validate(recipe)


@cache
def _ordered(models_in: Callable[[Any], list[Any]]) -> Any:
    from mergekit.config import MergeConfiguration

    class OrderedConfiguration(MergeConfiguration):
        def referenced_models(self) -> list[Any]:
            return models_in(self)

    return OrderedConfiguration


def mergekits_options(options: Any) -> Any:
    """mergekit's own `MergeOptions`, of ours or of itself."""
    from mergekit.options import MergeOptions

    return options if isinstance(options, MergeOptions) else MergeOptions(**options.model_dump())


def run_merge(config: Any, folder: Path, options: Any) -> None:
    """Let mergekit's engine merge to a folder.

    Args:
        config: mergekit's own.
        folder: to write to.
        options: ours or mergekit's.

    Raises:
        Exception: whatever mergekit refuses.
    """
    from mergekit.merge import run_merge as run

    run(config, str(folder), mergekits_options(options))


def output_config(config: Any, architecture: Any, options: Any) -> Any:
    """The transformers configuration of the merged model: the base's, with the merge's dtype.

    Private: `merge.run_merge` alone calls it, after it has merged by its own engine.
    """
    from mergekit.merge import _model_out_config

    return _model_out_config(config, architecture, trust_remote_code=options.trust_remote_code)


def chat_template_names() -> list[str]:
    """The chat templates that come with mergekit, sorted.

    Private: mergekit looks a name up after it has merged, and then fails.
    """
    from mergekit._data import chat_templates

    files = resources.files(chat_templates).iterdir()
    return sorted(file.name.removesuffix(".jinja") for file in files if ".jinja" in file.name)


def chat_template_text(name: str) -> str:
    """One of `chat_template_names`.

    Private: as `chat_template_names`.
    """
    from mergekit._data import chat_templates

    return resources.files(chat_templates).joinpath(f"{name}.jinja").read_text(encoding="utf-8")


def is_defined(architecture: str) -> bool:
    """Whether mergekit has a definition of an architecture.

    Private: its public look-up raises for most unknown architectures and infers others.
    """
    from mergekit.architecture.json_definitions import NAME_TO_ARCH

    return architecture in NAME_TO_ARCH


def definitions(architecture: str) -> list[dict[str, Any]]:
    """mergekit's definitions of an architecture, as they stand in its files; usually one or none.

    Private: the files, which its own classes read; those import transformers and peft.
    """
    from mergekit._data import architectures

    files = (each for each in resources.files(architectures).iterdir() if _is_json(each.name))
    texts = (file.read_text(encoding="utf-8") for file in files)
    parsed = (json.loads(text) for text in texts if f'"{architecture}"' in text)
    return [each for each in parsed if architecture in each["architectures"]]


def _is_json(name: str) -> bool:
    return name.lower().endswith(".json")


def choose_architectures(choose: Callable[[Any, Any], Any]) -> None:
    """Let `choose(configuration, options)` name the architecture of every merge to disk.

    It returns None for what is left to mergekit. `run_merge` asks for the architecture first: what
    is raised here stops a merge before it reads a tensor. A second call replaces the function.

    Private: `run_merge` finds its helper in its module; there is no public way to add a definition.
    """
    from mergekit import architecture, merge

    def chosen(config: Any, options: Any) -> Any:
        info = choose(config, options)
        return architecture.get_architecture_info(config, options) if info is None else info

    merge.get_architecture_info = chosen


def merge_adapters_by(merged: Callable[..., Any]) -> None:
    """Let `merged(model, merge, cache, dtype)` merge every adapter.

    `merge(folder)` is mergekit's own: by peft, below `folder`, under a name of its choice; it does
    nothing where a folder of this name is there. A second call replaces the function.

    Private in that mergekit's loaders call it for every model of a merge.
    """
    from mergekit.common import ModelReference

    real = getattr(ModelReference.merged, "real", ModelReference.merged)

    def watched(
        self: Any,
        cache_dir: str | None = None,
        trust_remote_code: bool = False,
        lora_merge_dtype: str | None = None,
    ) -> Any:
        def merge(folder: str | None) -> Any:
            return real(self, folder, trust_remote_code, lora_merge_dtype)

        if not self.lora or not cache_dir:
            return merge(cache_dir)
        return merged(self, merge, cache_dir, lora_merge_dtype)

    watched.real = real  # type: ignore[attr-defined]
    ModelReference.merged = watched


@dataclass(frozen=True)
class DiskPlan:
    """mergekit's plan of a merge to disk.

    Attributes:
        targets: all its tasks, those that save tensors first.
        t: of every saved tensor where its layer lies, from 0 for the first to 1 for the last, which
            is what layer gradients are evaluated at.
    """

    targets: list[Any]
    t: list[float]

    @property
    def saved(self) -> list[Any]:
        """The tasks that save a tensor each, in the architecture's order.

        Read of one: `tensor_name`, `dtype`, and `tensor_task` with `gather_tensors` (`weight_info`,
        `dtype`), `base_model`, `model_order`, `parameters` and `input_parameters`.
        """
        return self.targets[: len(self.t)]

    def execution_order(self) -> list[int]:
        """Indices into `saved`, in the order in which mergekit's executor merges the tensors."""
        from mergekit.graph import Executor

        tensors = {id(save.tensor_task): index for index, save in enumerate(self.saved)}
        schedule = Executor(self.targets).schedule.tasks
        places = (tensors.get(id(handle.task())) for handle in schedule)
        return [index for index in places if index is not None]


def disk_plan(config: Any, architecture: Any, options: Any) -> DiskPlan:
    """mergekit's plan of a merge to disk, without running it.

    Private in what the tasks hold, and in `plan_tensor`, whose reader says where a layer lies. A
    plan to disk, because `plan_in_memory` of 0.1.5 raises; no file is opened for writing before a
    task's writer runs.
    """
    from mergekit.io.tasks import LoaderCache
    from mergekit.plan import MergePlanner

    places: list[float] = []

    class PlannerOfPlaces(MergePlanner):
        def plan_tensor(self, weight: Any, weights_in: Any, models: Any, cfg_reader: Any) -> None:
            before = len(self._tensors)
            super().plan_tensor(weight, weights_in, models, cfg_reader)
            places.extend([cfg_reader.t] * (len(self._tensors) - before))

    LoaderCache().setup(options)
    planner = PlannerOfPlaces(
        config,
        architecture,
        options=options,
        out_model_config=output_config(config, architecture, options),
    )
    return DiskPlan(planner.plan_to_disk(out_path=""), places)


def forget_models() -> None:
    """Let mergekit open every model anew: it knows models by path, and files change meanwhile.

    Private: the cache of loaders has no public way to be cleared, nor has that of inferred
    architectures.
    """
    from mergekit.architecture.auto import infer_architecture_info
    from mergekit.io.tasks import LoaderCache

    infer_architecture_info.cache_clear()
    LoaderCache().loaders.clear()


def loaded_folder(model: Any) -> Path:
    """Where mergekit has the files of a model that it merges: a download or a merged adapter."""
    from mergekit.io.tasks import LoaderCache

    return Path(LoaderCache().get(model).index.base_path)


def loaded_tensors(model: Any) -> list[str]:
    """The names of a model's tensors, of a model that mergekit merges."""
    from mergekit.io.tasks import LoaderCache

    return list(LoaderCache().get(model).index.tensor_paths)


@contextmanager
def known_tensors(models: Mapping[Any, Iterable[str]]) -> Iterator[None]:
    """While open, mergekit's planner takes the tensors of models from here.

    It asks its loaders which optional tensors there are. Answered from headers, adapters need not
    be merged to disk for that, nor files be opened twice.

    Private: as `forget_models`; of a loader it reads `index.tensor_paths`.

    Args:
        models: mergekit's `ModelReference` → the names of its tensors.
    """
    from mergekit.io.tasks import LoaderCache

    loaders: Any = LoaderCache().loaders
    loaders.clear()
    for model, tensors in models.items():
        index = _Index(dict.fromkeys(tensors, ""))
        loaders[model] = _HeaderLoader(index)
    try:
        yield
    finally:
        loaders.clear()


def serve_vectors(vectors: Mapping[Any, Mapping[str, Path]], base: Any) -> None:
    """Let mergekit read stored task vectors as models of the base's architecture.

    What a vector does not hold is zero in the base's dtype; integers are the base's. mergekit's
    planner then asks nothing of them that it does not ask of a model, and every method gets the
    parameters of all.

    Private: as `known_tensors`; of a loader mergekit calls `get_tensor` and `flush`.

    Args:
        vectors: `ModelReference` of a vector folder → name of a tensor → the file that it is in.
        base: the `ModelReference` of the model that they are added to.
    """
    from mergekit.io.tasks import LoaderCache

    loaders: Any = LoaderCache().loaders
    for model in [model for model, each in loaders.items() if isinstance(each, _VectorLoader)]:
        del loaders[model]  # of another merge in this process
    loaders.update({model: _VectorLoader(files, base) for model, files in vectors.items()})


def vectors_in_graph(models: Iterable[Any], name: str) -> dict[Any, bool]:
    """Of models of a merge that are stored task vectors: model → whether it holds this tensor."""
    from mergekit.io.tasks import LoaderCache

    loaders: Any = LoaderCache().loaders
    found = {model: loaders.get(model) for model in models}
    return {m: name in each.files for m, each in found.items() if isinstance(each, _VectorLoader)}


@dataclass(frozen=True)
class _VectorLoader:
    files: Mapping[str, Path]
    base: Any

    @property
    def index(self) -> _Index:
        from mergekit.io.tasks import LoaderCache

        folder = next(iter(self.files.values())).parent
        return _Index(LoaderCache().get(self.base).index.tensor_paths, str(folder))

    def get_tensor(self, key: str, device: str = "cpu", **options: Any) -> Any:
        import torch
        from mergekit.io.tasks import LoaderCache
        from safetensors import safe_open

        if key in self.files:
            with safe_open(self.files[key], framework="pt") as file:
                return file.get_tensor(key).to(device)
        tensor = LoaderCache().get(self.base).get_tensor(key, device=device, **options)
        return torch.zeros_like(tensor) if tensor.is_floating_point() else tensor

    def flush(self) -> None:
        """Nothing is kept open."""


@dataclass(frozen=True)
class _Index:
    tensor_paths: dict[str, str]
    base_path: str = ""


@dataclass(frozen=True)
class _HeaderLoader:
    index: _Index
