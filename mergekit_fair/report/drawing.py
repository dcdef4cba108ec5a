"""How every picture is drawn and written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mergekit_fair.errors import ConfigError

# No random ids in the files; a `$` in a group's name is a dollar, no formula.
_STYLE: dict[str, Any] = {
    "text.parse_math": False,
    "svg.hashsalt": "mergekit-fair",
    "font.size": 9,
}


def require_plotting() -> Any:
    """matplotlib, for who wants to know before a long computation.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise ConfigError(
            "pictures need matplotlib", fix="run pip install 'mergekit-fair[plot]'"
        ) from None
    return matplotlib


def write_picture(
    folder: Path, name: str, size: tuple[float, float], make: Callable[[Any], None]
) -> list[Path]:
    """Write `<name>.png` and `<name>.svg`; equal content gives equal bytes.

    Args:
        folder: exists.
        name: of the files.
        size: width and height in inches.
        make: draws into a figure.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    matplotlib = require_plotting()
    from matplotlib.figure import Figure

    written = []
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        make(figure)
        for suffix in ("png", "svg"):
            path = folder / f"{name}.{suffix}"
            metadata = {"Date": None} if suffix == "svg" else {}
            figure.savefig(path, dpi=130, metadata=metadata)
            written.append(path)
    return written
