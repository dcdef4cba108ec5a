"""`mergekit-fair report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mergekit_fair.errors import ConfigError


@click.command("report")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print results.json instead of tables.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(folder: Path, as_json: bool, quiet: bool) -> None:
    """Rebuild tables, pictures and the HTML page of a sweep.

    Reads DIR/results.json and measures nothing. Writes results.csv, the curves, pareto and
    transfer pictures (extra plot), and report.html: one page that needs no network and no other
    file.

    \b
    Example:
      mergekit-fair report runs/adult_sex/sweep
    """
    from mergekit_fair.cli.sweep import summary_text
    from mergekit_fair.cli.terminal import Terminal
    from mergekit_fair.report.saved import load_results

    results = load_results(folder)
    page = write_outputs(results, folder, Terminal(quiet=quiet))
    if as_json:
        click.echo(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        click.echo(summary_text(results))
        click.echo(f"\n{page}")


def write_outputs(results: dict[str, Any], folder: Path, progress: Any) -> Path:
    """results.csv, pictures and report.html of a sweep; without matplotlib, no pictures.

    Returns:
        The page.
    """
    from mergekit_fair.engine.files import write_atomic
    from mergekit_fair.report.page import write_page
    from mergekit_fair.report.pictures import draw
    from mergekit_fair.report.table import results_csv
    from mergekit_fair.report.transfer import draw_transfer

    write_atomic(folder / "results.csv", results_csv(results))
    try:
        draw(results, folder)
        if results["transfer"]:
            draw_transfer(results["transfer"], folder)
    except ConfigError as error:  # hours of measuring must not end in a missing extra
        progress.say(f"no pictures: {error}")
    return write_page(results, folder)
