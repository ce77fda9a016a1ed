"""The judge's side: starts runners, sends requests, watches and ends them."""

from __future__ import annotations

import atexit
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from vae_compat.errors import UsageError
from vae_compat.isolation import wire
from vae_compat.isolation.frames import Inbox
from vae_compat.isolation.keeper import NUMBER
from vae_compat.isolation.limits import EVERY, IDLE, LOADING
from vae_compat.isolation.processes import below, children, named, resume
from vae_compat.isolation.watching import Watch
from vae_compat.isolation.wire import Garbled, Sort, Told
from vae_compat.text import printable

T = TypeVar("T")
Facts = TypeVar("Facts")

MOST_OUTPUT = 16_000
"""Bytes of what a hook prints that are kept."""
_MOST_REST = 2**20
"""Bytes that are still read after a process has ended: as much as a pipe can hold."""
_STOPS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_PATIENCE = 10.0
"""Seconds that ending all that a runner has started may take, before it is left to the kernel."""
TOKEN = "VAE_COMPAT_RUNNER"
"""Environment variable that marks every process that a runner has started."""
_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from vae_compat.isolation.nursery import main; "
    "main(*map(int, sys.argv[1:]))"
)


@dataclass(frozen=True)
class Ended(Exception):  # noqa: N818 (a fact about a runner, not a fault of the run)
    """The runner gave no answer."""

    told: str
    """Why, in words."""
    by_limit: bool = False
    """Whether it was ended for exceeding a limit; otherwise it ended by itself."""
    detail: str = ""
    """Further details: a traceback, its last output."""
    stopped: bool = False
    """Whether it was ended by a signal such as a user sends to stop a process, or the system sends
    when memory runs out. The hook need not be the cause."""
    begun: bool = True
    """Whether the hook was at work on this request: otherwise an earlier one is the cause."""
    broken: bool = False
    """Whether code of the runner itself raised: the hook may have damaged it, or it is at fault."""


class Nursery:
    """Where runners come from; its process is started when it is needed, again if need be."""

    def __init__(self) -> None:
        self._token = uuid.uuid4().hex
        self.keepers: set[int] = set()
        """Processes above the runners that are in use."""
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    def start(self, server: str, pipes: tuple[int, int, int, int]) -> None:
        """Have a runner started that does what its server does, with these ends of pipes."""
        for _ in range(2):  # a hook may have ended the process in the meantime
            try:
                socket.send_fds(self._opened(), [server.encode()], pipes)
                return
            except OSError:
                self.close()
        raise RuntimeError("no process for hooks can be started")

    def resume(self) -> None:
        """Have its process go on, which a hook may have stopped."""
        if self._process is not None:
            resume(self._process.pid)

    def sweep(self) -> None:
        """Kill what has lost the process above it, which a hook can end: it comes down to here."""
        if self._process is None:
            return
        nursery = self._process.pid

        def lost() -> list[int]:
            orphans = [child for child in children(nursery) if child not in self.keepers]
            return [one for child in orphans for one in (child, *below(child))]

        _kill_all(lost)

    def close(self) -> None:
        """End all its runners, and all processes without a keeper (a hook can kill its keeper)."""
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            self.keepers.clear()
            self.sweep()
            self._process.kill()
            self._process.wait()
            end_all(TOKEN, self._token)
        self._process = self._line = None

    def _opened(self) -> socket.socket:
        if self._line is not None and self._process is not None and self._process.poll() is None:
            return self._line
        self.close()
        self._line, there = socket.socketpair()
        with there:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _PROGRAM.format(path=sys.path),
                    *map(str, (there.fileno(), os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(there.fileno(),),
                start_new_session=True,
                env=os.environ | {TOKEN: self._token},
            )
        return self._line


_PASSING = frozenset({"PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR"})
"""Variables that are nothing to a hook: one changes from test to test, torch sets the other itself,
for itself and its children, the first time that its compiler is loaded."""
_SHARED: dict[str, Nursery] = {}
"""Nurseries by what their processes inherit, reused while nothing of that has changed."""


def shared_nursery() -> Nursery:
    """The nursery of this process: what takes seconds to import is imported once."""
    environment = {name: value for name, value in os.environ.items() if name not in _PASSING}
    inherited = repr((sorted(environment.items()), sys.path, Path.cwd()))
    if inherited not in _SHARED:
        close_shared_nursery()
        _SHARED[inherited] = Nursery()
    return _SHARED[inherited]


@atexit.register
def close_shared_nursery() -> None:
    """End it until it is needed again."""
    while _SHARED:
        _SHARED.popitem()[1].close()


def _end_of(process: int) -> int:
    """A descriptor that becomes readable when a process ends; -1 where it has ended."""
    try:
        return os.pidfd_open(process)
    except ProcessLookupError:
        return -1


def _readable(descriptor: int, patience: float = 0.0) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(patience))


class RunnerClient(Generic[Facts]):
    """One runner, with one hook loaded."""

    def __init__(
        self,
        server: str,
        loading: object,
        kind: type[Facts],
        nursery: Nursery | None = None,
        *,
        idle: float = IDLE,
        memory: int = 0,
    ) -> None:
        """Start the runner and tell it what to load; ``kind`` is of what it answers.

        ``server`` is the module that it runs, see `vae_compat.isolation.nursery`; ``memory`` are
        the bytes that it may take beyond those it has then, 0 for no limit. Raises `UsageError`
        where the hook cannot be loaded or called, `Ended` where its import ends the process or the
        process has to be ended. Without a nursery it has its own.
        """
        self._own = None if nursery is not None else Nursery()
        self._nursery = nursery or self._own or Nursery()
        self._printed: deque[bytes] = deque(maxlen=8)
        self.process = 0
        """Number of the process above the runner, which ends after all below it."""
        self._gone = self._last = False
        self._ends = -1
        """Becomes readable when that process ends; -1 where it has ended."""
        self._status: int | None = None
        asks, self._asks = os.pipe()
        self._answers, answers = os.pipe()
        self._output, prints = os.pipe()
        self._told, told = os.pipe()
        theirs = (asks, answers, prints, told)
        try:
            self._nursery.start(server, theirs)
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        try:
            while not _readable(self._told, EVERY):
                self._nursery.resume()
            number = os.read(self._told, NUMBER.size)
            if not number:
                raise Ended("the process that starts runners has ended", stopped=True)
            self.process = NUMBER.unpack(number)[0]
            self._ends = _end_of(self.process)
            self._nursery.keepers.add(self.process)
            for descriptor in (self._asks, self._answers, self._output, self._told):
                os.set_blocking(descriptor, False)
            self._watch = Watch(self.process, idle, memory)
            self.facts = self._exchange(loading, kind, LOADING)
        except BaseException:
            self.close()
            raise

    @property
    def printed(self) -> str:
        """The last output of the hook since the request."""
        text = b"".join(self._printed).decode("utf-8", "backslashreplace")
        return printable(text[-MOST_OUTPUT:], MOST_OUTPUT, lines=True)

    @property
    def fresh(self) -> bool:
        """Whether it can perform another case: it lives, and the last case left nothing behind.

        A process or thread that keeps computing, or unrequested output on the channel, would
        disturb the next case.
        """
        if self._last or self._over() or len(below(self.process)) > 1:
            return False
        return not _readable(self._answers)

    def ask(self, ask: object, kind: type[T], seconds: float) -> T:
        """Send a request, no single attempt of which may take more than these CPU seconds.

        Raises `Ended`, and the runner is gone then.
        """
        self._printed.clear()
        try:
            return self._exchange(ask, kind, seconds)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the runner and everything that it has started."""
        if self._told < 0:
            return
        if self.process and not self._over():
            for number in (signal.SIGTERM, signal.SIGCONT):  # the hook may have stopped its keeper
                with suppress(ProcessLookupError):
                    os.kill(self.process, number)
            waited = time.monotonic() + _PATIENCE
            with selectors.DefaultSelector() as selector:
                selector.register(self._ends, selectors.EVENT_READ)
                while not self._over() and time.monotonic() < waited:
                    selector.select(EVERY)
        self._nursery.keepers.discard(self.process)
        if self._over():
            self._nursery.sweep()
        else:  # it could not end its child processes
            self._nursery.close()
        if self._own is not None:
            self._own.close()
        for descriptor in (self._asks, self._answers, self._output, self._told, self._ends):
            if descriptor >= 0:
                os.close(descriptor)
        self._asks = self._answers = self._output = self._told = -1

    def _over(self) -> bool:
        """Whether the process above the runner has ended, and so all below it.

        What it has told counts only then, and only if it is one number: a hook may find that pipe.
        """
        if self._gone or (self._ends >= 0 and not _readable(self._ends)):
            return self._gone
        self._gone = True
        with suppress(BlockingIOError):
            told = os.read(self._told, 2 * NUMBER.size)
            if len(told) == NUMBER.size:
                self._status = NUMBER.unpack(told)[0]
        return True

    def _exchange(self, message: object, kind: type[T], seconds: float) -> T:
        self._watch.asked(seconds)
        begun = False
        try:
            for sort, text, body in self._frames(wire.pack(Sort.ASK, message)):
                if sort is Sort.BEAT:
                    begun = True
                    self._watch.begin(wire.unpack(Told, text, body).seconds)
                elif sort in (Sort.ANSWER, Sort.LAST):
                    self._last = sort is Sort.LAST
                    return wire.unpack(kind, text, body)
                elif sort is Sort.REFUSED:
                    raise UsageError(wire.unpack(Told, text, body).words)
                elif sort is Sort.BROKEN:
                    told = wire.unpack(Told, text, body)
                    broken = f"the process of the hook could not go on: {told.words}"
                    raise Ended(broken, detail=told.detail, broken=True)
                else:
                    raise Garbled(f"a frame of sort {sort} is no answer")
        except Garbled as garbled:
            words = f"the process of the hook answered with what is no answer: {garbled}"
            raise Ended(words, detail=self.printed) from None
        stopped = -self._code in _STOPS
        raise Ended(self._how_it_ended(), detail=self.printed, stopped=stopped, begun=begun)

    def _frames(self, request: bytes) -> Iterator[tuple[Sort, bytes, bytes]]:
        """Frames as they come, while the request is sent; ends when the process does."""
        unsent, inbox = memoryview(request), Inbox()
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            selector.register(self._output, selectors.EVENT_READ)
            selector.register(self._asks, selectors.EVENT_WRITE)
            if self._ends >= 0:
                selector.register(self._ends, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select(EVERY)}
                # Checked before reading, so that all that was written before the end is read.
                over = self._over()
                if self._asks in ready:
                    unsent = self._sent(unsent)
                    if not unsent:
                        selector.unregister(self._asks)
                if self._output in ready and not self._drained():
                    selector.unregister(self._output)
                if self._answers in ready:
                    part = self._received()
                    if not part:  # closed by the hook: only the end of the process counts
                        selector.unregister(self._answers)
                    yield from inbox.take(part)
                if over:
                    yield from inbox.take(self._rest())
                    return
                if self._watch.due and (why := self._watch.verdict()) is not None:
                    raise Ended(why, by_limit=True, detail=self.printed)

    def _received(self) -> bytes:
        """What has arrived; nothing at the end of the stream."""
        return os.read(self._answers, 2**20)

    def _rest(self) -> bytes:
        """What a process that has ended has written last: no more than a pipe holds."""
        rest, most = bytearray(), _MOST_REST // 2**16
        with suppress(BlockingIOError):
            while most and self._drained():
                most -= 1
        with suppress(BlockingIOError):
            while len(rest) < _MOST_REST and (part := os.read(self._answers, 2**16)):
                rest += part
        return bytes(rest)

    def _sent(self, unsent: memoryview) -> memoryview:
        try:
            return unsent[os.write(self._asks, unsent) :]
        except BlockingIOError:
            return unsent
        except BrokenPipeError:  # the end of the process is detected elsewhere
            return unsent[len(unsent) :]

    def _drained(self) -> bool:
        """Take what was printed, and keep the last of it; ``False`` at the end of the stream."""
        part = os.read(self._output, 2**16)
        if part:
            self._printed.append(part[-MOST_OUTPUT:])
        return bool(part)

    @property
    def _code(self) -> int:
        """How the runner ended; one without its keeper was killed as the keeper was."""
        return -signal.SIGKILL if self._status is None else self._status

    def _how_it_ended(self) -> str:
        if self._code < 0:
            with suppress(ValueError):
                name = signal.Signals(-self._code).name
                return f"its process was ended by signal {-self._code} ({name})"
        return f"its process ended with status {self._code}"


def end_all(variable: str, value: str) -> None:
    """Kill every process that was started with this environment variable, until there is none.

    For what has lost its keeper, which the hook can kill.
    """
    _kill_all(lambda: named(variable, value))


def _kill_all(find: Callable[[], list[int]]) -> None:
    """Kill what is found, again until nothing is: a process may fork while it is being killed."""
    for _ in range(100):
        found = find()
        if not found:
            return
        for process in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.01)
