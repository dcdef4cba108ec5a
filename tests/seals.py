"""JSON with a digest of its own, edited by a test: as a hand would, or with a new digest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mergekit_fair.schema import SEAL, sealed

Change = Callable[[dict[str, Any]], Any]


def edited(path: Path, change: Change, *, sealed_again: bool = False) -> None:
    """Change what a JSON file says.

    Args:
        path: of the file.
        change: is given its content without the digest, and changes it.
        sealed_again: compute the digest anew, as somebody would who knows how.
    """
    path.write_text(_edited(path.read_text(), change, sealed_again=sealed_again))


def edited_line(path: Path, number: int, change: Change, *, sealed_again: bool = False) -> None:
    """The same of one line of a file of JSON lines."""
    lines = path.read_text().splitlines()
    lines[number] = _edited(lines[number], change, sealed_again=sealed_again, indent=None)
    path.write_text("\n".join(lines) + "\n")


def _edited(text: str, change: Change, *, sealed_again: bool, indent: int | None = 2) -> str:
    content = json.loads(text)
    digest = content.pop(SEAL)
    change(content)
    content = sealed(content) if sealed_again else {**content, SEAL: digest}
    return json.dumps(content, indent=indent, ensure_ascii=False) + ("\n" if indent else "")
