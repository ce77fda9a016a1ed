"""Decides, by sampling a runner, whether to end it for exceeding a limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from vae_compat.isolation.limits import (
    EVERY,
    GRACE,
    IDLE,
    LATE,
    LITTLE,
    LOADING,
    MOST_STRETCHES,
    REGAINED,
)
from vae_compat.isolation.processes import Look, cpu_of, look_at, memory_of


@dataclass
class Watch:
    """Judges a runner and its descendants, sample by sample.

    Other load on the machine makes no difference: a thread that is ready to run but gets no CPU is
    recognised. Wall-clock time counts only while no thread of the runner runs or is ready to run.
    """

    process: int
    idle: float = IDLE
    most_memory: int = 0
    """Bytes in memory beyond those at its first stretch at which it is ended; 0 for no limit. A
    hook may have lifted its own."""
    look: Callable[[int], Look] = look_at
    used: Callable[[int], float] = cpu_of
    weigh: Callable[[int], int] = memory_of
    clock: Callable[[], float] = time.monotonic
    _most: float = LOADING
    _allowed: float = LATE * LOADING + GRACE
    _asked_at: float = 0.0
    _begun_at: float = 0.0
    _seen: tuple[float, float] = (0.0, 0.0)
    """Clock and CPU seconds of the last look."""
    _waited: float = 0.0
    _held: int | None = field(default=None)
    """Bytes in memory before the first case."""

    def asked(self, seconds: float) -> None:
        """The runner gets a request; each attempt of it may take at most these CPU seconds."""
        self._most = max(seconds, LOADING)
        self._asked_at = self._begin(0.0)
        if self.most_memory and self._held is None and seconds:
            self._held = self.weigh(self.process)

    def begin(self, seconds: float) -> None:
        """A stretch begins that may take so many CPU seconds; 0 for the harness's own work.

        The runner reports this itself: it is trusted only within the limits of the request.
        """
        self._begin(seconds if 0 < seconds <= self._most else 0.0)

    def _begin(self, seconds: float) -> float:
        self._allowed = LATE * (seconds or LOADING) + GRACE
        self._begun_at = self.used(self.process)
        self._seen, self._waited = (self.clock(), self._begun_at), 0.0
        return self._begun_at

    @property
    def due(self) -> bool:
        """Whether it is time for another look."""
        return self.clock() - self._seen[0] >= EVERY

    def verdict(self) -> str | None:
        """Why the runner is to be ended now; ``None`` while it is not."""
        look, now = self.look(self.process), self.clock()
        (then, before), self._seen = self._seen, (now, look.cpu)
        total = look.cpu - self._asked_at
        if (used := look.cpu - self._begun_at) > self._allowed:
            return (
                f"still running after {used:.0f} s of CPU time, stuck where it could not be "
                "interrupted"
            )
        if total > MOST_STRETCHES * (LATE * self._most + GRACE):
            return f"still running after {total:.0f} s of CPU time in all"
        # This process may have been delayed itself, so at most one sampling interval is counted.
        passed = min(now - then, 2 * EVERY)
        if look.busy or look.cpu - before > LITTLE * passed:
            self._waited = max(0.0, self._waited - REGAINED * passed)
        else:
            self._waited += passed
        if self._waited > self.idle:
            return f"waiting for {self.idle:g} s without using the CPU"
        return self._of_memory(look.memory)

    def _of_memory(self, taken: int) -> str | None:
        if not self.most_memory or self._held is None or taken - self._held <= self.most_memory:
            return None
        taken = self.weigh(self.process) - self._held
        if taken <= self.most_memory:
            return None
        return f"taking {taken / 2**30:.1f} GiB of memory, of {self.most_memory / 2**30:.1f}"
