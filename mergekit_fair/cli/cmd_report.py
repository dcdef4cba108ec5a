"""`mergekit-fair report`."""

from __future__ import annotations

from pathlib import Path

import click

from mergekit_fair.cli.terminal import echo


@click.command("report")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print results.json instead of tables.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(folder: Path, as_json: bool, quiet: bool) -> None:
    """Rebuild tables, pictures and the HTML page of a sweep.

    Reads DIR/results.json and runs no model: it checks that the figures are those of the saved
    scores. Writes results.csv, the curves, pareto and
    transfer pictures (extra plot), and report.html: one page that needs no network and no other
    file.

    \b
    Example:
      mergekit-fair report runs/adult_sex/sweep
    """
    from mergekit_fair.cli.terminal import Terminal, echo_json, terminal_width
    from mergekit_fair.report.outputs import summary_text, write_outputs
    from mergekit_fair.sweep.checked_folder import checked_results

    progress = Terminal(quiet=quiet)
    results, doubt = checked_results(folder)
    if doubt is not None:
        progress.say(f"warning: {doubt}")
    page = write_outputs(results, folder, progress)
    if as_json:
        echo_json(results.sealed())
    else:
        echo(summary_text(results, terminal_width()))
        echo(f"\n{page}")
