"""One recipe through mergekit and through `merge`, and how the results compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file

from mergekit_fair.compat.mergekit import for_mergekit, forget_models
from mergekit_fair.errors import FairError
from mergekit_fair.merging.configuration import models_in
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder

SAME, BOTH, OURS, ALONE, OTHER = VERDICTS = (
    *("same bits", "refused by both", "refused by ours alone", "merged by ours alone", "other"),
)

# What tells how a tokenizer was loaded; and the dtype, which mergekit takes from the recipe also
# where the file holds another one.
_TOLD = ("dtype", "is_local", "local_files_only")


@dataclass(frozen=True)
class Outcome:
    """How the two compare.

    Attributes:
        verdict: one of the five words above.
        error: of ours, if it refused.
        stock_error: of mergekit.
        difference: where the verdict is `OTHER`.
    """

    verdict: str
    error: FairError | None = None
    stock_error: Exception | None = None
    difference: str = ""


def compare(text: str, folder: Path, changes: Mapping[str, Any]) -> Outcome:
    """Merge into `folder/ours` and `folder/stock`; models are found from where the process is.

    Args:
        text: the recipe.
        folder: empty.
        changes: of mergekit's options.
    """
    ours, stock = folder / "ours", folder / "stock"
    error = _merged_by_us(text, ours, changes)
    stock_error = _merged_by_mergekit(text, stock, changes)
    if error is not None:
        return Outcome(OURS if stock_error is None else BOTH, error, stock_error)
    if stock_error is not None:
        return Outcome(ALONE, stock_error=stock_error)
    difference = _difference(ours, stock)
    return Outcome(OTHER if difference else SAME, difference=difference)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Of all shards."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def _merged_by_us(text: str, out: Path, changes: Mapping[str, Any]) -> FairError | None:
    try:
        merge_to_folder(Recipe.from_text(text, "r.yml"), out, _options(out, changes))
    except FairError as error:
        assert not out.exists()
        return error
    return None


def _merged_by_mergekit(text: str, out: Path, changes: Mapping[str, Any]) -> Exception | None:
    """What it raises. Its models are a set; in recipe order, it takes the same one every time."""
    forget_models()
    try:
        config = for_mergekit(yaml.safe_load(text), models_in)
        run_merge(config, str(out), _options(out, changes))
    except Exception as error:  # whatever it likes
        return error
    return None


def _options(out: Path, changes: Mapping[str, Any]) -> MergeOptions:
    settings = {"quiet": True, "random_seed": 7, "write_model_card": False} | dict(changes)
    return MergeOptions(lora_merge_cache=f"{out}.adapters", **settings)


def _difference(ours: Path, stock: Path) -> str:
    """The first of names, bits, and files that mergekit writes beside the weights."""
    left, right = tensors(ours), tensors(stock)
    if left.keys() != right.keys():
        return f"tensors {sorted(left.keys() ^ right.keys())[:3]}"
    for name, tensor in right.items():
        if left[name].dtype != tensor.dtype or left[name].shape != tensor.shape:
            return f"{name}: {left[name].dtype} {left[name].shape}"
        if not torch.equal(left[name].view(torch.uint8), tensor.view(torch.uint8)):
            return f"bits of {name}"
    for file in stock.iterdir():
        if file.suffix != ".safetensors" and _content(ours / file.name) != _content(file):
            return file.name
    held = {str(tensor.dtype).removeprefix("torch.") for tensor in left.values()}
    dtype = json.loads((ours / "config.json").read_text())["dtype"]
    return "" if {dtype} == held else f"dtype {dtype} of {held}"


def _content(file: Path) -> Any:
    if not file.is_file():
        return None
    if file.suffix != ".json" or file.name.endswith(".index.json"):
        return file.read_bytes()
    return {
        key: value
        for key, value in json.loads(file.read_text(encoding="utf-8")).items()
        if key not in _TOLD
    }
