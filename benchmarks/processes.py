"""Run a program in a process of its own and measure it; Linux only (`/proc`)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from checkpoints import BenchmarkError

_POLL = 0.01  # seconds between two looks at a process's memory
_TREE = 5  # look for new children at every fifth


@dataclass(frozen=True)
class Usage:
    """What one run cost.

    Attributes:
        wall: seconds until the program had ended.
        fsync: seconds that a following fsync of its output files took.
        cpu: user and system seconds, ended children included.
        anon: peak bytes of anonymous memory (RssAnon), summed over the process and its children.
        peak: peak bytes of resident memory (VmHWM), mapped files included, summed likewise.
        moved: bytes of weights read and written.
        written: bytes that the system has sent to disks, or will, for the program.
        shard: bytes of the largest output file.
    """

    wall: float
    fsync: float
    cpu: float
    anon: int
    peak: int
    moved: int
    written: int
    shard: int

    @property
    def durable(self) -> float:
        """Seconds until the output was on the disk."""
        return self.wall + self.fsync

    @property
    def rate(self) -> float:
        """10⁹ bytes read and written per second of `durable`."""
        return self.moved / self.durable / 1e9


def program(name: str) -> str:
    """The console script beside this interpreter, or the one on PATH.

    Raises:
        BenchmarkError: there is none.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise BenchmarkError(f"no program {name}: install the package first")
    return found


def measure(
    commands: list[list[str]], inputs: list[Path], out: Path, package: Path | None = None
) -> Usage:
    """Run commands one after the other as one job that reads `inputs` and writes folder `out`,
    with the package of another checkout, if one is given.

    Before: `out` is deleted, dirty pages are flushed, and the inputs are read once, so that every
    job finds them in the page cache.

    Raises:
        BenchmarkError: a command failed; the end of its log is in the message.
    """
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    for file in inputs:
        _read(file)
    log = out.with_name("log.txt")
    runs = [_run(command, log, package) for command in commands]
    written = sorted(path for path in out.rglob("*") if path.is_file())
    start = time.perf_counter()
    for path in written:
        _flush(path)
    fsync = time.perf_counter() - start
    sizes = [path.stat().st_size for path in written if path.suffix == ".safetensors"]
    return Usage(
        wall=sum(run[0] for run in runs),
        fsync=fsync,
        cpu=sum(run[1] for run in runs),
        anon=max(run[2].anon for run in runs),
        peak=max(run[2].peak for run in runs),
        moved=sum(file.stat().st_size for file in inputs) + sum(sizes),
        written=sum(run[3] for run in runs),
        shard=max(sizes, default=0),
    )


class _Watch(threading.Thread):
    """Polls a process and its children until stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.anon = 0
        self._pid = pid
        self._peaks: dict[int, int] = {}
        self._stopped = threading.Event()

    @property
    def peak(self) -> int:
        return sum(self._peaks.values())

    def run(self) -> None:
        count, tree = 0, [self._pid]
        while not self._stopped.wait(_POLL):
            if count % _TREE == 0:
                tree = _descendants(self._pid)
            count += 1
            self.anon = max(self.anon, sum(self._look(pid) for pid in tree))

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def _look(self, pid: int) -> int:
        memory = {"RssAnon": 0, "VmHWM": 0}
        with suppress(OSError):  # it has just ended
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                key, _, value = line.partition(":")
                if key in memory:
                    memory[key] = int(value.split()[0]) * 1024
        self._peaks[pid] = max(self._peaks.get(pid, 0), memory["VmHWM"])
        return memory["RssAnon"]


def _run(command: list[str], log: Path, package: Path | None) -> tuple[float, float, _Watch, int]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if package is not None:
        environment["PYTHONPATH"] = str(package)
    with log.open("wb") as stderr:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=environment,
        )
        watch = _Watch(process.pid)
        watch.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            watch.stop()
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        name = " ".join([Path(command[0]).name, *command[1:2]])
        raise BenchmarkError(f"{name} ended with {process.returncode}:\n{tail}")
    return wall, usage.ru_utime + usage.ru_stime, watch, usage.ru_oublock * 512


def _descendants(pid: int) -> list[int]:
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _descendants(int(child))
    return found


def _read(file: Path) -> None:
    buffer = bytearray(1 << 20)
    with file.open("rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
