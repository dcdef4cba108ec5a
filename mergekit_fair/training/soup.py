"""The soup of FFT seeds: the mean of models that differ in row order and dropout alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergekit_fair.files import require_no_other, write_atomic
from mergekit_fair.progress import Bars, Progress
from mergekit_fair.schema import dump_yaml

FOLDER, RECIPE = "soup", "soup.yml"


def seed_runs(seed: int, count: int) -> dict[str, int]:
    """Folder → seed of the runs that a soup is made of: FFT, and the further ones.

    >>> seed_runs(7, 3)
    {'fft': 7, 'seeds/8': 8, 'seeds/9': 9}
    """
    return {"fft": seed} | {f"seeds/{each}": each for each in range(seed + 1, seed + count)}


def soup_recipe(runs: Mapping[str, int], family: str = ".") -> dict[str, Any]:
    """θ₀ + 1/N Σ_s (θ_s − θ₀): the uniform mean of N models, whatever θ₀ is.

    Source: "Model soups", arXiv 2203.05482, the uniform soup.

    Args:
        runs: as of `seed_runs`.
        family: their folder; `.` in the file beside them.
    """
    from mergekit_fair.merging.methods.subgroup_task_addition import Normalize, addition_recipe

    vectors = {f"{family}/{name}": (f"seed_{seed}", 1.0) for name, seed in runs.items()}
    recipe = addition_recipe(f"{family}/base", vectors, "float32", lambda_=1.0)
    return recipe | {"parameters": {"lambda": 1.0, "normalize": Normalize.MEAN.value}}


def make_soup(family: Path, seed: int, count: int, most: int, progress: Progress) -> list[str]:
    """Write soup.yml and merge it to `soup`, in place of those of another number of seeds.

    Args:
        family: folder of the base and the runs.
        seed: of the first run.
        count: of runs, N.
        most: as many runs as an earlier soup may have had.
        progress: shown a bar.

    Returns:
        The folders of the runs.

    Raises:
        ConfigError: soup.yml or `soup` holds something else.
        CheckpointError: a model is damaged.
    """
    from mergekit_fair.merging.merge_options import MergeOptions
    from mergekit_fair.merging.program import MergeSettings
    from mergekit_fair.merging.recipe import Recipe
    from mergekit_fair.merging.to_disk import merge_to_folder

    file, runs = family / RECIPE, seed_runs(seed, count)
    text = dump_yaml(soup_recipe(runs))
    own = {dump_yaml(soup_recipe(seed_runs(seed, each))) for each in range(2, most + 1)}
    is_own = file.is_file() and file.read_bytes() in {each.encode() for each in own}
    require_no_other({file: text}, overwrite=is_own)
    write_atomic(file, text)
    # Not read from the file: another `base` may lie in the working directory.
    recipe = Recipe.from_mapping(soup_recipe(runs, str(family)), str(file))
    options: Any = MergeOptions(quiet=True)
    merge_to_folder(recipe, family / FOLDER, options, MergeSettings(overwrite=True), Bars(progress))
    return list(runs)
