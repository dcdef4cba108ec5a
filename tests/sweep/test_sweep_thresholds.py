"""Thresholds by group in a sweep: what they have changed, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from beside import Said

from mergekit_fair.sweep.results import DifferenceRecord, ThresholdsRecord
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.sweep_config import load_sweep


def difference(value: float, low: float, high: float) -> DifferenceRecord:
    return DifferenceRecord(value=value, low=low, high=high)


def test_being_worse_than_the_own_source_is_known_by_metric() -> None:
    worse = {"acc": difference(-0.1, -0.2, -0.05), "dpd": difference(-0.1, -0.2, -0.05)}
    noise = {"acc": difference(-0.1, -0.2, 0.05), "dpd": difference(0.1, -0.2, 0.3)}
    harm = {"acc": difference(0.1, 0.05, 0.2), "dpd": difference(0.1, 0.05, 0.2)}

    def record(**change: dict[str, DifferenceRecord]) -> ThresholdsRecord:
        return ThresholdsRecord(source="fft", gap="dpd", change=change)

    assert record(validation=worse, report=noise).worse == ("acc",)
    assert record(validation=noise, report=noise).worse == ()
    assert record(validation=noise, report=harm).worse == ("dpd",)
    assert record(validation=worse, report=harm).worse == ("acc", "dpd")


def two_groups_a_row(path: Path) -> Path:
    """The tiny rows, in which every third is in both groups, and each ninth in none."""
    head, *lines = tiny.write_rows(path).read_text().splitlines()
    for index, line in enumerate(lines):
        text, label, group = line.rsplit(",", 2)
        group = "" if index % 9 == 1 else "blue|green" if index % 3 == 0 else group
        lines[index] = f"{text},{label},{group}"
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def test_a_sweep_over_overlapping_groups_says_how_it_decides(family: Path, tmp_path: Path) -> None:
    block = tiny.data_block(
        two_groups_a_row(tmp_path / "rows.csv"), groups={"list": "group", "separator": "|"}
    )
    evaluate = {"data": block, "max_length": 16, "device": "cpu", "allow_trained_rows": True}
    path = tiny.write_sweep(
        family, tmp_path / "sweep.yml", thresholds="fft", inject=None, select={}, controls=[],
        evaluate=evaluate,
    )  # fmt: skip
    heard = Said()
    results = run_sweep(load_sweep(path), tmp_path / "out", heard)
    labels = [f"fft + thresholds ({gap})" for gap in ("dpd", "eod")]
    said = {label: [w for w in results.warnings if w.startswith(label)] for label in labels}
    assert all(said.values())  # how rows of several groups are treated, or why it is left out
    assert {f"warning: {text}" for texts in said.values() for text in texts} <= set(heard.lines)
    assert set(results.thresholds) == {p.label for p in results.points if p.kind == "thresholds"}
    assert results.thresholds
    for label, record in results.thresholds.items():
        assert "several groups" in said[label][0]
        assert record.source == "fft"
        assert set(record.change) == {"validation", *(point.split for point in results.report)}
        gap = {p.label: p.value(record.gap) for p in results.points}
        assert gap[label] < gap["fft"]
        change = record.change["validation"][record.gap]
        assert change.value == pytest.approx(gap[label] - gap["fft"])
        point = next(p for p in results.points if p.label == label)
        assert point.evaluation is not None
        assert point.evaluation.level_matched is not None  # offsets leave scores
