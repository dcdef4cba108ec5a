"""The methods as mergekit's own engine runs them, tensor by tensor."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from mergekit.merge_methods import (
    BasePolicy,
    GroupMergeMethod,
    InputContract,
    MergeMethodSpec,
    TensorGroup,
)
from mergekit.merge_methods import ParameterScope as Scope
from mergekit.merge_methods.base import MISSING
from mergekit.merge_methods.base import ParameterSpec as Parameter

from mergekit_fair.checkpoints.folder import architecture_of, read_config
from mergekit_fair.checkpoints.inner_products import added, row_products
from mergekit_fair.checkpoints.reader import Reader, open_folder
from mergekit_fair.checkpoints.vector_folder import VectorReader, is_vector_folder, open_vector
from mergekit_fair.compat.mergekit import loaded_folder, loaded_tensors, vectors_in_graph
from mergekit_fair.merging.methods.arithmetic import merge_tensor
from mergekit_fair.merging.methods.declaration import MethodSpec, ParameterSpec
from mergekit_fair.merging.methods.formula import COUNTER
from mergekit_fair.merging.methods.head_policy import HeadPolicy, head_names, head_rule, is_head
from mergekit_fair.merging.methods.measured_products import merged_names, products_of, state_of
from mergekit_fair.merging.methods.task_vector_method import TaskVectorMethod, TensorInputs
from mergekit_fair.merging.methods.whole_vectors import Measured, WholeVectors

# Models of mergekit's graph → the state of their files, and what was found for it.
_IN_GRAPH: dict[tuple[Any, ...], tuple[Any, WholeVectors]] = {}


@cache
def graph_method(method: TaskVectorMethod) -> GraphMethod:
    """The method as mergekit knows it: one object each."""
    return GraphMethod(method)


class GraphMethod(GroupMergeMethod):
    """A method in mergekit's graph: the same formula, the same arithmetic.

    Args:
        method: what it is.
    """

    def __init__(self, method: TaskVectorMethod) -> None:
        self.method = method
        self.spec = _declared(method.spec)

    def merge_group(self, group: TensorGroup, /, **parameters: Any) -> torch.Tensor:
        """Merge one tensor; `group` is mergekit's record of the inputs to one output tensor.

        Raises:
            ValueError: as `TaskVectorMethod.formula`.
        """
        base = group.base
        if base is None:  # the contract has refused this before any kernel runs
            raise ValueError(f"no base input for {group.metadata.name}")
        name = group.metadata.name or ""
        models = tuple(entry.id for entry in group.non_base)
        whole = parameters.pop("whole", None)
        policy = parameters.get("head", HeadPolicy.MERGE)
        is_head = policy != HeadPolicy.MERGE and is_head_in_graph(base.id, name)
        inputs = TensorInputs(name, base.id, models, whole, is_head)
        formula = self.method.formula(inputs, parameters)
        formula = formula.with_vectors(vectors_in_graph(models, name))
        tensors = {entry.id: entry.tensor for entry in group.entries}
        if name.endswith(COUNTER):  # mergekit has made a float of it
            return tensors[formula.start]
        return merge_tensor(formula, tensors, name)

    def _execute(
        self,
        groups: Sequence[TensorGroup],
        parameters: list[dict[str, Any]],
        options: Any,
        *,
        input_dtypes: Sequence[torch.dtype | None],
        out_dtype: torch.dtype | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """mergekit's, with what the method reads of whole task vectors."""
        if measured := max(map(self.method.measures, parameters), default=Measured.NOTHING):
            merges_head = all(
                values.get("head", HeadPolicy.MERGE) == HeadPolicy.MERGE for values in parameters
            )
            whole = whole_in_graph(groups, measured, merges_head=merges_head)
            parameters = [values | {"whole": whole} for values in parameters]
        return super()._execute(
            groups, parameters, options, input_dtypes=input_dtypes, out_dtype=out_dtype
        )


def _declared(spec: MethodSpec) -> MergeMethodSpec:
    contract = InputContract(
        base=BasePolicy.REQUIRED, min_non_base=spec.fewest, max_non_base=spec.most
    )
    return MergeMethodSpec(
        name=spec.name,
        pretty_name=spec.pretty_name,
        reference_url=spec.reference_url,
        contract=contract,
        parameters=tuple(map(_parameter, spec.parameters)),
    )


def _parameter(declared: ParameterSpec) -> Parameter:
    return Parameter(
        declared.name,
        declared.value_type,
        Scope(declared.scope.value),
        MISSING if declared.required else declared.default,
        declared.description,
    )


def whole_in_graph(
    groups: Sequence[TensorGroup], measured: Measured, *, merges_head: bool
) -> WholeVectors:
    """What a method reads of θ − θ₀ over all floating tensors, the head's only if it is merged.

    Args:
        groups: all that are merged, or one of mergekit's graph, whose files hold the others.
        measured: what the method reads.
        merges_head: whether heads count.
    """
    from mergekit.common import ModelReference

    entries = groups[0].entries
    if all(isinstance(entry.id, ModelReference) for entry in entries):
        base = next(entry.id for entry in entries if entry.is_base)
        models = tuple(entry.id for entry in entries if not entry.is_base)
        return _from_files(base, models, measured, merges_head)
    models = tuple(entry.id for entry in groups[0].non_base)
    pairs = measured.pairs(len(models))
    sums: list[list[float]] = [[] for _ in pairs]
    for group in groups:
        if group.base is None or (not merges_head and is_head(group.metadata.name)):
            continue
        start = group.base.tensor.reshape(-1).double()
        flat = {entry.id: entry.tensor.reshape(-1).double() - start for entry in group.non_base}
        rows = row_products([flat[model] for model in models], pairs)
        for totals, row in zip(sums, rows, strict=True):
            totals.append(added(row))
    return WholeVectors.of(models, pairs, map(added, sums))


def _from_files(
    base: Any, models: tuple[Any, ...], measured: Measured, merges_head: bool
) -> WholeVectors:
    """Asked for every tensor; files that stayed the same are not opened again."""
    folders = [_folder(model) for model in (base, *models)]
    state = [
        state_of(file)
        for folder in folders
        for file in sorted(folder.iterdir())
        if file.suffix in (".safetensors", ".bin", ".json")
    ]
    key = (base, models, measured, merges_head)
    if key in _IN_GRAPH and _IN_GRAPH[key][0] == state:
        return _IN_GRAPH[key][1]
    with contextlib.ExitStack() as stack:
        readers: list[Reader] = []
        for folder in folders:
            is_vector = readers and is_vector_folder(folder)
            reader = (
                VectorReader(readers[0], open_vector(folder), folder)
                if is_vector
                else open_folder(folder, allow_pickle=True)
            )
            readers.append(reader)
            stack.callback(reader.close)
        tensors = readers[0].tensors
        heads = () if merges_head else head_names(_architecture(folders[0]), tensors)
        names = merged_names(tensors, heads)
        pairs = measured.pairs(len(models))
        products = products_of(readers[0], readers[1:], pairs, names)
    whole = WholeVectors.of(models, pairs, products)
    _IN_GRAPH[key] = (state, whole)
    return whole


def is_head_in_graph(base: Hashable, name: str) -> bool:
    """Whether a tensor belongs to a head of the base, which mergekit's graph knows the files of."""
    from mergekit.common import ModelReference

    if not isinstance(base, ModelReference):
        return is_head(name)
    return head_rule(_architecture(_folder(base)), loaded_tensors(base))(name)


def _architecture(folder: Path) -> str | None:
    return architecture_of(read_config(folder))


def _folder(model: Any) -> Path:
    """Where mergekit has the model: the folder itself, a download, or a merged adapter."""
    is_here = model.lora is None and Path(model.model.path).is_dir()
    return Path(model.model.path) if is_here else loaded_folder(model)
