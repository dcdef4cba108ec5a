"""Task vectors as text, and `vectors.png` (extra `plot`)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from mergekit_fair.report.drawing import write_picture
from mergekit_fair.report.text_tables import aligned, value_text

_MATRICES = (("cosines", "cosine"), ("sign_conflict", "sign conflict"))


def vectors_table(found: dict[str, Any]) -> str:
    """Norms, cosines, sign conflict, what the recipe's λ does, and the order of screening.

    Args:
        found: the JSON of `RecipeVectors`.
    """
    parts = [
        f"{found['recipe']}: {found['method']}, {len(found['names'])} task vectors over "
        f"{found['elements']:,} elements in {found['tensors']} tensors",
        _overview(found),
        *(f"{title}\n{_matrix(found['names'], found[key])}" for key, title in _MATRICES),
    ]
    if found["at"]:
        parts.append(_move(found))
    if found["screening"]:
        parts.append(_screening(found))
    parts += [f"note: {note}" for note in found["notes"]]
    return "\n\n".join(parts)


def _overview(found: dict[str, Any]) -> str:
    target = found["target"]
    ratios, title = found["norm_over_median"], "norm/median"
    if target is not None:
        ratios, title = found["norm_over_target"], f"norm/{target}"
    rows = [["group", "norm", title, "cos(mean)", "min cos"]]
    for index, name in enumerate(found["names"]):
        others = [
            value
            for other, value in enumerate(found["cosines"][index])
            if other != index and value is not None
        ]
        cosines = (found["cosine_with_mean"][index], min(others, default=None))
        norm = f"{found['norms'][index]:.6g}"
        rows.append([name, norm, value_text(ratios[index]), *map(value_text, cosines)])
    return aligned(rows)


def _matrix(names: list[str], values: list[list[float | None]]) -> str:
    rows = [["", *names]]
    rows += [[name, *map(value_text, row)] for name, row in zip(names, values, strict=True)]
    return aligned(rows)


def _move(found: dict[str, Any]) -> str:
    at = found["at"]
    effective = at["lambda_eff"]
    lambdas = ", ".join(f"{name} {value:g}" for name, value in at["lambda"].items())
    head = f"at the recipe's λ ({lambdas})"
    rows = [["λ_eff", "–" if effective is None else f"{effective:g}"]]
    for reference, distance in at["from"].items():
        rows.append(
            [f"‖θ − θ_{reference}‖", f"{distance['displacement']:.6g} (≤ {distance['bound']:.6g})"]
        )
    if at["relative_bound"] is not None:
        rows.append(["U(λ)/L", f"{at['relative_bound']:.6g}, relative: it bounds no DPD"])
    return f"{head}\n{aligned(rows)}"


def _screening(found: dict[str, Any]) -> str:
    rows = [["candidate", f"cos({found['target']})", "norm ratio", "sign conflict"]]
    for one in found["screening"]:
        numbers = (one["cosine"], one["norm_ratio"], one["sign_conflict"])
        rows.append([one["group"], *map(value_text, numbers)])
    head = "screening: an order in which to measure injections, not a verdict on them"
    return f"{head}\n{aligned(rows)}"


def draw_vectors(found: dict[str, Any], folder: Path) -> list[Path]:
    """Write `vectors.png` and `vectors.svg`: cosines and sign conflict side by side.

    Args:
        found: the JSON of `RecipeVectors`.
        folder: exists.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    side = 2.4 + 0.55 * len(found["names"])
    return write_picture(folder, "vectors", (2 * side + 1, side), partial(_both, found=found))


def _both(figure: Any, found: dict[str, Any]) -> None:
    names, panels = found["names"], figure.subplots(1, 2)
    _heat(figure, panels[0], found["cosines"], names, "cosine", ("RdBu_r", -1.0, 1.0))
    # Vectors that share nothing differ in half of their signs: white, as for a cosine of 0.
    conflict = found["sign_conflict"]
    _heat(figure, panels[1], conflict, names, "sign conflict", ("RdBu", 0.0, 1.0))


def _heat(
    figure: Any,
    axes: Any,
    values: list[list[float | None]],
    names: list[str],
    title: str,
    scale: tuple[str, float, float],
) -> None:
    colours, low, high = scale
    numbers = [[float("nan") if value is None else value for value in row] for row in values]
    picture = axes.imshow(numbers, cmap=colours, vmin=low, vmax=high)
    axes.set_facecolor("0.85")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    middle, half = (low + high) / 2, (high - low) / 2
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            is_dark = value is not None and abs(value - middle) > 0.7 * half
            text = "–" if value is None else f"{value:.2f}"
            axes.text(x, y, text, ha="center", va="center", color="w" if is_dark else "k")
    axes.set_title(title)
    figure.colorbar(picture, ax=axes, shrink=0.8)
