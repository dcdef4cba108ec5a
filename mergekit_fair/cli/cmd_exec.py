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
    """Run a stock console program of this environment with the plug-in registered.

    PROGRAM is any installed Python console program: mergekit-yaml, mergekit-multi and their like
    know the merge methods; lm_eval knows the models fair-classifier and fair-image-classifier and
    the aggregations fair_dpd and fair_eod, and its own model hf refuses what it would evaluate
    with a random head. The program runs with your rights, and with it what its arguments name:
    --include_path and --trust_remote_code run code of others.

    \b
    Example:
      mergekit-fair exec mergekit-yaml recipes/adult_sex/addition.yml runs/adult_sex/stock
      mergekit-fair exec lm_eval run --model fair-classifier --tasks fair_adult_sex \\
        --model_args pretrained=runs/adult_sex/fft --include_path "$(mergekit-fair tasks-dir)"
    """
    scripts = {point.name: point for point in entry_points(group="console_scripts")}
    if program not in scripts:
        raise ConfigError(
            f"no such console program{nearest(program, sorted(scripts))}",
            where="exec",
            got=program,
            allowed=sorted(name for name in scripts if name.startswith(("mergekit", "lm"))),
        )
    _register(program)
    run = scripts[program].load()
    sys.argv = [program, *args]
    sys.exit(run())


def _register(program: str) -> None:
    """What the program may ask for; a merge does not wait for lm-eval's modules."""
    if program.startswith("mergekit-"):
        from mergekit_fair.merging.gate import register_gate
        from mergekit_fair.merging.methods.registry import register_methods

        register_methods()
        register_gate()
        return
    import mergekit_fair

    mergekit_fair.register()
    if program in ("lm_eval", "lm-eval"):
        from mergekit_fair.evaluation.lm.checked_hf import guard_stock_models

        guard_stock_models()
