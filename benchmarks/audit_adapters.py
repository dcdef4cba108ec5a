"""Two LoRA adapters of a causal language model, each trained on what people say about one group,
and two recipes over them: what `mergekit-fair audit` is tried on.

    python benchmarks/audit_adapters.py BASE --rows redditbias.csv --groups female muslim -o DIR

BASE is the folder of a causal model. Writes DIR/female, DIR/muslim, DIR/addition.yml and
DIR/ties.yml; prints the losses and how to audit them. Adapters that are there are kept.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path
from typing import Any

import torch
import yaml


def train(base: str, texts: list[str], out: Path, *, steps: int, seed: int) -> tuple[float, float]:
    """Fine-tune an adapter (r=8, α=16, all attention projections) on texts; the mean loss of the
    first and of the last ten steps."""
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    how = peft.LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
        task_type="CAUSAL_LM",
    )
    model: Any = peft.get_peft_model(whole, how)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    draw, losses = random.Random(seed), []
    for _ in range(steps):
        batch = tokenizer(
            draw.sample(texts, 8), return_tensors="pt", padding=True, truncation=True, max_length=48
        )
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    model.save_pretrained(out)
    return sum(losses[:10]) / 10, sum(losses[-10:]) / 10


def recipes(base: str, folders: list[Path]) -> dict[str, dict[str, Any]]:
    """Subgroup task addition, and mergekit's own `ties`."""
    models = [str(folder) for folder in folders]
    return {
        "addition": {
            "merge_method": "subgroup_task_addition",
            "base_model": base,
            "models": [
                {"model": model, "parameters": {"group": Path(model).name, "weight": 1.0}}
                for model in models
            ],
            "parameters": {"lambda": 0.5},
            "dtype": "bfloat16",
        },
        "ties": {
            "merge_method": "ties",
            "base_model": base,
            "models": [
                {"model": f"{base}+{model}", "parameters": {"weight": 0.5, "density": 0.5}}
                for model in models
            ],
            "dtype": "bfloat16",
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("base")
    parser.add_argument("--rows", type=Path, required=True, help="A csv file with text and group.")
    parser.add_argument("--groups", nargs=2, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    with given.rows.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    folders = []
    for seed, group in enumerate(given.groups):
        texts = [row["text"] for row in rows if row["group"] == group]
        folders.append(given.out / group)
        if (folders[-1] / "adapter_config.json").is_file():
            continue
        first, last = train(given.base, texts, folders[-1], steps=given.steps, seed=seed)
        print(f"{group}: {len(texts)} texts, loss {first:.3f} -> {last:.3f}", flush=True)
    for name, recipe in recipes(given.base, folders).items():
        path = given.out / f"{name}.yml"
        path.write_text(yaml.safe_dump(recipe, sort_keys=False))
        out = given.out / f"{name}-audit"
        print(f"mergekit-fair audit {path} --tasks fair_bbq_religion --limit 600 -o {out}")


if __name__ == "__main__":
    main()
