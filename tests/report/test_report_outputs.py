"""Tables and pictures say what results.json says."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from refusals import raises

from mergekit_fair.errors import ConfigError, SweepError
from mergekit_fair.fairness.metrics import METRICS
from mergekit_fair.report.figures import _baselines, draw_sweep
from mergekit_fair.report.outputs import summary_text
from mergekit_fair.report.sweep_csv import results_csv
from mergekit_fair.report.sweep_tables import (
    brief_points_table,
    comparison_table,
)
from mergekit_fair.report.tables import as_text
from mergekit_fair.report.verdict_text import verdict
from mergekit_fair.sweep.differences import compared_as
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import DifferenceRecord, SweepResults

SHOWN = [name for name, metric in METRICS.items() if not metric.is_point]


@pytest.fixture(scope="module")
def results(swept: Path) -> SweepResults:
    return SweepResults.load(swept / "out")


def changed(results: SweepResults, **changes: Any) -> SweepResults:
    return SweepResults.model_validate({**results.to_dict(), **changes})


def test_csv_holds_every_evaluation(results: SweepResults) -> None:
    rows = list(csv.DictReader(io.StringIO(results_csv(results))))
    for row, point in zip(rows, [*results.points, *results.report], strict=True):
        assert (row["label"], row["split"]) == (point.label, point.split)
        for name in SHOWN:
            entry = point.interval(name)
            assert row[name] == ("" if entry.value is None else str(entry.value))
            assert row[f"{name}_high"] == ("" if entry.high is None else str(entry.high))
        assert row["level_matched_dpd"] == str(point.value("level_matched.dpd"))
        assert row["saturated"] == str(point.require_measured().saturated)
    assert sum(row["selected"] == "True" for row in rows) == 2  # on validation and on report


def test_table_shows_values_intervals_and_marks(results: SweepResults) -> None:
    lines = as_text(brief_points_table(results, results.points)).splitlines()
    assert len(lines) == 1 + len(results.points) + 1
    assert lines[0].split()[:7] == ["model", "λ_eff", "acc", "dpd", "eod", "dpd=", "eod="]
    assert set(SHOWN) <= set(lines[0].split())
    assert lines[-1].startswith("n = 114 rows: blue 59 (")
    starred = [line for line in lines if line.startswith("*")]
    assert len(starred) == 1
    assert str(results.selected.label) in starred[0]
    dpd = results.points[0].require_measured().metrics["dpd"]
    assert f"{dpd.value:.3f} [{dpd.low:.3f}, {dpd.high:.3f}]" in lines[1]


def test_a_narrow_terminal_shows_the_headline_and_what_the_rule_reads_first(
    results: SweepResults,
) -> None:
    rule = {**results.selected.to_dict(), "rule": "maximise acc, subject to eo_ratio >= 0.5"}
    table = brief_points_table(changed(results, selected=rule), results.points)
    narrow, wider = (as_text(table, width).splitlines()[0].split() for width in (20, 145))
    assert narrow == ["model", "λ_eff", "acc", "dpd", "eod", "dpd=", "eod="]
    assert wider[: len(narrow) + 1] == [*narrow, "eo_ratio"]
    assert len(wider) < len(as_text(table).splitlines()[0].split())
    assert max(map(len, as_text(table, 145).splitlines()[:-1])) <= 145


def test_undefined_and_failed_points_are_shown_as_such(results: SweepResults) -> None:
    content = results.points[0].to_dict()
    content["evaluation"]["metrics"]["dpd"] = {"value": None, "low": None, "high": None}
    head = {k: v for k, v in content.items() if k != "evaluation"} | {"id": "x", "label": "λ=9"}
    failed = PointResult.model_validate({**head, "error": "the scores are NaN"})
    points = [PointResult.model_validate(content), failed]
    text = as_text(brief_points_table(results, points))
    assert "–" in text.splitlines()[1]
    assert text.splitlines()[2].endswith("the scores are NaN")


def test_comparison_is_signed(results: SweepResults) -> None:
    text = as_text(comparison_table(results.comparison))
    gap = results.comparison["fft"]["acc"]
    assert f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]" in text


def gap(value: float | None, low: float | None, high: float | None, **claim: Any) -> dict[str, Any]:
    ends = {"value": value, "low": low, "high": high}
    return {**ends, "p_value": 0.001, "adjusted_p_value": 0.001, "claimed": False, **claim}


CLAIMED = {"claimed": True}


def test_verdict_calls_won_and_lost_what_is_claimed_and_nothing_else(
    results: SweepResults,
) -> None:
    none = {"acc": gap(0.1, -0.1, 0.2), "dpd": gap(None, None, None), "eod": gap(0.0, 0.0, 0.0)}
    some = {
        "acc": gap(0.0, -0.1, 0.1),
        "dpd": gap(-0.1, -0.2, -0.05, **CLAIMED),
        "eod": gap(0.1, 0.02, 0.3, **CLAIMED),
        "level_matched.dpd": gap(-0.08, -0.1, -0.04),
    }
    many = {**none, "acc": gap(0.1, 0.01, 0.2, withheld="p = 0.06 after it")}
    kept = {**some, "dpd": gap(-0.1, -0.2, -0.05, withheld="is gone")}
    won = {**none, "acc": gap(0.1, 0.01, 0.2, **CLAIMED), "dpd": kept["dpd"]}
    comparison = {"fft": none, "lora": some, "sft": many, "gone": kept, "xft": won}
    chosen = {**results.selected.to_dict(), "label": "λ=0.4"}
    results = changed(results, comparison=comparison, selected=chosen)
    noise = "can be told from noise"
    equal = "EOD +0.000 [+0.000, +0.000]"
    assert verdict(results).splitlines() == [
        f"λ=0.4: nothing was won against fft; no difference in accuracy, DPD or EOD {noise} "
        f"(accuracy +0.100 [-0.100, +0.200], DPD –, {equal}).",
        "λ=0.4: DPD -0.100 [-0.200, -0.050] (at equal selection rates -0.080 [-0.100, -0.040]) "
        "against lora at accuracy +0.000 [-0.100, +0.100] but lost: EOD +0.100 [+0.020, +0.300].",
        f"λ=0.4: nothing was won against sft; no difference in DPD or EOD {noise} (DPD –, {equal})."
        " Not claimed: accuracy +0.100 [+0.010, +0.200]: p = 0.06 after it.",
        "λ=0.4: nothing was won against gone, and lost: EOD +0.100 [+0.020, +0.300]. Not claimed: "
        "DPD -0.100 [-0.200, -0.050] (at equal selection rates -0.080 [-0.100, -0.040]): is gone.",
        f"λ=0.4: accuracy +0.100 [+0.010, +0.200] against xft at {equal}. Not claimed: DPD -0.100 "
        "[-0.200, -0.050]: is gone.",
    ]
    forced = verdict(changed(results, selected_on="report"))
    assert forced.endswith("the rows that it was selected on: the figures are optimistic.")


def test_differences_of_an_older_version_are_called_neither(results: SweepResults) -> None:
    old = {name: {**gap(-0.1, -0.2, -0.05), "claimed": None} for name in ("acc", "dpd", "eod")}
    text = verdict(changed(results, comparison={"fft": old}))
    assert "an older version" in text
    assert "-0.1" not in text
    assert "!" not in as_text(comparison_table({"fft": changed_gaps(old)}))


def changed_gaps(gaps: dict[str, Any]) -> dict[str, DifferenceRecord]:
    return {name: DifferenceRecord.model_validate(one) for name, one in gaps.items()}


def test_a_difference_is_marked_where_it_is_claimed(results: SweepResults) -> None:
    """Not where its interval leaves out 0, and figures of single models never are."""
    near = gap(-0.1, -0.2, -0.05, withheld="rests on gaps near 0", near_0=True)
    gaps = {"acc": gap(-0.1, -0.2, -0.05, **CLAIMED), "dpd": near, "eod": gap(0.1, 0.05, 0.2)}
    row = as_text(comparison_table({"fft": changed_gaps(gaps)})).splitlines()[1]
    assert row.count("!") == 1
    assert "-0.100 [-0.200, -0.050] p = 0.001 !" in row
    assert "gaps near 0" in row
    points = as_text(brief_points_table(results, [*results.points, *results.report]))
    assert "!" not in points


def test_csv_holds_the_differences(results: SweepResults) -> None:
    rows = list(csv.DictReader(io.StringIO(results_csv(results))))
    found = {row["label"]: row for row in rows if row["split"] == "report"}
    for name, gaps in results.comparison.items():
        label = next(p.label for p in results.report if compared_as(p.kind, p.label) == name)
        assert found[label]["chosen_minus_eod"] == str(gaps["eod"].value)
        assert found[label]["chosen_minus_eod_claimed"] == str(gaps["eod"].claimed)
        level = gaps["level_matched.dpd"]
        assert found[label]["chosen_minus_level_matched_dpd_high"] == str(level.high)
    assert sum(row["chosen_minus_acc"] != "" for row in rows) == len(results.comparison) > 1


def test_pictures_are_drawn_and_repeat_byte_for_byte(results: SweepResults, tmp_path: Path) -> None:
    from PIL import Image

    names = ["curves.png", "curves.svg", "pareto.png", "pareto.svg"]
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        assert [path.name for path in draw_sweep(results, folder)] == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with Image.open(tmp_path / "a" / "curves.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 50  # not blank


def test_every_baseline_is_drawn_and_none_looks_like_another(
    results: SweepResults, tmp_path: Path
) -> None:
    """The fifth one, and further ones, used to vanish."""
    first = results.points[0].to_dict()
    more = [{**first, "id": f"b{n}", "label": f"baseline {n}"} for n in range(12)]
    points = [point.to_dict() for point in results.points]
    draw_sweep(changed(results, points=[*points, *more]), tmp_path)
    assert len({str(look) for _, look in _baselines(
        [(PointResult.model_validate(one), results.points[0].require_measured()) for one in more]
    )}) == 12  # fmt: skip
    for name in ("curves", "pareto"):
        text = (tmp_path / f"{name}.svg").read_text()
        for one in more:
            assert f"<!-- {one['label']} -->" in text


def test_what_a_budget_left_out_is_said_first(results: SweepResults) -> None:
    budget = {"minutes": 1.5, "left_out": ["λ=0.7"], "unfinished": ["search: 3 further points"]}
    text = summary_text(changed(results, budget=budget))
    assert text.startswith("NOT FINISHED: 1.5 minutes were spent before everything was measured.")
    assert "Left out: 1 point (λ=0.7); search: 3 further points." in text
    assert "NOT FINISHED" not in summary_text(results)


def test_without_matplotlib_the_extra_is_named(
    results: SweepResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'mergekit-fair\[plot\]'"):
        draw_sweep(results, tmp_path)


NEW = ("schema_version", "budget", "measuring", "inputs")


def test_results_of_version_0_1_are_read(results: SweepResults, tmp_path: Path) -> None:
    """They named no version, no budget, and other stages that are gone."""
    old = {k: v for k, v in results.to_dict().items() if k not in NEW}
    for point in (*old["points"], *old["report"]):
        for key in ("schema_version", "limit", "model_args", "used_by_selection"):
            point["evaluation"].pop(key, None)
    (tmp_path / "results.json").write_text(json.dumps({**old, "race": None}))
    read = SweepResults.load(tmp_path)
    assert read.schema_version == 1
    assert summary_text(read) == summary_text(results)
    (tmp_path / "results.json").write_text(json.dumps({**old, "schema_version": 99}))
    with raises(SweepError, "is of version 99", where=tmp_path) as refused:
        SweepResults.load(tmp_path)
    assert refused.value.problem.startswith("is of version 99")  # no word of pydantic's before it
