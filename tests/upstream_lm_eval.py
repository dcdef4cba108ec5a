"""lm-eval's own tests: of tasks, over every task of the suite; and all others, with our plug-in.

    python tests/upstream_lm_eval.py PATH_TO_LM_EVAL   # a checkout of its repository

A process for each family of tasks, whose data is the small file of `task_tables`. Nothing of the
tests is kept here. The exit status is 1 if a test of a task fails for no stated reason, or one of
the others does otherwise than with lm-eval alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from task_tables import RECORDS, write_table
from upstream import Outcomes

TASKS = "tests/test_tasks.py"
_ROWS = 120  # so that every split has the 10 documents that a test asks for
# A part of a test's name → why it fails.
REASONS = {
    "test_doc_to_target[fair_toxigen]": "lm-eval's own toxigen gives numpy's int32, which the test "
    "takes for no integer",
    **dict.fromkeys(
        (
            f"test_build_all_requests[fair_{family}"
            for family in ("bbq", "discrim_eval", "stereoset", "winobias", "winogender")
        ),
        "its limit of 10 documents has room for fewer than two clusters, which is refused",
    ),
}
ROUTES = {"stock": "lm-eval alone", "plug-in": "after `mergekit_fair.register()` and the guards"}


def main(checkout: Path) -> int:
    """Print how every family and both routes do."""
    is_open = False
    total: Counter[str] = Counter()
    for family in RECORDS:
        found = _run_apart(checkout, family)
        total.update(found["outcomes"].values())
        print(f"{family}: {_counts(found['outcomes'])}")
        for test, outcome in found["outcomes"].items():
            reason = next((why for part, why in REASONS.items() if part in test), None)
            if outcome == "failed":
                is_open |= reason is None
                said = " ".join(found["reasons"].get(test, "").split())[:300]
                print(f"  {test}: {reason or f'NO REASON ({said})'}")
    print(f"\n{TASKS} over the suite: {dict(total)}")
    stock, ours = (_run_apart(checkout, route) for route in ROUTES)
    for route, found in zip(ROUTES, (stock, ours), strict=True):
        print(f"all others, {ROUTES[route]}: {_counts(found['outcomes'])}")
    for test, outcome in stock["outcomes"].items():
        if (other := ours["outcomes"].get(test, "lost")) != outcome:
            is_open = True
            said = " ".join(ours["reasons"].get(test, "").split())[:300]
            print(f"  {test}: {outcome}, with the plug-in {other} ({said})")
    return int(is_open)


def _counts(outcomes: dict[str, str]) -> str:
    counts = Counter(outcomes.values())
    return ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))


def _run_apart(checkout: Path, what: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__).resolve()), str(checkout), what, folder]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "LM_HARNESS_CACHE_PATH": folder}
        subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
        outcomes: dict[str, Any] = json.loads((Path(folder) / "outcomes.json").read_text())
    return outcomes


def _run(checkout: Path, what: str, folder: Path) -> None:
    os.chdir(checkout)
    sys.path.insert(0, str(checkout))  # for its tests; lm_eval is the installed one
    if what in RECORDS:
        _only(what, folder)
        chosen = [f"{TASKS}::TestNewTasksElseDefault"]
    else:
        if what == "plug-in":
            _register()
        left_out = (TASKS, "tests/models", "tests/scripts", "tests/test_evaluator.py")
        chosen = ["tests", *(f"--ignore={path}" for path in left_out)]
        chosen.append("--continue-on-collection-errors")
    plugin = Outcomes()
    quiet = ["-q", "--no-header", "-p", "no:cacheprovider"]
    with (folder / "output").open("w") as output:
        sys.stdout = output
        pytest.main([*quiet, "--rootdir=.", "-c", os.devnull, *chosen], plugins=[plugin])
    result = {"outcomes": plugin.outcomes, "reasons": plugin.reasons}
    (folder / "outcomes.json").write_text(json.dumps(result))


def _only(family: str, folder: Path) -> None:
    """The tests' tasks are a family's, over a small file."""
    import lm_eval.tasks
    import tests.utils

    from mergekit_fair.resources import tasks_dir

    file = str(write_table(family, folder, n=_ROWS))

    class Suite(lm_eval.tasks.TaskManager):
        def __init__(self) -> None:
            super().__init__(
                include_path=str(tasks_dir()), include_defaults=False, metadata={"data": file}
            )

    lm_eval.tasks.TaskManager = Suite  # type: ignore[misc]
    paths = sorted((tasks_dir() / family).glob("fair_*.yaml"))
    if family == "fair_bbq":  # its categories differ in their name
        paths = [path for path in paths if path.stem in ("fair_bbq", "fair_bbq_age")]
    tests.utils.new_tasks = lambda: [path.stem for path in paths]


def _register() -> None:
    import mergekit_fair
    from mergekit_fair.evaluation.lm.checked_hf import guard_stock_models

    mergekit_fair.register()
    guard_stock_models()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _run(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main(Path(sys.argv[1]).resolve()))
