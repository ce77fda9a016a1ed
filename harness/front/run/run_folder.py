"""The folder that the processes of a run share, and the janitor that removes it."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from vae_compat.front.run.janitor import VARIABLE

_JANITOR = Path(__file__).with_name("janitor.py")
PATIENCE = 90.0
"""Seconds to wait for the janitor, which has a limit of its own."""


class RunFolder:
    """A fresh folder for one run, whose processes carry the run's token in their environment.

    On Linux a janitor process waits for the end of this process, even by ``kill -9``, kills what
    is left of the run and removes the folder. Elsewhere ``close`` removes the folder.
    """

    def __init__(self, *, inherited: bool = True) -> None:
        """Make the folder. Where ``inherited``, every child of this process belongs to the run.

        Otherwise only those do that are started with ``environment``.
        """
        self.token = secrets.token_hex(8)
        self.path = Path(tempfile.gettempdir()) / f"vae-compat-{self.token}"
        self._janitor = _started(
            self.token, self.path
        )  # started first, so that nothing is ever left behind
        self.path.mkdir(mode=0o700)
        self._outer = os.environ.get(VARIABLE)
        self._replaced = {name: os.environ.get(name) for name in self.environment if inherited}
        if inherited:
            os.environ.update(self.environment)

    @property
    def environment(self) -> dict[str, str]:
        """The environment that makes a child process belong to this run and to its outer runs."""
        tokens = ":".join(filter(None, (self._outer, self.token)))
        # Torch makes this folder wherever its compiler is imported; it must go with the run.
        return {VARIABLE: tokens, "TORCHINDUCTOR_CACHE_DIR": str(self.path / "inductor")}

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what is left of the run and remove the folder."""
        for name, value in self._replaced.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        janitor, self._janitor = self._janitor, None
        if janitor is not None:
            pipe: IO[bytes] | None = janitor.stdin
            assert pipe is not None
            pipe.close()
            try:
                janitor.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                janitor.kill()
                janitor.wait()
        shutil.rmtree(self.path, ignore_errors=True)


def _started(token: str, folder: Path) -> subprocess.Popen[bytes] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(_JANITOR), token, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
    except OSError:
        return None
