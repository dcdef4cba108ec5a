"""mergekit's own tests, through `merge` and behind our gate: what passes there and not here.

    python tests/upstream.py PATH_TO_MERGEKIT   # a checkout, or its source distribution with
                                                # tests/common.py of the checkout beside it

The tests run in a process of its own for each of `ROUTES`. Nothing of them is kept here. The exit
status is 1 if a test that passes with mergekit alone does otherwise for no stated reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROUTES = {
    "stock": "mergekit alone",
    "merge": "`run_merge` is our `merge_to_folder`",
    "gate": "`run_merge` behind `mergekit_fair.register()`; task_arithmetic is our method",
}
# A part of the test's name → why it does otherwise.
REASONS = {
    "_VLM_": "mergekit writes 43 of a Llava's 64 tensors, without its language model; ours holds "
    "all 64, under the names that the inputs have, and the test asks for mergekit's new names",
    "test_truncation_": "mergekit's config.json counts 10 tokens over embeddings of 8, which "
    "transformers refuses to load; ours counts 8",
    "test_embedding_and_head_": "embeddings of 8 tokens and a head of 7 load nowhere: refused",
}


class Outcomes:
    """A pytest plugin: test → `passed`, `skipped` or `failed`, and why."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.merging: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self.outcomes.get(report.nodeid, "passed") == "passed":
            self.outcomes[report.nodeid] = report.outcome
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.reasons[report.nodeid] = crash.message if crash else str(report.longrepr)

    def replace(self, run: Callable[..., None]) -> None:
        """Put `run` in the place of mergekit's `run_merge`, before a test imports it."""
        from mergekit import merge

        def run_merge(*args: Any, **settings: Any) -> None:
            self.merging.add(os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0])
            run(*args, **settings)

        merge.run_merge = run_merge


def main(checkout: Path) -> int:
    """Print how each route does, and what differs."""
    found = {route: _run_apart(checkout, route) for route in ROUTES}
    stock, merging = found["stock"]["outcomes"], found["stock"]["merging"]
    is_open = False
    for route, what in ROUTES.items():
        outcomes = {test: found[route]["outcomes"].get(test, "lost") for test in stock}
        print(f"\n{what}: {_counts(outcomes, stock)}; of those that merge: ", end="")
        print(_counts(outcomes, merging))
        for test in (test for test in stock if outcomes[test] != stock[test]):
            reason = next((why for part, why in REASONS.items() if part in test), None)
            is_open |= reason is None
            said = " ".join(found[route]["reasons"].get(test, "").split())
            print(f"  {test}: {outcomes[test]}: {reason or f'NO REASON ({said})'}")
    return int(is_open)


def _counts(outcomes: dict[str, str], tests: Any) -> str:
    counts = Counter(outcomes[test] for test in tests)
    return ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))


def _run_apart(checkout: Path, route: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outcomes.json"
        command = [sys.executable, str(Path(__file__).resolve()), str(checkout), route, str(file)]
        subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        outcomes: dict[str, Any] = json.loads(file.read_text())
    return outcomes


def _run(checkout: Path, route: str, file: Path) -> None:
    os.chdir(checkout)
    sys.path.append(str(checkout))  # for its tests; mergekit is the installed one
    from mergekit.merge import run_merge

    import mergekit_fair.merging.to_disk  # noqa: F401  (before `run_merge` is replaced)

    plugin = Outcomes()
    plugin.replace({"stock": run_merge, "merge": _merge, "gate": _behind_gate(run_merge)}[route])
    quiet = ["-q", "--no-header", "--no-summary", "-p", "no:cacheprovider"]
    pytest.main([*quiet, "--rootdir=.", "-c", os.devnull, "tests"], plugins=[plugin])
    result = {"outcomes": plugin.outcomes, "reasons": plugin.reasons}
    file.write_text(json.dumps({**result, "merging": sorted(plugin.merging)}))


def _merge(config: Any, out_path: str, options: Any) -> None:
    """`run_merge`, as our `merge` does it; like mergekit's, into a folder that exists."""
    from mergekit_fair.errors import FairError
    from mergekit_fair.merging.program import MergeSettings
    from mergekit_fair.merging.recipe import Recipe
    from mergekit_fair.merging.to_disk import merge_to_folder

    recipe = Recipe.from_text(config.to_yaml(), "recipe")
    settings = MergeSettings(overwrite=True, allow_pickle=True)
    try:
        merge_to_folder(recipe, out_path, options, settings)
    except FairError as error:  # what mergekit itself refuses is compared as it says it
        raise error.__cause__ or error from None


def _behind_gate(run_merge: Callable[..., None]) -> Callable[..., None]:
    def run(config: Any, out_path: str, options: Any) -> None:
        import mergekit_fair

        mergekit_fair.register()
        if config.merge_method == "task_arithmetic":
            config = type(config).model_validate(_as_ours(yaml.safe_load(config.to_yaml())))
        run_merge(config, out_path, options)

    return run


def _as_ours(raw: dict[str, Any]) -> dict[str, Any]:
    """θ₀ + λ Σ w_g Δ_g, which is what task_arithmetic does."""
    for_all = raw.get("parameters") or {}
    models = [
        {
            "model": item["model"],
            "parameters": {
                "group": f"group {index}",
                "weight": (item.get("parameters") or for_all)["weight"],
            },
        }
        for index, item in enumerate(raw["models"])
        if item["model"] != raw["base_model"]
    ]
    parameters = {"normalize": "sum", "lambda": for_all.get("lambda", 1.0)}
    method = {"merge_method": "subgroup_task_addition", "models": models}
    return {**raw, **method, "parameters": parameters}


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _run(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main(Path(sys.argv[1]).resolve()))
