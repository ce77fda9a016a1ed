"""How a command ends: an exit code, and one sentence for whatever keeps it from ending well."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from typing import TextIO

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
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
