"""What a judge asks of a runner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vae_compat.contracts.cases import Case
from vae_compat.contracts.promise import Promise


@dataclass(frozen=True)
class Ask:
    """A case to perform."""

    case: Case
    promise: Promise
    seconds: float
    """CPU seconds that each attempt may take."""
    capacity: int | None = None
    """Bytes of memory of the device on which the case runs; ``None`` for plenty."""
    every_way: bool = False
    """Whether the bare coder is also called in every convention in use."""
    leaves: tuple[tuple[str, str], ...] = ()
    """What an untiled run leaves behind in the VAE: module path and attribute."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Where the weights of the VAEs that the case needs can be read, by ``models.key_of``."""
