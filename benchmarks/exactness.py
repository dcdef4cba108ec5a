"""How exact merged tensors are: distance from the float64 result, correctly rounded.

For each method and dtype, random tensors of a million elements are merged by the kernel that the
engine streams with, by mergekit's own `task_arithmetic` where it computes the same, and densely in
float64; the float64 result is rounded to the dtype once, half to even. Printed: the share of
elements that are another number, and the largest distance in units in the last place.

    python benchmarks/exactness.py
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mergekit.merge_methods import merge_state_dicts

import mergekit_fair

COUNT = 1 << 20
LIMIT = 0.0005
# Bits of the significand and the exponent of the smallest normal number.
FORMATS = {torch.bfloat16: (8, -125), torch.float16: (11, -13), torch.float32: (24, -125)}
NAMES = ("a", "b", "c", "d")
WEIGHTS = {"a": 0.9, "b": -0.35, "c": 1.0, "d": 0.2}
STEPS = {"a": 100, "b": 60, "c": 250, "d": 40}
SCALE = 0.37


def rounded(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Float64 rounded once, half to even; torch goes through float32 and rounds twice."""
    precision, smallest = FORMATS[dtype]
    values = exact.numpy()
    exponent = np.maximum(np.frexp(values)[1], smallest)
    quantum = np.ldexp(1.0, exponent - precision)
    return torch.from_numpy(np.rint(values / quantum) * quantum).to(dtype)


def ulps(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """How many representable numbers apart, element by element."""
    width = {2: torch.int16, 4: torch.int32}[left.element_size()]
    top = 1 << (left.element_size() * 8 - 1)

    def rank(tensor: torch.Tensor) -> torch.Tensor:
        pattern = tensor.view(width).long()
        return torch.where(pattern < 0, -(pattern + top), pattern)

    return (rank(left) - rank(right)).abs()


Vectors = dict[str, torch.Tensor]


def addition(v: Vectors) -> torch.Tensor:
    return sum((WEIGHTS[name] * v[name] for name in NAMES), torch.zeros_like(v["a"]))


def agreement(v: Vectors) -> torch.Tensor:
    stack = torch.stack([WEIGHTS[name] * v[name] for name in NAMES])
    share = stack.sign().sum(0).abs() / len(NAMES)
    return stack.sum(0) * torch.where(share >= 0.6, 1.0, share)


def median(v: Vectors) -> torch.Tensor:
    stack = torch.stack([WEIGHTS[name] * v[name] for name in NAMES])
    return torch.from_numpy(np.median(stack.numpy(), axis=0))


def clipped(v: Vectors) -> torch.Tensor:
    factors = {name: min(1.0, 10.0 / v[name].norm().item()) for name in NAMES}
    return sum((WEIGHTS[n] * factors[n] * v[n] for n in NAMES), torch.zeros_like(v["a"]))


def averaged(v: Vectors) -> torch.Tensor:
    mean = math.fsum(STEPS.values()) / len(STEPS)
    factors = {name: mean / (STEPS[name] * len(STEPS)) for name in NAMES}
    return sum((WEIGHTS[n] * factors[n] * v[n] for n in NAMES), torch.zeros_like(v["a"]))


# Title → method, its parameters, the direction that λ is multiplied with.
CASES: dict[str, tuple[str, dict[str, Any], Callable[[Vectors], torch.Tensor]]] = {
    "subgroup_task_addition": ("subgroup_task_addition", {"weight": WEIGHTS}, addition),
    "mergekit's task_arithmetic": ("task_arithmetic", {"weight": WEIGHTS}, addition),
    "fedgma": ("fedgma", {"weight": WEIGHTS, "rho": 0.6}, agreement),
    "task_median": ("task_median", {"weight": WEIGHTS}, median),
    "cclip": ("cclip", {"weight": WEIGHTS, "rho": 10.0}, clipped),
    "fednova": ("fednova", {"weight": WEIGHTS, "steps": STEPS}, averaged),
}


def drawn(dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, Vectors]:
    generator = torch.Generator().manual_seed(seed)
    base = 0.05 * torch.randn(COUNT, generator=generator)
    return base.to(dtype), {
        name: (base + 0.01 * torch.randn(COUNT, generator=generator)).to(dtype) for name in NAMES
    }


def measure(title: str, dtype: torch.dtype, seed: int) -> tuple[float, int]:
    """The share of elements that are not the correctly rounded ones, and the largest distance."""
    method, parameters, direction = CASES[title]
    base, members = drawn(dtype, seed)
    models = {"base": {"w": base}, **{name: {"w": tensor} for name, tensor in members.items()}}
    own = {} if method == "task_arithmetic" else {"group": {name: name for name in NAMES}}
    given = {**parameters, **own, "lambda": SCALE}
    found = merge_state_dicts(models, method, base="base", parameters=given)["w"]
    vectors = {name: tensor.double() - base.double() for name, tensor in members.items()}
    apart = ulps(found, rounded(base.double() + SCALE * direction(vectors), dtype))
    return float((apart != 0).double().mean()), int(apart.max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    mergekit_fair.register()
    print(f"{COUNT:,} elements, λ = {SCALE}, 4 vectors; targets in half precision: at most")
    print(f"{LIMIT:.2%} other numbers, never more than 1 ulp\n")
    print(f"{'method':<28}{'dtype':<10}{'other numbers':>14}{'largest, ulp':>14}")
    for title in CASES:
        for dtype in FORMATS:
            share, largest = measure(title, dtype, seed)
            mark = ""
            if dtype != torch.float32 and "mergekit" not in title:
                mark = "  met" if share <= LIMIT and largest <= 1 else "  MISSED"
            name = str(dtype).removeprefix("torch.")
            print(f"{title:<28}{name:<10}{share:>14.4%}{largest:>14,}{mark}")


if __name__ == "__main__":
    main()
