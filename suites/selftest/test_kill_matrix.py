"""Checks kill the known-bad hooks that are named for them, and no sound hook is accused.

What costs most, all other known-bad hooks, random mutants, sound hooks in all their cases, and
whether the diagnosis names the mechanism, are for ``nox -s mutation-matrix``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from vae_compat.checks.registry import CHECKS
from vae_compat.contracts.cases import Case, Scale
from vae_compat.fixtures.specimens import SOUND, SPECIMENS, Specimen
from vae_compat.fixtures.specimens.in_hosts import IN_HOSTS
from vae_compat.front.explaining.explain import parse_case
from vae_compat.front.run.session import Run
from vae_compat.matrix import cost
from vae_compat.reports.kill_matrix import Matrix, Mutant, Trial, to_text
from vae_compat.suites.mutation.__main__ import holds
from vae_compat.suites.mutation.specimens import REFERENCE, covering, telling
from vae_compat.suites.mutation.trial import (
    is_cause,
    is_wrong,
    judged,
    narrowed,
    prepared,
    profile_of,
    records_of,
    reference,
)
from vae_compat.suites.selftest.running import shared
from vae_compat.suites.selftest.test_specimens_caching import CLIPS, TOLD
from vae_compat.suites.selftest.test_usage import USAGE

pytestmark = pytest.mark.slow

DEADLY = ("hangs", "crashes-process")
"""Killed in runs of their own, see ``test_run_hostile``."""
ELSEWHERE = {
    *USAGE,
    *(SPECIMENS[name].killed_by for name in (*TOLD, *CLIPS)),
}
"""Checks whose known-bad hooks are killed on the smallest planes in tests of their own."""
OF_HOSTS = {specimen.name for specimen in IN_HOSTS}
"""Judged in the cases that are for them, see ``test_specimens_hosted``."""
DEAR = 10_000.0
"""Expense above which a hook is for ``nox -s mutation-matrix`` alone."""


def chosen() -> list[str]:
    """For each check the known-bad hook that costs least.

    They are in the order of what they show on, so that those with one baseline come together.
    """
    found: dict[str, str] = {}
    for name, specimen in sorted(SPECIMENS.items(), key=lambda it: (expense(it[1]), it[0])):
        left_out = specimen.sound or name in {*DEADLY, *OF_HOSTS}
        if not left_out and specimen.killed_by not in ELSEWHERE and expense(specimen) <= DEAR:
            found.setdefault(specimen.killed_by, name)
    return sorted(found.values(), key=lambda name: SPECIMENS[name].shows_on)


def expense(specimen: Specimen) -> float:
    """Rough cost of the case that it shows on; several calls cost a multiple."""
    if specimen.sound:
        return 0.0
    case = parse_case(specimen.shows_on)
    return cost(case) * (1 if case.scenario is None else 8)


TIERS = {check.name: check.tier for check in CHECKS}
INFORMING = {check.name for check in CHECKS if check.informs}


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where this test run keeps its baselines."""
    return shared(tmp_path_factory) / "kill-matrix"


@cache
def run_of_all(folder: Path) -> Run:
    return prepared([*map(profile_of, SPECIMENS.values()), reference()], folder)


def shown(specimen: Specimen, run: Run) -> Case:
    return telling(specimen, run.cases[specimen.name])[0]


def test_every_check_that_can_fail_has_a_specimen_and_no_other_has() -> None:
    named = {specimen.killed_by for specimen in SPECIMENS.values() if not specimen.sound}
    assert named == set(TIERS) - INFORMING


@pytest.mark.parametrize("name", chosen())
def test_broken_specimen_is_killed_by_the_check_named_for_it(name: str, bench: Path) -> None:
    specimen, run = SPECIMENS[name], run_of_all(bench)
    records, _ = judged(run, name, shown(specimen, run))
    (record,) = (record for record in records if record.check == specimen.killed_by)
    assert is_wrong(record), f"{record.check} is {record.status}"
    accusing = {record.check for record in records if is_wrong(record) and is_cause(record)}
    assert record.check in accusing, record.message
    assert not accusing & INFORMING
    assert record.tier == TIERS[record.check]


@pytest.mark.parametrize("name", [name for name in (*SOUND, REFERENCE) if name not in OF_HOSTS])
def test_sound_hook_is_not_accused(name: str, bench: Path) -> None:
    run = run_of_all(bench)
    accused = [record for record in records_of(run, name, sample(run, name)) if is_wrong(record)]
    assert [f"{record.id}: {record.message}" for record in accused] == []


def sample(run: Run, name: str) -> list[Case]:
    """The cheapest whole net that needs tiles, in each direction that the hook claims."""
    claims = run.subjects[name].profile.claims
    whole = [
        case
        for case in narrowed(run.cases[name])
        if (case.scale, case.scenario, case.mode) == (Scale.MOCK, None, claims.modes[0])
        and case.must_tile
        and case.given is None
    ]
    return [next(case for case in whole if case.direction is way) for way in claims.directions]


def _kind(case: Case) -> tuple[object, ...]:
    return case.direction, case.scenario, case.mechanism


@pytest.mark.parametrize("name", [*SOUND, REFERENCE])
def test_sound_hook_meets_every_scenario_and_probe_that_it_claims(name: str, bench: Path) -> None:
    cases = narrowed(run_of_all(bench).cases[name])
    met = covering(cases)
    by_input = [lambda case: (case.direction, case.given)]
    for kind in (lambda case: (case.direction, case.mode), _kind, *by_input):
        assert set(map(kind, met)) == set(map(kind, cases))


CAUGHT = Trial(
    "caught", "parity", judged={"parity": 1}, wrong={"parity": 1}, causes=frozenset({"parity"})
)
FAULT = Mutant("m", "resting", "tile", "drop", "f(x)", acted=True, check="seams", checks=("seams",))
WHOLE = Matrix(("parity", "seams", "transfers"), (CAUGHT,), (FAULT,), 1, frozenset({"transfers"}))


WRONGS: dict[str, dict[str, Any]] = {
    "a specimen missed": {"trials": (CAUGHT, replace(CAUGHT, killed_by="seams"))},
    "one that hangs on another": {"trials": (CAUGHT, replace(CAUGHT, causes=frozenset()))},
    "a sound hook accused": {"trials": (CAUGHT, replace(CAUGHT, killed_by=None))},
    "the wrong mechanism": {"trials": (replace(CAUGHT, mechanism="halo", diagnosed="stub"),)},
    "a survivor": {"mutants": (FAULT, replace(FAULT, check="", checks=(), other_output=1))},
    "a check without a kill": {"mutants": (replace(FAULT, check="parity", checks=("parity",)),)},
    "one that cannot inform alone": {"informing": frozenset()},
}


@pytest.mark.parametrize("wrong", WRONGS)
def test_matrix_holds_as_long_as_nothing_is_wrong_with_it(wrong: str) -> None:
    assert holds(WHOLE)
    assert "nothing made fail: none, of 2 that can" in to_text(WHOLE)
    assert not holds(replace(WHOLE, **WRONGS[wrong]))
