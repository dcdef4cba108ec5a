"""File systems of a few kilobytes, really mounted: a merge fits, or leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mounts import mounted
from refusals import refusal
from scene import Scene, listing
from tiny import words_of

from mergekit_fair.cli import main
from mergekit_fair.errors import CheckpointError

MEGABYTES = {"tmpfs": 1, "ext4": 4}


@pytest.fixture(params=MEGABYTES)
def disk(request: Any, tmp_path: Path) -> Iterator[Path]:
    """A mounted folder; skipped where nothing may be mounted."""
    with mounted(tmp_path, request.param, MEGABYTES[request.param]) as folder:
        yield folder


def test_a_merge_that_fits(scene: Scene, disk: Path) -> None:
    for out in (disk / "out", scene.here / "out"):
        result = CliRunner().invoke(main, words_of("merge", scene.here / "r.yml", out, "--quiet"))
        assert result.exit_code == 0, result.output
    one, two = (place / "out" / "model.safetensors" for place in (disk, scene.here))
    assert one.read_bytes() == two.read_bytes()


def test_a_grid_that_does_not(scene: Scene, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by what is free; and by the disk itself, where others have filled it meanwhile."""
    words = words_of("merge", scene.here / "r.yml", disk / "out", "--quiet", "--lambda", "0:1:0.01")
    before = listing(disk)
    refusal(words, CheckpointError, "not enough space")
    assert listing(disk) == before
    free = type("Usage", (), {"free": 1 << 40})
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    result = CliRunner().invoke(main, words)
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.stderr
    assert result.stderr.endswith("No space left on device\n"), result.stderr
    assert listing(disk) == before
