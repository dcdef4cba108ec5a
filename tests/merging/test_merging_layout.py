"""Files are laid out before they are computed, and equal safetensors' own to the byte."""

import json

import pytest
import torch
from safetensors.torch import save

from mergekit_fair.checkpoints.reader import DTYPES
from mergekit_fair.merging.methods.formula import Formula, Formulas, Term, copy_of
from mergekit_fair.merging.program import OutputTensor
from mergekit_fair.merging.shards import index_json, jobs, shards, tensor_bytes

ALL = {
    **{name: (dtype, (3, 5)) for name, dtype in DTYPES.items()},
    "a.b": (torch.bfloat16, (2,)),
    "Z": (torch.bfloat16, ()),
    "é'\"\\": (torch.float32, (1,)),
    "empty": (torch.float32, (0, 7)),
}


def tensor(name, dtype, shape, density=1.0):
    formula = Formula("base", "base", (Term(1.0, "a", density),))
    return OutputTensor(name, shape, dtype, dtype, Formulas((formula,)))


def plan(entries):
    return [tensor(name, dtype, shape) for name, (dtype, shape) in entries.items()]


def test_header_and_order_are_those_of_safetensors():
    (shard,) = shards(plan(ALL), 0)
    generator = torch.Generator().manual_seed(0)
    data = {
        name: torch.randint(0, 2, shape, generator=generator).to(dtype)
        for name, (dtype, shape) in ALL.items()
    }
    expected = save(data, {"format": "pt"})
    mine = shard.header + b"".join(
        data[item.name].contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        if data[item.name].numel()
        else b""
        for item in shard.tensors
    )
    assert mine == expected
    assert shard.size == len(expected)
    assert shard.name == "model.safetensors"
    assert index_json((shard,)) is None


@pytest.mark.parametrize(("limit", "count"), [(0, 1), (-1, 1), (100, 1), (99, 2), (40, 3), (1, 5)])
def test_shards_are_filled_in_the_order_of_the_plan(limit, count):
    entries = {f"t{index}": (torch.float32, (5,)) for index in range(5)}
    files = shards(plan(entries), limit)
    assert len(files) == count
    assert [item.name for file in files for item in file.tensors] == list(entries)
    if count > 1:
        assert files[0].name == f"model-00001-of-{count:05d}.safetensors"
        index = json.loads(index_json(files))
        assert index["metadata"]["total_size"] == 100
        assert index["weight_map"]["t4"] == files[-1].name


@pytest.mark.parametrize("elements", [1, 4, 7, 10, 1000])
def test_jobs_cover_every_element_once_and_in_order(elements):
    entries = {"a": (torch.float32, (4, 6)), "b": (torch.float32, (3,)), "c": (torch.float32, ())}
    files = shards([*plan(entries), tensor("d", torch.float32, (0,))], 60)
    covered = []
    for job in jobs(files, elements):
        names = [item.name for item in files[job.shard].tensors]
        assert job.size == sum(piece.size for piece in job.pieces)
        assert sum(piece.stop - piece.start for piece in job.pieces) <= max(elements, 1)
        for piece in job.pieces:
            assert piece.tensor.name in names
            covered += [(piece.tensor.name, at) for at in range(piece.start, piece.stop)]
    expected = [
        (item.name, at)
        for file in files
        for item in file.tensors
        for at in range(tensor_bytes(item) // 4)
    ]
    assert covered == expected


def test_a_sparse_tensor_is_one_piece():
    (shard,) = shards([tensor("a", torch.float32, (100,), density=0.5)], 0)
    (job,) = jobs((shard,), 10)
    assert [(piece.start, piece.stop) for piece in job.pieces] == [(0, 100)]


def test_what_a_tensor_reads():
    moving = tensor("a", torch.float32, (1,))
    assert moving.models == ("base", "a")
    none, half = (moving.formula.scaled(scale) for scale in (0.0, 0.5))
    still = OutputTensor("a", (1,), torch.float32, torch.float32, Formulas((none,)))
    assert still.models == ("base",)
    grid = OutputTensor("a", (1,), torch.float32, torch.float32, Formulas((none, half)))
    assert grid.models == ("base", "a")
    copied = Formulas((copy_of("b", "base"),))
    kept = OutputTensor("a", (1,), torch.int64, torch.int64, copied, ("b", "c"))
    assert kept.models == ("b", "c")


def test_outputs_share_what_is_the_same_in_all():
    """Other terms are another direction; λ alone is another scale; what is copied is one."""
    one, two = Formula("base", "base", (Term(1.0, "a"),)), Formula("a", "base", (Term(1.0, "b"),))
    still = copy_of("base", "base")
    assert Formulas((one, one)).are_alike
    assert Formulas((still, one.scaled(0.0))).are_alike
    assert not Formulas((still, copy_of("a", "base"))).are_alike
    assert not Formulas((still, copy_of("a", "base"))).moves
    assert not Formulas((one, one.scaled(0.5))).are_alike
    scales = [scales for _, scales in Formulas((one, two, one.scaled(0.5), still)).directions]
    assert scales == [((0, 1.0), (2, 0.5)), ((1, 1.0),), ((3, 1.0),)]
