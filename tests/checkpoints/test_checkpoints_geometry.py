"""Geometry of task vectors against dense float64 arithmetic."""

import math

import numpy as np
import pytest
import torch
from checkpoints import fine_tune, rewrite
from safetensors.torch import load_file
from safetensors.torch import save_file as save

from mergekit_fair.checkpoints import geometry as module
from mergekit_fair.checkpoints.geometry import (
    Geometry,
    displacement,
    relative_bound,
    residuals,
    screen,
    task_vector_geometry,
    task_vector_gram,
    triangle_bound,
)
from mergekit_fair.checkpoints.inner_products import task_vector_products
from mergekit_fair.checkpoints.reader import open_folder
from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.merging.methods.whole_vectors import Measured


def measured(base, folders, **options):
    """Over all floating tensors of folders with one safetensors file."""
    start = open_folder(base)
    models = {name: open_folder(folder) for name, folder in folders.items()}
    names = [name for name, info in start.tensors.items() if info.is_float]
    return task_vector_geometry(start, models, names, **options)


def dense(base, folders):
    """V, (D, T), in float64, heads included and integers left out."""
    start = load_file(base / "model.safetensors")
    columns = []
    for folder in folders.values():
        model = load_file(folder / "model.safetensors")
        parts = [
            (model[name].double() - start[name].double()).flatten()
            for name in sorted(start)
            if start[name].is_floating_point()
        ]
        columns.append(torch.cat(parts).numpy())
    return np.stack(columns, axis=1)


def written(folder, tensors):
    folder.mkdir()
    save(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def models(tiny):
    family = tiny("bert")
    return family.base, {"fft": family.fft, **family.groups}


@pytest.fixture(scope="module")
def found(models):
    return measured(*models)


def test_streamed_gram_equals_dense_gram(models, found):
    v = dense(*models)
    np.testing.assert_allclose(found.gram, v.T @ v, rtol=1e-13, atol=1e-13)
    assert found.names == ("fft", "Female", "Male", "Other")
    assert found.elements == len(v)
    np.testing.assert_allclose(found.norms, np.linalg.norm(v, axis=0), rtol=1e-12)
    unit = v / np.linalg.norm(v, axis=0)
    np.testing.assert_allclose(found.cosines, unit.T @ unit, atol=1e-14)
    mean = v.mean(axis=1)
    np.testing.assert_allclose(
        found.with_mean, mean @ unit / np.linalg.norm(mean), rtol=1e-12, atol=1e-13
    )
    np.testing.assert_allclose(found.ratios("fft"), found.norms / found.norms[0])
    np.testing.assert_allclose(found.ratios(), found.norms / np.median(found.norms))


def test_norms_are_those_that_merges_use(models, found):
    base, folders = models
    start = open_folder(base)
    readers = [open_folder(folder) for folder in folders.values()]
    names = [name for name, info in start.tensors.items() if info.is_float]
    squares = task_vector_products(start, readers, Measured.NORMS.pairs(len(readers)), names)
    assert found.norms == pytest.approx(np.sqrt(squares), rel=1e-12)


def test_products_are_the_gram_matrix_and_know_no_order(models, found):
    base, folders = models
    start = open_folder(base)
    readers = [open_folder(folder) for folder in folders.values()]
    names = [name for name, info in start.tensors.items() if info.is_float]
    pairs = Measured.PRODUCTS.pairs(len(readers))
    products = task_vector_products(start, readers, pairs, names)
    rows, columns = zip(*pairs, strict=True)
    np.testing.assert_allclose(products, found.gram[rows, columns], rtol=1e-12, atol=1e-13)
    for one, other in pairs:  # alone, the other way round
        two = [readers[other], readers[one]]
        alone = task_vector_products(start, two, [(1, 0), (0, 0)], names)
        assert alone[0] == products[pairs.index((one, other))]


def test_heads_count_and_integers_do_not(tmp_path):
    base = written(
        tmp_path / "base",
        {"classifier.weight": torch.zeros(2, 3), "position_ids": torch.arange(5)},
    )
    model = written(
        tmp_path / "model",
        {"classifier.weight": torch.full((2, 3), 2.0), "position_ids": torch.arange(5) + 9},
    )
    found = measured(base, {"m": model})
    assert (found.tensors, found.elements) == (1, 6)
    assert found.gram.tolist() == [[24.0]]


def test_slices_threads_and_odd_lengths_change_nothing(models, found, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST", 997)
    cut = measured(*models)
    np.testing.assert_allclose(cut.gram, found.gram, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(cut.conflict, found.conflict)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        np.testing.assert_array_equal(measured(*models).gram, cut.gram)
        torch.set_num_threads(3)
        np.testing.assert_array_equal(measured(*models).gram, cut.gram)
    finally:
        torch.set_num_threads(before)


def test_sign_conflict_counts_where_both_move(tmp_path):
    base = written(tmp_path / "base", {"w": torch.ones(6)})
    vectors = {
        "a": [1.0, 1.0, -1.0, 0.0, 2.0, 0.0],
        "b": [1.0, -1.0, 1.0, 5.0, 0.0, 0.0],
        "c": [0.0, 0.0, 0.0, -1.0, 0.0, 0.0],
        "zero": [0.0] * 6,
    }
    folders = {
        name: written(tmp_path / name, {"w": 1 + torch.tensor(vector)})
        for name, vector in vectors.items()
    }
    found = measured(base, folders)
    nan = math.nan
    expected = [[0, 2 / 3, nan, nan], [2 / 3, 0, 1, nan], [nan, 1, 0, nan], [nan] * 4]
    np.testing.assert_allclose(found.conflict, expected)
    assert np.isnan(found.cosines[3]).all()
    assert np.isnan(found.with_mean[3])
    assert found.to_dict()["sign_conflict"][0] == [0.0, 2 / 3, None, None]
    assert found.to_dict()["cosine_with_mean"][3] is None
    np.testing.assert_allclose(found.changed, [4 / 6, 4 / 6, 1 / 6, 0])
    overlap = [[1, 3 / 5, 0, 0], [3 / 5, 1, 1 / 4, 0], [0, 1 / 4, 1, 0], [0, 0, 0, nan]]
    np.testing.assert_allclose(found.overlap, overlap)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_low_precision_is_subtracted_in_float64(tmp_path, dtype):
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(700, generator=generator).to(dtype)
    moved = (start + 1e-2 * torch.randn(700, generator=generator)).to(dtype)
    base = written(tmp_path / "base", {"w": start})
    found = measured(base, {"m": written(tmp_path / "m", {"w": moved})})
    assert found.norms[0] == pytest.approx(float((moved.double() - start.double()).norm()))


def test_vectors_that_cancel_have_no_mean_direction(tmp_path):
    generator = torch.Generator().manual_seed(0)
    step = torch.randn(1000, generator=generator, dtype=torch.float64)
    base = written(tmp_path / "base", {"w": torch.zeros(1000, dtype=torch.float64)})
    folders = {
        name: written(tmp_path / name, {"w": factor * step})
        for name, factor in (("a", 1.0), ("b", -1.0))
    }
    found = measured(base, folders)
    assert np.isnan(found.with_mean).all()
    assert found.cosines[0, 1] == pytest.approx(-1)
    assert found.conflict[0, 1] == 1


def test_what_is_not_finite_is_refused_by_name(models, tmp_path):
    base, folders = models
    for number, value in enumerate((math.nan, math.inf)):
        broken = fine_tune(base, tmp_path / str(number), seed=5)
        rewrite(broken, lambda t, value=value: t["classifier.weight"].view(-1)[:1].fill_(value))
        with pytest.raises(CheckpointError, match=r"tensor classifier\.weight minus") as caught:
            measured(base, {"fft": folders["fft"], "broken": broken})
        assert caught.value.where == str(broken)


def test_progress_adds_up_to_all_bytes(models):
    told = []
    measured(*models, advance=told.append)
    base, folders = models
    size = sum(t.numel() * 4 for t in load_file(base / "model.safetensors").values()
               if t.is_floating_point())  # fmt: skip
    assert sum(told) == (1 + len(folders)) * size


def test_displacement_is_that_of_dense_weights(models, found):
    v = dense(*models)
    rng = np.random.default_rng(0)
    for _ in range(20):
        d = rng.normal(size=4) * rng.integers(0, 2, 4)
        exact = displacement(found.gram, d)
        assert exact == pytest.approx(float(np.linalg.norm(v @ d)), rel=1e-12, abs=1e-12)
        bound = triangle_bound(found.gram, d)
        assert exact <= bound
        assert bound == pytest.approx(float(np.abs(d) @ np.linalg.norm(v, axis=0)))


def test_bounds_at_known_points(found):
    ones, zeros = np.ones(4), np.zeros(4)
    assert displacement(found.gram, zeros) == triangle_bound(found.gram, zeros) == 0
    assert relative_bound(found.gram, ones) == 0
    assert relative_bound(found.gram, zeros) == pytest.approx(2 * found.norms.sum())
    aligned = np.outer([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    for d in (np.ones(3), np.array([0.1, 0.7, 0.3]), np.array([1e-9, 3.0, 1e5])):
        assert displacement(aligned, d) <= triangle_bound(aligned, d)
        assert displacement(aligned, d) == pytest.approx(triangle_bound(aligned, d))
    assert displacement(aligned, [2.0, -1.0, 0.0]) == 0


def test_screening_orders_and_judges_nothing():
    vectors = np.array([[1, 0], [2, 0.2], [0, 1], [-1, 0], [0, 0], [0, 3.0]])
    names = ("fft", "aligned", "unrelated", "against", "nothing", "also")
    geometry = Geometry(names, vectors @ vectors.T, np.zeros((6, 6)), np.full((6, 6), 2.0), 1, 2)
    found = screen(geometry, "fft")
    order = ["aligned", "also", "unrelated", "against", "nothing"]
    assert [one.group for one in found] == order
    assert found[0].norm_ratio == pytest.approx(math.hypot(2, 0.2))
    assert found[3].cosine == -1
    assert found[4].to_dict()["cosine"] is None
    relations = ["aligned", "unrelated", "unrelated", "contradictory", None]
    assert [one.to_dict()["relation"] for one in found] == relations
    assert [one.group for one in screen(geometry, "fft", ["against", "aligned"])] == [
        "aligned",
        "against",
    ]
    for arguments in (("sft",), ("fft", ["aligned", "x"])):
        with pytest.raises(RecipeError, match="no such task vector; allowed: fft, aligned"):
            screen(geometry, *arguments)


def test_gram_alone_and_what_some_vectors_leave_of_others(models, monkeypatch):
    """Dense, in slices that do not divide the tensors; the Gram matrix is the geometry's."""
    monkeypatch.setattr(module, "_AT_ONCE", 64)
    monkeypatch.setattr(module, "_SHORTEST", 16)
    base, folders = models
    start = open_folder(base)
    readers = [open_folder(folder) for folder in folders.values()]
    names = [name for name, info in start.tensors.items() if info.is_float]
    assert np.array_equal(task_vector_gram(start, readers, names), measured(base, folders).gram)
    vectors = dense(base, folders)
    tasks, others = readers[:2], readers[2:]
    weights = np.random.default_rng(0).normal(size=(len(others), len(tasks)))
    rest = vectors[:, :2] - vectors[:, 2:] @ weights
    left = residuals(start, tasks, others, weights, names)
    assert left == pytest.approx((rest**2).sum(axis=0), rel=1e-12)
