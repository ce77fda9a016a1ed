"""Specimens on trial: each is to be killed by the check named for it, and sound hooks by none."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from vae_compat.checks.registry import CHECKS
from vae_compat.contracts.cases import Case, Mode, Scale
from vae_compat.fixtures.specimens import SPECIMENS, Specimen
from vae_compat.front.run.session import Run
from vae_compat.judge import Record, diagnose
from vae_compat.matrix import cost
from vae_compat.reports.kill_matrix import Trial
from vae_compat.suites.mutation.spreading import spread
from vae_compat.suites.mutation.trial import (
    guarded,
    hurried,
    is_cause,
    is_wrong,
    narrowed,
    prepared,
    profile_of,
    records_of,
    reference,
)

REFERENCE = "reference"
DEAR = 4500.0
"""Cost of a case above which no sound hook meets it: most long clips, and the probe of caches in
one call (it meets the one of several)."""
TIERS = {check.name: str(check.tier) for check in CHECKS}


def all_trials(folder: Path, processes: int) -> list[Trial]:
    """Every specimen and the hook that ships here. ``folder`` may hold baselines already."""
    profiles = [profile_of(specimen) for specimen in SPECIMENS.values()]
    run = prepared([*profiles, reference()], folder)
    room = folder / "specimens"
    room.mkdir(parents=True)
    names = sorted(run.subjects, key=lambda name: name in SPECIMENS and not SPECIMENS[name].sound)
    return spread(functools.partial(tried, run), names, room, processes)


def tried(run: Run, name: str) -> Trial:
    """What the checks say of a hook."""
    specimen = SPECIMENS.get(name)
    if specimen is None or specimen.sound:
        return trial_of(name, None, list(records_of(run, name, covering(run.cases[name]))))
    run = hurried(run)
    run = guarded(run) if specimen.deadly else run
    return trial_of(name, specimen, list(records_of(run, name, telling(specimen, run.cases[name]))))


def covering(cases: Iterable[Case]) -> list[Case]:
    """Cases of a sound hook: the cheapest of every kind.

    They cover every mode, scenario, probe and dtype that it claims, in every direction. Other
    combinations are left to separate runs.
    """
    kept, known = [], set[tuple[object, ...]]()
    for case in sorted(narrowed(cases), key=lambda case: case.mode is not Mode.EXACT):
        kinds = {
            (case.direction, case.scenario, case.mechanism, case.frames),
            (case.direction, case.scenario, case.dtype),
            (case.direction, case.given),
            (case.direction, case.scale, case.mode),
        }
        if cost(case) <= DEAR and not kinds <= known:
            kept.append(case)
            known |= kinds
    return kept


def telling(specimen: Specimen, cases: Sequence[Case]) -> list[Case]:
    """Cases of a known-bad hook: where its defect shows, and the probes that name its mechanism."""
    shown = [case for case in cases if case.id == specimen.shows_on]
    if not shown:
        raise LookupError(f"{specimen.name} has no case {specimen.shows_on!r}")
    return shown if specimen.mechanism is None else [*shown, *diagnosing(specimen, cases)]


def diagnosing(specimen: Specimen, cases: Iterable[Case]) -> list[Case]:
    """All probes of one family and direction, and a whole net that needs tiles."""
    place = specimen.shows_on.split("-")
    family, direction = place[0], place[3]
    here = [
        case
        for case in narrowed(cases)
        if case.family == family and case.direction == direction
        if case.scenario is None and case.given is None
    ]
    probes = [case for case in here if case.scale is Scale.PROBE]
    whole = [case for case in here if case.scale is Scale.MOCK and case.must_tile]
    return [case for case in (*probes, *whole[:1]) if case.id != specimen.shows_on]


def trial_of(name: str, specimen: Specimen | None, records: Sequence[Record]) -> Trial:
    """What the records of a hook come to."""
    wrong = list(filter(is_wrong, records))
    named = None if specimen is None else specimen.killed_by
    told = next((record for record in wrong if named in (None, record.check)), None)
    mechanism = specimen.mechanism if specimen else None
    found = next(iter(diagnose(records)), None) if mechanism else None
    return Trial(
        name=name,
        killed_by=named,
        tier=TIERS.get(named or "", ""),
        judged=Counter(record.check for record in records),
        wrong=Counter(record.check for record in wrong),
        causes=frozenset(record.check for record in wrong if is_cause(record)),
        message=f"{told.id}: {told.message}" if told else "",
        mechanism=str(mechanism) if mechanism else None,
        diagnosed=str(found.mechanism) if found and found.mechanism else None,
    )
