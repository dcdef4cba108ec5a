"""How every picture is drawn."""

from __future__ import annotations

from typing import Any

# No date and no random ids in the files; a `$` in a group's name is a dollar, no formula.
STYLE: dict[str, Any] = {
    "text.parse_math": False,
    "svg.hashsalt": "mergekit-fair",
    "font.size": 9,
}
