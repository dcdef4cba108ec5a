"""`mergekit-fair train`."""

from __future__ import annotations

from pathlib import Path

import click

from mergekit_fair.cli.terminal import echo


@click.command("train")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option(
    "--device", default="auto", show_default=True, help="Where the head's probe is fitted."
)
@click.option("--quiet", is_flag=True, help="No progress.")
def command(config: Path, out: Path, device: str, quiet: bool) -> None:
    """Train a base with its head, FFT and LoRA baselines, and one model per subgroup.

    Makes OUT/base, OUT/fft, OUT/lora, OUT/groups/<group>, OUT/addition.yml (a merge recipe) and
    OUT/train.json; with `seeds: N` also OUT/seeds/<seed>, OUT/soup.yml and OUT/soup, the mean of N
    FFT models. The same command again goes on where it was killed. Several GPUs: start it
    with `torchrun --nproc_per_node N -m mergekit_fair train …`.

    \b
    Example:
      mergekit-fair train recipes/adult_sex/train.yml -o runs/adult_sex
    """
    from mergekit_fair.cli.terminal import Terminal, quiet_libraries

    quiet_libraries(quiet=quiet)
    from mergekit_fair.training.family import train
    from mergekit_fair.training.train_config import load_train_config

    train(load_train_config(config), out, Terminal(quiet=quiet), device)
    echo(f"{out / 'train.json'}")
