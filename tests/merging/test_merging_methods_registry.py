"""Registration in mergekit: idempotent, and loud when the name is taken."""

import pytest
from mergekit import merge_methods
from mergekit.merge_methods import registry

import mergekit_fair
from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.methods.registry import METHODS
from mergekit_fair.merging.methods.worst_group_injection import WorstGroupInjection

NAMES = [
    *("subgroup_task_addition", "worst_group_injection", "fair_head", "task_negation"),
    *("task_analogy", "fedgma", "task_median", "cclip", "fednova", "awd"),
]


class Foreign(WorstGroupInjection):
    """Another package's method that has our name."""


def test_register_is_idempotent():
    mergekit_fair.register()
    before = merge_methods.registered_methods()
    mergekit_fair.register()
    assert merge_methods.registered_methods() == before
    assert [method.spec.name for method in METHODS] == NAMES
    assert all(merge_methods.get(method.spec.name).method is method for method in METHODS)


def test_a_foreign_method_of_the_same_name_is_an_error(monkeypatch):
    mergekit_fair.register()
    monkeypatch.setitem(registry._METHODS, "worst_group_injection", Foreign())
    with pytest.raises(RecipeError) as caught:
        mergekit_fair.register()
    assert str(caught.value) == (
        "worst_group_injection: another package has registered a merge method of this name; "
        f"got {__name__!r}. Remove that package or import mergekit_fair first."
    )


def test_registers_into_an_empty_registry(monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", {})
    mergekit_fair.register()
    assert [method.spec.name for method in merge_methods.registered_methods()] == NAMES


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_every_parameter_is_described(method):
    assert method.spec.pretty_name
    assert method.spec.reference_url.startswith("https://arxiv.org/abs/")
    assert all(parameter.description for parameter in method.spec.parameters)
