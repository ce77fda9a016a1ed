"""The process in which a hook is loaded and run: it answers with what the hook did, nothing else.

Started from a clean interpreter in a session of its own. It lives as long as its judge does, and
is expendable: whatever the hook does to it costs the hook the case under way.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from vae_compat.isolation import wire
from vae_compat.isolation.wire import Sort, Told

if TYPE_CHECKING:
    from vae_compat.isolation.messages import Loading


def main(asks: int, answers: int) -> NoReturn:
    """Serve a judge over two pipes until it closes the first."""
    leave = os._exit  # before a hook could replace it
    faulthandler.enable()
    # Whoever interrupts a run interrupts the judge: this process has a session of its own. One
    # that comes all the same ends it like any other signal, and no `KeyboardInterrupt` turns up in
    # a hook that has nothing to do with it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    channel = Channel(asks, answers)
    try:
        Runner(channel).serve()
    except BaseException as error:
        told = _told(error)
        try:
            channel.send(Sort.BROKEN, told)
        except BaseException:  # nobody hears it that way, but what is printed is kept
            with suppress(BaseException):
                os.write(2, f"{told.detail}\n".encode("utf-8", "backslashreplace"))
        leave(1)
    leave(0)
    raise AssertionError("unreachable")


class Channel:
    """Frames over two pipes."""

    def __init__(self, asks: int, answers: int) -> None:
        self._asks = asks
        self._answers = answers
        # Taken now: a hook may replace what the modules have.
        self._read, self._write = os.read, os.write

    def receive(self) -> tuple[Sort, bytes, bytes] | None:
        """The next frame; ``None`` where the judge has closed its end."""
        header = self._exactly(wire.HEADER.size)
        if header is None:
            return None
        found = wire.announced(header)
        text, body = self._exactly(found.text), self._exactly(found.tensors)
        return None if text is None or body is None else (found.sort, text, body)

    def send(self, sort: Sort, message: object) -> None:
        """Send a frame."""
        view = memoryview(wire.pack(sort, message))
        while view:
            view = view[self._write(self._answers, view) :]

    def beat(self, seconds: float) -> None:
        """Tell that a stretch of the hook begins that may take so many CPU seconds, or ends."""
        self.send(Sort.BEAT, Told(seconds=seconds))

    def _exactly(self, count: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < count:
            part = self._read(self._asks, min(count - len(parts), 2**20))
            if not part:
                return None
            parts += part
        return bytes(parts)


class Runner:
    """Loads a hook and performs cases with it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def serve(self) -> None:
        """Load the hook, say what it takes, then perform whatever is asked."""
        from vae_compat.isolation.messages import Ask, Loading

        first = self._channel.receive()
        if first is None:
            return
        loading = wire.unpack(Loading, *first[1:])
        _prepare(loading)
        perform = self._loaded(loading)
        if perform is None:
            return
        while (frame := self._channel.receive()) is not None:
            ask = wire.unpack(Ask, *frame[1:])
            before = set(threading.enumerate())
            self._channel.send(Sort.ANSWER, perform(ask))
            if any(map(_counts, set(threading.enumerate()) - before)):
                return  # what the hook left running must not meddle with its next case

    def _loaded(self, loading: Loading) -> Callable[..., object] | None:
        """What performs a case with the hook; ``None`` where it cannot be loaded."""
        from vae_compat.cases import Layout
        from vae_compat.errors import UsageError
        from vae_compat.isolation.limits import LOADING
        from vae_compat.measure.failing import BEAT, Hang, limited
        from vae_compat.subject.loading import facts_of, load_hook
        from vae_compat.subject.profile import HookSpec, Kind, Profile

        BEAT.set(self._channel.beat)
        spec = HookSpec(
            loading.name, loading.entry, Kind(loading.kind), Layout(loading.layout), loading.host
        )
        comfyui = None if loading.comfyui is None else Path(loading.comfyui)
        try:
            with limited(LOADING):
                hook = load_hook(Profile(spec, folder=Path(loading.folder)), comfyui=comfyui)
        except UsageError as error:
            self._channel.send(Sort.REFUSED, Told(words=str(error)))
            return None
        except Hang:
            told = f"{loading.entry} took more than {LOADING:g} s of CPU time to import."
            self._channel.send(Sort.REFUSED, Told(words=told))
            return None
        self._channel.send(Sort.ANSWER, facts_of(hook))
        return None if loading.idle else _performer(hook, loading)


def _counts(thread: threading.Thread) -> bool:
    """Whether it may do anything: that of a progress bar only shows."""
    return not type(thread).__module__.startswith("tqdm")


def _prepare(loading: Loading) -> None:
    import torch

    if loading.threads:
        torch.set_num_threads(loading.threads)


def _performer(hook: object, loading: Loading) -> Callable[..., object]:
    from vae_compat.fixtures.supplies import Fixtures
    from vae_compat.isolation.limits import limit_memory
    from vae_compat.isolation.messages import Ask
    from vae_compat.measure.models import ModelFiles, Models
    from vae_compat.scenarios.performing import perform
    from vae_compat.subject.hook import Hook

    assert isinstance(hook, Hook)
    image = None if loading.image is None else Path(loading.image)
    files = ModelFiles()
    models = Models(Fixtures(image=image), files)
    if loading.memory:
        limit_memory(loading.memory)

    def performed(ask: Ask) -> object:
        files.paths = ask.weights
        models.age()
        with hook.kept() as kept:
            return perform(ask, kept, models)

    return performed


def _told(error: BaseException) -> Told:
    import traceback

    try:
        detail = "".join(traceback.format_exception(error)[-40:])
    except BaseException:
        detail = ""
    return Told(words=f"{type(error).__name__}: {error}", detail=detail)
