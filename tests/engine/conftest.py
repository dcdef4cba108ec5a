"""Options of a quiet merge."""

import pytest
from mergekit.options import MergeOptions


@pytest.fixture
def options():
    return MergeOptions(quiet=True)
