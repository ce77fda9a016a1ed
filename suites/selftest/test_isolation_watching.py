"""A runner is ended for its own CPU time and memory, whatever else the machine does."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

import pytest

from vae_compat.isolation.limits import (
    EVERY,
    GRACE,
    IDLE,
    LATE,
    LOADING,
    MOST_STRETCHES,
    TIMES_UNTILED,
    seconds_for,
)
from vae_compat.isolation.processes import Look
from vae_compat.isolation.watching import Watch

GIB = 2**30


class Machine:
    """A runner whose readings and clock are set by the test."""

    def __init__(self, *, idle: float = 10.0, memory: int = 0) -> None:
        self.now = self.cpu = 0.0
        self.busy, self.memory, self.weight = False, GIB, 0
        self.watch = Watch(
            1,
            idle,
            memory,
            look=lambda _: Look(self.cpu, self.busy, self.memory),
            used=lambda _: self.cpu,
            weigh=lambda _: self.weight or self.memory,
            clock=lambda: self.now,
        )

    def runs(self, looks: Iterable[tuple[float, bool]], every: float = EVERY) -> str | None:
        """Each look gives the CPU seconds spent since the last and whether a thread could run."""
        for spent, self.busy in looks:
            self.now += every
            self.cpu += spent
            if (why := self.watch.verdict()) is not None:
                return why
        return None


def test_what_is_starved_but_could_run_is_not_waiting() -> None:
    machine = Machine()
    machine.watch.asked(100)
    assert machine.runs(repeat((0.0, True), 4000)) is None


def test_what_is_now_and_then_seen_asleep_on_a_busy_machine_is_not_waiting() -> None:
    machine = Machine()
    machine.watch.asked(100)
    looks = [(0.01, False), (0.01, False), (0.0, False), (0.02, True)] * 1000
    assert machine.runs(looks) is None


@pytest.mark.parametrize("spent", [0.0, 0.005])
def test_what_sleeps_or_polls_is_waiting(spent: float) -> None:
    machine = Machine(idle=10)
    machine.watch.asked(100)
    looks = ([(spent, False)] * 30 + [(spent, True)]) * 10
    told = machine.runs(looks)
    assert told is not None
    assert "waiting for 10 s" in told
    assert machine.now < 20


def test_a_judge_that_was_held_up_itself_counts_no_waiting() -> None:
    machine = Machine(idle=10)
    machine.watch.asked(100)
    assert machine.runs([(0.0, False)] * 5, every=3600) is None


def test_work_between_makes_up_for_waiting() -> None:
    machine = Machine(idle=10)
    machine.watch.asked(1000)
    assert machine.runs(([(0.0, False)] * 30 + [(0.25, True)] * 6) * 20) is None


def test_a_stretch_ends_at_its_own_limit_and_a_new_one_begins_anew() -> None:
    machine = Machine()
    machine.watch.asked(200)
    machine.watch.begin(5)
    steps = int((LATE * 5 + GRACE) / 0.5)
    assert machine.runs(repeat((0.5, True), steps)) is None
    machine.watch.begin(5)
    assert machine.runs(repeat((0.5, True), steps)) is None
    told = machine.runs([(0.5, True)])
    assert told is not None
    assert "stuck where it could not be interrupted" in told


@pytest.mark.parametrize("said", [1e300, -1.0, 1e6])
def test_no_more_is_believed_than_was_asked_for(said: float) -> None:
    machine = Machine()
    machine.watch.asked(20)
    machine.watch.begin(said)
    most = LATE * LOADING + GRACE
    assert machine.runs(repeat((1.0, True), int(most) + 1)) is not None


def test_beginning_again_and_again_does_not_go_on_for_ever() -> None:
    machine = Machine()
    machine.watch.asked(20)
    for _ in range(MOST_STRETCHES * int(LATE * LOADING + GRACE)):
        machine.watch.begin(20)
        assert machine.runs([(1.0, True)]) is None
    machine.watch.begin(20)
    told = machine.runs([(1.0, True)])
    assert told is not None
    assert "in all" in told


def test_memory_is_weighed_before_it_is_held_against_a_hook() -> None:
    machine = Machine(memory=4 * GIB)
    machine.watch.asked(20)
    machine.memory, machine.weight = 9 * GIB, 2 * GIB  # forks that share most of their pages
    assert machine.runs([(0.1, True)]) is None
    machine.weight = 9 * GIB
    told = machine.runs([(0.1, True)])
    assert told == "taking 8.0 GiB of memory, of 4.0"


def test_the_limit_grows_with_what_untiled_takes_and_has_a_least() -> None:
    assert seconds_for(120, 0.01) == 120
    assert seconds_for(120, 100) == 100 * TIMES_UNTILED
    assert IDLE > 10 * EVERY
