"""The options of a command that can work on Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from mergekit_fair.errors import ConfigError

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
    """The cluster that is asked for; None in this process.

    Raises:
        ConfigError: an option of Ray without it.
    """
    from mergekit_fair.ray_pool import Cluster

    if executor == "ray":
        return Cluster(workers, gpus, cpus, ray_address)
    source = click.get_current_context().get_parameter_source
    for name in ("workers", "cpus", "gpus", "ray_address"):
        if source(name) is ParameterSource.COMMANDLINE:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError("is of workers on Ray", where=option, fix="add --executor ray")
    return None
