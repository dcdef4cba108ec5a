"""Benchmark of the merge engine: `mergekit-fair merge`, `mergekit-yaml` and `cat` + `cp`, paired.

Example:
    python benchmarks/merge.py --size 1.14 --vectors 1,2,4,8 --repeats 3
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from checkpoints import MANY, BenchmarkError, Family, Shape
from jobs import GRID, Bench
from processes import Usage
from tables import (
    Samples,
    apart,
    plain,
    print_figure,
    print_heading,
    print_usages,
    ratios,
    start_of,
)

MEMORY_SIZES = (1.0, 2.0, 4.0)
ALLOWED_MB = 300  # of anonymous memory, beside one shard


def bench_main(bench: Bench, size: float, counts: list[int]) -> None:
    """Ours, stock and floor in turn, for every number of vectors."""
    family = Family(bench.work, Shape.of_size(size))
    for vectors in counts:
        models = family.make(vectors)
        samples: Samples = {}
        for _ in _rounds(bench, f"{vectors} vectors"):
            found = bench.starts(vectors)
            names = ("ours", *(("before",) if bench.old else ()), "stock", "floor", "direct")
            found |= {name: getattr(bench, name)(models) for name in names}
            _append(samples, found)
        gigabytes, own = family.shape.nbytes / 1e9, sum(m.name.startswith("v") for m in models)
        print(f"\n{vectors} vectors ({own} with weights of their own), {gigabytes:.2f} GB a model")
        print_usages(samples)
        _print_main_figures(samples, has_targets=vectors == 4)
        bench.record("main", vectors=vectors, gigabytes=gigabytes, samples=plain(samples))


def _print_main_figures(samples: Samples, *, has_targets: bool) -> None:
    net, whole = (0.6, 0.5) if has_targets else (None, None)
    stock, floor = samples["stock"], [run.durable for run in samples["floor"]]
    ours, ours_apart = (
        [run.durable for run in samples["ours"]],
        apart(samples, "ours", flushed=True),
    )
    print_heading()
    print_figure("ours / floor, start apart", ratios(ours_apart, floor), 1.5)
    direct = [run.durable for run in samples["direct"]]
    print_figure("ours / direct floor, start apart", ratios(ours_apart, direct), 1.3)
    if "before" in samples:
        before = apart(samples, "before", flushed=True)
        print_figure("ours / before, start apart", ratios(ours_apart, before), 0.65)
    for flushed, name in ((False, "stock"), (True, "(stock + fsync)")):
        stock_apart = apart(samples, "stock", flushed=flushed)
        stock_whole = [run.durable if flushed else run.wall for run in stock]
        print_figure(f"ours / {name}, start apart", ratios(ours_apart, stock_apart), net)
        print_figure(f"ours / {name}, with start", ratios(ours, stock_whole), whole)
    shard = max(run.shard for run in samples["ours"]) / 1e6
    anon = [run.anon / 1e6 for run in samples["ours"]]
    print_figure(f"MB RssAnon of ours, shard {shard:.0f}", anon, ALLOWED_MB + shard)


def bench_grid(bench: Bench, size: float) -> None:
    """One run over eleven λ against eleven stock runs."""
    models = Family(bench.work, Shape.of_size(size)).make(4, outputs=len(GRID))
    samples: Samples = {}
    totals: list[tuple[float, float, float]] = []
    copied: list[float] = []
    for _ in _rounds(bench, "grid"):
        found = bench.starts(4) | {"ours": bench.grid(models)}
        found |= {"before": bench.grid_before(models)} if bench.old else {}
        copied.append(sum(run.durable for run in bench.copies(models)))
        stock = [bench.stock(models, scale) for scale in GRID]
        _append(samples, found)
        samples.setdefault("stock", []).extend(stock)
        wall, durable = sum(run.wall for run in stock), sum(run.durable for run in stock)
        totals.append((wall, durable, len(GRID) * found[start_of("stock")].wall))
    print(f"\nGrid of {len(GRID)} λ, 4 vectors; the line `stock` is one run of {len(GRID)}")
    print_usages(samples)
    ours, ours_apart = (
        [run.durable for run in samples["ours"]],
        apart(samples, "ours", flushed=True),
    )
    print_heading()
    print_figure(f"grid / {len(GRID)} cp, start apart", ratios(ours_apart, copied), 0.5)
    if "before" in samples:
        before = apart(samples, "before", flushed=True)
        print_figure("grid / before, start apart", ratios(ours_apart, before))
    for column, name in enumerate(("stock", "(stock + fsync)")):
        whole = [total[column] for total in totals]
        net = [total[column] - total[2] for total in totals]
        label = f"{len(GRID)} {name} / grid"
        print_figure(f"{label}, start apart", ratios(net, ours_apart), 12, is_least=True)
        print_figure(f"{label}, with start", ratios(whole, ours), 12, is_least=True)
    bench.record("grid", lambdas=GRID, vectors=4, samples=plain(samples))


def bench_adapters(bench: Bench, size: float) -> None:
    """One run over eleven λ of two LoRA adapters: most tensors are the base's in every output."""
    models = Family(bench.work, Shape.of_size(size)).adapters(2)
    samples: Samples = {}
    for _ in _rounds(bench, "grid of adapters"):
        _append(samples, bench.adapter_grids(models))
    print(f"\nGrid of {len(GRID)} λ, 2 adapters of rank 8 on query and value")
    print_usages(samples)
    print_heading("GB written")
    for name, runs in samples.items():
        print_figure(name, [run.written / 1e9 for run in runs])
    print_heading()
    for name in samples.keys() - {"before"} if "before" in samples else ():
        pairs = [[run.durable for run in samples[each]] for each in (name, "before")]
        print_figure(f"{name} / before, with start", ratios(*pairs))
    bench.record("adapters", lambdas=GRID, samples=plain(samples))


def bench_tiny(bench: Bench) -> None:
    """Five thousand tensors of a few hundred numbers: the cost of a tensor. Stock runs once."""
    family = Family(bench.work, MANY)
    models = family.make(4)
    samples: Samples = {}
    for _ in _rounds(bench, "tiny tensors"):
        _append(samples, bench.starts(4) | {"ours": bench.ours(models)})
    samples["stock"] = [bench.stock(models)]
    count = len(family.shape.tensors())
    print(f"\n{count:,} tiny tensors, 4 vectors")
    print_usages(samples)
    print_heading()
    print_figure("seconds of ours, start apart", apart(samples, "ours", flushed=True), 3)
    print_figure("seconds of stock, start apart", apart(samples, "stock", flushed=False))
    bench.record("tiny", tensors=count, vectors=4, samples=plain(samples))


def bench_memory(bench: Bench, counts: list[int]) -> None:
    """RssAnon of ours alone; two vectors have weights of their own, the others are links."""
    lines = []
    for size in MEMORY_SIZES:
        family = Family(bench.work, Shape.of_size(size))
        gigabytes = family.shape.nbytes / 1e9
        for vectors in counts:
            usage = bench.ours(family.make(vectors, most=2))
            shard = usage.shard / 1e6
            label = f"{gigabytes:.2f} GB, {vectors} vectors, shard {shard:.0f}"
            lines.append((label, [usage.anon / 1e6], ALLOWED_MB + shard))
            bench.record("memory", gigabytes=gigabytes, vectors=vectors, usage=asdict(usage))
        if not bench.keeps_models:
            shutil.rmtree(family.folder)
    print()
    print_heading("MB RssAnon of ours")
    for line in lines:
        print_figure(*line)


def _rounds(bench: Bench, what: str) -> Iterator[int]:
    for number in range(1, bench.repeats + 1):
        print(f"{what}, round {number} of {bench.repeats}", file=sys.stderr)
        yield number


def _append(samples: Samples, found: dict[str, Usage]) -> None:
    for name, usage in found.items():
        samples.setdefault(name, []).append(usage)


def _machine() -> dict[str, Any]:
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu[0].partition(":")[2].strip() if cpu else "unknown",
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load": round(os.getloadavg()[0], 1),  # more than 0.5 and the figures are not worth much
        "python": sys.version.split()[0],
        **{name: version(name) for name in ("torch", "safetensors", "mergekit", "mergekit-fair")},
    }


@contextmanager
def _folder(work: Path | None, keep: bool) -> Iterator[Path]:
    if work is None and not keep:
        with tempfile.TemporaryDirectory(prefix="merge-benchmark-", dir=Path.cwd().parent) as made:
            yield Path(made)
        return
    folder = work or Path(tempfile.mkdtemp(prefix="merge-benchmark-", dir=Path.cwd().parent))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"models stay in {folder}", file=sys.stderr)
    yield folder.resolve()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=float, default=1.14, metavar="GB", help="a model's weights")
    parser.add_argument("--vectors", default="1,2,4,8", metavar="N,…", help="fine-tuned models")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds of pairs")
    parser.add_argument(
        "--work",
        type=Path,
        help="folder whose models are reused and stay; default: a temporary one",
    )
    parser.add_argument("--keep", action="store_true", help="leave the temporary folder")
    parser.add_argument("--old", type=Path, help="another checkout, measured beside this one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every run, not only medians")
    parser.add_argument("--main", action="store_true", help="ours, stock, floor (the default part)")
    parser.add_argument("--grid", action="store_true", help="one run of eleven λ, eleven of stock")
    parser.add_argument("--adapters", action="store_true", help="one run of eleven λ of adapters")
    parser.add_argument("--tiny", action="store_true", help="5,000 tiny tensors")
    parser.add_argument("--memory", action="store_true", help="RssAnon of ours at 1, 2 and 4 GB")
    arguments = parser.parse_args()
    try:
        arguments.vectors = [int(part) for part in arguments.vectors.split(",")]
    except ValueError:
        parser.error(f"--vectors {arguments.vectors!r} is no list like 1,2,4,8")
    if min(arguments.vectors) < 1 or arguments.repeats < 1 or arguments.size <= 0:
        parser.error("--vectors and --repeats begin at 1, --size above 0")
    return arguments


def main() -> None:
    arguments = _arguments()
    known = ("main", "grid", "adapters", "tiny", "memory")
    parts = [part for part in known if getattr(arguments, part)]
    machine = _machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    with _folder(arguments.work, arguments.keep) as work:
        keeps_models = arguments.keep or arguments.work is not None
        bench = Bench(work, arguments.repeats, keeps_models, arguments.old)
        run = {
            "main": lambda: bench_main(bench, arguments.size, arguments.vectors),
            "grid": lambda: bench_grid(bench, arguments.size),
            "adapters": lambda: bench_adapters(bench, arguments.size),
            "tiny": lambda: bench_tiny(bench),
            "memory": lambda: bench_memory(bench, arguments.vectors),
        }
        try:
            for part in parts or ["main"]:
                run[part]()
        except BenchmarkError as error:
            sys.exit(f"error: {error}")
        finally:
            if arguments.json:
                content = {"machine": machine, "repeats": arguments.repeats, **bench.results}
                arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
