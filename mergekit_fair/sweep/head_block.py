"""`head` of a sweep file: fair heads of models that are measured, and the grid over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from mergekit_fair.errors import ConfigError
from mergekit_fair.heads.fair_head import HeadSettings
from mergekit_fair.merging.grid import MOST_POINTS, parse_grid
from mergekit_fair.schema import Strict

CHOSEN = "chosen"
MEMBER = "head: "  # before a direction's name, where vectors of groups are members, too


class FairHeads(Strict):
    """Fair heads of models that are measured, among which the rule chooses, too.

    Attributes:
        metric: the gap that the heads make smaller.
        mu: as in `heads`; `auto` is chosen by cross-fitting.
        tolerance: accuracy that `auto` may give up on left-out validation rows.
        of: baselines, each of which gets heads of its own; `chosen`: what the rule chooses among
            all points without heads.
        grid: `mu`, further ones beside `mu`; `lambda`, what the fitted vectors are multiplied with.
    """

    metric: Literal["eod", "dpd"] = "eod"
    mu: Literal["auto"] | Annotated[float, Field(gt=0, allow_inf_nan=False)] = "auto"
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.01
    of: Annotated[list[str], Field(min_length=1)]
    grid: dict[Literal["mu", "lambda"], Any] = {}

    def settings(self, seed: int) -> HeadSettings:
        """How a head is fitted."""
        return HeadSettings(
            self.metric, None if self.mu == "auto" else self.mu, self.tolerance, seed
        )


@dataclass(frozen=True)
class HeadGrid:
    """The points of `grid`, read.

    Attributes:
        mus: beside the block's own.
        lambdas: without 0, which is the target itself.
    """

    mus: tuple[float, ...]
    lambdas: tuple[float, ...]

    @classmethod
    def of(cls, block: FairHeads, where: object) -> HeadGrid:
        """Of a block.

        Raises:
            ConfigError: a μ that is not above 0, no λ but 0, or too many points.
        """
        place = f"{where}: head.grid"
        mus = parse_grid(block.grid["mu"], f"{place}.mu") if "mu" in block.grid else ()
        lambdas = parse_grid(block.grid.get("lambda", [1.0]), f"{place}.lambda")
        if any(mu <= 0 for mu in mus):
            raise ConfigError("a μ is above 0", where=f"{place}.mu", got=min(mus))
        moving = tuple(value for value in lambdas if value)
        if not moving:
            raise ConfigError(
                "λ = 0 is the target itself", where=f"{place}.lambda", allowed="some other λ"
            )
        found = cls(mus, moving)
        if (count := found.most * len(block.of)) > MOST_POINTS:
            raise ConfigError(
                f"the grid has {count:,} points", where=place, allowed=f"up to {MOST_POINTS:,}"
            )
        return found

    @property
    def most(self) -> int:
        """Points of one target, at most."""
        return (1 + len(self.mus)) * len(self.lambdas)
