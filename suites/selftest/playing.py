"""Plays scenarios with specimens, or with a test's own hooks, on the smallest useful planes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vae_compat.checks.registry import CHECKS
from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale, Scenario
from vae_compat.contracts.finding import Finding
from vae_compat.families import FAMILIES
from vae_compat.fixtures.specimens import SPECIMENS
from vae_compat.front.run.session import Run
from vae_compat.measure.observation import Observed
from vae_compat.scenarios.runners import PERFORMING
from vae_compat.subject.profile import Profile
from vae_compat.suites.mutation.trial import prepared, profile_of

TILE = 4


class Stand:
    """Runs hooks that share one folder of baselines."""

    def __init__(self, folder: Path, baselines: Path | None = None) -> None:
        """Baselines are stored in ``baselines``, which others may use as well, or in ``folder``."""
        self._folder = folder
        self._baselines = baselines or folder
        self._runs: dict[str, Run] = {}

    def observed(self, name: str, scenario: str | None, **changes: Any) -> Observed:
        """What is observed of a specimen or an added hook, in a scenario or in a single call."""
        run = self._runs.get(name) or self.add(profile_of(SPECIMENS[name]))
        case = small_case(run.subjects[name].profile, scenario, **changes)
        return run.case_runner.observation(name, case, every_way=False)

    def findings(self, name: str, scenario: str | None, **changes: Any) -> dict[str, Finding]:
        """The findings of all checks for the scenario, by name."""
        return _judged(self.observed(name, scenario, **changes))

    def untried(self, name: str, scenario: str, **changes: Any) -> dict[str, Finding]:
        """The same findings if the process that ran the scenario died."""
        profile = profile_of(SPECIMENS[name])
        run = self.add(profile)
        case = small_case(profile, scenario, **changes)
        mark = self._folder / PERFORMING / name / case.id
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        return _judged(run.case_runner.observation(name, case, every_way=False))

    def add(self, profile: Profile) -> Run:
        """Add a hook that is no specimen."""
        run = prepared([profile], self._folder)
        # All runs of a stand have the bench of the first.
        first = next(iter(self._runs.values()), replace(run, folder=self._baselines))
        run.bench = first.bench
        self._runs[profile.hook.name] = run
        return run


def _judged(observed: Observed) -> dict[str, Finding]:
    return {
        check.name: check(observed)
        for check in CHECKS
        if check.applies(observed.case, observed.promise)
    }


def small_case(profile: Profile, scenario: str | None, **changes: Any) -> Case:
    """Two by two tiles and three latent frames, unless told otherwise."""
    family = changes.pop("family", profile.claims.families[0])
    facts = FAMILIES[family]
    original = profile.hook.layout != "diffusers"
    given: dict[str, Any] = {
        "direction": Direction.DECODE,
        "height": 6,
        "width": 7,
        "tile": TILE,
        "frames": 3 if facts.frame_axis else 1,
        "layout": Layout(facts.coder_layout) if original else Layout.DIFFUSERS,
    }
    return Case(
        family=family,
        scale=Scale.MOCK,
        mode=Mode.EXACT,
        scenario=None if scenario is None else Scenario(scenario),
        **given | changes,
    )
