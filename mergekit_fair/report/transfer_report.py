"""The measured transfer matrix of injections, as text and as `transfer.png` (extra `plot`)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from mergekit_fair.report.drawing import write_picture
from mergekit_fair.report.text_tables import aligned, interval_text

_PANELS = (
    ("harm", "mean of one-vs-rest DPD and EOD", 1.0),
    ("acc", "accuracy", -1.0),
)
_COLOURS = {"safe": "C2", "unsafe": "C3", "unproven": "0.4"}


def transfer_table(found: dict[str, Any]) -> str:
    """What each injection changes in each group, then its verdict with the reason.

    `!` marks a change whose interval leaves out 0; groups in brackets decide no verdict.

    Args:
        found: JSON of `mergekit_fair.sweep.injection.verdicts.judged`.
    """
    parts = [
        f"injections at λ = {found['step']:g}, changes against the target on the same rows "
        f"({found['interval_level'] * 100:.4g} % intervals, paired; ! leaves out 0)"
    ]
    for key, title, _ in _PANELS:
        rows = [[title, *_group_labels(found)]]
        for g, name in enumerate(found["injected"]):
            cells = (_entry(found, key, g, h) for h in range(len(found["groups"])))
            rows.append([f"+ {name}", *map(_cell, cells)])
        parts.append(aligned(rows))
    rows = [[verdict["status"], verdict["reason"]] for verdict in found["verdicts"]]
    parts.append(f"verdicts, tolerance {found['tolerance']:g}\n{aligned(rows)}")
    parts += [f"warning: {text}" for text in found["warnings"]]
    return "\n\n".join(parts)


def _group_labels(found: dict[str, Any]) -> list[str]:
    labels = []
    for name, group in found["groups"].items():
        text = f"{name} n={group['n']}"
        labels.append(text if group["decides"] else f"({text})")
    return labels


def _entry(found: dict[str, Any], key: str, g: int, h: int) -> dict[str, float | None]:
    return {part: found["change"][key][part][g][h] for part in ("value", "low", "high")}


def _cell(entry: dict[str, Any]) -> str:
    return interval_text(entry, sign="+") + ("!" if _is_shown(entry) else "")


def _is_shown(entry: dict[str, Any]) -> bool:
    """Whether the interval leaves out 0."""
    return entry["low"] is not None and (entry["low"] > 0 or entry["high"] < 0)


def draw_transfer(found: dict[str, Any], folder: Path) -> list[Path]:
    """Write `transfer.png` and `transfer.svg`: changes of harm and of accuracy; red is worse.

    Numbers are bold and marked `!` where the interval leaves out 0; the verdict stands beside the
    row.

    Args:
        found: JSON of `mergekit_fair.sweep.injection.verdicts.judged`.
        folder: exists.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    width = 2 * (1.2 + 0.85 * len(found["groups"])) + 2.6
    height = 1.9 + 0.5 * len(found["injected"])
    return write_picture(folder, "transfer", (width, height), partial(_heat_maps, found=found))


def _heat_maps(figure: Any, found: dict[str, Any]) -> None:
    most = max(
        (abs(value) for key, *_ in _PANELS for row in found["change"][key]["value"]
         for value in row if value is not None), default=0.0,
    )  # fmt: skip
    limit = max(most, found["tolerance"], 1e-3)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (key, title, sign) in zip(panels, _PANELS, strict=True):
        picture = _heat(axes, found, key, sign, limit)
        axes.set_title(f"change of {title}")
    panels[0].set_yticks(
        range(len(found["injected"])), [f"+ {found['step']:g} {g}" for g in found["injected"]]
    )
    for g, verdict in enumerate(found["verdicts"]):
        panels[1].annotate(
            verdict["status"], (1.02, g), xycoords=("axes fraction", "data"), va="center",
            color=_COLOURS[verdict["status"]], fontweight="bold", annotation_clip=False,
        )  # fmt: skip
    bar = figure.colorbar(picture, ax=list(panels), shrink=0.9, location="right")
    bar.set_label("worse for the group →")
    level = f"{found['interval_level'] * 100:.4g} %"
    figure.suptitle(
        f"injected vector (rows) against group (columns); bold!: the {level} interval leaves out "
        f"0; tolerance {found['tolerance']:g}"
    )


def _heat(axes: Any, found: dict[str, Any], key: str, sign: float, limit: float) -> Any:
    """One panel; colours show harm, numbers the metric's own change."""
    values = found["change"][key]["value"]
    harms = [[float("nan") if x is None else sign * x for x in row] for row in values]
    picture = axes.imshow(harms, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_facecolor("0.85")
    for g, row in enumerate(values):
        for h, value in enumerate(row):
            shown = _is_shown(_entry(found, key, g, h))
            text = "–" if value is None else f"{value:+.3f}{'!' if shown else ''}"
            is_dark = value is not None and abs(value) > 0.6 * limit
            axes.text(
                h, g, text, ha="center", va="center", color="w" if is_dark else "k",
                fontweight="bold" if shown else "normal",
            )  # fmt: skip
    labels = _group_labels(found)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", rotation_mode="anchor")
    return picture
