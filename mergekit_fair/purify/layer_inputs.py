"""What the linear layers of a model take, as sums XᵀX: streamed, no row is kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mergekit_fair.checkpoints.folder import architecture_of, read_config
from mergekit_fair.checkpoints.headers import TensorInfo
from mergekit_fair.checkpoints.names import memory_names
from mergekit_fair.errors import CheckpointError
from mergekit_fair.evaluation.classifier import (
    absent_weights,
    auto_class,
    backend_of,
    opening,
    require_weights,
)
from mergekit_fair.evaluation.forward import run_batches
from mergekit_fair.evaluation.model_inputs import ModelInputs
from mergekit_fair.merging.methods.head_policy import head_names

# Bytes of the sums of one forward pass: layers whose sums take more share several passes.
SUMS = 1 << 30
_KINDS = {"fair-classifier": "text", "fair-image-classifier": "image"}


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """A linear layer in memory and in the file.

    Attributes:
        tensor: the name of its weights in the model's file.
        memory: their name in memory, which the base's file may spell otherwise.
        module: of torch.
        width: inputs.
        is_transposed: whether the file has (inputs, outputs), as GPT-2's.
    """

    tensor: str
    memory: str
    module: torch.nn.Module
    width: int
    is_transposed: bool


def open_model(folder: str, device: str, *, trust_remote_code: bool = False) -> Any:
    """A classifier of texts or pictures or a causal model of transformers, in evaluation mode.

    Raises:
        CheckpointError: it cannot be opened, or has weights of random numbers.
    """
    kind = _KINDS.get(backend_of(folder, trust_remote_code=trust_remote_code)[0])
    with opening(folder):
        from transformers import AutoModelForCausalLM

        loader = auto_class(kind) if kind else AutoModelForCausalLM
        model, report = loader.from_pretrained(
            folder, output_loading_info=True, trust_remote_code=trust_remote_code
        )
    known = {name for name, _ in model.named_parameters()}
    require_weights([name for name in absent_weights(report) if name in known], folder)
    settings = model.config.get_text_config()
    if getattr(settings, "pad_token_id", None) is None:
        settings.pad_token_id = 0  # where a classifier takes its logits, which nobody reads here
    return model.to(device).eval()


def linear_layers(
    model: Any, folder: Path, tensors: Mapping[str, TensorInfo]
) -> tuple[list[LinearLayer], list[str]]:
    """The layers of a model that can be purified, and what is left alone, one sentence each.

    Left alone are heads and the output layer, convolutions, and weights that the file does not
    hold as a tensor of their own.

    Args:
        model: in memory.
        folder: that it was opened from.
        tensors: in its files.
    """
    names = memory_names(folder, tensors)
    heads = head_names(architecture_of(read_config(folder)), tensors)
    fixed = {id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)}
    output = model.get_output_embeddings()
    fixed |= {id(output.weight)} if output is not None else set()
    layers: list[LinearLayer] = []
    left: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        is_conv1d = type(module).__name__ == "Conv1D"
        if isinstance(module, torch.nn.modules.conv._ConvNd):
            left.setdefault("convolutions", []).append(name)
        if not (isinstance(module, torch.nn.Linear) or is_conv1d) or id(module.weight) in fixed:
            continue
        fixed.add(id(module.weight))
        memory = f"{name}.weight"
        tensor = names.in_file.get(memory) if names.is_known else memory
        if tensor not in tensors:
            left.setdefault("layers without a tensor of their own in the file", []).append(name)
        elif tensor not in heads:
            weight: Any = module.weight
            width = weight.shape[0 if is_conv1d else 1]
            layers.append(LinearLayer(str(tensor), memory, module, width, is_conv1d))
    notes = [f"{what}, such as {some[0]}: {len(some)} left alone" for what, some in left.items()]
    return layers, notes


def input_covariances(
    model: Any,
    layers: Sequence[LinearLayer],
    inputs: ModelInputs,
    batch_size: int,
    advance: Callable[[int], None],
    at_once: int = SUMS,
) -> Iterator[tuple[LinearLayer, torch.Tensor, int]]:
    """(layer, C = XᵀX/N, N) of every layer, in order: float64 (inputs, inputs).

    X has a row for every input vector that the layer takes on these rows: of a text one for each
    token, padding left out. N = 0 of a layer that takes none.

    One forward pass, or several where the sums of all layers take more than `at_once` bytes.

    Args:
        model: of `open_model`.
        layers: of `linear_layers`.
        inputs: rows as the model takes them.
        batch_size: rows of a forward pass; nothing but rounding depends on it.
        advance: told how many rows are done, of every pass.
        at_once: bytes.

    Raises:
        CheckpointError: a layer's inputs are NaN or infinite.
    """
    accepted = inspect.signature(model.forward).parameters

    def forward(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        known = {name: value for name, value in batch.items() if name in accepted}
        model(**{name: value.to(model.device) for name, value in known.items()})
        return torch.empty(0)

    for part in passes(layers, at_once):
        sums = _Sums(part)
        with sums.hooked(model):
            rows = range(len(inputs.lengths))
            run_batches(inputs, rows, batch_size, forward, lambda batch, _: advance(len(batch)))
        for layer in part:
            total, count = sums.totals.pop(layer.tensor), sums.counts[layer.tensor]
            if not bool(torch.isfinite(total).all()):
                raise CheckpointError(
                    f"the inputs of {layer.memory.removesuffix('.weight')} are NaN or infinite",
                    where=model.name_or_path,
                    fix="look for NaN and Inf in its weights, or save it in float32",
                )
            yield layer, total / max(count, 1), count


def passes(layers: Sequence[LinearLayer], at_once: int) -> list[list[LinearLayer]]:
    """Layers in order, cut where their sums would take more than so many bytes."""
    parts: list[list[LinearLayer]] = [[]]
    size = 0
    for layer in layers:
        width = 8 * layer.width**2
        if parts[-1] and size + width > at_once:
            parts.append([])
            size = 0
        parts[-1].append(layer)
        size += width
    return parts


class _Sums:
    """XᵀX and N of some layers, added to while the model runs."""

    def __init__(self, layers: Sequence[LinearLayer]) -> None:
        self._layers = layers
        self.totals: dict[str, torch.Tensor] = {}
        self.counts = dict.fromkeys((layer.tensor for layer in layers), 0)
        for layer in layers:
            weight: Any = layer.module.weight
            device = torch.device("cpu") if weight.device.type == "mps" else weight.device
            shape = layer.width, layer.width
            self.totals[layer.tensor] = torch.zeros(shape, dtype=torch.float64, device=device)
        self._mask: torch.Tensor | None = None
        # Queries, keys and values are made of one tensor, whose product is formed once.
        self._last: tuple[torch.Tensor | None, torch.Tensor, int] = (None, torch.empty(0), 0)

    @contextmanager
    def hooked(self, model: Any) -> Iterator[None]:
        """Adds up what the layers take while the block runs."""

        def begin(module: Any, args: Any, named: dict[str, Any]) -> None:
            del module, args
            self._mask = named.get("attention_mask")

        with ExitStack() as hooks:
            hooks.callback(model.register_forward_pre_hook(begin, with_kwargs=True).remove)
            for layer in self._layers:
                hook = layer.module.register_forward_pre_hook(self._adder(layer.tensor))
                hooks.callback(hook.remove)
            yield
            self._last = (None, torch.empty(0), 0)

    def _adder(self, tensor: str) -> Callable[[Any, Any], None]:
        def add(module: Any, args: Any) -> None:
            del module
            total = self.totals[tensor]
            if args[0] is not self._last[0]:
                values = self._without_padding(args[0]).to(total.device, torch.float64)
                self._last = (args[0], values.T @ values, len(values))
            total += self._last[1]
            self.counts[tensor] += self._last[2]

        return add

    def _without_padding(self, values: torch.Tensor) -> torch.Tensor:
        """(rows, width) of what a layer takes; of tokens those that are no padding."""
        mask = self._mask
        if mask is not None and mask.ndim == 2 and values.shape[:-1] == mask.shape:
            values = values[mask.to(values.device, torch.bool)]
        return values.reshape(-1, values.shape[-1])
