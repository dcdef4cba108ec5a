"""Whether a search finds more in coordinates in which a unit step moves the weights equally far.

    python benchmarks/orthonormal_search.py --seeds 8           # four minutes

Families, rows, rule and hypervolume are those of `search_families.py`, the search is `surrogate` on
soft rates. It draws and models a = K^½ λ instead of λ, K the Gram matrix of the task vectors, in
the box that holds the box of λ; what lies outside of that is left out, and its prior over slopes is
the one over λ. K is

    identity    the plain search with other random numbers: what chance does
    weights     as measured on subgroup models (4 groups: Adult by race; 5: RedditBias)
    scores      of what the vectors do to the scores of the searched rows, which no search knows
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial

import numpy as np
from search_families import DRIFTS, MARKS, Family, Rows, ratio, searched

from mergekit_fair.sweep.limits import Array
from mergekit_fair.sweep.search import rate_model
from mergekit_fair.sweep.search.proposers import NEAR, Coordinates, Space

# Norms and cosines of task vectors.
RACE = ((1.73, 1.68, 1.53, 1.42), (0.09, 0.13, 0.10, 0.12, 0.12, 0.19))
BIAS = (
    (1.90, 1.85, 1.96, 1.98, 2.01),
    (0.02, 0.08, 0.10, 0.09, 0.02, 0.03, 0.03, 0.09, 0.07, 0.08),
)
PLAIN_PRIOR = rate_model._prior


@dataclass(frozen=True)
class OrthonormalSpace(Space):
    """A box of λ, drawn and modelled by a = R λ; `rows` are those of R."""

    rows: tuple[tuple[float, ...], ...] = ()

    @property
    def root(self) -> Array:
        return np.array(self.rows)

    def ends(self) -> tuple[Array, Array]:
        """The box of a that holds the box of λ."""
        corners = np.array([self.root * self.low, self.root * self.high])
        return corners.min(axis=0).sum(axis=1), corners.max(axis=0).sum(axis=1)

    def scaled(self, points: object) -> Array:
        low, high = self.ends()
        a = np.asarray(points, dtype=np.float64).reshape(-1, self.dimensions) @ self.root.T
        return np.asarray(2 * (a - low) / (high - low) - 1)

    def unscaled(self, unit: object) -> Array:
        low, high = self.ends()
        a = low + np.asarray(unit, dtype=np.float64) * (high - low)
        return np.asarray(a @ np.linalg.inv(self.root).T)

    def inside(self, lambdas: Array) -> list[Coordinates]:
        is_inside = (lambdas >= np.array(self.low)) & (lambdas <= np.array(self.high))
        return self.points(lambdas[is_inside.all(axis=1)])

    def random(self, count: int, rng: np.random.Generator) -> list[Coordinates]:
        return self.inside(self.unscaled(rng.random((4 * count, self.dimensions))))[:count]

    def near(self, unit: object, reach: tuple[float, float] = NEAR) -> list[Coordinates]:
        unit = np.asarray(unit, dtype=np.float64)
        box, origin = self.unscaled(unit[:, :-1]), np.clip(0.0, self.low, self.high)
        start, far = self.sizes(origin), self.sizes(box)
        wanted = reach[0] + (reach[1] - reach[0]) * unit[:, -1]
        is_far = far > np.maximum(wanted, start)
        share = np.divide(wanted - start, far - start, out=np.ones(len(far)), where=is_far)
        return self.inside(origin + np.clip(share, 0.0, 1.0)[:, np.newaxis] * (box - origin))


def prior(count: int, space: Space) -> Array:
    """That over λ, in units of a."""
    covariance = PLAIN_PRIOR(count, space)
    if isinstance(space, OrthonormalSpace):
        slopes = slice(1, 1 + space.dimensions)
        low, high = space.ends()
        turned = np.linalg.inv(space.root) * (high - low) / (np.array(space.high) - space.low)[0]
        covariance[slopes, slopes] = turned.T @ covariance[slopes, slopes] @ turned
    return np.asarray(covariance)


def gram(kind: str, rows: Rows, groups: int) -> Array:
    if kind == "scores":
        return np.asarray(rows.vectors @ rows.vectors.T / rows.n)
    cosines = np.eye(groups)
    norms, above = {4: RACE, 5: BIAS}[groups] if kind == "weights" else ((1.0,) * groups, 0.0)
    cosines[np.triu_indices(groups, 1)] = above
    return np.asarray((cosines + np.triu(cosines, 1).T) * np.outer(norms, norms))


def turned_space(kind: str, space: Space, rows: Rows) -> Space:
    """The same box in other coordinates."""
    if kind == "plain":
        return space
    values, axes = np.linalg.eigh(gram(kind, rows, space.dimensions))
    root = (axes * np.sqrt(values)) @ axes.T
    return OrthonormalSpace(
        space.names, space.low, space.high, space.step, space.size, tuple(map(tuple, root.tolist()))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--groups", type=int, nargs="+", default=[4, 5], choices=[4, 5])
    given = parser.parse_args()
    rate_model._prior = prior
    heads = ["G", "adds to", "K", *(f"after {mark}" for mark in MARKS)]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for groups in given.groups:
        for place in ("base", "fft"):
            first: dict[str, np.ndarray] | None = None
            for kind in ("plain", "identity", "weights", "scores"):
                runs = [
                    searched(
                        "surrogate",
                        Family(groups, seed, drift),
                        seed,
                        soft=True,
                        place=place,
                        n=1600,
                        coordinates=partial(turned_space, kind),
                    )
                    for seed in range(given.seeds)
                    for drift in DRIFTS
                ]
                table = {key: np.array([run[key] for run in runs]) for key in runs[0]}
                first = first or table
                cells = [
                    f"{table[key].mean():.4f} {ratio(table[key], first[key])}" for key in heads[3:]
                ]
                print("| " + " | ".join([str(groups), place, kind, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
