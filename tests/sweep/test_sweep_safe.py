"""Safe injection, group thresholds and the forced selection, on real, tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from click.testing import CliRunner
from gaps import evaluated
from refusals import raises
from seals import edited

from mergekit_fair.cli import main
from mergekit_fair.errors import ConfigError, SweepError
from mergekit_fair.progress import Silent
from mergekit_fair.report.outputs import transfer_text
from mergekit_fair.sweep.checked_folder import require_proof
from mergekit_fair.sweep.results import SweepResults, TransferRecord
from mergekit_fair.sweep.runner import run_sweep
from mergekit_fair.sweep.store import Store
from mergekit_fair.sweep.sweep_config import load_sweep


def swept_with(family: Path, folder: Path, **changes: Any) -> tuple[dict[str, Any], Path]:
    settings = {"grid": {"lambda": [0.2]}, "controls": [], "inject": None, **changes}
    path = tiny.write_sweep(family, folder / "sweep.yml", **settings)
    out = folder / "out"
    return run_sweep(load_sweep(path), out, Silent()).to_dict(), out


def injecting(tolerance: float, **more: Any) -> dict[str, Any]:
    return {
        "target": "fft",
        "groups": "safe",
        "lambda": [0.2, 0.4],
        "step": 0.1,
        "tolerance": tolerance,
        **more,
    }


def weighted(family: Path, folder: Path) -> dict[str, Any]:
    """How the family's rows are measured, every third of which counts twice."""
    head, *rows = (family / "rows.csv").read_text().splitlines()
    lines = [f"{head},w", *(f"{row},{1 + (at % 3 == 0)}" for at, row in enumerate(rows))]
    (folder / "weighted.csv").write_text("\n".join(lines) + "\n")
    data = tiny.data_block(folder / "weighted.csv", weight="w")
    return {"data": data, "max_length": 16, "device": "cpu", "min_group_size": 1}


@pytest.mark.slow
def test_with_a_tolerance_of_nearly_everything_groups_are_added_greedily(
    family: Path, tmp_path: Path
) -> None:
    """Of weighted rows; all that the folder says of it is computed again by `require_proof`."""
    results, out = swept_with(
        family,
        tmp_path,
        inject=injecting(0.99),
        select={},
        evaluate=weighted(family, tmp_path),
    )
    transfer = results["transfer"]
    assert transfer["rates"] == "soft"
    assert require_proof(out).to_dict() == results
    whole = (out / "results.json").read_bytes()

    def matrix(content: dict[str, Any]) -> None:
        content["transfer"]["change"]["harm"]["value"][0][0] = 0.25

    def predictions(content: dict[str, Any]) -> None:
        content["transfer"]["hard"]["acc"]["low"][0][0] = 0.25

    def further(content: dict[str, Any]) -> None:
        content["transfer"]["tried"][0]["worst"]["high"] = 0.25

    def step(content: dict[str, Any]) -> None:
        content["transfer"]["step"] = 0.25

    for change in (matrix, predictions, further, step):
        (out / "results.json").write_bytes(whole)
        edited(out / "results.json", change, sealed_again=True)
        with raises(SweepError, where=out / "results.json"):
            require_proof(out)
    assert [v["status"] for v in transfer["verdicts"]] == ["safe", "safe"]
    assert [one["group"] for one in transfer["screening"]] == transfer["injected"]
    # Both are safe at such a tolerance: the sign test is right about those that it allows.
    allowed = sum(one["relation"] != "contradictory" for one in transfer["screening"])
    said = f"allows {allowed} of the 2 vectors with a proved verdict, and is right about {allowed}"
    assert said in transfer_text(TransferRecord.model_validate(transfer))
    injected = [line for line in results["points"] if line["kind"] == "injection"]
    assert len({line["id"] for line in results["points"]}) == len(results["points"])
    labels = {line["label"] for line in injected}
    singles = {f"fft + {v} {g}" for v in ("0.1", "0.2", "0.4") for g in tiny.GROUPS}
    assert singles <= labels
    assert 1 <= len(transfer["added"]) <= 2
    first, *_ = transfer["added"].items()
    # The second round lays the other group on top of the first one's choice.
    other = next(g for g in tiny.GROUPS if g != first[0])
    assert f"fft + {first[1]:g} {first[0]} + 0.2 {other}" in labels
    for line in injected:
        expected = sum(v for k, v in line["settings"].items() if k.startswith("inject."))
        assert line["size"] == pytest.approx(expected)


def test_a_plan_says_what_can_be_shown(family: Path, tmp_path: Path) -> None:
    from mergekit_fair.report.outputs import plan_text
    from mergekit_fair.sweep.forecast import plan_sweep

    plans = {}
    for tolerance in (0.001, "auto"):
        inject = injecting(tolerance)  # type: ignore[arg-type]
        path = tiny.write_sweep(family, tmp_path / "sweep.yml", inject=inject)
        plans[tolerance] = plan_sweep(load_sweep(path))
    strict, auto = (plan.safe_injection for plan in plans.values())
    assert strict is not None
    assert auto is not None
    assert set(strict.groups) == set(tiny.GROUPS)
    assert all((group.rows_needed or 0) > group.n for group in strict.groups.values())
    assert strict.warnings[0] in plans[0.001].warnings
    assert auto.tolerance == auto.least_tolerance == strict.least_tolerance
    assert auto.warnings == []
    assert f"safe injection at λ = 0.1, tolerance {auto.tolerance:g}," in plan_text(plans["auto"])


def test_what_is_not_shown_to_be_safe_at_its_own_strength_is_never_chosen(
    family: Path, tmp_path: Path
) -> None:
    """Safe as a small step, unproven or unsafe when it is far larger."""
    inject = injecting(0.1, step=0.001, **{"lambda": [1.0]})
    results, _ = swept_with(family, tmp_path, inject=inject, select={})
    assert {verdict["status"] for verdict in results["transfer"]["verdicts"]} == {"safe"}
    tried = {verdict["group"]: verdict["status"] for verdict in results["transfer"]["tried"]}
    large = {f"fft + 1 {group}" for group in tiny.GROUPS}
    assert large <= set(tried)
    points = {point["label"]: point for point in results["points"]}
    for label in large:
        assert points[label].get("refused") == (None if tried[label] == "safe" else tried[label])
    assert "safe" not in {tried[label] for label in large}
    assert results["selected"]["label"] not in large


def test_several_injections_are_the_sum_of_their_vectors(family: Path, tmp_path: Path) -> None:
    from mergekit_fair.merging.in_memory import Composer, load_tensors
    from mergekit_fair.sweep.points import Planner

    path = tiny.write_sweep(family, tmp_path / "sweep.yml", inject=injecting(0.5))
    point = Planner(load_sweep(path), "").injection({"blue": 0.2, "green": -0.3})
    assert point.label == "fft + 0.2 blue + -0.3 green"
    assert point.recipe is not None
    run = family / "run"
    base, fft = load_tensors(run / "base"), load_tensors(run / "fft")
    blue, green = (load_tensors(run / "groups" / name) for name in tiny.GROUPS)
    for name, tensor in Composer().compose(point.recipe):
        if tensor.is_floating_point():
            start = base[name].double()
            expected = fft[name].double() + 0.2 * (blue[name].double() - start)
            expected -= 0.3 * (green[name].double() - start)
            np.testing.assert_allclose(tensor.numpy(), expected.numpy(), atol=1e-6)


def test_without_tolerance_nothing_is_safe_and_no_injection_is_chosen(
    family: Path, tmp_path: Path
) -> None:
    results, out = swept_with(family, tmp_path, inject=injecting(0.0), select=tiny.FEWEST)
    statuses = {v["group"]: v["status"] for v in results["transfer"]["verdicts"]}
    assert set(statuses) == set(tiny.GROUPS)
    assert "safe" not in statuses.values()
    assert results["transfer"]["added"] == {}
    injected = [line for line in results["points"] if line["kind"] == "injection"]
    assert [line["refused"] for line in injected] == [
        statuses[g] for g in results["transfer"]["injected"]
    ]
    assert results["selected"]["label"] == "λ=0.2"
    from mergekit_fair.report.outputs import summary_text

    shown = summary_text(SweepResults.load(out))
    assert sum(shown.count(f" {status}\n") for status in ("unsafe", "unproven")) == 2
    assert all(verdict["reason"] for verdict in results["transfer"]["verdicts"])
    assert (out / "results.json").is_file()


def test_thresholds_by_group_equal_fairlearns_on_the_report_rows(
    family: Path, tmp_path: Path
) -> None:
    from fairlearn.postprocessing import ThresholdOptimizer
    from sklearn.base import BaseEstimator

    class Margins(BaseEstimator):
        def fit(self, *args: Any) -> Margins:
            del args
            return self

        def decision_function(self, x: Any) -> Any:
            return x[:, 0]

        def __sklearn_is_fitted__(self) -> bool:
            return True

    results, out = swept_with(family, tmp_path, thresholds="fft", select=tiny.FEWEST)
    assert any("need the group label of every row" in text for text in results["warnings"])
    from mergekit_fair.data import load_rows

    rows = load_rows(load_sweep(tmp_path / "sweep.yml").config.evaluate.data)
    store = Store(out)
    fft = next(line["id"] for line in results["points"] if line["label"] == "fft")
    x = {s: store.scores(fft, s).astype(float)[:, None] for s in ("validation", "report")}
    store.close()
    for short, constraint in (("dpd", "demographic_parity"), ("eod", "equalized_odds")):
        fitted, report = evaluated(rows, "validation"), evaluated(rows, "report")
        names = {id(r): np.array(tiny.GROUPS)[r.membership.argmax(1)] for r in (fitted, report)}
        oracle = ThresholdOptimizer(
            estimator=Margins(), constraints=constraint, objective="accuracy_score",
            prefit=True, predict_method="decision_function",
        )  # fmt: skip
        oracle.fit(x["validation"], fitted.labels, sensitive_features=names[id(fitted)])
        expected = oracle.predict(x["report"], sensitive_features=names[id(report)], random_state=0)
        label = f"fft + thresholds ({short})"
        line = next(line for line in results["report"] if line["label"] == label)
        accuracy = float((np.asarray(expected) == report.labels).mean())
        assert line["evaluation"]["metrics"]["acc"]["value"] == pytest.approx(accuracy)
        assert label in results["comparison"]
    assert results["selected"]["label"] == "λ=0.2"  # thresholds are no merge and never chosen


def test_selecting_on_the_report_split_is_refused_or_said_everywhere(
    family: Path, tmp_path: Path
) -> None:
    path = tiny.write_sweep(family, tmp_path / "no.yml", select={"split": "report"})
    with pytest.raises(ConfigError, match=r"select\.split: the report split is there to report"):
        load_sweep(path)
    rule = {"split": "report", "force": True, **tiny.FEWEST}
    results, out = swept_with(family, tmp_path, select=rule)
    assert results["selected_on"] == "report"
    assert "on report rows" in results["selected"]["rule"]
    shown = CliRunner().invoke(
        main, ["sweep", str(tmp_path / "sweep.yml"), "-o", str(out), "--quiet", "--no-write"]
    )
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("SELECTED ON THE REPORT SPLIT (select.force): every figure")
    assert "\nThese are the rows that it was selected on" in shown.stdout
    assert "selected_on: report" in (out / "selected" / "recipe.yml").read_text()
    splits = {line.get("split") for line in results["points"]}
    assert splits == {"report"}
