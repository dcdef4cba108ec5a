"""A λ grid by `mergekit-fair sweep`, by one process per step, and by forward passes alone.

    python benchmarks/sweep.py demo-run                 # after `mergekit-fair demo`
    python benchmarks/sweep.py demo-run --limit 300     # few rows: process start dominates
    python benchmarks/sweep.py demo-run --points 3      # does it run?

Three ways to the same numbers, one after the other in one run, all on the task fair_adult_sex with
the demo's data and subgroup models:

    sweep      one `mergekit-fair sweep --no-write` process
    processes  for every λ `mergekit-yaml` (stock task_arithmetic) and `lm_eval run` with the
               plug-in's classifier, at the same batch size; then lm_eval of the chosen one on
               report rows
    forward    the same rows in the same batches through transformers in a plain PyTorch loop, in
               a process of its own; model and tokens are ready before the clock starts

Prints the wall times, their ratios, and whether every row's prediction is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

TASK, BATCH, LENGTH = "fair_adult_sex", 64, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="folder of `mergekit-fair demo`")
    parser.add_argument("--points", type=int, default=11)
    parser.add_argument("--limit", type=int, help="rows of a split")
    parser.add_argument("--forward", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if given.forward:
        print(json.dumps(forward(given.demo, json.loads(given.forward.read_text()))))
        return
    lambdas = [round(float(x), 4) for x in np.linspace(0, 1, given.points)]
    with tempfile.TemporaryDirectory() as folder:
        report(Path(folder), given.demo.absolute(), lambdas, given.limit)


def report(folder: Path, demo: Path, lambdas: list[float], limit: int | None) -> None:
    """Run the three and print."""
    ours, chosen = swept(folder, demo, lambdas, limit)
    bare, rows = forwarded(folder, demo, lambdas, limit)
    steps, same = stepped(folder, demo, limit, chosen)
    print(
        f"{len(lambdas)} points, {rows['validation']} validation and {rows['report']} report rows"
    )
    print(f"sweep      {ours:8.1f} s")
    print(f"processes  {sum(steps):8.1f} s   {sum(steps) / ours:5.1f} x the sweep")
    print(f"  merges {steps[0]:.1f} s, evaluations {steps[1]:.1f} s")
    print(f"forward    {bare:8.1f} s   the sweep is {ours / bare:.2f} x")
    print(f"predictions that differ from lm_eval's: {same}")


def swept(
    folder: Path, demo: Path, lambdas: list[float], limit: int | None
) -> tuple[float, dict[str, Any]]:
    evaluate: dict[str, Any] = {"tasks": [TASK], "data": str(demo / "data.yml")}
    evaluate |= {"batch_size": BATCH, "max_length": LENGTH, "device": "cpu"}
    if limit:
        evaluate["limit"] = limit
    recipe = yaml.safe_load((demo / "addition.yml").read_text())
    sweep = {"recipe": recipe, "grid": {"lambda": lambdas}, "evaluate": evaluate}
    (folder / "sweep.yml").write_text(yaml.safe_dump(sweep))
    command = ("sweep", folder / "sweep.yml", "-o", folder / "out", "--no-write")
    seconds = timed("mergekit_fair", *command)
    return seconds, json.loads((folder / "out" / "results.json").read_text())


def stepped(
    folder: Path, demo: Path, limit: int | None, results: dict[str, Any]
) -> tuple[tuple[float, float], str]:
    """Seconds of merges and evaluations, and how many predictions differ from the sweep's."""
    recipe = yaml.safe_load((demo / "addition.yml").read_text())
    merges = evaluations = 0.0
    differ = total = 0
    for line in [p for p in results["points"] if p["kind"] == "merge"]:
        stock = {
            "merge_method": "task_arithmetic",
            "base_model": recipe["base_model"],
            "models": [
                {"model": item["model"], "parameters": {"weight": line["lambda"]}}
                for item in recipe["models"]
            ],
            "dtype": "float32",
        }
        (folder / "point.yml").write_text(yaml.safe_dump(stock))
        model = folder / "model"
        merges += timed("mergekit_fair", "exec", "mergekit-yaml", folder / "point.yml", model)
        for split in ("validation", "report")[: 1 + (line["id"] == results["selected"]["id"])]:
            evaluations += timed(*evaluation(folder, demo, model, split, limit))
            found, expected = predictions(folder, line, split)
            differ += int((found != expected).sum())
            total += len(found)
        shutil.rmtree(model)
    return (merges, evaluations), f"{differ} of {total}"


def evaluation(
    folder: Path, demo: Path, model: Path, split: str, limit: int | None
) -> list[object]:
    from mergekit_fair.resources import tasks_dir

    shutil.rmtree(folder / "eval", ignore_errors=True)
    metadata = json.dumps({"split": split, "data": str(demo / "data.yml")})
    return [
        *("mergekit_fair", "exec", "lm_eval", "run", "--model", "fair-classifier"),
        *("--model_args", f"pretrained={model},max_length={LENGTH}", "--tasks", TASK),
        *("--include_path", tasks_dir(), "--batch_size", BATCH, "--device", "cpu"),
        *("--metadata", metadata, "--log_samples", "--output_path", folder / "eval"),
        *(("--limit", limit) if limit else ()),
    ]


def predictions(folder: Path, line: dict[str, Any], split: str) -> tuple[np.ndarray, np.ndarray]:
    """lm_eval's and the sweep's, in the order of the documents."""
    (file,) = (folder / "eval").rglob(f"samples_{TASK}_*.jsonl")
    samples = [json.loads(text) for text in file.read_text().splitlines()]
    samples.sort(key=lambda sample: sample["doc_id"])
    found = np.array([sample["dpd"][0] for sample in samples])
    scores = np.load(folder / "out" / "scores" / f"{line['id']}-{split}.npy")
    return found, (scores > 0).astype(int)


def forwarded(
    folder: Path, demo: Path, lambdas: list[float], limit: int | None
) -> tuple[float, dict[str, int]]:
    (folder / "forward.json").write_text(json.dumps({"points": len(lambdas), "limit": limit}))
    command = [sys.executable, __file__, str(demo), "--forward", str(folder / "forward.json")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    return found["seconds"], found["rows"]


def forward(demo: Path, how: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the bare passes: every point over validation, one over report rows."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from mergekit_fair.data import load_rows, load_spec

    model = AutoModelForSequenceClassification.from_pretrained(demo / "models" / "base").eval()
    tokenizer = AutoTokenizer.from_pretrained(demo / "models" / "base")
    rows = load_rows(load_spec(demo / "data.yml"))
    batches, counts = {}, {}
    for split in ("validation", "report"):
        texts = list(dict.fromkeys(rows.of(split).inputs[: how["limit"]]))
        ids = tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"]
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        groups = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        batches[split] = [
            tokenizer.pad({"input_ids": [ids[row] for row in group]}, return_tensors="pt")
            for group in groups
        ]
        counts[split] = len(rows.of(split).inputs[: how["limit"]])
    with torch.inference_mode():
        model(**batches["validation"][-1])
        start, processor = time.monotonic(), time.process_time()
        for split in ["validation"] * how["points"] + ["report"]:
            for batch in batches[split]:
                model(**batch)
        return {
            "seconds": time.monotonic() - start,
            "processor": time.process_time() - processor,
            "rows": counts,
        }


def timed(*command: object) -> float:
    start = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", *map(str, command)], capture_output=True, text=True, check=False
    )
    if run.returncode:
        sys.exit(f"{command} failed:\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}")
    return time.monotonic() - start


if __name__ == "__main__":
    main()
