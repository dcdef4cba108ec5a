"""Llama-shaped bf16 checkpoints for the benchmark, and the dense arithmetic that checks merges."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

WEIGHTS = "model.safetensors"
_BUDGET = 20e9  # bytes of inputs and outputs at once: they must stay in the page cache
_ROWS = 64  # rows compared at either end of a tensor


class BenchmarkError(Exception):
    """A program failed, a merge is wrong or the models do not fit; the benchmark stops."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a LlamaForCausalLM."""

    hidden: int
    intermediate: int
    layers: int
    vocab: int = 32_000
    head: int = 128

    @classmethod
    def of_size(cls, gigabytes: float) -> Shape:
        """A shape of about that many 10⁹ bytes in bf16; 1.14 gives 16 layers of width 1536."""
        widths = {0.5: (512, 1408), 2.0: (1536, 4352)}
        hidden, intermediate = next(
            (width for limit, width in widths.items() if gigabytes < limit), (2048, 5632)
        )
        none, one = (cls(hidden, intermediate, layers).nbytes for layers in (0, 1))
        return cls(hidden, intermediate, max(1, round((gigabytes * 1e9 - none) / (one - none))))

    @property
    def name(self) -> str:
        return f"llama-{self.hidden}-{self.intermediate}-{self.layers}-{self.vocab}-bf16"

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return 2 * sum(torch.Size(shape).numel() for shape in self.tensors().values())

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name → shape, in the model's order."""
        h, i = self.hidden, self.intermediate
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, h)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            shapes |= {f"{prefix}.self_attn.{p}_proj.weight": (h, h) for p in "qkvo"}
            shapes |= {f"{prefix}.mlp.{p}_proj.weight": (i, h) for p in ("gate", "up")}
            shapes[f"{prefix}.mlp.down_proj.weight"] = (h, i)
            shapes[f"{prefix}.input_layernorm.weight"] = (h,)
            shapes[f"{prefix}.post_attention_layernorm.weight"] = (h,)
        return shapes | {"model.norm.weight": (h,), "lm_head.weight": (self.vocab, h)}

    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        heads = self.hidden // self.head
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": self.head,
            "vocab_size": self.vocab,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }


START = Shape(hidden=32, intermediate=64, layers=2, vocab=512, head=16)
MANY = Shape(hidden=16, intermediate=16, layers=556, vocab=64, head=8)  # 5,007 tensors


class Family:
    """θ0 and models fine-tuned from it, in one folder; a model that is there is complete."""

    def __init__(self, work: Path, shape: Shape) -> None:
        self.shape = shape
        self.folder = work / shape.name

    def make(self, vectors: int, outputs: int = 1, most: int | None = None) -> list[Path]:
        """The folders of θ0 and of `vectors` models, made where they are missing.

        At most `most` vectors, and as many as fit beside `outputs` merges, have weights of their
        own; the others are hard links to those.

        Raises:
            BenchmarkError: not even one vector fits.
        """
        distinct = int(_BUDGET / self.shape.nbytes - outputs - 1)
        if distinct < 1:
            raise BenchmarkError(
                f"models of {self.shape.nbytes / 1e9:.2f} GB and {outputs} merges need more than "
                f"{_BUDGET / 1e9:.0f} GB at once: choose a smaller --size"
            )
        distinct = min(distinct, vectors, most or vectors)
        self._require_space(1 + distinct + outputs)
        base = self.folder / "base"
        if not base.is_dir():
            self._write(base, dict(self._base()))
        own = [self.folder / f"v{number}" for number in range(1, distinct + 1)]
        for number, folder in enumerate(own, start=1):
            if not folder.is_dir():
                self._write(folder, dict(self._tuned(base, number)))
        return [base, *own, *(self._link(own, number) for number in range(distinct, vectors))]

    def adapters(self, count: int) -> list[Path]:
        """LoRA adapters of rank 8 over θ0, on query and value, as peft saves them."""
        (base,) = self.make(0) if (self.folder / "base").is_dir() else self.make(1)[:1]
        folders = [self.folder / f"adapter{number}" for number in range(1, count + 1)]
        config = {
            "peft_type": "LORA",
            "base_model_name_or_path": str(base.resolve()),
            "task_type": "CAUSAL_LM",
            "r": 8,
            "lora_alpha": 16,
            "target_modules": ["q_proj", "v_proj"],
        }
        for number, folder in enumerate(folders):
            random = torch.Generator().manual_seed(number)
            shapes = {"A": (8, self.shape.hidden), "B": (self.shape.hidden, 8)}
            tensors = {
                f"base_model.model.model.layers.{layer}.self_attn.{part}_proj.lora_{side}.weight": (
                    torch.randn(shape, generator=random).mul_(0.02)
                )
                for layer in range(self.shape.layers)
                for part in "qv"
                for side, shape in shapes.items()
            }
            folder.mkdir(exist_ok=True)
            save_file(tensors, str(folder / "adapter_model.safetensors"))
            (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
        return [base, *folders]

    def _require_space(self, models: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        present = sum(1 for _ in self.folder.glob(f"[bv]*/{WEIGHTS}"))
        need = max(0, models - present) * self.shape.nbytes + 1e9
        free = shutil.disk_usage(self.folder).free
        if free < need:
            raise BenchmarkError(f"the disk has {free / 1e9:.0f} GB free, {need / 1e9:.0f} needed")

    def _link(self, own: list[Path], number: int) -> Path:
        source = own[number % len(own)]
        folder = self.folder / f"copy{number + 1}-of-{source.name}"
        if not folder.is_dir():
            folder.mkdir()
            shutil.copy(source / "config.json", folder)
            os.link(source / WEIGHTS, folder / WEIGHTS)
        return folder

    def _base(self) -> Iterator[tuple[str, torch.Tensor]]:
        random = torch.Generator().manual_seed(0)
        for name, shape in self.shape.tensors().items():
            values = torch.randn(shape, generator=random)
            is_norm = len(shape) == 1
            yield name, (values.mul_(0.1).add_(1) if is_norm else values.mul_(0.02)).bfloat16()

    def _tuned(self, base: Path, seed: int) -> Iterator[tuple[str, torch.Tensor]]:
        """Noise a tenth as large as the weights: well above what bf16 rounds away."""
        random = torch.Generator().manual_seed(seed)
        with safe_open(str(base / WEIGHTS), framework="pt") as stream:
            for name, shape in self.shape.tensors().items():
                noise = torch.randn(shape, generator=random).mul_(0.02 if len(shape) == 1 else 2e-3)
                yield name, noise.add_(stream.get_tensor(name)).bfloat16()

    def _write(self, folder: Path, tensors: dict[str, torch.Tensor]) -> None:
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        save_file(tensors, str(partial / WEIGHTS), metadata={"format": "pt"})
        (partial / "config.json").write_text(json.dumps(self.shape.config(), indent=2))
        os.sync()
        partial.rename(folder)


def check_merge(out: Path, models: list[Path], scale: float, *, is_rounded_once: bool) -> None:
    """Compare rows of five tensors of `out` with θ0 + scale Σ (θ_g − θ0) in float64.

    Args:
        out: a merged model.
        models: θ0 first.
        scale: λ.
        is_rounded_once: hold every number to one rounding to bf16 of float32 arithmetic;
            otherwise that rounding and a tenth of the change's length are allowed.

    Raises:
        BenchmarkError: other tensors than the base's, or wrong values.
    """
    with ExitStack() as stack:
        merged, base, *tuned = (_Checkpoint(folder, stack) for folder in (out, *models))
        if merged.layout() != base.layout():
            raise BenchmarkError(f"{out.name}: tensor names, shapes or dtypes are not the base's")
        for name in base.probes():
            origin = base.rows(name)
            vector = sum((model.rows(name) - origin for model in tuned), torch.zeros(()))
            exact = origin + scale * vector
            error = (merged.rows(name) - exact).abs()
            if is_rounded_once or scale == 0:
                reach = origin.abs() + (scale * vector).abs()
                is_right = bool((error <= 2**-8 * exact.abs() + 2**-20 * reach).all())
            else:
                change = (scale * vector).norm()
                is_right = bool(error.norm() <= 0.1 * change + 2**-8 * exact.norm())
            if not is_right:
                raise BenchmarkError(
                    f"{out.name}: {name} is not θ0 + {scale:g} Σ Δ: off by up to "
                    f"{float(error.max()):.3g}, mean {float(error.mean()):.3g}"
                )


def check_equal(one: Path, other: Path) -> None:
    """Compare all tensors of two models, however they are cut into files.

    Raises:
        BenchmarkError: one differs.
    """
    with ExitStack() as stack:
        left, right = (_Checkpoint(folder, stack) for folder in (one, other))
        if left.layout() != right.layout():
            raise BenchmarkError(f"{one} and {other} have other tensors")
        for name in left.layout():
            if not torch.equal(left.whole(name), right.whole(name)):
                raise BenchmarkError(f"{one} and {other} differ in {name}")


def merged_scale(out: Path, models: list[Path]) -> float:
    """The λ by which `out` moved along Σ (θ_g − θ0), by least squares on one tensor."""
    with ExitStack() as stack:
        merged, base, *tuned = (_Checkpoint(folder, stack) for folder in (out, *models))
        name = base.probes()[1]
        origin = base.rows(name)
        vector = sum((model.rows(name) - origin for model in tuned), torch.zeros(()))
        return float(((merged.rows(name) - origin) * vector).sum() / (vector * vector).sum())


class _Checkpoint:
    """The open safetensors files of a folder, one or many."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._files = {}
        for file in sorted(folder.glob("*.safetensors")):
            stream = stack.enter_context(safe_open(str(file), framework="pt"))
            self._files.update(dict.fromkeys(stream.keys(), stream))

    def layout(self) -> dict[str, tuple[str, list[int]]]:
        slices = {name: file.get_slice(name) for name, file in sorted(self._files.items())}
        return {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}

    def probes(self) -> list[str]:
        """Embeddings, a matrix of the middle and of the last layer, the last norm, the head."""
        last = sum(name.endswith("q_proj.weight") for name in self._files) - 1
        return [
            "model.embed_tokens.weight",
            f"model.layers.{last // 2}.self_attn.q_proj.weight",
            f"model.layers.{last}.mlp.down_proj.weight",
            "model.norm.weight",
            "lm_head.weight",
        ]

    def whole(self, name: str) -> torch.Tensor:
        return self._files[name].get_tensor(name)

    def rows(self, name: str) -> torch.Tensor:
        """The first and last rows in float64."""
        part = self._files[name].get_slice(name)
        count = part.get_shape()[0]
        return torch.cat([part[: min(_ROWS, count)], part[max(0, count - _ROWS) :]]).double()
