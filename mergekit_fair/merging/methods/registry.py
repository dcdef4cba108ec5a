"""The methods of this package, and how they are made known to mergekit."""

from __future__ import annotations

from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.methods.awd import AWD
from mergekit_fair.merging.methods.cclip import CClip
from mergekit_fair.merging.methods.declaration import MethodSpec
from mergekit_fair.merging.methods.fair_head_method import FairHeadMethod
from mergekit_fair.merging.methods.fedgma import FedGMA
from mergekit_fair.merging.methods.fednova import FedNova
from mergekit_fair.merging.methods.subgroup_task_addition import SubgroupTaskAddition
from mergekit_fair.merging.methods.task_analogy import TaskAnalogy
from mergekit_fair.merging.methods.task_median import TaskMedian
from mergekit_fair.merging.methods.task_negation import TaskNegation
from mergekit_fair.merging.methods.task_vector_method import TaskVectorMethod
from mergekit_fair.merging.methods.worst_group_injection import WorstGroupInjection

METHODS: tuple[TaskVectorMethod, ...] = (
    SubgroupTaskAddition(),
    WorstGroupInjection(),
    FairHeadMethod(),
    TaskNegation(),
    TaskAnalogy(),
    FedGMA(),
    TaskMedian(),
    CClip(),
    FedNova(),
    AWD(),
)


def register_methods() -> None:
    """Register every method of this package; idempotent.

    Raises:
        RecipeError: a foreign method already has one of our names.
    """
    from mergekit import merge_methods

    from mergekit_fair.merging.methods.in_graph import graph_method

    known = {method.spec.name: method for method in merge_methods.registered_methods()}
    for method in map(graph_method, METHODS):
        present = known.get(method.spec.name)
        if present is None:
            merge_methods.register(method)
        elif present is not method:
            raise RecipeError(
                "another package has registered a merge method of this name",
                where=method.spec.name,
                got=type(present).__module__,
                fix="remove that package or import mergekit_fair first",
            )


def own_method(name: str) -> TaskVectorMethod:
    """The method of this package with that name; ValueError for others."""
    for method in METHODS:
        if method.spec.name == name:
            return method
    raise ValueError(f"{name} is not a method of mergekit-fair")


def is_own(name: str) -> bool:
    """Whether a method of this package has that name."""
    return any(method.spec.name == name for method in METHODS)


def spec_of(name: str) -> MethodSpec:
    """What a method declares, this package's or mergekit's, whose parameters are like ours."""
    if is_own(name):
        return own_method(name).spec
    from mergekit import merge_methods

    spec: MethodSpec = merge_methods.get(name).spec
    return spec


def known_specs() -> dict[str, MethodSpec]:
    """Name → what a method declares, of all that are registered, ours among them.

    Raises:
        RecipeError: as `register_methods`.
    """
    from mergekit import merge_methods

    register_methods()
    return {method.spec.name: method.spec for method in merge_methods.registered_methods()}
