"""The words that every room shares. Imports nothing but the standard library."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Tier(StrEnum):
    """The test levels."""

    MINIMUM = "minimum"
    RECOMMENDED = "recommended"
    ADVANCED = "advanced"


class Status(StrEnum):
    """Outcome of a check. There is no fourth: what cannot be judged is never a pass."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_JUDGED = "not judged"


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


class Device(StrEnum):
    """Where a case runs."""

    SIM = "sim"
    CUDA = "cuda"
    CPU = "cpu"


class Dtype(StrEnum):
    """Types of weights and planes."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Gpu(StrEnum):
    """GPUs whose rates are known (``device/gpus.toml``)."""

    H200 = "h200"
    H100 = "h100"
    RTX4090 = "rtx4090"
    RTX3060 = "rtx3060"


class ExitCode(IntEnum):
    """What a run ends with."""

    HOLDS = 0
    FAILS = 1
    USAGE = 2
    HARNESS = 3


BAD = frozenset({"failed", "error", "xpassed"})
"""Statuses of records that break the gate."""
UNJUDGED = "a known failure of this case leaves nothing to judge"
"""Why a record is skipped."""
RANKS: tuple[int, ...] = (2, 3)
"""Numbers of processes among which parallel VAEs share their work, where nothing is said."""
DEFAULT_TIERS: tuple[str, ...] = (str(Tier.MINIMUM), str(Tier.RECOMMENDED))
DEFAULT_PROFILES: tuple[str, ...] = ("reference",)
