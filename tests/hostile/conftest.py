"""A copy of the bert family for every test."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from checkpoints import GROUPS, Family
from scene import Scene


@pytest.fixture
def scene(tiny: Any, tmp_path: Path) -> Scene:
    """A copy of the bert family, to damage."""
    family = tiny("bert")
    sources = {"base": family.base, "fft": family.fft, **family.groups}
    made = {name: shutil.copytree(path, tmp_path / name) for name, path in sources.items()}
    groups = {name: made[name] for name in GROUPS}
    found = Scene(tmp_path, Family(made["base"], made["fft"], groups))
    found.write()
    return found
