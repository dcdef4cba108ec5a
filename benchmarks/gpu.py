"""What a device does with merges and sweeps, beside the CPU: for a machine that has one.

    python benchmarks/gpu.py                       # shapes of a Llama of 1.1 B parameters, bf16
    python benchmarks/gpu.py --layers 32 --hidden 4096 --intermediate 11008   # 7 B
    python benchmarks/gpu.py --device cpu --layers 2 --hidden 256 --intermediate 512   # runs?

Writes a base and two fine-tunes of random numbers, and prints, side by side in one run:

    merge       GB/s of a merge to disk (bytes read and written), on the device and on the CPU
    bits        whether both files are equal, bit for bit
    λ           seconds to compose one more λ into the weights of a model in memory
    forward     seconds of a forward pass of 8 × 128 tokens through that model
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mergekit.options import MergeOptions
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from mergekit_fair.checkpoints.assign import can_assign_in_place
from mergekit_fair.merging.in_memory import Composer
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder

GROUPS = ("a", "b")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--intermediate", type=int, default=5632)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="Where to write; default: a temporary folder.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        raw = written(folder, given)
        size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        print(f"{size / 1e9:.2f} GB in three models, {given.device}", flush=True)
        merges(raw, folder, given.device, size)
        points(raw, given.device, given.rounds)


def written(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Three models in bf16, and a recipe over them."""
    config = LlamaConfig(
        hidden_size=given.hidden,
        intermediate_size=given.intermediate,
        num_hidden_layers=given.layers,
        num_attention_heads=max(given.hidden // 64, 1),
        num_key_value_heads=max(given.hidden // 256, 1),
        vocab_size=32_000,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder / "base", max_shard_size="2GB")
    for name in GROUPS:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        model.save_pretrained(folder / name, max_shard_size="2GB")
    models = [
        {"model": str(folder / name), "parameters": {"group": name, "weight": 1.0}}
        for name in GROUPS
    ]
    return {
        "merge_method": "subgroup_task_addition",
        "base_model": str(folder / "base"),
        "models": models,
        "parameters": {"lambda": 0.5},
        "dtype": "bfloat16",
    }


def merges(raw: dict[str, Any], folder: Path, device: str, size: int) -> None:
    """Merge on the device and on the CPU, the same files in the page cache."""
    digests = {}
    for where in dict.fromkeys(("cpu", device)):
        recipe, out = Recipe.from_mapping(raw, "recipe"), folder / f"merged-{where}"
        options = MergeOptions(quiet=True, device=where)
        begin = time.perf_counter()
        merge_to_folder(recipe, out, options, MergeSettings())
        seconds = time.perf_counter() - begin
        print(
            f"merge {where}: {seconds:.1f} s, {size * 4 / 3 / 1e9 / seconds:.2f} GB/s", flush=True
        )
        digests[where] = digest(out)
    print(f"bits: {'equal' if len(set(digests.values())) == 1 else 'DIFFERENT'}", flush=True)


def digest(folder: Path) -> str:
    """SHA-256 of the weights of a folder."""
    found = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as content:
            while part := content.read(2**24):
                found.update(part)
    return found.hexdigest()


def points(raw: dict[str, Any], device: str, rounds: int) -> None:
    """One λ after the other into a model in memory, and a forward pass."""
    model = AutoModelForCausalLM.from_pretrained(raw["base_model"], dtype=torch.bfloat16)
    model = model.to(device).eval()
    composer = Composer(device)
    names = list(composer.tensors(raw["base_model"]))
    print(f"in place: {can_assign_in_place(names, model)}", flush=True)
    tokens = torch.randint(0, 32_000, (8, 128), device=device)

    def compose(scale: float) -> None:
        recipe = Recipe.from_mapping({**raw, "parameters": {"lambda": scale}}, "recipe")
        slots = dict(model.state_dict())
        with torch.no_grad():
            for name, tensor in composer.compose(recipe, reuse_direction=True, into=slots):
                if tensor.data_ptr() != slots[name].data_ptr():
                    slots[name].copy_(tensor)

    def forward() -> None:
        with torch.no_grad():
            model(tokens)

    compose(0.1)  # the first of each warms up
    forward()
    for number in range(rounds):
        seconds = timed(device, partial(compose, 0.2 + 0.1 * number))
        print(f"λ: {seconds:.3f} s; forward: {timed(device, forward):.3f} s", flush=True)


def timed(device: str, work: Callable[[], None]) -> float:
    """Seconds, the device's queue included."""
    begin = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
