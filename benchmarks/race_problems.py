"""What is raced: finished sweeps read from their folders, and synthetic margins."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mergekit_fair.fairness.groups import Groups
from mergekit_fair.sweep.race.predictive import Course
from mergekit_fair.sweep.race.standings import Entrant


@dataclass(frozen=True, eq=False)
class Problem:
    """Margins of a finished sweep: baselines (K, N) by name, entrants (P, N)."""

    name: str
    labels: np.ndarray
    groups: Groups
    baselines: dict[str, np.ndarray]
    margins: np.ndarray
    entrants: tuple[Entrant, ...]
    exclude: tuple[str, ...] = ()

    def rows(self, chosen: np.ndarray) -> Problem:
        return replace(
            self,
            labels=self.labels[chosen],
            groups=Groups(self.groups.names, self.groups.membership[chosen]),
            baselines={name: given[chosen] for name, given in self.baselines.items()},
            margins=self.margins[:, chosen],
        )

    @property
    def course(self) -> Course:
        known = np.array(list(self.baselines.values())).reshape(-1, len(self.labels))
        return Course(self.labels, self.groups, known)

    @property
    def sizes(self) -> np.ndarray:
        return np.array([entrant.size for entrant in self.entrants])


def finished(sweep: Path, folder: Path) -> Problem:
    """A finished sweep, read from its folder; its grid and search points race."""
    from mergekit_fair.data import load_rows
    from mergekit_fair.sweep.config import load_sweep

    rows = load_rows(load_sweep(sweep).config.evaluate.data).of("validation")
    lines = [json.loads(line) for line in (folder / "points.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["split"] == "validation" and "evaluation" in line]

    def margins(line: dict[str, Any]) -> np.ndarray:
        found = np.load(folder / "scores" / f"{line['id']}-validation.npy")
        return np.asarray(found, dtype=np.float64)[: len(rows.labels)]

    racing = [
        line for line in lines if line["kind"] in ("merge", "search") and not line["adds_nothing"]
    ]
    sizes = [line.get("size") or line["lambda_eff"] or line["lambda"] for line in racing]
    return Problem(
        folder.name if folder.name != "sweep" else folder.parent.name,
        np.asarray(rows.labels),
        Groups(tuple(rows.group_names), np.asarray(rows.membership)),
        {line["label"]: margins(line) for line in lines if line["kind"] == "baseline"},
        np.array([margins(line) for line in racing]),
        tuple(Entrant(line["id"], abs(size)) for line, size in zip(racing, sizes, strict=True)),
        tuple(sorted(rows.excluded)),
    )


def synthetic(
    name: str, *, rows: int, points: int, groups: int, curve: float, seed: int
) -> Problem:
    """Margins that are smooth in λ, as merges' are: base + λ·first + λ²·second for every row.

    Args:
        curve: how fast accuracy falls on both sides of its peak at λ = 0.4; 0: a flat plateau.
    """
    rng = np.random.default_rng(seed)
    group = rng.choice(groups, size=rows, p=np.arange(groups, 0, -1) / sum(range(groups + 1)))
    labels = (rng.random(rows) < 0.35 + 0.1 * (group % 2)).astype(np.int8)
    sign = 2.0 * labels - 1
    base = sign + rng.normal(0, 1, rows) + 0.3 * rng.normal(0, 1, groups)[group]
    shift = 0.4 * rng.normal(0, 1, groups)[group]
    first, second = rng.normal(0, 0.5, (2, rows)) + np.stack([shift, -shift / 2])
    lambdas = np.linspace(0, 1, points + 1)[1:]
    signal = -curve * (lambdas - 0.4) ** 2
    noise = np.outer(lambdas, first) + np.outer(lambdas**2, second)
    margins = base + noise + np.outer(signal, sign)
    fft = base + 0.4 * first + 0.2 * rng.normal(0, 1, rows) + 0.5 * shift
    entrants = tuple(Entrant(f"{value:g}", float(value)) for value in lambdas)
    names = tuple(f"g{number}" for number in range(groups))
    return Problem(
        name, labels, Groups(names, group[:, None] == np.arange(groups)), {"fft": fft}, margins,
        entrants,
    )  # fmt: skip
