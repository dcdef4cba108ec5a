"""One λ point over LoRA adapters: composed in memory, and merged to a folder; seconds and memory.

    python benchmarks/adapter_points.py --work DIR              # Llama-shaped, 374 M parameters
    python benchmarks/adapter_points.py --work DIR --tiny       # does it run?

Makes a base in bfloat16 with random weights and adapters on its query and value projections
(rank 8), which DIR keeps. Then, in this order,

    first, next   a point in memory: λ of the first, then of others in the same sweep
    folder        the same point by our engine, to a folder
    graph         the same by mergekit's graph (`task_arithmetic`), of adapters that peft has merged

Seconds by the clock, and in brackets of the processor, which others on the machine change less.
The peak of memory is read after the points in memory. That a point has the bits of its folder is
asserted.
"""

from __future__ import annotations

import argparse
import logging
import resource
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mergekit.options import MergeOptions
from safetensors.torch import load_file

from mergekit_fair.checkpoints.assign import WeightSlots
from mergekit_fair.merging.in_memory import Composer
from mergekit_fair.merging.methods.subgroup_task_addition import addition_recipe
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder

NAMES = ("a", "b", "c", "d")
LAMBDAS = (0.1, 0.2, 0.3, 0.4, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    make(given.work, hidden=64 if given.tiny else 1024, layers=2 if given.tiny else 24)
    points(given.work)


def make(work: Path, *, hidden: int, layers: int) -> None:
    """Base and adapters, unless they are there."""
    import peft
    import transformers as hf

    if (work / NAMES[-1]).is_dir():
        return
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=32000,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=16,
    )
    model: Any = hf.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(work / "base")
    how = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
    for name in NAMES:
        adapted: Any = peft.get_peft_model(model, peft.LoraConfig(**how, init_lora_weights=False))
        adapted.peft_config["default"].base_model_name_or_path = str((work / "base").resolve())
        adapted.save_pretrained(work / name)
        model = adapted.unload()


def points(work: Path) -> None:
    from transformers import AutoModelForCausalLM

    base, options = str(work / "base"), MergeOptions(quiet=True)
    raw = addition_recipe(base, {str(work / n): (n, 1.0) for n in NAMES}, None, lambda_=0.1)
    recipe = Recipe.from_mapping(raw, "points")
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype="auto").eval()
    slots, composer = WeightSlots(model), Composer(base=base)
    composer.share(base, model.state_dict())

    def compose(value: float) -> None:
        at = recipe.with_settings({"lambda": value})
        slots.assign(composer.compose(at, reuse_direction=True, into=slots))

    def write(value: float) -> None:
        out = work / "folder"
        shutil.rmtree(out, ignore_errors=True)
        merge_to_folder(recipe.with_settings({"lambda": value}), out, options)

    first, *others = (seconds(compose, value) for value in LAMBDAS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    size = sum(tensor.nbytes for tensor in composer.tensors(base).values()) / 1e9
    print(f"base {size:.2f} GB, {len(NAMES)} adapters; at the peak of memory {peak:.2f} GB")
    show("first", [first])
    show("next", others)
    show("folder", [seconds(write, value) for value in LAMBDAS[-3:]])
    require_same_bits(model, work / "folder")
    graph(work, raw, options)


def graph(work: Path, raw: dict[str, Any], options: MergeOptions) -> None:
    stock = {**raw, "merge_method": "task_arithmetic"}
    stock["models"] = [
        {"model": item["model"], "parameters": {"weight": 1.0}} for item in raw["models"]
    ]
    cached = options.model_copy(update={"lora_merge_cache": str(work / "merged")})

    def write(value: float) -> None:
        out = work / "graph"
        shutil.rmtree(out, ignore_errors=True)
        at = Recipe.from_mapping(stock | {"parameters": {"lambda": value}}, "graph")
        merge_to_folder(at, out, cached)

    write(LAMBDAS[0])  # peft merges
    show("graph", [seconds(write, value) for value in LAMBDAS[:3]])


def require_same_bits(model: Any, folder: Path) -> None:
    own = model.state_dict()
    for file in folder.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            assert torch.equal(own[name].view(torch.uint8), tensor.view(torch.uint8)), name


def seconds(run: Callable[[float], object], value: float) -> tuple[float, float]:
    start = time.perf_counter(), time.process_time()
    run(value)
    return time.perf_counter() - start[0], time.process_time() - start[1]


def show(name: str, times: Sequence[tuple[float, float]]) -> None:
    wall, own = (statistics.median(each) for each in zip(*times, strict=True))
    print(f"{name:8} {wall:7.2f} s ({own:.2f})")


if __name__ == "__main__":
    main()
