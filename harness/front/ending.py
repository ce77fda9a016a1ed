"""How a command ends: an exit code, and one sentence for whatever keeps it from ending well."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

from vae_compat.errors import StoppedError, UsageError
from vae_compat.text import printable
from vae_compat.vocabulary import ExitCode


def answered(command: Callable[[], int], *, running: bool) -> int:
    """The exit code of a command, and one sentence for whatever keeps it from ending well.

    ``running`` is whether it judges: one that was cut short then has no verdict.
    """
    try:
        return command()
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.HARNESS if running else ExitCode.HOLDS
    except Exception:
        # An uncaught exception would exit with 1, which says that the gate does not hold.
        traceback.print_exc()
        sys.stderr.write("vae-compat: this is a defect of the harness, not of the hook\n")
        return ExitCode.HARNESS


def complain(told: object) -> None:
    """One sentence on stderr; paths and profiles in it may hold anything."""
    sys.stderr.write(f"vae-compat: {printable(told, 2000)}\n")
    sys.stderr.flush()
