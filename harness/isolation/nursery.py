"""The process that starts runners: it has imported once what takes seconds to import.

A clean interpreter in a session of its own; no hook is ever loaded in it. Each runner is forked
from it, with a keeper in between, so that replacing a runner that a hook has ended does not import
everything again.

What a runner does is a module, its *server*: ``serve(channel)`` answers what comes over the
channel, and ``MODULES`` names what it needs imported.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import warnings
from collections.abc import Callable
from typing import NoReturn

from vae_compat.importing import imported
from vae_compat.isolation.keeper import adopt, die_with, keep
from vae_compat.isolation.runner import Channel

MOST_NAME = 200
"""Bytes of the name of a server."""
_PIPES = 4


def main(line: int, judge: int) -> NoReturn:
    """Start a runner for each request on the line, a socket, until the judge closes it.

    A request is the name of a server, and the ends of four pipes: what the runner is asked, what it
    answers, what it prints, and what becomes of it.
    """
    die_with(judge, signal.SIGKILL)
    adopt()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps ended children
    warnings.simplefilter("ignore")
    own = os.getpid()
    with socket.socket(fileno=line) as asked:
        while True:
            request, pipes, _, _ = socket.recv_fds(asked, MOST_NAME, _PIPES)
            if not request:
                os._exit(0)
            serve = _server(request.decode())
            if os.fork() == 0:
                asked.close()
                keep(serve, own, *pipes)
            for pipe in pipes:
                os.close(pipe)


def _server(name: str) -> Callable[[Channel], None]:
    server = imported(name)
    for needed in server.MODULES:
        imported(needed)
    gc.collect()
    gc.freeze()  # so that collecting does not copy the pages that all runners share
    serve: Callable[[Channel], None] = server.serve
    return serve
