"""Judges the hook with one mutation, or with none, in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vae_compat.contracts.cases import Case
from vae_compat.front.run.session import Run
from vae_compat.judge import Record
from vae_compat.suites.mutation.copies import Copy, copied
from vae_compat.suites.mutation.curated import calls, memory, pixels, tiles
from vae_compat.suites.mutation.curated.declaring import ENTRY, PACKAGE, Mutation, all_of
from vae_compat.suites.mutation.curated.setups import Setup, setups
from vae_compat.suites.mutation.trial import hurried, judged, prepared

MUTATIONS = all_of([pixels.PIXELS, tiles.TILES, calls.CALLS, memory.MEMORY])
SETUPS = setups()


def prepared_run(folder: Path) -> Run:
    """The default matrices of all setups, over one folder of baselines."""
    return prepared([setup.profile for setup in SETUPS.values()], folder)


def with_mutation(run: Run, mutation: Mutation) -> list[Record]:
    """What the checks say of the mutation's case."""
    return _judged(
        hurried(run), SETUPS[mutation.setup], mutation.case, mutation.name, mutation.plant()
    )


def without(run: Run, setup: str, case: str) -> list[Record]:
    """What they say of the same case without a mutation."""
    return _judged(run, SETUPS[setup], case, f"sound-{setup}", copied(PACKAGE, ENTRY))


def _judged(run: Run, setup: Setup, case: str, name: str, copy: Copy) -> list[Record]:
    try:
        subject = setup.tried(name, copy)
        found = _case(run, setup, case)
        records, _ = judged(setup.run(run, subject, found), name, found)
        return records
    finally:
        copy.forget()


def _case(run: Run, setup: Setup, case: str) -> Case:
    """A case of the default matrix, on the device in its id: what is red here is red in a run."""
    device = case.rpartition("-")[2]
    cases = (replace(each, device=device) for each in run.cases[setup.profile.hook.name])
    return next(each for each in cases if each.id == case)
