"""What a check says about an observation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

NOT_JUDGED = "not judged: "
"""How the message begins of a check that had nothing to judge."""


class Status(StrEnum):
    """Outcome of a check. There is no silent fourth way: what cannot be judged is an error."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"


class Tier(StrEnum):
    """The mission's three test levels."""

    MINIMUM = "minimum"
    RECOMMENDED = "recommended"
    ADVANCED = "advanced"


class Grade(StrEnum):
    """How right an output is, best first."""

    EXACT = "exact"
    LOSSLESS = "lossless"
    CLOSE = "close"
    DEGRADED = "degraded"
    BROKEN = "broken"

    def meets(self, promised: Grade) -> bool:
        """Whether this grade is at least as good as the promised one."""
        order = list(Grade)
        return order.index(self) <= order.index(promised)


class Phase(StrEnum):
    """How far a hook has come with causal caches, worst first."""

    CRASHES = "crashes"
    """Raises, or returns another kind of thing than untiled, for some chunk of a clip."""
    INCOHERENT = "breaks coherence"
    """Takes the cache, and gives wrong frames or leaves wrong slots."""
    FALLBACK = "falls back"
    """Right, and as large as untiled, whose planes it computes whole."""
    UNSAVING = "tiles, saves nothing"
    """Right, and as large as untiled or larger, although its planes are smaller."""
    SPLIT = "splits"
    """Right, and smaller."""

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
    metrics: Mapping[str, float | int | str | None] = field(default_factory=dict)
    """Numbers for the record; ``None`` reads ``not measured``."""
