"""`hook`: processes of a throw-away environment, whose `.pth` files Python reads at its start.

The environment borrows this one's packages through a `.pth` file of its own, which lists folders;
`.pth` files of those folders are not read, so no hook of this environment takes part.
"""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checkpoints import read, tiny_family
from click.testing import CliRunner
from refusals import refusal

import mergekit_fair
from mergekit_fair import hook
from mergekit_fair.cli import main
from mergekit_fair.cli.cmd_hook import CONTENT, LINE, MARK, NAME
from mergekit_fair.errors import ConfigError
from mergekit_fair.schema import dump_yaml

METHODS = ("subgroup_task_addition", "worst_group_injection")
# `get` fails on a method that mergekit does not know.
SEES = f"""
from mergekit.merge_methods.registry import get
print(*(get(name).spec.name for name in {METHODS!r}))
"""


MODELS = ("fair-classifier", "fair-image-classifier")
# What lm-eval finds by itself: its own models and metrics, and ours.
SEES_MODELS = f"""
from lm_eval.api.registry import get_aggregation, get_model, model_registry
print(*(get_model(name).__name__ for name in {MODELS!r}))
assert get_aggregation("fair_dpd").__name__ == "dpd" and get_aggregation("mean")
assert model_registry._objs["vllm"]
"""

LOOK = """
import importlib.util, sys
finder = sys.meta_path[0]
# A look without an import does not disarm it.
assert importlib.util.find_spec("mergekit.merge_methods") is not None
assert sys.meta_path[0] is finder
import mergekit.merge_methods as module
assert type(module.__loader__) is type(sys.modules["mergekit"].__loader__)
assert module.__spec__.loader is module.__loader__
"""


# Each word is run in a fork of a process that has imported what all of them would import.
FORKS = """
import os, sys, traceback
{warm}
for number, code in enumerate(sys.argv[2:]):
    if os.fork():
        continue
    for stream, name in enumerate(("stdout", "stderr"), 1):
        os.dup2(os.open(f"{{sys.argv[1]}}/{{name}}.{{number}}", os.O_WRONLY | os.O_CREAT), stream)
    try:
        exec(code, {{"__name__": "__main__"}})
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush(), sys.stderr.flush(), os._exit(0)
for _ in sys.argv[2:]:
    os.wait()
"""


# What a merge needs.
MERGES = """
import mergekit_fair.merging.recipe_check, mergekit_fair.cli.cmd_methods, mergekit_fair.cli.cmd_exec
from click.testing import CliRunner
from mergekit_fair.cli import main
assert CliRunner().invoke(main, ["methods"]).exit_code == 0
"""


class Environment:
    """A virtual environment without pip that can import what this one can."""

    def __init__(self, folder):
        venv.create(folder, with_pip=False)
        scripts = "Scripts" if os.name == "nt" else "bin"
        self.python = folder / scripts / Path(sys.executable).name
        site = self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
        self.site = Path(site.stdout.strip())
        self.hook = self.site / NAME
        self.packages = self.site / "_borrowed.pth"
        self.borrow()

    def borrow(self):
        home = Path(mergekit_fair.__file__).parents[1]
        folders = dict.fromkeys([str(home), *map(sysconfig.get_path, ("purelib", "platlib"))])
        self.packages.write_text("\n".join(folders) + "\n", encoding="utf-8")

    def start(self, *args, **variables):
        outer = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.Popen(
            [str(self.python), *map(str, args)],
            cwd=self.python.parent,
            env={**outer, "OMP_NUM_THREADS": "1", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *args, **variables):
        return finished(self.start(*args, **variables))

    def forked(self, out, warm, ways):
        """What each way says and warns, in a process that began with the imports `warm`."""
        result = self.run("-c", FORKS.format(warm=warm), out, *ways)
        assert (result.code, result.stdout) == (0, ""), result.stderr
        for number in range(len(ways)):
            yield [(out / f"{name}.{number}").read_text() for name in ("stdout", "stderr")]

    def fair(self, *args, **variables):
        return self.run("-m", "mergekit_fair", "hook", *args, **variables)

    def listing(self):
        return sorted(path.name for path in self.site.iterdir())


def finished(process):
    stdout, stderr = process.communicate(timeout=120)
    return SimpleNamespace(code=process.returncode, stdout=stdout, stderr=stderr)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("environment"))


@pytest.fixture
def hooked(environment):
    """The environment with the hook installed, and without it afterwards."""
    result = environment.fair("install")
    assert (result.code, result.stderr) == (0, "")
    yield environment
    environment.hook.unlink(missing_ok=True)


@pytest.fixture
def site(monkeypatch, tmp_path):
    """This process's commands take an empty folder for site-packages."""
    real = sysconfig.get_path
    monkeypatch.setattr(
        sysconfig, "get_path", lambda name: str(tmp_path) if name == "purelib" else real(name)
    )
    return tmp_path


def run(*args):
    return CliRunner().invoke(main, ["hook", *args], prog_name="mergekit-fair")


def refuses(command, *shows, **fields):
    refusal(["hook", command], ConfigError, *shows, **fields)


def test_install_status_and_remove(environment):
    before = environment.listing()
    path = environment.hook
    assert environment.fair("status").stdout == f"not installed: {path}\n"
    assert environment.fair("install").stdout == f"installed: {path}\n"
    assert environment.listing() == sorted([*before, NAME])
    assert environment.fair("install").stdout == f"already installed: {path}\n"
    assert environment.fair("status").stdout == f"installed: {path}\n"
    assert environment.fair("install", "--quiet").stdout == ""
    path.write_text(f"{MARK}\nimport sys\n", encoding="utf-8")
    outdated = environment.fair("status").stdout
    assert outdated.startswith(f"installed: {path} (outdated; `mergekit-fair hook install` renews")
    found = json.loads(environment.fair("status", "--json").stdout)
    assert found == {
        **{"installed": True, "outdated": True, "foreign": False, "active": False},
        "path": str(path),
    }
    assert environment.fair("install").stdout == f"updated: {path}\n"
    found = json.loads(environment.fair("status", "--json").stdout)
    assert (found["outdated"], found["active"]) == (False, True)
    assert environment.fair("remove").stdout == f"removed: {path}\n"
    assert environment.listing() == before
    assert environment.fair("remove").stdout == f"not installed: {path}\n"
    assert environment.fair("remove", "--quiet").stdout == ""


def test_every_way_into_mergekit_sees_the_methods(hooked, tmp_path):
    """In any order of imports, none of which waits for lm-eval; the stock program begins with
    mergekit.config and .merge."""
    gone = """
import sys
left = [finder for finder in sys.meta_path if "mergekit" in type(finder).__module__]
assert "merge methods" not in [finder.registration[2] for finder in left]
assert not [name for name in sys.modules if name.startswith("lm_eval")]
"""
    ways = [
        LOOK + gone,
        # Our own modules are half imported when mergekit's methods are ready.
        "import mergekit_fair.merging.methods.registry, mergekit.plan" + gone,
        "import mergekit_fair; mergekit_fair.register()",
        MERGES + gone.replace('assert "merge methods"', "#"),
    ]
    found = hooked.forked(tmp_path, "import torch, transformers, peft", [w + SEES for w in ways])
    for way, (said, warned) in zip(ways, found, strict=True):
        assert said.split() == list(METHODS), f"{way}: {warned}"
        assert "mergekit-fair" not in warned, way


def test_every_way_into_lm_eval_sees_the_models(hooked, tmp_path):
    """Through the list of models, through the metrics alone, and from one of our own modules."""
    gone = """
import sys
left = [finder for finder in sys.meta_path if "mergekit" in type(finder).__module__]
assert [finder.registration[2] for finder in left] == ["merge methods", "checks of models"]
assert not [name for name in sys.modules if name == "mergekit" or name.startswith("mergekit.")]
"""
    ways = [
        "",
        "import lm_eval.api.metrics, lm_eval.models",
        "import mergekit_fair.evaluation.lm.text_classifier",
        "import mergekit_fair.evaluation.lm as lm; lm.register_models(); lm.register_models()",
    ]
    warm = "import torch, transformers, peft, accelerate, datasets"
    found = hooked.forked(tmp_path, warm, [way + SEES_MODELS + gone for way in ways])
    for way, (said, warned) in zip(ways, found, strict=True):
        assert said.split() == ["FairClassifier", "FairImageClassifier"], f"{way}: {warned}"
        assert "mergekit-fair" not in warned, way


def test_a_task_alone_sees_the_aggregations(hooked):
    """As `lm_eval validate` looks at it: no model is asked for, and nothing heavy imported."""
    code = """
import sys
from lm_eval.api.registry import get_aggregation
print(get_aggregation("mean").__name__, get_aggregation("fair_eod").__name__)
assert "lm_eval.models" not in sys.modules
import lm_eval.models
assert not {"torch", "transformers", "mergekit"} & set(sys.modules)
"""
    result = hooked.run("-c", code)
    assert (result.code, result.stdout) == (0, "mean eod\n"), result.stderr


def test_without_the_hook_lm_eval_does_not_know_the_models(environment):
    result = environment.run("-c", SEES_MODELS)
    assert result.code == 1
    assert f"Attempted to load model '{MODELS[0]}', but no model for this name" in result.stderr


def test_the_stock_program_merges(hooked, tmp_path, monkeypatch):
    family = tiny_family(tmp_path, "bert")
    recipe = tmp_path / "r.yml"
    recipe.write_text(dump_yaml(family.addition(lambda_=0.3)), encoding="utf-8")
    outs = [tmp_path / "stock", tmp_path / "exec"]
    stock = hooked.start("-m", "mergekit.scripts.run_yaml", recipe, outs[0], "--quiet")
    monkeypatch.setattr(sys, "argv", ["mergekit-fair"])
    arguments = ["exec", "mergekit-yaml", str(recipe), str(outs[1]), "--quiet"]
    ours = CliRunner().invoke(main, arguments)
    result = finished(stock)
    assert result.code == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert ours.exit_code == 0, ours.output
    tensors, expected = map(read, outs)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_without_the_hook_mergekit_does_not_know_the_methods(hooked):
    assert hooked.fair("remove", "--quiet").code == 0
    result = hooked.run("-c", SEES)
    assert result.code == 1
    assert f"Unimplemented merge method {METHODS[0]}" in result.stderr


def test_python_starts_in_silence_when_the_package_is_gone(hooked, tmp_path):
    hooked.packages.unlink()
    try:
        gone = hooked.run("-c", "pass")
        assert (gone.code, gone.stdout, gone.stderr) == (0, "", "")
    finally:
        hooked.borrow()
    # Or damaged, or of a version that has no such module.
    package = tmp_path / "mergekit_fair"
    package.mkdir()
    for text in ("", "raise RuntimeError", "def"):
        (package / "__init__.py").write_text(text, encoding="utf-8")
        result = hooked.run("-c", "pass", PYTHONPATH=str(tmp_path))
        assert (result.code, result.stdout, result.stderr) == (0, "", ""), text


def test_a_start_imports_nothing_but_the_hook(hooked):
    code = "import sys; print(*sys.modules)"
    added = set(hooked.run("-c", code).stdout.split())
    hooked.hook.unlink()
    added -= set(hooked.run("-c", code).stdout.split())
    assert added == {"__future__", "mergekit_fair", "mergekit_fair.hook"}


def test_a_broken_package_costs_mergekit_one_warning(hooked, tmp_path):
    """A package whose methods and models are missing stands in front of the real one."""
    package = tmp_path / "mergekit_fair"
    package.mkdir()
    for name in ("__init__.py", "hook.py"):
        text = (Path(mergekit_fair.__file__).parent / name).read_text(encoding="utf-8")
        (package / name).write_text(text, encoding="utf-8")
    code = "import mergekit.merge_methods as m; print(m.get('ties').spec.name)"
    models = hooked.run("-c", "import lm_eval.models", PYTHONPATH=str(tmp_path))
    assert models.code == 0
    assert (
        "RuntimeWarning: mergekit-fair could not register its models (ModuleNotFoundError: No "
        "module named 'mergekit_fair.evaluation'); lm_eval goes on without them." in models.stderr
    )
    result = hooked.run("-c", code, PYTHONPATH=str(tmp_path))
    assert (result.code, result.stdout) == (0, "ties\n")
    warnings = [line for line in result.stderr.splitlines() if "mergekit-fair" in line]
    assert len(warnings) == 1
    assert warnings[0].endswith(
        "RuntimeWarning: mergekit-fair could not register its merge methods "
        "(ModuleNotFoundError: No module named 'mergekit_fair.merging'); mergekit goes on without "
        "them. `mergekit-fair hook remove` ends these attempts."
    )
    assert "Traceback" not in result.stderr


def test_a_foreign_method_of_the_same_name(monkeypatch):
    from mergekit.merge_methods import registry

    foreign = SimpleNamespace(spec=SimpleNamespace(name=METHODS[0]))
    monkeypatch.setitem(registry._METHODS, METHODS[0], foreign)
    with pytest.warns(RuntimeWarning, match="another package has registered") as caught:
        hook._register("mergekit.plan", *hook._FAMILIES[0][1])
    assert len(caught) == 1
    assert "hook remove" in str(caught[0].message)


def test_the_finder_leaves_other_importers_alone(monkeypatch):
    """It asks those behind it only, in their order, and passes on what they find."""
    calls = []

    class Other:
        def __init__(self, name, spec=None):
            self.name, self.spec = name, spec

        def find_spec(self, *args):
            calls.append((self.name, *args))
            return self.spec

    spec = importlib.util.find_spec("json")
    loader = spec.loader
    monkeypatch.setattr(sys, "meta_path", [Other("front"), Other("behind"), object()])
    hook.arm()
    hook.arm()
    finder, *others = sys.meta_path[: len(hook._FAMILIES)]
    assert [other.find_spec("mergekit.plan") for other in others] == [None] * len(others)
    del sys.meta_path[: len(hook._FAMILIES)]
    sys.meta_path[1:1] = [finder]
    assert [type(x).__name__ for x in sys.meta_path] == ["Other", "_Finder", "Other", "object"]
    assert finder.find_spec("json") is None
    assert calls == []
    assert finder.find_spec("mergekit.plan", ["p"]) is None
    assert calls == [("behind", "mergekit.plan", ["p"], None)]
    sys.meta_path.append(Other("last", spec))
    assert finder.find_spec("mergekit.plan") is spec
    assert spec.loader is not loader
    assert spec.loader.get_filename("json") == loader.get_filename("json")


@pytest.mark.parametrize(
    "text", ["import other\n", "", f"{CONTENT}import more\n", f"#\n{LINE}\n", "\udcff"]
)
def test_a_foreign_file_stays(site, text):
    path = site / NAME
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    before = path.read_bytes()
    for command in ("install", "remove"):
        refuses(command, "did not write it", where=path, fix="yourself")
    assert run("status").stdout == (
        f"not installed: {path} (a file that mergekit-fair did not write)\n"
    )
    assert json.loads(run("status", "--json").stdout)["foreign"] is True
    assert path.read_bytes() == before
    assert [entry.name for entry in site.iterdir()] == [NAME]


def test_a_foreign_link_or_folder_stays(site):
    ours = site / "elsewhere"
    ours.write_text(CONTENT, encoding="utf-8")
    path = site / NAME
    path.symlink_to(ours)
    for command in ("install", "remove"):
        refuses(command, "did not write it", where=path)
    path.unlink()
    path.mkdir()
    for command in ("install", "remove"):
        refuses(command, "did not write it", where=path)
    assert sorted(entry.name for entry in site.iterdir()) == sorted(["elsewhere", NAME])


def test_site_packages_that_cannot_be_written(site, monkeypatch):
    def deny(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    fields = {"where": site, "fix": "`mergekit-fair exec PROGRAM …`"}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", deny)
        refuses("install", "(Permission denied)", **fields)
    assert list(site.iterdir()) == []
    (site / NAME).write_text(CONTENT, encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", deny)
        refuses("remove", "(Permission denied)", **fields)
    assert run("remove").exit_code == 0


def test_no_site_packages_folder(site):
    site.rmdir()
    refuses("install", "(No such file", where=site)
    assert run("remove").stdout == f"not installed: {site / NAME}\n"


def test_a_hook_that_python_would_not_load_is_an_error(site, monkeypatch):
    """Python reads no `.pth` file of that folder, so nothing would happen at its start."""
    monkeypatch.setattr(sys, "executable", sys._base_executable)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    refuses("install", where=site / NAME, fix="pip")
    assert list(site.iterdir()) == []
    (site / NAME).write_text(CONTENT, encoding="utf-8")
    assert "(without effect: Python cannot import mergekit_fair" in run("status").stdout


@pytest.mark.parametrize("name", ["install", "remove", "status"])
def test_the_help_of_a_subcommand_has_an_example(name):
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"Example:\n    mergekit-fair hook {name}" in result.output
