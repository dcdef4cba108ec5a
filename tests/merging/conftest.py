"""Options of a quiet merge; the kernels as mergekit runs them, on state dictionaries."""

import shutil

import pytest
from adapters import adapters_on, gpt2
from beside import Scene
from mergekit.merge_methods import merge_state_dicts
from mergekit.options import MergeOptions

import mergekit_fair


@pytest.fixture
def options():
    return MergeOptions(quiet=True)


@pytest.fixture
def scene(tiny, tmp_path):
    return Scene(tiny("bert").base, tmp_path)


@pytest.fixture(scope="module")
def bases(tiny, tmp_path_factory):
    """Architecture → its base."""
    folder = gpt2(tmp_path_factory.mktemp("gpt2") / "base")
    return lambda architecture: folder if architecture == "gpt2" else tiny(architecture).base


@pytest.fixture(scope="module")
def bert(tiny, tmp_path_factory):
    """The base and three adapters on it; read only."""
    base = tiny("bert").base
    return base, adapters_on(base, tmp_path_factory.mktemp("adapters"), "bert")


@pytest.fixture
def mine(bert, tmp_path):
    """The same adapters, to be changed."""
    base, adapters = bert
    return base, {
        name: shutil.copytree(path, tmp_path / "mine" / name) for name, path in adapters.items()
    }


def _states(name, tensors):
    return {key: {name: tensor} for key, tensor in tensors.items()}


@pytest.fixture(scope="session")
def add():
    """`add(base, {group: tensor}, weights={group: w}, name=…, **parameters)` → one tensor."""
    mergekit_fair.register()

    def run(base, members, weights=None, name="w", **parameters):
        parameters["group"] = {group: group for group in members}
        if weights is not None:
            parameters["weight"] = weights
        models = _states(name, {"base": base, **members})
        merged = merge_state_dicts(
            models, "subgroup_task_addition", base="base", parameters=_named(parameters)
        )
        return merged[name]

    return run


@pytest.fixture(scope="session")
def inject():
    """`inject(base, target, {group: tensor}, worst=…, name=…, **parameters)` → one tensor."""
    mergekit_fair.register()

    def run(base, target, candidates, name="w", **parameters):
        parameters["role"] = {"target": "target"} | dict.fromkeys(candidates, "candidate")
        parameters["group"] = {"target": ""} | {group: group for group in candidates}
        models = _states(name, {"base": base, "target": target, **candidates})
        merged = merge_state_dicts(
            models, "worst_group_injection", base="base", parameters=_named(parameters)
        )
        return merged[name]

    return run


def _named(parameters):
    return {"lambda" if key == "lambda_" else key: value for key, value in parameters.items()}
