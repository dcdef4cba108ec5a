"""Bars of libraries: their own switches win over TQDM_DISABLE."""

from __future__ import annotations

import subprocess
import sys


def test_no_bar_of_any_library_is_shown() -> None:
    """`tqdm.std.tqdm.__init__`: --quiet would show lm-eval's bars again."""
    code = (
        "from mergekit_fair.compat.tqdm import silence_bars\n"
        "silence_bars(); silence_bars()\n"
        "from tqdm import tqdm\n"
        "list(tqdm(range(3), disable=False, desc='shown'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr == ""
