"""`mergekit-fair tasks-dir`."""

from __future__ import annotations

import click

from mergekit_fair.cli.terminal import echo


@click.command("tasks-dir")
def command() -> None:
    """Print the folder of the task suite.

    \b
    Example:
      mergekit-fair tasks-dir
      lm_eval run --include_path "$(mergekit-fair tasks-dir)" --tasks fair_adult_sex ...
    """
    from mergekit_fair.resources import tasks_dir

    echo(str(tasks_dir()))
