"""The house: imports point one way, and what the package promises is there."""

from __future__ import annotations

import ast
import graphlib
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

import mergekit_fair

PACKAGE = Path(mergekit_fair.__file__).parent
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
# From the ground up: a room imports what stands before it.
ORDER = (
    *("escaping", "errors", "files", "disk", "schema", "progress", "resources", "ray_pool", "hook"),
    *("compat", "data", "fairness", "checkpoints", "merging", "vectors"),
    *(
        "evaluation",
        "training",
        "heads",
        "purify",
        "learn",
        "sweep",
        "audit",
        "starter",
        "report",
        "cli",
    ),
)


def _modules() -> dict[str, ast.Module]:
    """Dotted name → its code; of a package, that of its `__init__`."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(
            path.read_text(encoding="utf-8")
        )
    return found


def _imports(code: ast.AST, known: Collection[str]) -> Iterator[str]:
    """The modules of this package that code imports, in functions and for types too."""
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else str(node.module) for name in inner]
        else:
            continue
        yield from (name for name in names if name in known)


def test_imports_point_one_way() -> None:
    modules = _modules()
    wrong = []
    for name, code in modules.items():
        room = name.split(".")[1] if "." in name else ""
        if room in ("", "__main__"):  # may call anything
            continue
        for target in _imports(code, modules):
            other = target.split(".")[1] if "." in target else ""
            if other and ORDER.index(other) > ORDER.index(room):
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_no_import_circle() -> None:
    modules = _modules()
    edges = {
        name: {t for t in _imports(code, modules) if t != name and not name.startswith(f"{t}.")}
        for name, code in modules.items()
    }
    graph = graphlib.TopologicalSorter(edges)
    graph.prepare()  # CycleError names the circle


def test_fairness_and_data_do_not_know_each_other() -> None:
    modules = _modules()
    for name, code in modules.items():
        other = {"fairness": "data", "data": "fairness"}.get((*name.split("."), "")[1])
        assert not any(t.startswith(f"mergekit_fair.{other}") for t in _imports(code, modules))


def test_no_name_stands_for_two_things() -> None:
    """No two modules, and no two classes, of one name."""
    modules = _modules()
    names = [name.rpartition(".")[2] for name in modules]
    classes = [
        node.name
        for code in modules.values()
        for node in ast.walk(code)
        if isinstance(node, ast.ClassDef)
    ]
    for found in (names, classes):
        assert [name for name, count in Counter(found).items() if count > 1] == []


def test_everything_public_is_explained() -> None:
    """Modules, and their public functions and classes; methods may fulfil what a base explains."""
    silent = []
    for name, code in _modules().items():
        public = [
            node
            for node in code.body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
        ]
        silent += [
            f"{name}: {getattr(node, 'name', '')}"
            for node in [code, *public]
            if not ast.get_docstring(node)
        ]
    assert silent == []


@pytest.mark.parametrize("room", ["mergekit_fair", "mergekit_fair.fairness"])
def test_what_users_call_has_a_worked_example(room: str) -> None:
    """`tests/test_examples.py` runs them."""
    module = importlib.import_module(room)
    functions = filter(inspect.isfunction, (getattr(module, name) for name in module.__all__))
    assert [f.__name__ for f in functions if ">>> " not in (inspect.getdoc(f) or "")] == []


def test_what_is_imported_is_required() -> None:
    """By pyproject.toml itself, or one of its extras: not by chance through another package."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    required = {_plain(re.split(r"[^\w.-]", line)[0]) for line in lines}
    provided = packages_distributions()
    missing = {
        name
        for code in _modules().values()
        for name in _top_level_imports(code) - sys.stdlib_module_names - {"mergekit_fair"}
        if not required & {_plain(package) for package in provided.get(name, [name])}
    }
    assert missing == set()


def _top_level_imports(code: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, which the rules here rest on"
            names.add(str(node.module).partition(".")[0])
    return names


def _plain(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def test_errors_keep_their_causes() -> None:
    """Nobody raises `from None`: the command line prints one message anyhow."""
    assert [
        f"{name}:{node.lineno}"
        for name, code in _modules().items()
        for node in ast.walk(code)
        if isinstance(node, ast.Raise)
        and isinstance(node.cause, ast.Constant)
        and node.cause.value is None
    ] == []


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


# Modules that write into a folder that `staged_folder` gave, which is flushed as a whole.
_STAGED = {
    *("checkpoints/trained_rows", "checkpoints/vector_folder", "disk", "heads/head_run"),
    *("merging/adapter_merge", "merging/carried_files", "merging/grid", "merging/model_files"),
    *("merging/saved_config", "merging/shards", "merging/ties", "merging/to_disk"),
    *("purify/purify_run", "learn/learn_run"),
}
# One that only appends, a line and a flush at a time.
_APPENDS = {"sweep/store"}
_WRITES = {"write_text", "write_bytes", "savefig", "NamedTemporaryFile", "mkdtemp", "to_csv"}


def test_files_are_written_in_one_place() -> None:
    """By `files`, which leaves nothing half written, or into a folder that it gave."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).with_suffix("").as_posix()
        if name in {"files", *_STAGED}:
            continue
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and _is_write(call) and name not in _APPENDS:
                wrong.append(f"{name}:{call.lineno}")
    assert wrong == []


def _is_write(call: ast.Call) -> bool:
    function = ast.unparse(call.func)
    if function in ("json.dump", "yaml.dump") and len(call.args) > 1:
        return True
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    texts = [value.value for value in values if isinstance(value, ast.Constant)]
    if function.endswith("open"):
        return any(isinstance(text, str) and text[:1] in ("w", "a", "x") for text in texts)
    into_memory = bool(call.args) and ast.unparse(call.args[0]) in ("content", "buffer")
    is_named = function.rpartition(".")[2] in _WRITES or function == "np.save"
    return is_named and not into_memory


def test_one_place_prints() -> None:
    """`cli.terminal`, where nothing invisible gets through."""
    assert [
        f"{path.name}:{node.lineno}"
        for path in (PACKAGE / "cli").glob("*.py")
        if path.name != "terminal.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("print", "click.echo", "click.secho", "sys.stdout.write")
    ] == []


def test_importing_the_package_and_help_are_light() -> None:
    code = (
        "import sys, mergekit_fair, mergekit_fair.cli\n"
        "from click.testing import CliRunner\n"
        "assert CliRunner().invoke(mergekit_fair.cli.main, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'mergekit', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


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
