"""The house: imports point one way, and what the package promises is there."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import mergekit_fair

PACKAGE = Path(mergekit_fair.__file__).parent
ORDER = (
    *("errors", "schema", "progress", "data", "fairness", "weights", "methods", "hook"),
    *("recipe", "engine", "basis"),
    *("harness", "training", "sweep", "report", "cli"),
)


def test_imports_point_one_way() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in ORDER:  # __init__ and __main__ may call anything
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "mergekit_fair."
            ):
                target = str(node.module).split(".")[1]
                if ORDER.index(target) > ORDER.index(parts[0]):
                    wrong.append(f"{path.name}: {node.module}")
    # `fairness` and `data` do not know each other.
    assert wrong == []


def test_only_the_command_line_prints_or_exits() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] != "cli"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("print", "sys.exit", "exit", "click.echo")
    ]
    assert wrong == []


def test_importing_the_package_and_help_are_light() -> None:
    code = (
        "import sys, mergekit_fair, mergekit_fair.cli\n"
        "from click.testing import CliRunner\n"
        "assert CliRunner().invoke(mergekit_fair.cli.main, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'mergekit', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names() -> None:
    import mergekit_fair.fairness as fairness

    assert mergekit_fair.__all__ == ["__version__", "register"]
    for module in (mergekit_fair, fairness):
        for name in module.__all__:
            assert getattr(module, name) is not None
    mergekit_fair.register()
    mergekit_fair.register()
    from mergekit.merge_methods import get

    assert get("subgroup_task_addition").spec.pretty_name == "Subgroup Task Addition"
