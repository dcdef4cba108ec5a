"""`mergekit-fair exec`."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import click

from mergekit_fair.errors import ConfigError
from mergekit_fair.schema import nearest


@click.command(
    "exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("program")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def command(program: str, args: tuple[str, ...]) -> None:
    """Run a stock console program of this environment with the merge methods registered.

    PROGRAM is any installed Python console program, such as mergekit-yaml or mergekit-multi.

    \b
    Example:
      mergekit-fair exec mergekit-yaml runs/adult_sex/addition.yml runs/adult_sex/stock
    """
    scripts = {point.name: point for point in entry_points(group="console_scripts")}
    if program not in scripts:
        raise ConfigError(
            f"no such console program{nearest(program, sorted(scripts))}",
            where="exec",
            got=program,
            allowed=sorted(name for name in scripts if name.startswith(("mergekit", "lm"))),
        )
    import mergekit_fair

    mergekit_fair.register()
    run = scripts[program].load()
    sys.argv = [program, *args]
    sys.exit(run())
