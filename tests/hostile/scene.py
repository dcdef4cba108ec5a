"""A family of tiny models to damage, and the real command line that must refuse to merge it."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from checkpoints import GROUPS, Family, read
from click.testing import CliRunner, Result
from refusals import refusal

from mergekit_fair.cli import main
from mergekit_fair.errors import FairError
from mergekit_fair.schema import dump_yaml


@dataclass(frozen=True)
class Scene:
    """`base`, `fft` and one folder a group in `here`, where `r.yml` and `out` go, too."""

    here: Path
    family: Family

    def addition(self, **parameters: Any) -> dict[str, Any]:
        return self.family.addition(**{"lambda_": 0.3} | parameters)

    def write(self, recipe: dict[str, Any] | str | bytes | None = None) -> None:
        """The recipe as a file; without one, a good addition."""
        content = self.addition() if recipe is None else recipe
        text = dump_yaml(content) if isinstance(content, dict) else content
        data = text if isinstance(text, bytes) else text.encode()
        (self.here / "r.yml").write_bytes(data)

    def command(self, *arguments: str, out: str = "out", recipe: str = "r.yml") -> list[str]:
        return ["merge", str(self.here / recipe), str(self.here / out), *arguments, "--quiet"]

    def invoke(self, *arguments: str, **places: str) -> Result:
        return CliRunner().invoke(main, self.command(*arguments, **places))

    def refused(
        self, *arguments: str, code: int = 2, ignoring: tuple[str, ...] = (), **places: str
    ) -> str:
        """The one message, with the scene's folder as HERE; nothing may be left or changed.

        Args:
            arguments: more options.
            code: the exit code.
            ignoring: files that the test itself changes meanwhile.
            places: `out` and `recipe`.
        """
        before = listing(self.here, ignoring)
        result = self.invoke(*arguments, **places)
        assert isinstance(result.exception, SystemExit), result.exception  # no traceback
        assert (result.exit_code, result.stdout) == (code, "")
        assert result.stderr.startswith("Error: "), result.stderr
        assert listing(self.here, ignoring) == before
        return self.named(result.stderr.removeprefix("Error: ").removesuffix("\n"))

    def refuses(
        self,
        kind: type[FairError],
        *shows: str,
        arguments: tuple[str, ...] = (),
        ignoring: tuple[str, ...] = (),
        out: str = "out",
        recipe: str = "r.yml",
        **fields: Any,
    ) -> None:
        """The merge must end with one error of this kind and these fields (see `refusals`).

        Nothing may be left or changed. HERE in `shows` and `where` is the scene's folder.
        """
        before = listing(self.here, ignoring)
        here = str(self.here)
        shows = tuple(text.replace("HERE", here) for text in shows)
        if isinstance(fields.get("where"), str):
            fields["where"] = fields["where"].replace("HERE", here)
        refusal(self.command(*arguments, out=out, recipe=recipe), kind, *shows, **fields)
        assert listing(self.here, ignoring) == before

    def named(self, text: str) -> str:
        return text.replace(str(self.here), "HERE")

    def merged(self, *arguments: str, **places: str) -> dict[str, torch.Tensor]:
        """The tensors of a merge that must succeed and leave nothing but its output."""
        before = {path.name for path in self.here.iterdir()}
        result = self.invoke(*arguments, **places)
        assert (result.exit_code, result.output) == (0, ""), result.output
        assert {path.name for path in self.here.iterdir()} == before | {"out"}
        return read(self.here / "out")

    def header(self, change: Callable[[dict[str, Any], bytes], Any], model: str = "Male") -> None:
        """Rewrite a weights file with what `change` makes of its header and its data."""
        file = self.here / model / "model.safetensors"
        content = file.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header, data = change(json.loads(content[8:start]), content[start:])
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + data)

    def config(self, change: Callable[[dict[str, Any]], Any], *models: str) -> None:
        """Edit the config.json of some models; without names, of all."""
        for model in models or ("base", "fft", *GROUPS):
            file = self.here / model / "config.json"
            content = json.loads(file.read_text())
            change(content)
            file.write_text(json.dumps(content))


def listing(folder: Path, ignoring: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every path below `folder`, hidden ones too, with what tells a change."""
    found: dict[str, Any] = {}
    for path in sorted({*folder.rglob("*")} - {folder / name for name in ignoring}):
        state = path.lstat()
        kind = stat.S_IFMT(state.st_mode)
        entry: list[Any] = [kind]
        if stat.S_ISLNK(kind):
            entry.append(path.readlink())
        if stat.S_ISREG(kind):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            entry += [state.st_ino, state.st_mtime_ns, digest]
        found[str(path.relative_to(folder))] = entry
    return found
