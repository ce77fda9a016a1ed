"""What a judge asks of a runner, and what a runner says of its hook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vae_compat.cases import Case, Mode
from vae_compat.measure.observation import Promise


@dataclass(frozen=True)
class Loading:
    """How a runner loads its hook: the first thing that it is told."""

    name: str
    entry: str
    """``FILE_OR_MODULE:ATTRIBUTE``."""
    kind: str
    layout: str
    host: str | None
    folder: str
    """What a file in ``entry`` is relative to."""
    comfyui: str | None = None
    """A checkout of the real host."""
    image: str | None = None
    """A picture that replaces the photographs."""
    threads: int = 1
    """Of torch; 0 leaves them as they are."""
    idle: bool = False
    """Whether nothing but the hook's facts is wanted."""
    memory: int = 0
    """Bytes that the runner may take beyond what it has when it has loaded; 0 for no limit."""


@dataclass(frozen=True)
class HookFacts:
    """What a judge knows of a hook that it never loads."""

    modes: tuple[Mode, ...]
    """Modes that it can be asked for in at least one direction."""
    apart: bool
    """Whether it is put on for one direction alone."""
    file: str | None = None
    """Of the entry; ``None`` for a module."""


@dataclass(frozen=True)
class Ask:
    """A case to perform."""

    case: Case
    promise: Promise
    seconds: float
    """CPU seconds that each attempt may take."""
    every_way: bool = False
    """Whether the bare coder is called in every way of the field as well."""
    leaves: tuple[tuple[str, str], ...] = ()
    """What an untiled run leaves behind in the VAE: module path and attribute."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Files of the VAEs that the case needs, by ``models.key_of``."""
