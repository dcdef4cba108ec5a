"""Task vectors that are stored as such: one recipe, the same bits on every route."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import GROUPS, fine_tune, read, rewrite
from click.testing import CliRunner
from mergekit.merge import run_merge
from mergekit.merge_methods import merge_state_dicts
from refusals import raises, refusal
from rounding import same_bits
from safetensors.torch import save_file

import mergekit_fair
from mergekit_fair.checkpoints.adapter_config import read_adapter_config
from mergekit_fair.checkpoints.cache import LazyCheckpoint
from mergekit_fair.checkpoints.vector_folder import read_vector, write_vector
from mergekit_fair.cli import main
from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.evaluation.model_inputs import load_processor
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
from mergekit_fair.merging.grid import lambda_points
from mergekit_fair.merging.in_memory import Composer, RandomControl
from mergekit_fair.merging.methods.fair_head_method import fair_head_recipe
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_grid, merge_to_folder
from mergekit_fair.progress import Silent
from mergekit_fair.schema import dump_yaml
from mergekit_fair.training.base_model import model_source
from mergekit_fair.training.train_config import TrainConfig
from mergekit_fair.vectors.recipe_vectors import recipe_vectors

HEADS = {
    "bert": ("classifier.weight", "classifier.bias"),
    "llama": ("score.weight",),
    "vit": ("classifier.weight", "classifier.bias"),
}
NAMES = ("Female, 1", "Female, 0", "Male, 1")
WEIGHTS = (0.31, -1.7, 2.5)
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def written(target, folder, heads, names=NAMES):
    """A vector folder for each name; the last of them holds the first tensor alone."""
    draw, tensors, folders = torch.Generator().manual_seed(7), read(target), {}
    for name in names:
        held = heads[:1] if name == names[-1] else heads
        vector = {key: torch.randn(tensors[key].shape, generator=draw) for key in held}
        folders[name] = folder / name.replace(", ", "-")
        write_vector(folders[name], name, vector, target)
    return folders


def target_in(folder, base, dtype):
    """A fine-tune in a dtype, whose tensors hold −0.0, too."""

    def change(tensors):
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                tensor.view(-1)[0] = -0.0
                tensors[name] = tensor.to(dtype)

    return rewrite(fine_tune(base, folder, seed=3), change)


def fair(target, folders, dtype="F32", lambda_=1.0, weights=WEIGHTS):
    entering = {
        str(path): (name, weight)
        for (name, path), weight in zip(folders.items(), weights, strict=True)
    }
    raw = fair_head_recipe(str(target), entering, dtype.split(), lambda_=lambda_)
    return Recipe.from_mapping(raw, "r.yml")


def equal(left, right):
    assert left.keys() == right.keys()
    return all(same_bits(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [("bert", "F32"), ("bert", "BF16"), ("bert", "F16"), ("llama", "BF16"), ("vit", "F32")],
)
def test_every_route_gives_the_same_bits(tiny, tmp_path, options, architecture, dtype):
    target = target_in(tmp_path / "target", tiny(architecture).base, DTYPES[dtype])
    heads = HEADS[architecture]
    folders = written(target, tmp_path / "vectors", heads)
    made = fair(target, folders, dtype, lambda_=0.7)
    merge_to_folder(made, tmp_path / "ours", options)
    ours, start = read(tmp_path / "ours"), read(target)
    mergekit_fair.register()
    run_merge(made.for_mergekit(), str(tmp_path / "stock"), options)
    assert equal(ours, read(tmp_path / "stock"))
    assert equal(ours, dict(Composer().compose(made)))
    (tmp_path / "r.yml").write_text(made.text())
    command = ["exec", "mergekit-yaml", str(tmp_path / "r.yml"), str(tmp_path / "exec"), "--quiet"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert equal(ours, read(tmp_path / "exec"))
    merge_grid(lambda_points(made, (0.0, 0.7)), tmp_path / "grid", options)
    assert equal(ours, read(tmp_path / "grid" / "lambda_0.7"))
    assert equal(start, read(tmp_path / "grid" / "lambda_0"))
    for name, tensor in start.items():
        if name not in heads:
            assert same_bits(ours[name], tensor), name
            continue
        vectors = [read_vector(path).get(name) for path in folders.values()]
        moved = sum(
            weight * vector.double().numpy()
            for weight, vector in zip(WEIGHTS, vectors, strict=True)
            if vector is not None
        )
        exact = tensor.double().numpy() + 0.7 * moved
        expected = torch.from_numpy(exact.astype(np.float32)).to(tensor.dtype)
        assert same_bits(ours[name], expected), name


# Method → parameters of the recipe, parameters of each model by group.
CASES = {
    "sum": ("subgroup_task_addition", {}, {"weight": dict(zip(GROUPS, (1, -0.5, 2), strict=True))}),
    "norm": ("subgroup_task_addition", {"normalize": "norm"}, {}),
    "mean": ("subgroup_task_addition", {"normalize": "mean", "head": "base"}, {}),
    "ties": (
        "subgroup_task_addition",
        {"sign_election": "sum", "normalize": "mean"},
        {"density": dict.fromkeys(GROUPS, 0.3)},
    ),
    "dare": (
        "subgroup_task_addition",
        {"sparsify": "random"},
        {"density": dict.fromkeys(GROUPS, 0.5)},
    ),
    "fedgma": ("fedgma", {"rho": 0.7}, {}),
    "median": ("task_median", {}, {}),
    "cclip": ("cclip", {"rho": 1.0}, {}),
    "awd": ("awd", {}, {}),
    "fednova": ("fednova", {}, {"steps": {"Female": 10, "Male": 25, "Other": 3}}),
}


def of_subgroups(family, members, case):
    method, shared, own = CASES[case]
    models = [
        {
            "model": str(path),
            "parameters": {"group": name} | {key: values[name] for key, values in own.items()},
        }
        for name, path in members.items()
    ]
    raw = {"merge_method": method, "base_model": str(family.base), "models": models}
    return Recipe.from_mapping(
        raw | {"parameters": shared | {"lambda": 0.3}, "dtype": "float32"}, "r.yml"
    )


@pytest.fixture(scope="module")
def stored(tiny, tmp_path_factory):
    """A family of which one group's task vector is stored: θ − θ₀ as float32 rounds it."""
    family, folder = tiny("bert"), tmp_path_factory.mktemp("stored")
    base, trained = read(family.base), read(family.groups["Male"])
    vector = {
        name: trained[name] - tensor
        for name, tensor in base.items()
        if tensor.dtype.is_floating_point
    }
    write_vector(folder / "whole", "Male", vector, family.base)
    part = {name: vector[name] for name in sorted(vector)[::2]}
    write_vector(folder / "part", "Male", part, family.base)
    # The same as a model: what the vector does not hold is the base's.
    shutil.copytree(family.base, folder / "model")
    rewrite(folder / "model", lambda tensors: tensors.update({n: base[n] + part[n] for n in part}))
    return family, folder


@pytest.mark.parametrize("case", CASES)
def test_a_stored_vector_stands_for_a_subgroup_model(stored, tmp_path, options, case):
    """In every method and on every route; what it does not hold is zero, not missing."""
    family, folder = stored
    made = of_subgroups(family, {**family.groups, "Male": folder / "part"}, case)
    merge_to_folder(made, tmp_path / "ours", options)
    ours = read(tmp_path / "ours")
    run_merge(made.for_mergekit(), str(tmp_path / "stock"), options)
    assert equal(ours, read(tmp_path / "stock"))
    assert equal(ours, dict(Composer().compose(made)))
    same = of_subgroups(family, {**family.groups, "Male": folder / "model"}, case)
    for name, tensor in Composer().compose(same):
        # θ₀ + v is rounded to float32 in the model: 2⁻²⁴ of weights up to 4, a few times over.
        assert torch.allclose(ours[name], tensor, rtol=0, atol=2e-6), name


@pytest.mark.parametrize("case", CASES)
def test_vectors_alone_leave_what_none_holds(stored, tmp_path, options, case):
    family, _ = stored
    members = {}
    for index, name in enumerate(GROUPS):
        members[name] = tmp_path / name
        vector = {"classifier.weight": torch.full((2, 32), 0.1 + index)}
        write_vector(members[name], name, vector, family.base)
    made = of_subgroups(family, members, case)
    ours, base = dict(Composer().compose(made)), read(family.base)
    run_merge(made.for_mergekit(), str(tmp_path / "stock"), options)
    assert equal(ours, read(tmp_path / "stock"))
    changed = {name for name in base if not same_bits(ours[name], base[name])}
    assert changed == (set() if case == "mean" else {"classifier.weight"})


def test_the_kernel_takes_state_dictionaries():
    """In Python without folders: the models beside the base are the vectors."""
    mergekit_fair.register()
    states = {
        "base": {"w": torch.ones(3)},
        "a": {"w": torch.arange(3.0)},
        "b": {"w": torch.ones(3)},
    }
    parameters = {"group": {"a": "a", "b": "b"}, "weight": {"a": 2.0, "b": -1.0}, "lambda": 0.5}
    merged = merge_state_dicts(states, "fair_head", base="base", parameters=parameters)
    assert merged["w"].tolist() == [0.5, 1.5, 2.5]


def test_the_order_changes_nothing_and_zero_is_the_target(tiny, tmp_path, options):
    target = target_in(tmp_path / "target", tiny("bert").base, torch.float32)
    folders = written(target, tmp_path / "vectors", HEADS["bert"])
    whole = dict(Composer().compose(fair(target, folders)))
    for order in itertools.permutations(zip(folders.items(), WEIGHTS, strict=True)):
        parts = [part for part, _ in order], [weight for _, weight in order]
        made = fair(target, dict(parts[0]), weights=parts[1])
        assert equal(whole, dict(Composer().compose(made)))
    assert not equal(whole, read(target))
    for nothing in (fair(target, folders, lambda_=0.0), fair(target, folders, weights=(0, 0, 0))):
        merge_to_folder(nothing, tmp_path / "nothing", options, MergeSettings(overwrite=True))
        assert equal(read(tmp_path / "nothing"), read(target))


@pytest.fixture
def vector(tiny, tmp_path):
    write_vector(tmp_path / "v", "Female, 1", {"classifier.bias": torch.ones(2)}, tiny("bert").fft)
    return tmp_path / "v"


ROUTES = {
    "ours": lambda made, out, options: merge_to_folder(made, out, options),
    "stock": lambda made, out, options: run_merge(made.for_mergekit(), str(out), options),
}


@pytest.mark.parametrize("route", ROUTES)
def test_a_vector_of_another_target_is_refused(tiny, vector, tmp_path, options, route):
    family = tiny("bert")
    made = fair(family.base, {"Female, 1": vector}, weights=(1.0,))
    with raises(CheckpointError, where=vector, got=family.fft, allowed=family.base, fix="heads"):
        ROUTES[route](made, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_exec_refuses_it_before_anything_is_written(tiny, vector, tmp_path):
    family, path, out = tiny("bert"), tmp_path / "r.yml", tmp_path / "out"
    path.write_text(fair(family.base, {"Female, 1": vector}, weights=(1.0,)).text())
    refusal(["exec", "mergekit-yaml", path, out], CheckpointError, where=vector, got=family.fft)
    path.write_text(fair(family.fft, {"Female, 1": vector}, weights=(1.0,)).text())
    save_file({"classifier.bias": torch.zeros(2)}, vector / "model.safetensors")
    refusal(["exec", "mergekit-yaml", path, out], CheckpointError, where=vector, fix="copy")
    linear = {"merge_method": "linear", "models": [{"model": str(vector)}], "dtype": "float32"}
    linear["models"][0]["parameters"] = {"weight": 1}
    path.write_text(dump_yaml(linear))
    refusal(["exec", "mergekit-yaml", path, out], CheckpointError, where=vector, fix="base_model")
    assert not out.exists()


def test_mergekit_finds_vectors_by_any_spelling(tiny, tmp_path, monkeypatch, options):
    """`a/b` and `./a/b` are two models to mergekit, and one folder."""
    monkeypatch.chdir(tmp_path)
    target = target_in(tmp_path / "runs" / "target", tiny("bert").base, torch.float32)
    written(target, tmp_path / "runs" / "v", HEADS["bert"])
    whole = {name: f"runs/v/{name.replace(', ', '-')}" for name in NAMES}
    raw = fair("runs/target", whole).raw
    Path("r.yml").write_text(dump_yaml(raw))
    run = ["exec", "mergekit-yaml", "r.yml", "stock", "--no-write-model-card", "--quiet"]
    result = CliRunner().invoke(main, run)
    assert result.exit_code == 0, result.output
    merge_to_folder(Recipe.load("r.yml"), "ours", options)
    pickled = options.model_copy(update={"safe_serialization": False})
    merge_to_folder(Recipe.load("r.yml"), "pickled", pickled)
    ours = read(Path("ours"))
    assert equal(ours, read(Path("stock")))
    assert equal(ours, torch.load("pickled/pytorch_model.bin", weights_only=True))


@pytest.mark.parametrize("route", ROUTES)
def test_a_vector_is_no_base_no_target_and_no_model_of_other_methods(
    tiny, vector, tmp_path, options, route
):
    family, group = tiny("bert"), tiny("bert").groups["Male"]
    fft, merge = str(family.fft), ROUTES[route]
    parameters = {"group": "Male"}
    for raw in (
        {
            "merge_method": "subgroup_task_addition",
            "base_model": str(vector),
            "models": [{"model": str(group), "parameters": parameters}],
        },
        {
            "merge_method": "linear",
            "models": [{"model": m, "parameters": {"weight": 1}} for m in (fft, str(vector))],
        },
        {
            "merge_method": "ties",
            "base_model": fft,
            "models": [{"model": str(vector), "parameters": {"weight": 1, "density": 1}}],
        },
    ):
        with raises(CheckpointError, "task_vector.json", where=vector, fix="base_model"):
            merge(Recipe.from_mapping(raw, "r.yml"), tmp_path / "out", options)
        assert not (tmp_path / "out").exists()
    injection = family.injection(worst="Male")
    injection["models"][0]["model"] = str(vector)
    with raises(CheckpointError, "task_vector.json", where=vector):
        Recipe.from_mapping(injection, "r.yml")


@pytest.mark.parametrize("route", ROUTES)
def test_fair_head_takes_vectors_of_the_head_alone(stored, tmp_path, options, route):
    family, folder = stored
    made = fair(family.base, {"Male": folder / "part"}, weights=(1.0,))
    with raises(RecipeError, where=folder / "part", allowed=sorted(HEADS["bert"])):
        ROUTES[route](made, tmp_path / "out", options)


@pytest.mark.parametrize("route", ROUTES)
def test_fair_head_takes_no_models(tiny, tmp_path, options, route):
    family = tiny("bert")
    made = fair(family.base, {"Male": family.groups["Male"]}, weights=(1.0,))
    with raises(RecipeError, where=family.groups["Male"], allowed="task_vector.json"):
        ROUTES[route](made, tmp_path / "out", options)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer": {"source": "base"}},
        {"parameters": {"head": "first"}},
        {"slices": [{"sources": []}]},
    ],
)
def test_what_changes_the_targets_tensors_takes_no_vector(
    tiny, vector, tmp_path, options, route, change
):
    family = tiny("bert")
    raw = {
        "merge_method": "subgroup_task_addition",
        "base_model": str(family.fft),
        "models": [{"model": str(vector), "parameters": {"group": "Male"}}],
        "dtype": "float32",
    } | change
    if "slices" in raw:
        listed = [{**raw.pop("models")[0], "layer_range": [0, 2]}]
        raw["slices"] = [{"sources": [{"model": str(family.fft), "layer_range": [0, 2]}, *listed]}]
    with raises(RecipeError, where="r.yml" if route == "ours" else "recipe", got=str(vector)):
        ROUTES[route](Recipe.from_mapping(raw, "r.yml"), tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_a_random_control_of_a_vector_is_a_vector():
    vector = {"w": torch.arange(200.0)}
    control = RandomControl(None, vector, seed=1, name="a")
    assert list(control) == ["w"]
    torch.testing.assert_close(control["w"].norm(), vector["w"].norm(), rtol=1e-5, atol=0)


def test_vectors_are_measured_as_they_are_stored(tiny, tmp_path, options):
    """Norms, cosines and displacement by numpy in float64: nothing is added to the target first."""
    target = target_in(tmp_path / "target", tiny("bert").base, torch.float32)
    folders = written(target, tmp_path / "vectors", HEADS["bert"])
    found = recipe_vectors(fair(target, folders), options, Silent())
    rows = []
    for name in found.geometry.names:
        held = read_vector(folders[name])
        parts = [held.get(key, torch.zeros_like(read(target)[key])) for key in HEADS["bert"]]
        rows.append(torch.cat([part.flatten().double() for part in parts]).numpy())
    # Sums in another order: float64, a few dozen terms.
    np.testing.assert_allclose(found.geometry.gram, np.stack(rows) @ np.stack(rows).T, rtol=1e-13)
    weights = [dict(zip(NAMES, WEIGHTS, strict=True))[name] for name in found.geometry.names]
    move = found.move.distances
    assert move.keys() == {"base"}
    assert move["base"]["displacement"] == pytest.approx(
        float(np.linalg.norm(np.array(weights) @ np.stack(rows))), rel=1e-12
    )


def test_a_mixed_target_keeps_its_dtypes(tiny, tmp_path, options):
    target = fine_tune(tiny("bert").base, tmp_path / "target", seed=3)
    rewrite(
        target,
        lambda tensors: tensors.update(
            {n: t.bfloat16() for n, t in tensors.items() if n.startswith("bert.encoder")}
        ),
    )
    made = fair(target, written(target, tmp_path / "v", HEADS["bert"]), "F32 BF16")
    merge_to_folder(made, tmp_path / "ours", options)
    run_merge(made.for_mergekit(), str(tmp_path / "stock"), options)
    ours, start = read(tmp_path / "ours"), read(target)
    assert equal(ours, read(tmp_path / "stock"))
    assert {name: t.dtype for name, t in ours.items()} == {n: t.dtype for n, t in start.items()}
    assert all(same_bits(ours[n], t) for n, t in start.items() if n not in HEADS["bert"])


def test_who_needs_a_model_refuses_it_alike(vector):
    refusal(
        ["push", vector, "me/name", "--dry-run"], CheckpointError, "task_vector.json", where=vector
    )
    evaluator = Evaluator(EvaluationRequest(tasks=("fair_adult_sex",)))
    config = TrainConfig.model_construct(model=str(vector), sha256=None)
    for opened in (
        lambda: evaluator.open(str(vector), "cpu"),
        lambda: model_source(config),
        lambda: load_processor(vector, "text"),
        lambda: read_adapter_config(vector),
        lambda: LazyCheckpoint(vector),
    ):
        with raises(CheckpointError, "task_vector.json", where=vector):
            opened()
