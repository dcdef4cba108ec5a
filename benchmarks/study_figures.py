"""The figures of one seed of a study, and the tables of all: see `studies.py`."""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from study_systems import FURTHER_TRAINED, LEARNED_AS, SWEPT

from mergekit_fair.data import spec_inside
from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.evaluate import evaluate
from mergekit_fair.evaluation.evidence import require_samples
from mergekit_fair.evaluation.group_thresholds import fit
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.evaluation.sample_files import read_samples, sample_files
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.report.tables import Table, as_markdown
from mergekit_fair.schema import load_yaml
from mergekit_fair.sweep.differences import differences
from mergekit_fair.sweep.figures_again import answered
from mergekit_fair.sweep.results import SweepResults
from mergekit_fair.sweep.store import read_points, read_rows, read_scores
from mergekit_fair.sweep.sweep_config import Evaluate

BASELINES = {"fft": "FFT", "lora": "LoRA", "soup": "soup of FFT seeds", **FURTHER_TRAINED}
CHOSEN = {"lambda": "best λ", "lambda_g": "best λ_g"}
CHOSEN |= {name: system.shown for name, system in SWEPT.items()}
RIVALS = {
    "random directions": "random head",
    "whole layer": "whole head",
    "balanced refit": "balanced refit (DFR)",
}
SHOWN = {"acc": "acc", "dpd": "DPD", "eod": "EOD", "bal_acc": "bal. acc", "selection_rate": "sel."}
COMPARED = ("acc", "dpd", "eod")
GAPS: tuple[Literal["dpd", "eod"], ...] = ("dpd", "eod")


@dataclass(frozen=True)
class Measured:
    """A line of the table.

    Attributes:
        name: what it is, the same for all seeds.
        rows: its predictions on report rows.
        note: what was chosen, or that it is FFT itself.
        is_fft: nothing better was found.
        needs_groups: it cannot predict without the group of every row.
    """

    name: str
    rows: Predictions
    note: str = ""
    is_fft: bool = False
    needs_groups: bool = False


def figures(folder: Path) -> dict[str, Any]:
    """All that is measured in a seed's folder: the content of seed-N.json, but for its name."""
    settings = _settings(folder)
    fft = _predictions(folder, "fft-report")
    lines = []
    for line in _measured(folder, fft, settings):
        found = evaluate(line.rows, settings, model=line.name, split="report")
        minus = {} if line.is_fft else differences(line.rows, {"fft": fft}, settings).judged["fft"]
        lines.append(
            {
                "model": line.name,
                "note": line.note,
                "is_fft": line.is_fft,
                "needs_groups": line.needs_groups,
                "degenerate": found.degenerate,
                "metrics": {name: found.metrics[name].to_dict() for name in SHOWN},
                "minus_fft": {name: each.to_dict() for name, each in minus.items()},
            }
        )
    trained = json.loads((folder / "models" / "train.json").read_text(encoding="utf-8"))
    return {
        "n": len(fft),
        "label_rate": fft.base_rate,
        "bf16": trained["settings"]["training"].get("bf16", False),
        "seconds": {name: run.get("seconds") for name, run in trained["runs"].items()},
        "costs": json.loads(costs.read_text())
        if (costs := folder / "costs.json").is_file()
        else {},
        "models": lines,
    }


def _settings(folder: Path) -> MetricSettings:
    """Those of the seed's sweeps, which its evaluations have, too."""
    sweep = load_yaml(folder / "lambda.yml")
    data = spec_inside(sweep["evaluate"]["data"], folder / "lambda.yml")
    return Evaluate(**{**sweep["evaluate"], "data": data}).settings(sweep["seed"])


def _measured(folder: Path, fft: Predictions, settings: MetricSettings) -> Iterator[Measured]:
    for name, shown in BASELINES.items():
        if (folder / "eval" / f"{name}-report").is_dir():
            rows = _predictions(folder, f"{name}-report")
            yield Measured(shown, rows, is_fft=name == "fft")
    for name, shown in CHOSEN.items():
        if not (folder / name).is_dir():
            continue
        results = SweepResults.load(folder / name)
        if results.selected.label is None:
            yield Measured(shown, fft, results.selected.headline, is_fft=True)
            continue
        yield Measured(shown, _predictions(folder, f"{name}-report"), results.selected.label)
        yield from _control(folder / name, f"random vectors at {shown}", results, fft)
    for name, shown in LEARNED_AS.items():
        if (folder / "eval" / f"{name}-report").is_dir():
            yield Measured(shown, _predictions(folder, f"{name}-report"))
        elif (folder / name).is_dir():
            yield Measured(shown, fft, "no gain on left-out rows", is_fft=True)
    yield from _heads(folder, fft)
    own = _predictions(folder, "fft-validation")
    for gap in GAPS:
        name = f"thresholds with labels ({gap.upper()})"
        try:
            decided = fft.with_scores(fit(gap, own, settings).scores(fft))
        except MeasurementError:  # on the rows that they are fitted on
            yield Measured(name, fft, "no gap made smaller", is_fft=True, needs_groups=True)
        else:
            yield Measured(name, decided, needs_groups=True)


def _control(sweep: Path, name: str, results: SweepResults, fft: Predictions) -> Iterator[Measured]:
    """The chosen point with random vectors of the same norms."""
    points, _ = read_points(sweep)
    for point in results.report:
        if point.kind == "control":
            stored = points[point.id, "report"]
            rows = read_rows(sweep, stored)
            found = answered(rows, read_scores(sweep, stored))[results.task]
            assert isinstance(found, Predictions)
            if found.keys != tuple(number for number, _ in fft.keys):
                raise SystemExit(f"{sweep}: other rows than those of eval")
            yield Measured(name, found)


def _heads(folder: Path, fft: Predictions) -> Iterator[Measured]:
    """The fair head, and the other heads on the same features."""
    if not (folder / "heads" / "recipe.yml").is_file():
        yield Measured("fair head", fft, "the head stays", is_fft=True)
        return
    yield Measured("fair head", _predictions(folder, "fair_head-report"))
    with (folder / "heads" / "report_rows.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if [int(row["label"]) for row in rows] != fft.labels.tolist():
        raise SystemExit(f"{folder / 'heads'}: other rows than those of eval")
    for column, name in RIVALS.items():
        yield Measured(name, fft.with_scores(np.array([float(row[column]) for row in rows])))
    if (folder / "eval" / "fair_soup-report").is_dir():
        yield Measured("fair head of the soup", _predictions(folder, "fair_soup-report"))


def _predictions(folder: Path, name: str) -> Predictions:
    ((task, path),) = sample_files(folder / "eval" / name).items()
    require_samples(path)
    return Predictions.of_samples(task, read_samples(path))


# ------------------------------------------------------------------------------ tables


def study_tables(out: Path) -> str:
    """Markdown: for every study the means over its seeds, and the differences of each."""
    seeds = defaultdict(list)
    for path in sorted(out.glob("*/seed-*.json")):
        seed = json.loads(path.read_text(encoding="utf-8"))
        seeds[seed["study"]].append(seed)
    parts = []
    for study, found in seeds.items():
        found.sort(key=lambda seed: seed["seed"])
        count = ", ".join(
            f"{seed['seed']} ({seed['n']:,} report rows{', bf16' * seed['bf16']})" for seed in found
        )
        parts += [f"## {study}: seeds {count}", _means(found), _differences(found)]
        if costs := _costs(found):
            parts.append(costs)
    return "\n\n".join(parts)


def _means(seeds: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation over seeds."""
    rows = []
    for name, lines in _by_model(seeds).items():
        cells = [_mean([line["metrics"][key]["value"] for _, line in lines]) for key in SHOWN]
        kept = sum(line["is_fft"] for _, line in lines if name != BASELINES["fft"])
        needs = "yes" if any(line["needs_groups"] for _, line in lines) else "no"
        rows.append([name, *cells, needs, f"{len(lines)}{f' ({kept} FFT)' if kept else ''}"])
    titles = ["model", *SHOWN.values(), "groups to predict", "seeds"]
    return as_markdown(Table.plain(titles, rows))


def _differences(seeds: list[dict[str, Any]]) -> str:
    """Minus FFT, paired, a line a seed."""
    rows = []
    for name, lines in _by_model(seeds).items():
        if name == BASELINES["fft"]:
            continue
        for number, line in lines:
            minus = line["minus_fft"]
            cells = [_difference(minus[key]) if minus else "FFT" for key in COMPARED]
            notes = [line["note"], "degenerate" if line["degenerate"] else ""]
            rows.append([f"{name}, {number}", *cells, "; ".join(filter(None, notes))])
    titles = [f"{SHOWN[key]} − FFT's" for key in COMPARED]
    return as_markdown(Table.plain(["model, seed", *titles, ""], rows))


def _costs(seeds: list[dict[str, Any]]) -> str | None:
    """What it took to come from subgroup models to a chosen merge, in the mean of seeds."""
    made = {CHOSEN["lambda"]: ("lambda",), "fair head": ("heads", "fair_head")}
    made |= {each.shown: (each.folder, name) for name, each in SWEPT.items()}
    made |= {shown: (name, f"{name}_merged") for name, shown in LEARNED_AS.items()}
    rows = []
    for shown, parts in made.items():
        found = [[s["costs"][part] for part in parts if part in s.get("costs", {})] for s in seeds]
        known = [each for each in found if each]
        if known:
            seconds = statistics.mean(sum(part["cpu_s"] for part in each) for each in known)
            peak = statistics.mean(max(part["peak_mb"] for part in each) for each in known)
            rows.append([shown, f"{seconds:,.0f}", f"{peak:,.0f}", str(len(known))])
    titles = ["system", "s of processor time", "peak MB", "seeds"]
    return as_markdown(Table.plain(titles, rows)) if rows else None


def _by_model(seeds: list[dict[str, Any]]) -> dict[str, list[tuple[int, Mapping[str, Any]]]]:
    """Model → (seed, line), in the order of the seed that has most models."""
    names = [line["model"] for seed in sorted(seeds, key=_size) for line in seed["models"]]
    return {
        name: [(s["seed"], line) for s in seeds for line in s["models"] if line["model"] == name]
        for name in dict.fromkeys(names)
    }


def _size(seed: Mapping[str, Any]) -> int:
    return -len(seed["models"])


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "–"
    spread = f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.3f}{spread}"


def _difference(entry: Mapping[str, Any]) -> str:
    """`-0.120 [-0.180, -0.060] !`, where the mark is for what is claimed."""
    if entry["value"] is None:
        return "–"
    ends = "" if entry["low"] is None else f" [{entry['low']:+.3f}, {entry['high']:+.3f}]"
    return f"{entry['value']:+.3f}{ends}{' !' if entry.get('claimed') else ''}"
