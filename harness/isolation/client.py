"""Starts runners, asks them, watches them and ends them: the judge's side."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vae_compat.errors import UsageError
from vae_compat.isolation import wire
from vae_compat.isolation.limits import EVERY, IDLE, Watch
from vae_compat.isolation.messages import Ask, HookFacts, Loading
from vae_compat.isolation.text import printable
from vae_compat.isolation.wire import Garbled, Sort, Told

T = TypeVar("T")

MOST_OUTPUT = 16_000
"""Bytes of what a hook prints that are kept."""
TOKEN = "VAE_COMPAT_RUNNER"
"""Environment variable by which everything that a runner has started is known."""
_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from vae_compat.isolation.runner import main; "
    "main(*map(int, sys.argv[1:]))"
)


@dataclass(frozen=True)
class Ended(Exception):  # noqa: N818 (a fact about a runner, not a fault of the run)
    """The runner gave no answer."""

    told: str
    """Why, in words."""
    by_limit: bool = False
    """Whether it was ended for what it took; otherwise it ended by itself."""
    detail: str = ""
    """What is known beyond that: a traceback, the last that it printed."""


class RunnerClient:
    """One runner, with one hook loaded."""

    def __init__(self, loading: Loading, *, idle: float = IDLE, most_memory: int = 0) -> None:
        """Start the runner and have it load the hook.

        Raises `UsageError` where the hook cannot be loaded or called, `Ended` where its import
        ends the process or the process has to be ended.
        """
        self._token = uuid.uuid4().hex
        ask_read, ask_write = os.pipe()
        answer_read, answer_write = os.pipe()
        self._asks, self._answers = ask_write, answer_read
        self._printed: deque[bytes] = deque(maxlen=8)
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _PROGRAM.format(path=sys.path),
                    *map(str, (ask_read, answer_write, os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(ask_read, answer_write),
                start_new_session=True,
                env=os.environ | {TOKEN: self._token},
            )
        finally:
            os.close(ask_read)
            os.close(answer_write)
        os.set_blocking(self._answers, False)
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)
        self._watch = Watch(self._process.pid, idle, most_memory)
        try:
            self.facts = self._exchange(Sort.ASK, loading, HookFacts)
        except BaseException:
            self.close()
            raise

    @property
    def printed(self) -> str:
        """The last that the hook has printed since it was asked."""
        text = b"".join(self._printed).decode("utf-8", "backslashreplace")
        return printable(text[-MOST_OUTPUT:], MOST_OUTPUT)

    def ask(self, ask: Ask, kind: type[T]) -> T:
        """Have a case performed. Raises `Ended`, and the runner is gone then."""
        self._printed.clear()
        try:
            return self._exchange(Sort.ASK, ask, kind)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the runner and everything that it has started."""
        # Also where the process is gone: what it has forked may live on in its group.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        end_all(TOKEN, self._token)
        for descriptor in (self._asks, self._answers):
            with suppress(OSError):
                os.close(descriptor)
        self._asks = self._answers = -1
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _exchange(self, sort: Sort, message: object, kind: type[T]) -> T:
        self._watch.begin(0)
        try:
            frames = self._frames(wire.pack(sort, message))
            for found, text, body in frames:
                if found is Sort.BEAT:
                    self._watch.begin(max(0.0, wire.unpack(Told, text, body).seconds))
                elif found is Sort.ANSWER:
                    return wire.unpack(kind, text, body)
                elif found is Sort.REFUSED:
                    raise UsageError(wire.unpack(Told, text, body).words)
                elif found is Sort.BROKEN:
                    told = wire.unpack(Told, text, body)
                    broken = f"the process of the hook could not go on: {told.words}"
                    raise Ended(broken, detail=told.detail)
                else:
                    raise Garbled(f"a frame of sort {found} is no answer")
        except Garbled as garbled:
            told = f"the process of the hook answered with what is no answer: {garbled}"
            raise Ended(told) from None
        raise Ended(self._how_it_ended(), detail=self.printed)

    def _frames(self, request: bytes) -> Iterator[tuple[Sort, bytes, bytes]]:
        """Frames as they come, while the request is sent; ends when the process does."""
        unsent, buffer = memoryview(request), bytearray()
        expected: wire.Announced | None = None
        beats = 0
        ended = _Pidfd(self._process.pid)
        os.set_blocking(self._asks, False)
        with selectors.DefaultSelector() as selector, ended:
            selector.register(self._answers, selectors.EVENT_READ)
            selector.register(self._output, selectors.EVENT_READ)
            selector.register(self._asks, selectors.EVENT_WRITE)
            if ended.descriptor >= 0:
                selector.register(ended.descriptor, selectors.EVENT_READ)
            looked = time.monotonic()
            while True:
                ready = {key.fd for key, _ in selector.select(EVERY)}
                if self._asks in ready:
                    unsent = self._sent(unsent)
                    if not unsent:
                        selector.unregister(self._asks)
                if self._output in ready and not self._drained():
                    selector.unregister(self._output)
                read = self._read(buffer) if self._answers in ready else None
                if read is False:  # closed by the hook: only the end of the process counts
                    selector.unregister(self._answers)
                while True:
                    if expected is None and len(buffer) >= wire.HEADER.size:
                        expected = wire.announced(bytes(buffer[: wire.HEADER.size]))
                        del buffer[: wire.HEADER.size]
                    if expected is None or len(buffer) < expected.text + expected.tensors:
                        break
                    text = bytes(buffer[: expected.text])
                    body = bytes(buffer[expected.text : expected.text + expected.tensors])
                    del buffer[: expected.text + expected.tensors]
                    sort, expected = expected.sort, None
                    beats += sort is Sort.BEAT
                    if beats > MOST_BEATS:
                        raise Ended("it said that it began again and again", by_limit=True)
                    yield sort, text, body
                if read is None and self._process.poll() is not None:
                    return
                if time.monotonic() - looked >= EVERY:
                    looked = time.monotonic()
                    if (why := self._watch.verdict()) is not None:
                        raise Ended(why, by_limit=True, detail=self.printed)

    def _sent(self, unsent: memoryview) -> memoryview:
        try:
            return unsent[os.write(self._asks, unsent) :]
        except BlockingIOError:
            return unsent
        except BrokenPipeError:  # whether it has ended is seen elsewhere
            return unsent[len(unsent) :]

    def _read(self, buffer: bytearray) -> bool:
        """Read what is there; ``False`` at the end of the stream."""
        try:
            part = os.read(self._answers, 2**20)
        except BlockingIOError:
            return True
        buffer += part
        return bool(part)

    def _drained(self) -> bool:
        """Take what was printed, and keep the last of it; ``False`` at the end of the stream."""
        try:
            part = os.read(self._output, 2**16)
        except BlockingIOError:
            return True
        if part:
            self._printed.append(part[-MOST_OUTPUT:])
        return bool(part)

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        if code is not None and code < 0:
            with suppress(ValueError):
                return f"its process was ended by signal {-code} ({signal.Signals(-code).name})"
        return f"its process ended with status {code}"


MOST_BEATS = 10_000
"""Stretches of the hook that one case may have: the longest sequence has some dozens."""


class _Pidfd:
    """A descriptor that is ready when a process has ended, where the system has such a thing."""

    def __init__(self, process: int) -> None:
        self.descriptor = -1
        with suppress(OSError, AttributeError):
            self.descriptor = os.pidfd_open(process)

    def __enter__(self) -> _Pidfd:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def describe(loading: Loading, *, idle: float = IDLE) -> HookFacts:
    """What a judge needs to know of a hook, from a runner of its own.

    Raises `UsageError` for whatever keeps the hook from being loaded.
    """
    try:
        client = RunnerClient(loading, idle=idle)
    except Ended as ended:
        raise UsageError(
            f"the hook {loading.entry} cannot be loaded: while it was imported, {ended.told}"
        ) from None
    client.close()
    return client.facts


def end_all(variable: str, value: str) -> None:
    """Kill every process that has this environment variable, until there is none.

    Children that have left the process group are found so as well.
    """
    wanted = f"{variable}={value}".encode()
    for _ in range(100):
        found = [process for process in _processes() if wanted in _environment(process)]
        if not found:
            return
        for process in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.01)


def _processes() -> list[int]:
    try:
        numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    except OSError:
        return []
    return [number for number in numbers if number != os.getpid()]


def _environment(process: int) -> list[bytes]:
    try:
        return Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
