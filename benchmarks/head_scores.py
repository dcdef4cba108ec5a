"""How far gaps of a head's validation rows are from those of new rows, by how they are scored.

    python benchmarks/head_scores.py --seeds 20

Simulated rows of three groups, seven directions, coefficients fitted on n rows. `seen`: the same
rows by these coefficients; `folds`: each fold by coefficients of the four others, put together;
`unseen`: `heads.unseen`, which sweeps use; `new rows`: as many others by the coefficients of all.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import MetricSettings, estimate
from mergekit_fair.heads.fitting import Moves, cross_fitted, fit_coefficients
from mergekit_fair.heads.unseen import unseen_scores

GROUPS = 3
SETTINGS = MetricSettings(min_group_size=20)


def drawn(rng: np.random.Generator, n: int, shift: float) -> Moves:
    """Rows whose scores favour the first group and slight the last, and what directions add."""
    labels, groups = rng.integers(0, 2, n), rng.integers(0, GROUPS, n)
    favour = np.array([shift, 0.0, -shift])[groups]
    scores = 2.0 * labels - 1 + favour + rng.normal(0, 1.2, n)
    cells = [(groups == group) & (labels == label) for group in range(GROUPS) for label in (0, 1)]
    directions = [1.5 * cell + rng.normal(0, 1, n) for cell in cells]
    rows = Predictions(
        "simulated",
        tuple(range(n)),
        labels.astype(np.int8),
        np.zeros(n, dtype=np.int8),
        {f"g{group}": groups == group for group in range(GROUPS)},
        (),
    ).with_scores(scores)
    return Moves.of(rows, np.stack([*directions, np.ones(n)]), SETTINGS)


def figures(rows: Predictions) -> tuple[float, float]:
    """EOD and accuracy."""
    found = estimate(rows.labels, rows.predicted, rows.groups, min_group_size=20)
    return found["eod"], found["acc"]


def measured(n: int, shift: float, mu: float, seed: int) -> dict[str, tuple[float, float]]:
    """One draw, in all ways."""
    rng = np.random.default_rng(seed)
    own, new = drawn(rng, n, shift), drawn(rng, n, shift)
    fitted = fit_coefficients("eod", own, SETTINGS, mu)

    def fit(seen: Any) -> Any:
        found = fit_coefficients("eod", own.take(seen), SETTINGS, mu)
        return lambda part: own.take(part).scores(found)

    return {
        "target": figures(new.rows),
        "seen": figures(own.moved(fitted)),
        "folds": figures(cross_fitted("eod", own, SETTINGS, mu, seed)),
        "unseen": figures(own.rows.with_scores(unseen_scores(own.rows, fit, seed))),
        "new rows": figures(new.moved(fitted)),
    }


def main() -> None:
    """Print a table of mean EOD / accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args().seeds
    header = ("target", "seen", "folds", "unseen", "new rows")
    print(f"| rows | gap of the target | μ | {' | '.join(header)} |")
    print("|" + "---|" * (3 + len(header)))
    for shift in (1.2, 0.0):
        for n in (450, 1500):
            for mu in (1.0, 4.0):
                draws = [measured(n, shift, mu, seed) for seed in range(seeds)]
                means = {name: np.mean([draw[name] for draw in draws], axis=0) for name in header}
                cells = [f"{means[name][0]:.3f} / {means[name][1]:.3f}" for name in header]
                gap = "large" if shift else "none"
                print(f"| {n} | {gap} | {mu:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
