"""Hooks that rely on their hosts: sound ones are not accused, the others are caught."""

from __future__ import annotations

import pytest

from vae_compat.contracts.cases import Case
from vae_compat.fixtures.specimens import SPECIMENS
from vae_compat.fixtures.specimens.in_hosts import IN_HOSTS
from vae_compat.front.run.session import Run
from vae_compat.suites.mutation.trial import judged, prepared, profile_of

pytestmark = pytest.mark.slow

BAD = [specimen.name for specimen in IN_HOSTS if not specimen.sound]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    profiles = [profile_of(SPECIMENS[specimen.name]) for specimen in IN_HOSTS]
    return prepared(profiles, tmp_path_factory.mktemp("baselines"))


def of(run: Run, name: str, *parts: str) -> list[Case]:
    return [case for case in run.cases[name] if all(part in case.id for part in parts)]


def wrong(run: Run, name: str, *parts: str) -> list[str]:
    """What is held against a hook in the cases whose id has all these parts."""
    cases = of(run, name, *parts)
    assert cases
    records = [record for case in cases for record in judged(run, name, case)[0]]
    assert records
    return [record.message for record in records if record.status != "passed"]


@pytest.mark.parametrize("name", BAD)
def test_known_bad_hook_is_caught_by_the_check_named(run: Run, name: str) -> None:
    specimen = SPECIMENS[name]
    (case,) = (case for case in run.cases[name] if case.id == specimen.shows_on)
    records, _ = judged(run, name, case)
    (found,) = (record for record in records if record.check == specimen.killed_by)
    assert found.status in ("failed", "error"), records


CASES = {
    "under-inference": ("decode-exact-44x20t16",),
    "tiles-when-short": ("decode-exact-44x20t16", "mock.plenty-ldm-decode"),
    "asks-for-memory": ("decode-exact-44x20t16", "mock.plenty-ldm-decode"),
    "threaded": ("decode-exact-44x20t16", "mock.out_of_memory-ldm-decode"),
    "shared-pool": ("decode-exact-44x20t16", "mock.out_of_memory-ldm-decode"),
    "unfolds": ("decode-exact-44x20t16",),
    "in-pieces": ("mock.strip-ldm-decode",),
    "unfolds-in-pieces": ("decode-exact-44x20t16", "mock.strip-ldm-decode"),
    "by-channels": ("decode-exact-44x12", "mock.strip-ldm-decode"),
    "by-lines": ("decode-exact-44x12", "mock.strip-ldm-decode"),
    "by-phases": ("decode-exact-44x12", "mock.strip-ldm-decode"),
    "scripted": ("decode-exact-44x20t16",),
    "keeps-input": ("decode-exact-44x20t16",),
    "blends-any": ("mock.static-diffusers-decode", "mock.patched-diffusers-decode"),
    "named-otherwise": ("decode-exact-44x20t16", "mock.overlaps-diffusers-decode"),
    "calls-modules": ("decode-exact-44x20t16", "mock.offloaded-ldm"),
}


@pytest.mark.parametrize("name", CASES)
def test_sound_hook_is_not_accused(run: Run, name: str) -> None:
    for part in CASES[name]:
        assert wrong(run, name, "sd-", part) == []
