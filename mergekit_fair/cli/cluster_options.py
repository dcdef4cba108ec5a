"""The options of a command that can work on Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mergekit_fair.ray_pool import Cluster

_OPTIONS = (
    click.option(
        "--executor",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="In this process, or on Ray actors (extra ray).",
    ),
    click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Of Ray."),
    click.option(
        "--cpus",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Threads of a Ray worker.",
    ),
    click.option(
        "--gpus",
        type=click.FloatRange(0),
        default=0.0,
        show_default=True,
        help="GPUs of a Ray worker; 0.5 puts two on one.",
    ),
    click.option(
        "--ray-address", help="A running Ray cluster; else RAY_ADDRESS, else a new one here."
    ),
)


def cluster_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options, which `cluster_of` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def cluster_of(
    *, executor: str, workers: int, cpus: int, gpus: float, ray_address: str | None
) -> Cluster | None:
    """The cluster that is asked for; None in this process."""
    from mergekit_fair.ray_pool import Cluster

    return Cluster(workers, gpus, cpus, ray_address) if executor == "ray" else None
