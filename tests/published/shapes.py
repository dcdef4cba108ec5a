"""`shapes.yml` as records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

FILE = Path(__file__).with_name("shapes.yml")


@dataclass(frozen=True)
class Shape:
    """One recipe; what its fields mean stands at the head of `shapes.yml`."""

    title: str
    seen: str
    families: tuple[str, ...]
    recipe: str
    ignored: tuple[str, ...] = ()
    refused: str | None = None
    reason: str | None = None
    before: str | None = None


_refusing, _shapes = yaml.safe_load_all(FILE.read_text(encoding="utf-8"))

# Family → why mergekit refuses all of its merges.
REFUSED_BY_MERGEKIT: dict[str, str] = _refusing
SHAPES: tuple[Shape, ...] = tuple(
    Shape(**each | {key: tuple(each.get(key, ())) for key in ("families", "ignored")})
    for each in _shapes
)
