"""What a command may fail by, as one message and an exit code: 2 for bad input, 1 for the rest."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click

from mergekit_fair.errors import FairError
from mergekit_fair.escaping import one_line, printable

# What the system says of a path that cannot be, whatever the disk's state.
_BAD_PATHS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
# How libraries that do not raise MemoryError say it.
_NO_MEMORY = (
    "not enough memory",
    "out of memory",
    "cannot allocate memory",
    "failed to map segment",
    "can't start new thread",
    "std::bad_alloc",
)
# That a process is asked to end; the system's own answer would leave what is half written.
_ENDINGS = ("SIGTERM", "SIGHUP")
# What pydantic makes of a signal that meets one of its serializers.
_SIGNALLED = re.compile(r"^Error calling function .*: (?:KeyboardInterrupt|SystemExit): (\d*)$")


class InputError(click.ClickException):
    """Bad input: one message, exit code 2."""

    exit_code = 2


@contextmanager
def failures_told() -> Iterator[None]:
    """Turns what a command raises into the one message that click prints.

    A signal that ends the process ends the block first, as Ctrl-C does: what is half written is
    taken away.
    """
    _require_docstrings()
    _accept_any_text()
    with _ending_in_order():
        try:
            yield
        except click.ClickException as error:
            vars(error)["message"] = printable(error.message)
            raise
        except BrokenPipeError:
            raise  # whoever read has had enough; click ends in silence
        except FairError as error:
            raise InputError(str(error)) from error
        except UnicodeEncodeError as error:
            raise InputError(
                f"{one_line(error.object[:200])}: is text that UTF-8 cannot hold. Give it another "
                "name."
            ) from error
        except ValueError as error:
            if not (signalled := _SIGNALLED.search(str(error))):
                raise
            raise (SystemExit(int(signalled[1])) if signalled[1] else KeyboardInterrupt) from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            kind = InputError if error.errno in _BAD_PATHS else click.ClickException
            raise kind(one_line(f"{where}{error.strerror or error}")) from error
        except (MemoryError, ImportError, RuntimeError, SystemError) as error:
            if not _is_about_memory(error):
                raise
            raise click.ClickException(
                "there is not enough memory, or not for this process (ulimit -v). Free some, or "
                "give smaller batches or models."
            ) from error


def _is_about_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY)


def _require_docstrings() -> None:
    if sys.flags.optimize > 1:
        raise InputError(
            "Python runs without docstrings (-OO, or PYTHONOPTIMIZE=2), which transformers reads "
            "when it is imported. Use -O, or neither."
        )


def _accept_any_text() -> None:
    """What the terminal's encoding lacks is shown as its escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _ending_in_order() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = [getattr(signal, name) for name in _ENDINGS if hasattr(signal, name)]
    # One that is ignored, as by nohup, stays so.
    ours = [number for number in known if signal.getsignal(number) == signal.SIG_DFL]
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        if os.getpid() != process:  # a worker that was forked has nothing to clean up
            os._exit(128 + number)
        for each in ours:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
