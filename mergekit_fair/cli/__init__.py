"""The command line: one command a module, imported when it is called.

This package is the only place that prints and exits: code 2 with one message on bad input, 1 on a
failure of its own.
"""

from __future__ import annotations

import atexit
import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from mergekit_fair import __version__
from mergekit_fair.cli.failures import InputError, failures_told

__all__ = ["InputError", "main"]

# name → one line of help, here so that `--help` imports no command. `tasks-dir` is the command of
# the module `cmd_tasks_dir`.
COMMANDS = {
    "demo": "The whole job on embedded real data: train, sweep, inject, merge.",
    "new": "data.yml, train.yml and sweep.yml for a table of one's own.",
    "train": "Base with its head, FFT, LoRA and one model per subgroup.",
    "merge": "One merge, or a grid of λ in one pass, to disk.",
    "check": "Check a recipe without merging, or a merged model against its manifest.",
    "grid": "Plain recipe files for a grid of λ or any other number.",
    "sweep": "Measure a λ grid, choose on validation rows, report once.",
    "heads": "Fair heads: task vectors in a classifier's last layer.",
    "learn": "λ of every vector and tensor by gradient on validation rows.",
    "purify": "PAVE: checkpoints whose linear layers are cut to what their inputs use.",
    "report": "Rebuild tables, pictures and the HTML page of a sweep.",
    "eval": "Run lm-eval: accuracy, DPD, EOD per subgroup, with intervals.",
    "measure": "A table of predictions, without a model: metrics with intervals.",
    "compare": "Evaluations of models on the same rows: paired differences.",
    "audit": "What a merge did to bias, against its base and every parent.",
    "vectors": "Task vectors: norms, cosines, sign conflict, displacement.",
    "basis": "Keep T task vectors as M basis vectors, and merge from these.",
    "push": "Upload a merged model with its fairness card to the Hub.",
    "methods": "The registered merge methods and their parameters.",
    "tasks-dir": "The folder of the task suite, for lm_eval --include_path.",
    "exec": "Run a stock program with the plug-in's methods, models and metrics.",
    "hook": "Let mergekit's and lm-eval's own programs see it; off until installed.",
}


# Objects that are made before Python looks which of them nobody holds any more; its own 700 are
# passed some thousand times while torch and transformers are imported.
_LOOKS_AFTER = 10_000


@contextmanager
def _modules_left() -> Iterator[None]:
    """Look for garbage rarely, and when the process ends not at all: nearly all are modules.

    Of a sweep's 13 seconds of imports and of its end that saves 3.5 (measured, processor time).
    """
    atexit.register(gc.freeze)
    before = gc.get_threshold()
    gc.set_threshold(_LOOKS_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class LazyGroup(click.Group):
    """Imports a command's module only when that command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"mergekit_fair.cli.cmd_{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        with _modules_left(), failures_told():
            return super().invoke(ctx)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mergekit-fair")
def main() -> None:
    """Fairness-aware model merging for mergekit.

    Fine-tune a model on every demographic subgroup, merge the subgroup task vectors, and see what
    λ does to accuracy, DPD and EOD.

    \b
    Example:
      mergekit-fair demo -o demo-run
    """
