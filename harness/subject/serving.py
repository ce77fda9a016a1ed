"""Server of a runner that describes a hook: loads it, and answers with what it takes."""

from __future__ import annotations

from pathlib import Path

from vae_compat.contracts.cases import Layout
from vae_compat.errors import UsageError
from vae_compat.isolation import wire
from vae_compat.isolation.limiting import BEAT, Hang, limited
from vae_compat.isolation.limits import LOADING
from vae_compat.isolation.runner import Channel
from vae_compat.isolation.wire import Sort, Told
from vae_compat.subject.hook import Hook
from vae_compat.subject.loading import facts_of, load_hook
from vae_compat.subject.messages import Loading
from vae_compat.subject.profile import HookSpec, Kind, Profile

MODULES: tuple[str, ...] = ("torch",)


def serve(channel: Channel) -> None:
    """Answer with the facts of the hook."""
    loaded(channel)


def loaded(channel: Channel) -> tuple[Hook, Loading] | None:
    """The hook that the channel names first, and how it was loaded; its facts are told.

    ``None`` where there is none, or where it cannot be loaded, which is told as well.
    """
    import torch

    first = channel.receive()
    if first is None:
        return None
    loading = wire.unpack(Loading, *first[1:])
    if loading.threads:
        torch.set_num_threads(loading.threads)
    BEAT.set(channel.beat)
    spec = HookSpec(
        loading.name,
        loading.entry,
        Kind(loading.kind),
        Layout(loading.layout),
        loading.host,
        loading.settings,
    )
    comfyui = None if loading.comfyui is None else Path(loading.comfyui)
    try:
        with limited(LOADING):
            hook = load_hook(Profile(spec, folder=Path(loading.folder)), comfyui=comfyui)
    except UsageError as error:
        channel.send(Sort.REFUSED, Told(words=str(error)))
        return None
    except Hang:
        told = f"{loading.entry} took more than {LOADING:g} s of CPU time to import."
        channel.send(Sort.REFUSED, Told(words=told))
        return None
    channel.send(Sort.ANSWER, facts_of(hook))
    return hook, loading
