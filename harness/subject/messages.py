"""Messages that describe a hook to a runner, and the runner's answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vae_compat.contracts.cases import Mode


@dataclass(frozen=True)
class Loading:
    """How a runner loads its hook: the first message that it gets."""

    name: str
    entry: str
    """``FILE_OR_MODULE:ATTRIBUTE``."""
    kind: str
    layout: str
    host: str | None
    folder: str
    """What a file in ``entry`` is relative to."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What the hook calls keywords of the contract."""
    comfyui: str | None = None
    """A checkout of the real host."""
    image: str | None = None
    """A picture that replaces the photographs."""
    threads: int = 1
    """Threads of torch; 0 leaves their number as it is."""
    memory: int = 0
    """Bytes that the runner may take beyond what it has when it has loaded; 0 for no limit."""


@dataclass(frozen=True)
class HookFacts:
    """Facts about a hook for a judge that never loads it."""

    modes: tuple[Mode, ...]
    """Modes that it can be asked for in at least one direction."""
    apart: bool
    """Whether it is put on for one direction alone."""
    file: str | None = None
    """The file of the entry; ``None`` for a module."""
    parameters: tuple[str, ...] = ()
    """Names of all that the entry takes, in order."""
