"""The jobs that are measured: our merge, mergekit's, and the floor under both."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints import (
    START,
    WEIGHTS,
    BenchmarkError,
    Family,
    check_equal,
    check_merge,
    merged_scale,
)
from processes import Usage, measure, program
from tables import start_of

Check = Callable[[Path, list[Path]], None]
SCALE = 0.3
GRID = [round(0.1 * step, 1) for step in range(11)]


@dataclass
class Bench:
    """Where and how to measure.

    Attributes:
        work: the folder of models, recipes and outputs.
        repeats: rounds; every round measures each job once, one after the other.
        keeps_models: leave models in `work` when a part is done with them.
        old: another checkout, whose merges are measured, too.
        results: what was measured, for --json.
    """

    work: Path
    repeats: int
    keeps_models: bool
    old: Path | None = None
    results: dict[str, Any] = field(default_factory=dict)

    def ours(self, models: list[Path]) -> Usage:
        """One merge by `mergekit-fair merge`; its numbers are checked."""
        return self._ours(models, (), _check_ours)

    def before(self, models: list[Path]) -> Usage:
        """The same by the other checkout."""
        return self._ours(models, (), _check_ours, self.old)

    def grid(self, models: list[Path]) -> Usage:
        """Eleven merges by one `mergekit-fair merge`; all their numbers are checked."""
        return self._ours(models, ("--lambda", "0:1:0.1"), _check_grid)

    def grid_before(self, models: list[Path]) -> Usage:
        """The same by the other checkout."""
        return self._ours(models, ("--lambda", "0:1:0.1"), _check_grid, self.old)

    def adapter_grids(self, models: list[Path]) -> dict[str, Usage]:
        """A grid over adapters: by copies or clones, by hard links, and by the other checkout."""
        ways: dict[str, tuple[tuple[str, ...], Path | None]] = {
            "ours": ((), None),
            "links": (("--hard-links",), None),
        }
        ways |= {"before": ((), self.old)} if self.old else {}
        found: dict[str, Usage] = {}
        expected = self.work / "expected"
        for name, (words, package) in ways.items():

            def check(out: Path, models: list[Path]) -> None:
                del models
                if not expected.is_dir():
                    shutil.copytree(out / "lambda_0.5", expected)
                check_equal(out / "lambda_0.5", expected)

            extra = ("--lambda", "0:1:0.1", *words)
            found[name] = self._ours(models, extra, check, package)
        shutil.rmtree(expected)
        return found

    def _ours(
        self,
        models: list[Path],
        extra: tuple[str, ...],
        check: Check,
        package: Path | None = None,
    ) -> Usage:
        recipe = {
            "merge_method": "subgroup_task_addition",
            "base_model": str(models[0]),
            "models": [
                {"model": str(model), "parameters": {"group": f"g{number}", "weight": 1.0}}
                for number, model in enumerate(models[1:], start=1)
            ],
            "parameters": {"lambda": SCALE},
        }
        command = [program("mergekit-fair"), "merge"]
        name = "ours" if package is None else "before"
        return self._merge(name, command, recipe, extra, models, check, package)

    def stock(self, models: list[Path], scale: float = SCALE) -> Usage:
        """The same merge by `mergekit-yaml`, which sums in the input's dtype."""
        recipe = {
            "merge_method": "task_arithmetic",
            "base_model": str(models[0]),
            "models": [
                {"model": str(model), "parameters": {"weight": scale}} for model in models[1:]
            ],
            "parameters": {"normalize": False},
        }

        def check(out: Path, models: list[Path]) -> None:
            check_merge(out, models, scale, is_rounded_once=False)

        return self._merge("stock", [program("mergekit-yaml")], recipe, (), models, check)

    def floor(self, models: list[Path]) -> Usage:
        """Read every input, write one model through the page cache."""
        return self._copied("floor", models, ["cp", "--reflink=never", "--sparse=never"])

    def direct(self, models: list[Path]) -> Usage:
        """The same past the page cache: what no merge can avoid."""
        return self._copied("direct", models, ["dd", "bs=4M", "oflag=direct", "status=none"])

    def copies(self, models: list[Path]) -> list[Usage]:
        """As many copies of a model as a grid has outputs."""
        return [self.floor(models[:1]) for _ in GRID]

    def _copied(self, name: str, models: list[Path], how: list[str]) -> Usage:
        files, out = [model / WEIGHTS for model in models], self.work / name
        places = [str(files[0]), str(out / WEIGHTS)]
        if how[0] == "dd":
            places = [f"if={places[0]}", f"of={places[1]}"]
        commands = [["cat", *map(str, files)], ["mkdir", str(out)], [*how, *places]]
        try:
            return self._told(name, measure(commands, files, out))
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def starts(self, vectors: int) -> dict[str, Usage]:
        """All programs on two layers of width 32: what they cost before the first real tensor."""
        models = Family(self.work, START).make(vectors)
        found = {start_of("ours"): self.ours(models), start_of("stock"): self.stock(models)}
        return found | ({start_of("before"): self.before(models)} if self.old else {})

    def _merge(
        self,
        name: str,
        command: list[str],
        recipe: dict[str, Any],
        extra: tuple[str, ...],
        models: list[Path],
        check: Check,
        package: Path | None = None,
    ) -> Usage:
        file, out = self.work / f"{name}.yml", self.work / name
        file.write_text(json.dumps(recipe, indent=2))  # JSON is YAML
        options = ["--no-copy-tokenizer", "--quiet", *extra]
        files = [file for model in models for file in model.glob("*model.safetensors")]
        try:
            usage = measure([[*command, str(file), str(out), *options]], files, out, package)
            check(out, models)
        finally:
            shutil.rmtree(out, ignore_errors=True)
        return self._told(name, usage)

    def _told(self, name: str, usage: Usage) -> Usage:
        text = f"{usage.wall:7.2f} s, fsync {usage.fsync:5.2f} s, {usage.moved / 1e9:6.2f} GB"
        print(f"  {name:6s} {text}", file=sys.stderr, flush=True)
        return usage

    def record(self, part: str, **entry: Any) -> None:
        self.results.setdefault(part, []).append(entry)


def _check_ours(out: Path, models: list[Path]) -> None:
    check_merge(out, models, SCALE, is_rounded_once=True)


def _check_grid(out: Path, models: list[Path]) -> None:
    """Eleven models below `out`, one for every λ; a number at the end of a name must be its λ."""
    found = {}
    for folder in sorted({file.parent for file in out.rglob("*.safetensors")}):
        scale = round(merged_scale(folder, models), 1)
        number = re.search(r"\d+(\.\d+)?$", folder.name)
        if number and float(number.group()) != scale:
            raise BenchmarkError(f"the merge in {folder.name} has λ = {scale:g}")
        check_merge(folder, models, scale, is_rounded_once=True)
        found[scale] = folder
    if sorted(found) != GRID:
        raise BenchmarkError(f"the grid holds λ = {sorted(found)}, not {GRID}")
