"""The process that starts runners: it has imported once what takes seconds to import.

A clean interpreter in a session of its own; no hook is ever loaded in it. Each runner is forked
off, with a keeper between, so that one which a hook has ended costs no second start.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import warnings
from typing import NoReturn

from vae_compat.isolation.keeper import die_with, keep

FACTS, CASES = b"F", b"C"
"""What a runner is wanted for: to tell of a hook, or to perform cases."""
_MODULES = {
    FACTS: (
        "vae_compat.isolation.runner",
        "vae_compat.isolation.messages",
        "vae_compat.subject.loading",
    ),
    CASES: (
        "vae_compat.fixtures.supplies",
        "vae_compat.scenarios.performing",
        "vae_compat.isolation.limits",
        "diffusers",
        "diffusers.models.autoencoders",
        "numpy.random",
    ),
}
_PIPES = 4


def main(line: int, judge: int) -> NoReturn:
    """Start a runner for each request on the line, a socket, until the judge closes it.

    A request is one byte, and the ends of four pipes: what the runner is asked, what it answers,
    what it prints, and what becomes of it.
    """
    die_with(judge, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel takes their ends
    warnings.simplefilter("ignore")
    own = os.getpid()
    with socket.socket(fileno=line) as asked:
        while True:
            request, pipes, _, _ = socket.recv_fds(asked, 1, _PIPES)
            if not request:
                os._exit(0)
            _import(request)
            if os.fork() == 0:
                asked.close()
                keep(*pipes, nursery=own)
            for pipe in pipes:
                os.close(pipe)


def _import(request: bytes) -> None:
    for wanted in (FACTS, CASES) if request == CASES else (FACTS,):
        for name in _MODULES[wanted]:
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that collecting does not copy the pages that all runners share
