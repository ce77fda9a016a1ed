"""A judge in a process of its own: a request a line goes in, an answer a line comes out, in JSON.

A process of pytest imports whatever the tests of a repository import, hooks among it, and they may
patch what a verdict depends on. So it judges nothing itself, and imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from vae_compat.errors import StoppedError, UsageError
from vae_compat.front.run.run_folder import RunFolder

_PROGRAM = (
    "import sys; sys.path[:] = {path!r};"
    " from vae_compat.front.adopting import judge_process as m; m.main()"
)
_TOLD = 4000
"""Bytes of its last output that are shown where it dies."""


class JudgeProcess:
    """Starts a judge when it is first asked, and again where it has ended."""

    def __init__(
        self,
        device: str,
        start: Path,
        folder: Path | None,
        key: bytes,
        *,
        began: float = 0.0,
        pictured: bool = False,
    ) -> None:
        """``start`` is the folder that it works in, ``folder`` the one it shares with others.

        ``began`` is when the session did: what is in a cache since then may be from a hook.
        ``pictured``: whether pictures are kept where the options say.
        """
        self._device = device
        self._start = start
        self._first = {
            "controller": os.getpid(),
            "folder": None if folder is None else str(folder),
            "key": key.hex(),
            "began": began,
            "pictured": pictured,
        }
        self._process: subprocess.Popen[str] | None = None
        self._output: IO[bytes] | None = None

    def ask(self, **request: str) -> dict[str, Any]:
        """The answer to a request (see `vae_compat.front.adopting.judging`).

        Raises:
            UsageError: for what is wrong with the options or the hook.
            StoppedError: where the judge failed.
        """
        process = self._process or self._started()
        try:
            line = _exchanged(process, request)
        except BaseException:  # whoever interrupts this leaves an answer unread
            self.close(at_once=True)
            raise
        if not line:
            raise StoppedError(self._how_it_ended())
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise UsageError(answer["refused"])
        if "broken" in answer:
            raise StoppedError(f"the harness failed, not the hook: {answer['broken']}")
        return answer

    def close(self, *, at_once: bool = False) -> None:
        """End the judge, and with it all that it has started."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            if at_once:
                process.kill()  # its janitor cleans up
            process.stdin.close()
            process.wait()
            process.stdout.close()
        if self._output is not None:
            self._output.close()
            self._output = None

    def _started(self) -> subprocess.Popen[str]:
        from vae_compat.front.run.running import environment_of

        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            text=True,
            cwd=self._start,
            env=os.environ | environment_of(self._device),
        )
        _send(self._process, self._first)
        return self._process

    def _how_it_ended(self) -> str:
        process, output = self._process, self._output
        assert process is not None
        assert output is not None
        code = process.wait()
        output.seek(max(output.seek(0, os.SEEK_END) - _TOLD, 0))
        told = output.read().decode("utf-8", "backslashreplace").strip()
        self.close()
        return f"the judge's process ended with status {code}: {told or 'it printed nothing'}"


def _send(process: subprocess.Popen[str], message: object) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def _exchanged(process: subprocess.Popen[str], request: object) -> str:
    """The line that answers a request; empty where the process has ended."""
    assert process.stdout is not None
    try:
        _send(process, request)
    except BrokenPipeError:
        return ""
    return process.stdout.readline()


def main() -> None:
    """The other side: answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    first = json.loads(sys.stdin.readline())
    with RunFolder() as own:
        from vae_compat.front.adopting.judging import Judge
        from vae_compat.front.run import workers

        workers.settle(first["controller"])
        folder = own.path / "judge" if first["folder"] is None else Path(first["folder"])
        key = bytes.fromhex(first["key"])
        scratch = None if first["pictured"] else own.path / "out"
        judge = Judge(folder, key, first["controller"], scratch, first["began"])
        for line in sys.stdin:
            answers.write(json.dumps(judge.answer(json.loads(line))) + "\n")
            answers.flush()
