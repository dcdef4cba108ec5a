"""`mergekit-fair train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mergekit_fair.cli.cluster_options import cluster_of, cluster_options
from mergekit_fair.cli.terminal import echo


@click.command("train")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option(
    "--device", default="auto", show_default=True, help="Where the head's probe is fitted."
)
@click.option("--seed", type=click.IntRange(min=0), help="In the place of the file's.")
@click.option("--dry-run", is_flag=True, help="Print the models, their rows and steps.")
@cluster_options
@click.option("--quiet", is_flag=True, help="No progress.")
def command(
    config: Path,
    out: Path,
    device: str,
    seed: int | None,
    dry_run: bool,
    quiet: bool,
    **cluster: Any,
) -> None:
    """Train a base with its head, FFT and LoRA baselines, and one model per subgroup.

    Makes OUT/base, OUT/fft, OUT/lora, OUT/groups/<group>, OUT/addition.yml (a merge recipe) and
    OUT/train.json; with a block `talos`, `sparse`, `tangent`, `reweight` or `dro` also a folder of
    that name; with `seeds: N` also OUT/seeds/<seed>, OUT/soup.yml and OUT/soup, the mean of N
    FFT models. The same command again goes on where it was killed. Several processors or GPUs:
    `--executor ray` trains as many models side by side as it has workers; `torchrun
    --nproc_per_node N -m mergekit_fair train …` trains one after the other, each on all of them.

    \b
    Example:
      mergekit-fair train recipes/adult_sex/train.yml -o runs/adult_sex
      mergekit-fair train train.yml -o out --executor ray --workers 4 --gpus 1
    """
    from mergekit_fair.cli.terminal import Terminal, quiet_libraries

    quiet_libraries(quiet=quiet)
    from mergekit_fair.training import family
    from mergekit_fair.training.train_config import load_train_config

    settings, progress = load_train_config(config, seed), Terminal(quiet=quiet)
    if dry_run:
        for run in family.dry_run(settings, progress):
            echo(f"{run.name}: {run.method}, {len(run.rows)} rows, {run.steps} steps")
        return
    family.train(settings, out, progress, device, cluster_of(**cluster))
    echo(f"{out / 'train.json'}")
