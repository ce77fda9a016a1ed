"""What a runner does that performs cases with a hook."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vae_compat.fixtures.supplies import Fixtures
from vae_compat.isolation import wire
from vae_compat.isolation.limits import limit_memory
from vae_compat.isolation.runner import Channel
from vae_compat.isolation.wire import Sort
from vae_compat.measure.models import ModelFiles, Models
from vae_compat.measure.process import running_threads
from vae_compat.scenarios.asking import Ask
from vae_compat.scenarios.performing import perform
from vae_compat.subject.hook import Hook
from vae_compat.subject.messages import Loading
from vae_compat.subject.serving import loaded

MODULES = ("diffusers", "diffusers.models.autoencoders", "numpy.random")


def serve(channel: Channel) -> None:
    """Load the hook, say what it takes, then perform whatever is asked."""
    found = loaded(channel)
    if found is None:
        return
    perform_with = _performer(*found)
    while (frame := channel.receive()) is not None:
        ask = wire.unpack(Ask, *frame[1:])
        before = running_threads().keys()
        answer = perform_with(ask)
        # What the hook left running must not disturb its next case.
        last = bool(running_threads().keys() - before)
        channel.send(Sort.LAST if last else Sort.ANSWER, answer)
        if last:
            return


def _performer(hook: Hook, loading: Loading) -> Callable[[Ask], object]:
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
