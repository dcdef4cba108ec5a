"""Quantised checkpoints: their tensors are codes, scales and tables, which cannot be added up.

config.json usually says so. Some savers write another file, or nothing; then the names and dtypes
of the tensors tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.headers import FLOATS, TensorInfo
from mergekit_fair.errors import CheckpointError
from mergekit_fair.files import text_of
from mergekit_fair.schema import parse_json

# In config.json, or in a part of it such as `text_config`.
_BLOCKS = ("quantization_config", "compression_config", "quantization")

# Files of savers that leave config.json as it was.
_FILES = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "quanto_qmap.json": "quanto",
    "hf_quant_config.json": "ModelOpt",
    "quant_model_description.json": "msModelSlim",
}

_METHODS = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "bitsandbytes_4bit": "bitsandbytes 4-bit",
    "bitsandbytes_8bit": "bitsandbytes 8-bit",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8 (FBGEMM)",
    "finegrained_fp8": "FP8",
    "compressed-tensors": "compressed-tensors",
    "mxfp4": "MXFP4",
    "torchao": "torchao",
    "hqq": "HQQ",
    "quanto": "quanto",
    "eetq": "EETQ",
    "aqlm": "AQLM",
    "vptq": "VPTQ",
    "higgs": "HIGGS",
    "spqr": "SpQR",
    "bitnet": "BitNet",
    "auto-round": "AutoRound",
}

# A tensor's last names → the method, most telling first.
_TENSORS = (
    (r"\.weight_packed$", "compressed-tensors"),
    (r"\.weight\.(absmax|quant_map|nested_absmax|quant_state\..*)$", "bitsandbytes 4-bit"),
    (r"\.(SCB|weight_format)$", "bitsandbytes 8-bit"),
    (r"\.g_idx$", "GPTQ"),
    (r"\.(qweight|qzeros)$", "GPTQ or AWQ"),
    (r"_(blocks|scales)$", "MXFP4"),
    (r"\.(W_q|W_nbits)$", "HQQ"),
    (r"\.weight\._(data|scale)$", "quanto"),
    (r"\.(weight_scale|weight_scale_inv)$", "FP8"),
)
_ANY_TENSOR = re.compile("|".join(pattern for pattern, _ in _TENSORS))


def quantization(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The name of the method by which a model folder says that it is quantised; None if it is not.

    >>> quantization(Path("no/such"), {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    'GPTQ, 4 bits'
    >>> quantization(Path("no/such"), {"quantization_config": None}) is None
    True
    """
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in _BLOCKS:
            if part.get(key):
                return _named(key, part[key])
    for name, method in _FILES.items():
        if (folder / name).is_file() and _says_so(folder / name):
            return method
    return None


def quantized_tensors(tensors: Mapping[str, TensorInfo]) -> tuple[str, str] | None:
    """A tensor that quantisation left, and the method; None if there is none.

    >>> quantized_tensors({"h.0.mlp.qweight": TensorInfo("I32", (4, 8))})
    ('h.0.mlp.qweight', 'GPTQ or AWQ')
    """
    telling = [name for name in tensors if _ANY_TENSOR.search(name)]
    for pattern, method in _TENSORS:
        for name in telling:
            if re.search(pattern, name) and (method != "MXFP4" or tensors[name].dtype == "U8"):
                return name, method
    for name, info in tensors.items():
        if re.match(r"F(8_|6_|4)", info.dtype) and info.dtype not in FLOATS:
            return name, f"FP{info.dtype[1]}"
    return None


def require_unquantized(
    model: object, folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> None:
    """Check that a model's tensors are weights.

    Args:
        model: for the error.
        folder: with the config.json.
        config: its content.
        tensors: of the model.

    Raises:
        CheckpointError: names the method, or the tensor that tells of it.
    """
    method = quantization(folder, config)
    if method is None:
        telling = quantized_tensors(tensors)
        method = telling and f"{telling[1]}: it holds {telling[0]}"
    if method is not None:
        raise quantized(model, method)


def quantized(model: object, method: str) -> CheckpointError:
    """The error for a quantised model."""
    return CheckpointError(
        f"is quantised ({method}); its weights cannot be added up",
        where=model,
        fix="merge the models before they were quantised, then quantise the result",
    )


def _named(key: str, block: Any) -> str:
    if not isinstance(block, dict):
        return key
    method = block.get("quant_method") or block.get("quant_type") or block.get("quantization")
    if method == "bitsandbytes" or "load_in_4bit" in block or "load_in_8bit" in block:
        return f"bitsandbytes {'4' if block.get('load_in_4bit') else '8'}-bit"
    name = _METHODS.get(str(method).lower(), str(method)) if method else key
    bits = block.get("bits") or block.get("w_bit") or block.get("weight_bits")
    return f"{name}, {bits} bits" if isinstance(bits, int) else name


def _says_so(file: Path) -> bool:
    try:
        content = parse_json(text_of(file))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and bool(content)
