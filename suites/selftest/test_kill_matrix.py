"""Every broken specimen is killed by the check named for it, and no sound hook is accused.

Random mutants, and sound hooks in all their cases, are for ``nox -s selftest``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from fixtures.specimens import SOUND, SPECIMENS, Specimen
from harness.cases import Case
from harness.checks.registry import CHECKS
from harness.matrix import cost
from harness.mechanisms import EXPLANATION
from harness.session import Run
from reports.kill_matrix import Trial
from suites.killing.specimens import REFERENCE, telling, trial_of
from suites.killing.trial import (
    is_wrong,
    judged,
    narrowed,
    prepared,
    profile_of,
    records_of,
    reference,
)
from suites.selftest.running import outside, shared

DEADLY = ("hangs", "crashes-process")
BROKEN = sorted(
    (name for name, specimen in SPECIMENS.items() if not specimen.sound),
    key=lambda name: SPECIMENS[name].shows_on,  # those with one baseline after another
)
TELLING = [name for name in BROKEN if SPECIMENS[name].mechanism is not None]
TIERS = {check.name: check.tier for check in CHECKS}
CHEAP = 1600.0
"""Cost of a case up to which sound hooks meet it here."""


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where this test run keeps its baselines."""
    return shared(tmp_path_factory) / "kill-matrix"


@cache
def run_of_all(folder: Path) -> Run:
    return prepared([*map(profile_of, SPECIMENS.values()), reference()], folder)


def shown(specimen: Specimen, run: Run) -> Case:
    return telling(specimen, run.cases[specimen.name])[0]


@cache
def trial(name: str, folder: Path) -> Trial:
    run, specimen = run_of_all(folder), SPECIMENS[name]
    cases = telling(specimen, run.cases[name])
    return trial_of(name, specimen, list(records_of(run, name, cases)))


@pytest.mark.parametrize("name", [name for name in BROKEN if name not in DEADLY])
def test_broken_specimen_is_killed_by_the_check_named_for_it(name: str, bench: Path) -> None:
    specimen, run = SPECIMENS[name], run_of_all(bench)
    records, _ = judged(run, name, shown(specimen, run))
    (record,) = (record for record in records if record.check == specimen.killed_by)
    assert is_wrong(record), f"{record.check} is {record.status}"
    assert record.tier == TIERS[record.check]
    if record.check == "mechanism":
        assert specimen.mechanism is not None
        assert EXPLANATION[specimen.mechanism] in record.message


@pytest.mark.parametrize("name", DEADLY)
def test_deadly_specimen_is_killed_and_the_run_goes_on(name: str, tmp_path: Path) -> None:
    specimen = SPECIMENS[name]
    flags = ("--kind", specimen.kind, "--layout", specimen.layout, "--timeout", 2)
    ran = outside(tmp_path / "out", "--hook", specimen.entry, *flags, "--case", specimen.shows_on)
    assert ran.code == 1, ran.err
    (record,) = ran.records(check=specimen.killed_by)
    assert record["status"] == "failed"


@pytest.mark.parametrize("name", [*SOUND, REFERENCE])
def test_sound_hook_is_not_accused(name: str, bench: Path) -> None:
    run = run_of_all(bench)
    first, *_ = run.subjects[name].profile.claims.modes
    cases = [
        case
        for case in narrowed(run.cases[name])
        if case.mode is first and case.scenario is None and cost(case) <= CHEAP
    ]
    accused = [record for record in records_of(run, name, cases) if is_wrong(record)]
    assert cases
    assert [f"{record.id}: {record.message}" for record in accused] == []


def test_mechanism_named_is_the_right_one_in_nine_of_ten(bench: Path) -> None:
    wrong = {
        name: (found.mechanism, found.diagnosed)
        for name in TELLING
        if (found := trial(name, bench)).diagnosed != found.mechanism
    }
    assert len(wrong) <= len(TELLING) / 10, wrong
