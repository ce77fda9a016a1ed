"""How a command ends: an exit code, and one sentence for whatever keeps it from ending well."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from vae_compat.errors import StoppedError, UsageError
from vae_compat.text import printable
from vae_compat.vocabulary import ExitCode

_UNWRITABLE = (errno.ENOSPC, errno.EIO)


def answered(command: Callable[[], int], *, running: bool) -> int:
    """The exit code of a command, and one sentence for whatever keeps it from ending well.

    ``running`` is whether it judges: one that was cut short then has no verdict.
    """
    try:
        code = command()
        sys.stdout.flush()
        return code
    except UsageError as error:
        complain(error)
        return ExitCode.USAGE
    except StoppedError as error:
        complain(error)
        return ExitCode.HARNESS
    except KeyboardInterrupt:
        complain("interrupted")
        return ExitCode.HARNESS
    except BrokenPipeError:
        # The reader (head, less) went away; keep the interpreter from complaining at exit.
        _silence(sys.stdout)
        return ExitCode.HARNESS if running else ExitCode.HOLDS
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITABLE:
            return _defect()
        _silence(sys.stdout)
        complain(f"what is printed cannot be written ({error.strerror})")
        return ExitCode.HARNESS
    except Exception:
        return _defect()


def complain(told: object) -> None:
    """One sentence on stderr; paths and profiles in it may hold anything."""
    _say(f"vae-compat: {printable(told, 2000)}\n")


def open_streams() -> None:
    """Open what a process was started without, or files would take the numbers of these streams."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", closefd=False))


def outlive_readers() -> None:
    """From now on nobody has to read what is printed, so that a run goes on to its verdict.

    Its log and its report are files, and ``vae-compat run | head`` is no reason to lose them.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            lasting = io.TextIOWrapper(
                io.BufferedWriter(_Outliving(stream.fileno())),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, lasting)


class _Outliving(io.FileIO):
    """A stream that leads nowhere once its reader has gone."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)

    def write(self, content: Any, /) -> int:
        """Write, or drop it where nobody reads."""
        try:
            return super().write(content) or 0
        except BrokenPipeError:
            _lead_nowhere(self.fileno())
            return len(content)


def _defect() -> ExitCode:
    """An uncaught exception would exit with 1, which says that the gate does not hold."""
    told = "vae-compat: this is a defect of the harness, not of the hook\n"
    _say(f"{traceback.format_exc()}{told}")
    return ExitCode.HARNESS


def _say(text: str) -> None:
    """Nobody may be there to read it, and the exit code says the same."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """Keep the interpreter from complaining at exit that nobody reads a stream."""
    _lead_nowhere(stream.fileno())


def _lead_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
