"""A run says how far it has come, often enough to be seen alive and no more."""

from __future__ import annotations

import pytest

from vae_compat.front.run.progress import EVERY, RENEWED, Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("terminal", "every"), [(False, EVERY), (True, RENEWED)])
def test_a_line_is_due_after_a_while_and_not_before(terminal: bool, every: float) -> None:
    clock = Clock()
    progress = Progress(100, terminal=terminal, clock=clock)
    assert progress.took(bad=False) is None
    clock.now = every
    assert progress.took(bad=True) is not None
    assert progress.took(bad=False) is None


def test_the_line_counts_and_says_what_is_left_without_the_time_before_the_first_record() -> None:
    clock = Clock()
    progress = Progress(2000, done=499, failed=1, clock=clock)
    clock.now = EVERY - 1
    assert progress.took(bad=False) is None
    progress.done, clock.now = 999, clock.now + 600.0
    assert progress.took(bad=True) == "1,000 of 2,000 records (50 %), 2 failed, about 20 min left"


def test_a_run_at_its_end_has_nothing_left() -> None:
    clock = Clock()
    progress = Progress(1, clock=clock)
    clock.now = EVERY
    assert progress.took(bad=False) == "1 of 1 records (100 %)"


def test_the_time_left_is_not_told_from_the_first_records() -> None:
    clock = Clock()
    progress = Progress(1000, clock=clock)
    clock.now = EVERY
    assert progress.took(bad=False) == "1 of 1,000 records (0 %)"
    progress.done, clock.now = 199, 2 * EVERY
    assert progress.took(bad=False) == "200 of 1,000 records (20 %)"
    progress.done, clock.now = 200, 3 * EVERY
    assert progress.took(bad=False) == "201 of 1,000 records (20 %), about 4 min left"
