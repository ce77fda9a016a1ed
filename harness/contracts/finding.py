"""What a check says about an observation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from vae_compat.vocabulary import Grade, Status, Tier

__all__ = ["Finding", "Grade", "Metrics", "Phase", "Status", "Tier"]

Metrics = Mapping[str, float | int | str | None]
"""Numbers for the record. ``None`` means that the number was not measured."""


class Phase(StrEnum):
    """How far a hook has come with causal caches, worst first."""

    CRASHES = "crashes"
    """Raises, or returns another kind of thing than untiled, for some chunk of a clip."""
    INCOHERENT = "breaks coherence"
    """Takes the cache, but gives wrong frames or leaves wrong slots."""
    FALLBACK = "falls back"
    """Right, but it computes whole planes and takes as much memory as untiled."""
    UNSAVING = "tiles, saves nothing"
    """Right, and its planes are smaller, but it takes about as much memory as untiled, or more."""
    SPLIT = "splits"
    """Right, and it takes less memory than untiled."""

    def reaches(self, other: Phase) -> bool:
        """Whether this is as far as the other, or farther."""
        order = list(Phase)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True)
class Finding:
    """One check's verdict on one observation."""

    check: str
    tier: Tier
    status: Status
    message: str = ""
    """What was got, what it should be, where; empty where the check passed."""
    grade: Grade | None = None
    metrics: Metrics = field(default_factory=dict)
    blocked_by: str | None = None
    """The check that says why there was nothing to judge, for a finding that was not judged."""
