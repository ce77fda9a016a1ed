"""How far a run has come, in one line that is renewed on a terminal and repeated elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

EVERY = 30.0
"""Seconds between two lines in a log, so that a reader sees that a run is alive."""
RENEWED = 0.5
"""Seconds between two lines on a terminal."""

FORESEEN = 0.2
"""Share of the records from which the time left is told. The most expensive cases come first, with
the baselines of others: from the first tenth, three to four times what was left was foreseen."""


@dataclass
class Progress:
    """Counts records, and says when a line is due."""

    total: int
    """Records that the run is to have."""
    done: int = 0
    """How many of these records there are; those of an earlier run count from the start."""
    failed: int = 0
    terminal: bool = False
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    _told: float = field(init=False, repr=False)
    _begun: tuple[float, int] | None = field(init=False, default=None, repr=False)
    """When the first record came, and how many there were then."""

    def __post_init__(self) -> None:
        self._told = self.clock()

    def took(self, *, bad: bool) -> str | None:
        """Count a record; returns the line to show where one is due."""
        self.done += 1
        self.failed += bad
        now = self.clock()
        if self._begun is None:  # what imports take says nothing of the records
            self._begun = (now, self.done)
        if now - self._told < (RENEWED if self.terminal else EVERY):
            return None
        self._told = now
        return self.line(now)

    def line(self, now: float) -> str:
        """``120 of 5,393 records (2 %), 3 failed, about 12 min left``."""
        total = max(self.total, self.done)
        told = f"{self.done:,} of {total:,} records ({100 * self.done // max(total, 1)} %)"
        told += f", {self.failed} failed" if self.failed else ""
        since, before = self._begun or (now, self.done)
        made = self.done - before
        if not made or made < FORESEEN * (total - before) or self.done == total:
            return told
        return f"{told}, about {_duration((now - since) / made * (total - self.done))} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
