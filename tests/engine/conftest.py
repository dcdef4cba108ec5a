"""Families of tiny checkpoints, made once and never changed."""

import pytest
from checkpoints import tiny_family
from mergekit.options import MergeOptions


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """`tiny("bert")` → its `Family`, written at the first call; read only."""
    made = {}

    def family(architecture):
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            made[architecture] = tiny_family(folder, architecture)
        return made[architecture]

    return family


@pytest.fixture
def options():
    return MergeOptions(quiet=True)
