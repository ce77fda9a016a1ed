"""Runs the command in a child process that loads the hook, and believes only what it was told.

Whatever a hook does to the process that it is loaded into - ends it, or has it end with a code of
its own - the exit code is the gate's, or says that there was none. Nothing of a hook is ever
loaded into the process that runs this.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

VARIABLE = "VAE_COMPAT_TOLD"
"""Names the file in which the child tells how far it is, and at last its exit code."""
_FAILS, _USAGE, _HARNESS = 1, 2, 3
_LOADING, _LEFT = "loading ", "left with "
_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from vae_compat.supervise import child; child({name!r})"
)


def supervised(arguments: Sequence[str]) -> int:
    """Run ``vae-compat`` with these arguments in a child process; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="vae-compat-told-") as folder:
        told = Path(folder) / "told"
        # The child finds its modules where this process does, and not first of all in the folder
        # that it happens to be started in, as it would with ``-m``.
        program = _PROGRAM.format(path=sys.path, name=sys.argv[0])
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], env=os.environ | {VARIABLE: str(told)}
        )
        with _terminating(process) as asked:
            interrupted = _wait(process) or bool(asked)
        text = told.read_text(encoding="utf-8") if told.exists() else ""
    if text.startswith(_LEFT):
        return int(text.removeprefix(_LEFT))
    if interrupted:
        return _HARNESS
    status = process.returncode
    ended = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    if text.startswith(_LOADING):
        hook = text.removeprefix(_LOADING)
        _complain(f"the hook {hook} ended the process while it was being loaded (it {ended})")
        return _USAGE
    _complain(f"the process of the run {ended} before there was a verdict: the gate does not hold")
    return _FAILS


def child(name: str) -> NoReturn:
    """The child's side: run the command, tell its exit code, and leave at once.

    What a hook has registered to run at the exit of the process never does.
    """
    leave = os._exit  # before a hook could replace it
    told = Path(os.environ.pop(VARIABLE))
    write = _teller(told)
    sys.argv[0] = name

    from vae_compat.cli import main

    code = main(sys.argv[1:], tell=lambda hook: write(f"{_LOADING}{hook}" if hook else ""))
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    write(f"{_LEFT}{code}")
    leave(code)
    raise AssertionError("unreachable")


def _teller(file: Path) -> Callable[[str], None]:
    """Replaces what was told before."""

    def write(text: str) -> None:
        file.write_text(text, encoding="utf-8")

    return write


def _wait(process: subprocess.Popen[bytes]) -> bool:
    """Wait for the end; returns whether the user interrupted.

    A terminal interrupts both processes, and the child has its run to clean up. An interrupt that
    was meant for this process alone is handed on, and a second one ends the wait.
    """
    try:
        process.wait()
    except KeyboardInterrupt:
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            with suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
                process.wait(timeout=20)
        except KeyboardInterrupt:
            pass
        if process.poll() is None:
            process.kill()
            process.wait()
        return True
    return False


@contextmanager
def _terminating(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Hand a request to terminate on to the child, which would otherwise be left running.

    Gives the requests that there were.
    """
    asked: list[int] = []

    def hand_on(number: int, _: FrameType | None) -> None:
        asked.append(number)
        process.send_signal(number)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _complain(sentence: str) -> None:
    sys.stderr.write(f"vae-compat: {sentence}\n")
