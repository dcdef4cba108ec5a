"""Merges in forked children that are killed; a program, one JSON order a line, one answer a line.

An order has `recipe`, `out`, `overwrite`, and when the child dies: after `delay` seconds, or
before its `step`-th change to the file system; without both it lives. The answer has the child's
`status` as of `os.waitpid` and the `seconds` it took. Recipes are checked here before the first
merge, so that children find what that imports; no torch operation is large enough for threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from mergekit.options import MergeOptions

from mergekit_fair.cli.terminal import quiet_libraries
from mergekit_fair.merging.dry_run import check_merge
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.progress import Silent

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")


def main() -> None:
    quiet_libraries()
    known = set()
    for line in sys.stdin:
        order = json.loads(line)
        if order["recipe"] not in known:
            check_merge(
                Recipe.load(order["recipe"]), MergeOptions(quiet=True), MergeSettings(), Silent()
            )
            known.add(order["recipe"])
        begin = time.monotonic()
        child = os.fork()
        if child == 0:
            merge(order)
        if order.get("delay") is not None:
            time.sleep(order["delay"])
            os.kill(child, signal.SIGKILL)  # not reaped yet: no other process has its number
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": status, "seconds": time.monotonic() - begin}), flush=True)


def merge(order: dict[str, Any]) -> None:
    """In the child; does not return."""
    if order.get("step") is not None:
        die_at(order["step"], Path(order["out"]).parent)
    code = 1
    with contextlib.suppress(BaseException):
        options = MergeOptions(quiet=True, out_shard_size=2_000_000)
        settings = MergeSettings(overwrite=order["overwrite"])
        merge_to_folder(Recipe.load(order["recipe"]), order["out"], options, settings)
        code = 0
    os._exit(code)


def die_at(step: int, folder: Path) -> None:
    """Kill this process before its `step`-th change below a folder."""
    count = 0

    def look(event: str, given: tuple[Any, ...]) -> None:
        nonlocal count
        is_write = event == "open" and bool(given[2] & (os.O_WRONLY | os.O_RDWR))
        if event in CHANGES or (is_write and str(given[0]).startswith(str(folder))):
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


if __name__ == "__main__":
    main()
