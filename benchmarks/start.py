"""Processor and wall seconds of commands on models of kilobytes: what a start costs.

    python benchmarks/start.py                             # five rounds; ten minutes
    python benchmarks/start.py --old ../other-checkout     # before, and now
    python benchmarks/start.py --repeats 9 --json start.json

Every command is a process of its own, beside `python -c "import torch"` (numpy, pandas) and beside
mergekit's own programs in the same round; ratios are medians of rounds. Modules are compiled
before, as pip leaves them: a round that is not counted fills a folder of bytecode. The first merge
of a kind of model asks transformers whether the result loads whole, and `check`, `merge` and
`grid` after it know: both are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from checkpoints import BenchmarkError
from processes import program

_WORDS = ("fine", "kind", "poor", "cold", "the", "day", "was", "and", "house", "road")
_ALLOWED = (0, 3)  # `heads` keeps the target of models that have learned nothing
_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
_BARE = {name: [sys.executable, "-c", f"import {name}"] for name in ("torch", "numpy", "pandas")}
# Command → what it is compared with.
BESIDE = {
    "merge, first of its kind": "torch",
    "merge": "torch",
    "merge, gradients": "torch",
    "merge --lambda 0:1:0.1": "torch",
    "check RECIPE": "torch",
    "heads": "torch",
    "mergekit-yaml": "torch",
    "mergekit-yaml --help": "torch",
    "measure": "pandas",
    "grid": "numpy",
    "check MODEL": "numpy",
    "methods": "numpy",
}
_FIRST = next(iter(BESIDE))
Seconds = tuple[float, float]  # processor, wall


def write_inputs(folder: Path) -> None:
    """Three classifiers of two layers and 32 dimensions, recipes, rows and predictions."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    labels = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    config = BertConfig(vocab_size=len(words), intermediate_size=64, **labels, **size)
    model = BertForSequenceClassification(config)
    for name in ("base", "a", "b"):
        model.save_pretrained(folder / name)
        BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.01)
    draw = random.Random(0)
    rows = ["text,label,group,score"]
    for index in range(1000):
        text = " ".join(draw.choice(_WORDS) for _ in range(6))
        rows.append(f"{text},{draw.randrange(2)},{'ab'[index % 2]},{draw.random():.3f}")
    (folder / "rows.csv").write_text("\n".join(rows) + "\n")
    data = {
        "name": "rows",
        "source": str(folder / "rows.csv"),
        "text": "text",
        "label": {"column": "label"},
        "groups": {"column": "group"},
        "splits": {"shares": {"train": 0.4, "validation": 0.3, "report": 0.3}, "seed": 0},
    }
    (folder / "data.yml").write_text(yaml.safe_dump(data))
    own: dict[str, Any] = {
        "merge_method": "subgroup_task_addition",
        "base_model": str(folder / "base"),
    }
    plain: list[dict[str, Any]] = [
        {"model": str(folder / n), "parameters": {"group": n}} for n in ("a", "b")
    ]
    graded = [{**item, "parameters": {**item["parameters"], "weight": [0, 1]}} for item in plain]
    stock = [{"model": str(folder / n), "parameters": {"weight": 0.5}} for n in ("a", "b")]
    recipes: dict[str, dict[str, Any]] = {
        "plain": {**own, "models": plain, "parameters": {"lambda": 0.5}},
        "graded": {**own, "models": graded, "parameters": {"lambda": 0.5}},
        "stock": {**own, "merge_method": "task_arithmetic", "models": stock},
    }
    for name, recipe in recipes.items():
        (folder / f"{name}.yml").write_text(yaml.safe_dump(recipe | {"dtype": "float32"}))


def commands(folder: Path) -> dict[str, list[str]]:
    """What is measured, in the order of a round; outputs lie in `folder/out`."""
    ours, out = [sys.executable, "-m", "mergekit_fair"], folder / "out"
    plain, merged = str(folder / "plain.yml"), str(out / "merged")
    columns = ["--label", "label", "--score", "score", "--groups", "group"]
    fitted = ["--data", str(folder / "data.yml"), "-o", str(out / "heads"), "--device", "cpu"]
    return _BARE | {
        _FIRST: [*ours, "merge", plain, str(out / "first")],
        "merge": [*ours, "merge", plain, merged],
        "merge, gradients": [*ours, "merge", str(folder / "graded.yml"), str(out / "graded")],
        "merge --lambda 0:1:0.1": [*ours, "merge", plain, str(out / "lambdas"), "--lambda=0:1:0.1"],
        "check RECIPE": [*ours, "check", plain],
        "check MODEL": [*ours, "check", merged],
        "grid": [*ours, "grid", plain, "--lambda", "0:1:0.1", "-o", str(out / "grid")],
        "methods": [*ours, "methods"],
        "measure": [*ours, "measure", str(folder / "rows.csv"), *columns],
        "heads": [*ours, "heads", str(folder / "base"), *fitted],
        "mergekit-yaml": [program("mergekit-yaml"), str(folder / "stock.yml"), str(out / "stock")],
        "mergekit-yaml --help": [program("mergekit-yaml"), "--help"],
    }


def run(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Seconds:
    """Processor and wall seconds of a process in a folder, which holds no package.

    Raises:
        BenchmarkError: it failed.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    result = subprocess.run(command, check=False, capture_output=True, env=environment, cwd=folder)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.returncode not in _ALLOWED:
        tail = result.stderr.decode(errors="replace")[-2000:]
        raise BenchmarkError(f"{' '.join(command)} ended with {result.returncode}:\n{tail}")
    spent = [getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime")]
    return sum(spent), wall


def a_round(folder: Path, checkout: Path) -> dict[str, Seconds]:
    """Every command once, by the package of a checkout, from empty outputs and an empty cache."""
    for name in ("out", "cache"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "out").mkdir()
    environment = {key: value for key, value in os.environ.items() if key != _NO_BYTECODE}
    environment |= {
        "PYTHONPATH": str(checkout),
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
        "MERGEKIT_FAIR_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    return {name: run(command, environment, folder) for name, command in commands(folder).items()}


def table(rounds: Sequence[Mapping[str, Seconds]], old: Sequence[Mapping[str, Seconds]]) -> str:
    """Medians of seconds and of ratios, one command a line."""
    head = f"{'':<26} cpu s  wall s  {'of import':<26}  {'of mergekit-yaml':<17}"
    lines = [head + ("  before" if old else "")]
    for name in (*_BARE, *BESIDE):
        cpu, wall = (statistics.median(each[name][i] for each in rounds) for i in (0, 1))
        line = f"{name:<26} {cpu:5.2f}  {wall:6.2f}"
        if beside := BESIDE.get(name):
            line += f"  {_ratio(rounds, name, beside)} {beside:<7}"
            line += f"  {_ratio(rounds, name, 'mergekit-yaml')}"
            if old:
                ratios = [a[name][0] / b[name][0] for a, b in zip(rounds, old, strict=True)]
                line += f"  {statistics.median(ratios):.2f}"
        lines.append(line)
    return "\n".join(lines)


def _ratio(rounds: Sequence[Mapping[str, Seconds]], name: str, other: str) -> str:
    ratios = [each[name][0] / each[other][0] for each in rounds]
    return f"{statistics.median(ratios):5.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> None:
    """Measure and print; exit code 1 if a command fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--old", type=Path, help="another checkout, measured in turn")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    checkouts = [here, *([arguments.old.resolve()] if arguments.old else [])]
    samples: dict[Path, list[dict[str, Seconds]]] = {each: [] for each in checkouts}
    with tempfile.TemporaryDirectory(prefix="mergekit-fair-start-") as place:
        write_inputs(Path(place))
        for index in range(arguments.repeats + 1):
            for checkout in checkouts:
                measured = a_round(Path(place), checkout)
                if index:  # the first has compiled the modules
                    samples[checkout].append(measured)
    now, before = samples[here], samples[checkouts[-1]] if arguments.old else []
    print(f"load {os.getloadavg()[0]:.1f}, medians of {arguments.repeats}")
    print(table(now, before))
    if arguments.json:
        arguments.json.write_text(json.dumps({str(key): value for key, value in samples.items()}))


if __name__ == "__main__":
    try:
        main()
    except BenchmarkError as error:
        sys.exit(str(error))
