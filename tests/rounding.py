"""Oracles for rounding: float64 results rounded correctly, distances in units in the last place."""

import numpy as np
import torch

# Bits of the significand (the hidden one counted) and the exponent of the smallest normal number.
_FORMATS = {torch.bfloat16: (8, -125), torch.float16: (11, -13)}
_BITS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def bits(tensor):
    """The bit patterns: −0.0 differs from 0.0, NaN equals itself."""
    return tensor.contiguous().view(_BITS[tensor.dtype])


def same_bits(left, right):
    return left.dtype == right.dtype and torch.equal(bits(left), bits(right))


def rounded(exact, dtype):
    """A float64 tensor rounded once, half to even, to bfloat16 or float16.

    `Tensor.to` goes through float32 and so rounds twice.
    """
    precision, smallest = _FORMATS[dtype]
    values = exact.numpy()
    exponent = np.maximum(np.frexp(values)[1], smallest)
    quantum = np.ldexp(1.0, exponent - precision)
    return torch.from_numpy(np.rint(values / quantum) * quantum).to(dtype)


def ulps(left, right):
    """How many representable numbers apart, element by element."""

    def rank(tensor):
        pattern = bits(tensor).long()
        top = 1 << (tensor.element_size() * 8 - 1)
        return torch.where(pattern < 0, -(pattern + top), pattern)

    return (rank(left) - rank(right)).abs()
