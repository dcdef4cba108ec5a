"""Quantised models are refused by name, however they say it, on every route."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import rewrite
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from refusals import raises, refusal

import mergekit_fair
from mergekit_fair.checkpoints.reader import open_folder
from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.in_memory import Composer
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.schema import dump_yaml

MODULE = "bert.encoder.layer.0.attention.self.query"


def says(**block: Any) -> Callable[[Path], None]:
    return configured(quantization_config=block)


def configured(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


def holds(**tensors: torch.Tensor) -> Callable[[Path], Any]:
    """Beside, or in place of, a module's weight."""

    def pack(state: dict[str, torch.Tensor]) -> None:
        state |= {f"{MODULE}.{name.replace('__', '.')}": each for name, each in tensors.items()}

    return lambda folder: rewrite(folder, pack)


def file(name: str, text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(text)


INT, SCALE = torch.zeros(4, 32, dtype=torch.int32), torch.ones(32)
FP8 = torch.zeros(32, 32).to(torch.float8_e4m3fn)

# What a saver left → how the message names it.
KINDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "gptq": (says(quant_method="gptq", bits=4), "GPTQ, 4 bits"),
    "awq": (says(quant_method="awq", bits=4, zero_point=True), "AWQ, 4 bits"),
    "bnb-4": (says(quant_method="bitsandbytes", load_in_4bit=True), "bitsandbytes 4-bit"),
    "bnb-8": (says(load_in_8bit=True, load_in_4bit=False), "bitsandbytes 8-bit"),
    "fp8": (says(quant_method="fp8", weight_block_size=[128, 128]), "FP8"),
    "compressed": (says(quant_method="compressed-tensors"), "compressed-tensors"),
    "old compressed": (configured(compression_config={"format": "dense"}), "compression_config"),
    "mxfp4": (says(quant_method="mxfp4"), "MXFP4"),
    "torchao": (says(quant_method="torchao", quant_type="int4_weight_only"), "torchao"),
    "unknown": (says(quant_method="newest"), "newest"),
    "inside": (
        configured(text_config={"quantization_config": {"quant_method": "awq"}}),
        "AWQ",
    ),
    "auto-gptq's file": (file("quantize_config.json", '{"bits": 4}'), "GPTQ"),
    "auto-awq's file": (file("quant_config.json", '{"w_bit": 4}'), "AWQ"),
    "packed integers": (holds(qweight=INT, scales=SCALE), "GPTQ or AWQ: it holds"),
    "group index": (holds(g_idx=torch.zeros(32, dtype=torch.int32)), "GPTQ: it holds"),
    "absmax": (holds(weight__absmax=SCALE), "bitsandbytes 4-bit: it holds"),
    "row scales": (holds(SCB=SCALE), "bitsandbytes 8-bit: it holds"),
    "packed": (holds(weight_packed=INT, weight_scale=SCALE), "compressed-tensors: it holds"),
    "8-bit floats": (holds(weight=FP8), "FP8: it holds"),
    "8-bit floats' scales": (holds(weight_scale_inv=SCALE), "FP8: it holds"),
    "blocks": (holds(down_proj_blocks=torch.zeros(4, dtype=torch.uint8)), "MXFP4: it holds"),
}


@pytest.fixture
def quantized(tiny: Any, tmp_path: Path) -> Callable[[str], Path]:
    def make(kind: str) -> Path:
        folder = shutil.copytree(tiny("bert").base, tmp_path / "quantized")
        KINDS[kind][0](folder)
        return folder

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_what_savers_leave(quantized: Any, kind: str) -> None:
    folder = quantized(kind)
    with raises(CheckpointError, KINDS[kind][1], where=folder):
        open_folder(folder)


def test_pickles_too(quantized: Any) -> None:
    folder = quantized("packed integers")
    tensors = {f"{MODULE}.qweight": INT}
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with raises(CheckpointError, "GPTQ or AWQ: it holds", where=folder):
        open_folder(folder, allow_pickle=True)


def test_llama_cpps_files(tmp_path: Path) -> None:
    (tmp_path / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    with raises(CheckpointError, "GGUF", where=tmp_path, got=["model-Q4_K_M.gguf"]):
        open_folder(tmp_path)


@pytest.mark.parametrize("block", [None, {}])
def test_a_setting_that_says_nothing(tiny: Any, tmp_path: Path, block: Any) -> None:
    folder = shutil.copytree(tiny("bert").base, tmp_path / "plain")
    configured(quantization_config=block)(folder)
    file("quantize_config.json", "{}")(folder)
    open_folder(folder).close()


STOCK = {"merge_method": "task_arithmetic", "dtype": "float32"}


@pytest.mark.parametrize("method", ["own", "stock"])
@pytest.mark.parametrize("kind", ["gptq", "packed integers"])
def test_every_route_refuses_them(
    tiny: Any, quantized: Any, tmp_path: Path, method: str, kind: str
) -> None:
    folder, family = quantized(kind), tiny("bert")
    raw = family.addition(lambda_=0.5)
    raw["models"][1]["model"] = str(folder)
    if method == "stock":
        models = [{"model": item["model"], "parameters": {"weight": 1}} for item in raw["models"]]
        raw = STOCK | {"base_model": raw["base_model"], "models": models}
    path = tmp_path / "r.yml"
    path.write_text(dump_yaml(raw))
    out = tmp_path / "out"
    for arguments in (["merge", path, out], ["check", path], ["vectors", path]):
        refusal(arguments, CheckpointError, KINDS[kind][1], where=folder)
    for option in ("--allow-crimes", "--unsafe-truncate-embeddings", "--no-safe-serialization"):
        refusal(["merge", path, out, option], CheckpointError, KINDS[kind][1], where=folder)
    with raises(CheckpointError, KINDS[kind][1], where=folder):
        list(Composer().compose(Recipe.load(path)))
    if method == "own":
        mergekit_fair.register()
        with raises(CheckpointError, KINDS[kind][1], where=folder):
            run_merge(Recipe.load(path).for_mergekit(), str(out), MergeOptions(quiet=True))
    assert not out.exists()
