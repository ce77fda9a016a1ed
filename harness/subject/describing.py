"""Facts about hooks for those who don't load them: asked of a runner once, then cached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from vae_compat.errors import UsageError
from vae_compat.isolation.limits import IDLE

if TYPE_CHECKING:
    from vae_compat.subject.messages import HookFacts, Loading
    from vae_compat.subject.profile import Profile

SERVER = "vae_compat.subject.serving"
_KNOWN: dict[str, HookFacts] = {}
"""Facts by `_key`, kept because a runner takes seconds to start."""


def loading_of(profile: Profile, comfyui: Path | None = None) -> Loading:
    """How a runner loads the hook of a profile."""
    from vae_compat.subject.messages import Loading

    spec = profile.hook
    return Loading(
        name=spec.name,
        entry=spec.entry,
        kind=str(spec.kind),
        layout=str(spec.layout),
        host=spec.host,
        folder=str(profile.folder),
        settings=spec.settings,
        comfyui=None if comfyui is None else str(comfyui),
    )


def described(profile: Profile, comfyui: Path | None = None) -> HookFacts:
    """The facts of a profile's hook.

    Raises ``UsageError`` where it cannot be loaded: for a missing file or attribute, for what
    fails, hangs or ends the process on import, and for an entry that cannot be called with the
    keywords of the contract.
    """
    key = _key(profile, comfyui)
    if key not in _KNOWN:
        _KNOWN[key] = describe(loading_of(profile, comfyui))
    return _KNOWN[key]


def describe(loading: Loading, *, idle: float = IDLE) -> HookFacts:
    """The facts that a judge needs about a hook, from a separate runner.

    Raises `UsageError` for whatever keeps the hook from being loaded.
    """
    from vae_compat.isolation.client import Ended, RunnerClient, shared_nursery
    from vae_compat.subject.messages import HookFacts

    try:
        client = RunnerClient(SERVER, loading, HookFacts, shared_nursery(), idle=idle)
    except Ended as ended:
        raise UsageError(
            f"the hook {loading.entry} cannot be loaded: while it was imported, {ended.told}"
        ) from None
    client.close()
    return client.facts


def remember(profile: Profile, facts: HookFacts) -> None:
    """Store facts of one of this project's own hooks, which was loaded in this process."""
    _KNOWN[_key(profile, None)] = facts


def _key(profile: Profile, comfyui: Path | None) -> str:
    spec = profile.hook
    settings = sorted(spec.settings.items())
    parts = (spec.entry, spec.kind, spec.host, settings, profile.folder, comfyui)
    return json.dumps([str(part) for part in parts])
