"""What the paper's settings need: bytes, steps and floating-point operations, by arithmetic.

    python recipes/paper/plan.py          # the tables of README.md

Nothing is downloaded: shapes are those that the models' configurations publish, rows those of the
data sets' descriptions. Activations are what autograd keeps for one row of the longest length,
counted here on layers of the real size, in float32. Nothing was run on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from mergekit_fair.evaluation.classifier import auto_class
from mergekit_fair.sweep.sweep_config import load_sweep
from mergekit_fair.training.family import steps_for
from mergekit_fair.training.train_config import Lora, load_train_config

HERE = Path(__file__).parent
LLAMA = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008}
LLAMA |= {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32}
QWEN = {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864}
QWEN |= {"num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2}
SHAPES = {  # those of DistilBERT and of ViT-Base/16 are transformers' defaults
    "meta-llama/Llama-2-7b-hf": (hf.LlamaConfig, LLAMA),
    "Qwen/Qwen2.5-0.5B": (hf.Qwen2Config, QWEN),
    "distilbert/distilbert-base-uncased": (hf.DistilBertConfig, {}),
    "google/vit-base-patch16-224-in21k": (hf.ViTConfig, {}),
}
# Rows of train, validation and report: shares of 39,565 comments, WILDS's splits (arXiv
# 2012.07421), shares of 23,700 pictures.
ROWS = {
    "dlab": (19_782, 7_913, 11_870),
    "civil": (269_038, 45_180, 133_782),
    "utkface": (11_850, 4_740, 7_110),
}
GROUPS = {"utkface_gender": 2, "utkface_race": 4}  # of the others the descriptions say it
# Operations a second: 40 % of what the vendor states of an A100.
SPEED = {"float32": 0.4 * 19.5e12, "tf32": 0.4 * 156e12, "bf16": 0.4 * 312e12}
SEEDS = 5


@dataclass(frozen=True)
class Need:
    """Of one setting and seed; bytes unless said otherwise.

    Attributes:
        parameters: number of weights.
        adapter: number of weights that LoRA trains, the head included.
        row: activations of one row.
        kept_row: of them, what is kept where activations are recomputed.
        tokens: of a row at most; patches of a picture.
        models: groups' models.
        steps: of FFT and of every group, and of LoRA.
    """

    parameters: int
    adapter: int
    row: int
    kept_row: int
    tokens: int
    models: int
    steps: tuple[int, int]


def classifier(name: str, layers: int | None = None, *, device: str = "cpu") -> Any:
    """Of a model's shape, or of so many layers, and a head of two; weights are whatever."""
    kind, shape = SHAPES[name]
    if layers is not None:
        shape = shape | {"n_layers" if kind is hf.DistilBertConfig else "num_hidden_layers": layers}
    auto = auto_class("image" if kind is hf.ViTConfig else "text")
    with torch.device("meta"):
        model = auto.from_config(kind(**shape, num_labels=2, pad_token_id=0))
    if device == "meta":
        return model
    model = model.to_empty(device=device).float()
    for buffer in model.buffers():  # numbers of positions among them
        buffer.zero_()
    return model


@cache
def activations(name: str, layers: int, tokens: int) -> int:
    """Bytes that autograd keeps of a forward pass of one row, weights apart."""
    model = classifier(name, layers).train()
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.ones(1, tokens, dtype=torch.long)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": ids}
    if model.config.model_type == "vit":
        inputs = {
            "pixel_values": torch.zeros(1, 3, model.config.image_size, model.config.image_size)
        }
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**inputs, labels=torch.zeros(1, dtype=torch.long))
    return sum(
        each.untyped_storage().nbytes() for place, each in kept.items() if place not in weights
    )


def need(setting: str) -> Need:
    """Of the setting's files."""
    config = load_train_config(HERE / setting / "train.yml")
    whole = classifier(config.model, device="meta")
    layers, width = whole.config.num_hidden_layers, whole.config.hidden_size
    tokens = 197 if whole.config.model_type == "vit" else config.max_length
    parameters = sum(each.numel() for each in whole.parameters())
    assert isinstance(config.lora, Lora)
    adapted = config.lora.prepare(whole)
    trained = sum(each.numel() for each in adapted.parameters() if each.requires_grad)
    one, two = (activations(config.model, count, tokens) for count in (1, 2))
    described = config.data.groups
    named = set(described.columns or ()) - set(described.exclude)
    rows = ROWS[setting.split("_")[0]][0]
    epochs = (config.training.epochs, config.lora.epochs or config.training.epochs)
    return Need(
        parameters=parameters,
        adapter=trained,
        row=one + (layers - 1) * (two - one),
        kept_row=layers * tokens * width * 4 + two - one,
        tokens=tokens,
        models=len(named) or GROUPS[setting],
        steps=tuple(steps_for(config, rows, each) for each in epochs),
    )


def table(head: str, rows: list[list[str]]) -> str:
    """Markdown; all columns but the first are numbers."""
    columns = head.split(" | ")
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def gigabytes(count: float) -> str:
    """In 10⁹ bytes."""
    return f"{count / 1e9:,.1f}"


def main() -> None:
    memory, runs = [], []
    settings = sorted(path.parent.name for path in HERE.glob("*/train.yml"))
    for setting in settings:
        config, of = load_train_config(HERE / setting / "train.yml"), need(setting)
        training, arguments = config.training, config.training.arguments
        batch, weights = training.batch_size, 4 * of.parameters
        recomputes = bool(arguments.get("gradient_checkpointing"))
        moments = 2 if arguments.get("optim") == "adamw_bnb_8bit" else 8
        held = batch * (of.kept_row if recomputes else of.row)
        fft = 2 * weights + moments * of.parameters + held
        plain = 4 * weights + batch * of.row
        lora = weights + 12 * of.adapter + held
        memory.append(
            [
                *(f"`{setting}`", f"{of.parameters / 1e6:,.1f}", f"{of.adapter / 1e6:.2f}"),
                *(f"{of.row / 1e6:,.0f}", f"{batch}"),
                *map(gigabytes, (plain, fft, lora, (3 + of.models) * weights)),
            ]
        )
        rows_of_step = batch * int(arguments.get("gradient_accumulation_steps", 1))
        per_token = (8 if recomputes else 6) * of.parameters
        speed = SPEED["tf32" if arguments.get("tf32") else "float32"] * 3600
        full, adapter = (n * rows_of_step * of.tokens * per_token / speed for n in of.steps)
        sweep = load_sweep(HERE / setting / "sweep.yml")
        points = len(sweep.grid["lambda"]) + len(sweep.inject_grid) + 2 + 1
        _, validation, report = ROWS[setting.split("_")[0]]
        passes = points * validation + 4 * report  # the chosen point, its control, baselines
        speed = SPEED["bf16" if sweep.config.evaluate.bf16 else "float32"] * 3600
        swept = passes * of.tokens * 2 * of.parameters / speed
        one = (1 + of.models) * full + adapter + swept
        runs.append(
            [
                *(f"`{setting}`", f"{2 + of.models}", f"{of.steps[0]:,}", f"{of.steps[1]:,}"),
                *(f"{points}", f"{full:.2f}", f"{swept:.2f}", f"{one:.1f}", f"{SEEDS * one:,.1f}"),
            ]
        )
    print(
        table(
            "setting | weights, millions | LoRA trains | MB a row | batch "
            "| FFT, plain | FFT, as in the file | LoRA | disk",
            memory,
        )
    )
    print()
    print(
        table(
            "setting | models | FFT's steps | LoRA's | points | h, one FFT | h, sweep | h, a seed "
            "| h, five seeds",
            runs,
        )
    )


if __name__ == "__main__":
    main()
