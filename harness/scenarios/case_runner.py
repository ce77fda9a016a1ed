"""Has cases performed by hooks under test, one at a time, and examines what they did."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from vae_compat.contracts.cases import Case, Scenario
from vae_compat.isolation.limits import seconds_for
from vae_compat.measure.bench import Bench
from vae_compat.measure.observation import Baseline, Failure, Observation, Observed
from vae_compat.scenarios.asking import Ask
from vae_compat.scenarios.clip import ClipObserved
from vae_compat.scenarios.conventions import Untiled, beside_untiled, strip_of, untiled_conventions
from vae_compat.scenarios.performed import WholePerformed
from vae_compat.scenarios.runners import GaveNone, Runners
from vae_compat.scenarios.scenes import SCENES
from vae_compat.scenarios.shortage import capacity_for
from vae_compat.scenarios.single import seen
from vae_compat.subject.profile import Profile

T = TypeVar("T", bound=Observed)


@dataclass(frozen=True)
class Subject:
    """A hook under test, and what its profile says of it."""

    profile: Profile
    flags: tuple[str, ...]
    """Command-line options that name this hook."""

    @property
    def name(self) -> str:
        """Name of the hook, as the profile gives it."""
        return self.profile.hook.name

    def repeat(self, case: Case) -> str:
        """The one command that repeats a case."""
        return self.repeat_id(case.id)

    def repeat_id(self, case: str) -> str:
        """The one command that repeats the case with this id."""
        return shlex.join(["vae-compat", "run", *self.flags, "--case", case])


@dataclass
class CaseRunner:
    """Runs cases. The last observation is kept, for all checks that look at it."""

    subjects: Mapping[str, Subject]
    bench: Bench
    runners: Runners
    seconds: float
    """CPU seconds that any call of a hook may always take, even where untiled is much faster."""
    _last: tuple[str, Case, Observed] | None = field(default=None, repr=False)

    def observation(self, name: str, case: Case, *, every_way: bool) -> Observed:
        """Run a case, or return its observation if it is the one that ran last."""
        if self._last is not None and self._last[:2] == (name, case):
            return self._last[2]
        self._last = None
        subject = self.subjects[name]
        try:
            observed = self._observed(subject, case, every_way)
        except GaveNone as none:
            observed = self._worded(subject, self._without(subject, case, none.failure))
        self._last = (name, case, observed)
        return observed

    def _observed(self, subject: Subject, case: Case, every_way: bool) -> Observed:
        promise, bench = subject.profile.promise(case), self.bench
        if case.scenario is not None:
            scene = SCENES[case.scenario]
            baseline = bench.baseline(replace(case, scenario=None)) if scene.against else None
            ask = self._ask(subject, case, baseline, scene.needs(case))
            performed: Any = self.runners.perform(subject.name, ask, scene.performed)
            return self._worded(subject, scene.examine(case, promise, performed, bench))
        baseline = bench.baseline(case)
        ask = replace(self._ask(subject, case, baseline, (case,)), every_way=every_way)
        whole = self.runners.perform(subject.name, ask, WholePerformed)
        ways, failure = None, whole.whole.failure
        # Decided here: a runner in which a hook has been could leave out what it was asked.
        if every_way and promise.kind == "forward" and not (failure and failure.hung):
            name = f"calling conventions of {strip_of(case).baseline_id}"
            bare = bench.kept(name, Untiled, lambda: untiled_conventions(case, bench))
            ways = beside_untiled(whole.conventions or (), bare)
        observed = replace(seen(whole.whole, case, promise, baseline, ways), times=whole.times)
        # Last of all what measures it: that is kept for this very observation.
        return bench.beyond_doubt(bench.beside_plain_tiles(self._worded(subject, observed)))

    def _worded(self, subject: Subject, observed: T) -> T:
        """The observation, with the command that repeats it and what the hook printed."""
        repeat, printed = subject.repeat(observed.case), self.runners.printed(subject.name)
        return replace(observed, repeat=repeat, printed=printed)

    def _ask(
        self, subject: Subject, case: Case, baseline: Baseline | None, needs: tuple[Case, ...]
    ) -> Ask:
        untiled = 0.0 if baseline is None else baseline.cpu_seconds
        promise = subject.profile.promise(case)
        return Ask(
            case=case,
            promise=promise,
            capacity=capacity_for(case, promise, baseline),
            seconds=seconds_for(self.seconds, untiled),
            leaves=() if baseline is None else baseline.leaves,
            weights=self.bench.weights(needs),
        )

    def _without(self, subject: Subject, case: Case, failure: Failure) -> Observed:
        """The observation for checks where there is no result at all."""
        promise = subject.profile.promise(case)
        if case.scenario is not None and case.scenario is not Scenario.CLIP:
            return Observed(case=case, promise=promise, failure=failure)
        whole = Observation(
            case=case,
            promise=promise,
            baseline=self.bench.baseline(case),
            output=None,
            failure=failure,
        )
        if case.scenario is None:
            return whole
        return ClipObserved(case=case, promise=promise, failure=failure, whole=whole)
