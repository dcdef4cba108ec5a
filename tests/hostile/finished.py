"""A finished sweep with its merged model, to change behind the tool's back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from seals import Change, edited, edited_line

from mergekit_fair.cli import main


@dataclass(frozen=True)
class Finished:
    """A copy of a sweep's folder, of the file that made it and of the models that it names."""

    out: Path
    sweep: Path
    models: Path

    @property
    def results(self) -> dict[str, Any]:
        return dict(json.loads((self.out / "results.json").read_text()))

    @property
    def chosen(self) -> str:
        return str(self.results["selected"]["id"])

    @property
    def model(self) -> Path:
        return self.out / "selected" / "model"

    @property
    def recipe(self) -> Path:
        return self.out / "selected" / "recipe.yml"

    def scores(self, split: str, point: str | None = None) -> Path:
        return self.out / "scores" / f"{point or self.chosen}-{split}.npy"

    def line(self, split: str, point: str | None = None) -> int:
        """Which line of points.jsonl is a point's; the chosen one's unless given."""
        lines = (self.out / "points.jsonl").read_text().splitlines()
        wanted = (point or self.chosen, split)
        found = [json.loads(text) for text in lines]
        return [(line["id"], line["split"]) for line in found].index(wanted)

    def say(self, change: Change, split: str = "report", point: str | None = None) -> None:
        """Let both files say something else of a point, with new digests."""
        point = point or self.chosen
        number = self.line(split, point)
        edited_line(self.out / "points.jsonl", number, change, sealed_again=True)

        def in_results(content: dict[str, Any]) -> None:
            points = content["report" if split == "report" else "points"]
            change(next(each for each in points if each["id"] == point))

        edited(self.out / "results.json", in_results, sealed_again=True)


def flip(file: Path, place: int = -1, bit: int = 0) -> None:
    """Turn one bit of a file over."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


def retrain(model: Path) -> None:
    """Another model in the place of one: of the same size, and with the same time of change."""
    import os

    file = model / "model.safetensors"
    state = file.stat()
    content = bytearray(file.read_bytes())
    for place in range(len(content) - 4096, len(content), 4):
        content[place + 2] ^= 0x40  # the exponent stays: a number of the same size
    file.write_bytes(content)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def run(*arguments: object) -> Result:
    found = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert "Traceback" not in found.output
    return found


Attack = Callable[[Finished], Any]
