"""Tables and pictures say what results.json says."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mergekit_fair.errors import ConfigError
from mergekit_fair.report.figures import draw
from mergekit_fair.report.text_tables import comparison_table, points_table, results_csv, verdict


@pytest.fixture(scope="module")
def results(swept: Path) -> dict[str, Any]:
    return dict(json.loads((swept / "out" / "results.json").read_text()))


def test_csv_holds_every_evaluation(results: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(results_csv(results))))
    assert len(rows) == len(results["points"]) + len(results["report"])
    for row, line in zip(rows, [*results["points"], *results["report"]], strict=True):
        metrics = line["evaluation"]["metrics"]
        assert (row["label"], row["split"]) == (line["label"], line["split"])
        assert float(row["dpd"]) == metrics["dpd"]["value"]
        assert float(row["eod_high"]) == metrics["eod"]["high"]
        assert row["saturated"] == str(line["evaluation"]["saturated"])
    assert sum(row["selected"] == "True" for row in rows) == 2  # on validation and on report


def test_table_shows_values_intervals_and_marks(results: dict[str, Any]) -> None:
    chosen = results["selected"]["id"]
    lines = points_table(results["points"], chosen=chosen).splitlines()
    assert len(lines) == 1 + len(results["points"]) + 1
    titles = "model λ_eff acc DPD EOD bal worst selected DPD= EOD="
    assert lines[0].split() == titles.split()
    assert lines[-1].startswith("n = 120: blue 60 (")
    starred = [line for line in lines if line.startswith("*")]
    assert len(starred) == 1
    assert results["selected"]["label"] in starred[0]
    dpd = results["points"][0]["evaluation"]["metrics"]["dpd"]
    assert f"{dpd['value']:.3f} [{dpd['low']:.3f}, {dpd['high']:.3f}]" in lines[1]


def test_undefined_and_failed_points_are_shown_as_such(results: dict[str, Any]) -> None:
    line = json.loads(json.dumps(results["points"][0]))
    line["evaluation"]["metrics"]["dpd"] = {"value": None, "low": None, "high": None}
    failed = {"id": "x", "label": "λ=9", "lambda_eff": 9.0, "error": "the scores are NaN"}
    text = points_table([line, failed])
    assert "–" in text.splitlines()[1]
    assert text.splitlines()[2].endswith("the scores are NaN")


def test_comparison_is_signed(results: dict[str, Any]) -> None:
    text = comparison_table(results["comparison"])
    gap = results["comparison"]["fft"]["acc"]
    assert f"{gap['value']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]" in text


def test_verdict_names_only_differences_that_hold_after_correction() -> None:
    def gap(
        value: float | None, low: float | None, high: float | None, adjusted: float = 0.001
    ) -> dict[str, Any]:
        return {"value": value, "low": low, "high": high, "adjusted_p_value": adjusted}

    none = {"acc": gap(0.1, -0.1, 0.2), "dpd": gap(None, None, None), "eod": gap(0.0, 0.0, 0.0)}
    some = {"acc": gap(0.0, -0.1, 0.1), "dpd": gap(-0.1, -0.2, -0.05), "eod": gap(0.1, 0.02, 0.3)}
    many = {"acc": gap(0.1, 0.01, 0.2, 0.06), "dpd": none["dpd"], "eod": none["eod"]}
    won = {"acc": gap(0.1, 0.01, 0.2), "dpd": none["dpd"], "eod": none["eod"]}
    results = {
        "selected": {"label": "λ=0.4"},
        "comparison": {"fft": none, "lora": some, "sft": many, "xft": won},
        "confidence": 0.95,
        "selected_on": "validation",
    }
    noise = "no difference in accuracy, DPD or EOD can be told from noise"
    equal = "EOD +0.000 [+0.000, +0.000]"
    assert verdict(results).splitlines() == [
        f"λ=0.4: nothing was won against fft; {noise} (accuracy +0.100 [-0.100, +0.200], DPD –, "
        f"{equal}).",
        "λ=0.4: DPD -0.100 [-0.200, -0.050] against lora at accuracy +0.000 [-0.100, +0.100] but "
        "lost: EOD +0.100 [+0.020, +0.300].",
        f"λ=0.4: nothing was won against sft; {noise} (accuracy +0.100 [+0.010, +0.200], DPD –, "
        f"{equal}).",
        f"λ=0.4: accuracy +0.100 [+0.010, +0.200] against xft at DPD –, {equal}.",
    ]
    forced = verdict({**results, "selected_on": "report"})
    assert forced.endswith("the rows that it was selected on: the figures are optimistic.")


def test_pictures_are_drawn_and_repeat_byte_for_byte(
    results: dict[str, Any], tmp_path: Path
) -> None:
    from PIL import Image

    names = ["curves.png", "curves.svg", "pareto.png", "pareto.svg"]
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        assert [path.name for path in draw(results, folder)] == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with Image.open(tmp_path / "a" / "curves.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 50  # not blank


def test_without_matplotlib_the_extra_is_named(
    results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'mergekit-fair\[plot\]'"):
        draw(results, tmp_path)
