"""The workbench: what the judge needs of a case, made once and kept only while it is needed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from vae_compat.cases import Case, Layout, Scenario
from vae_compat.device import open_device
from vae_compat.isolation.limits import seconds_for
from vae_compat.isolation.messages import Ask
from vae_compat.measure.baseline import measure_baseline, measure_truth
from vae_compat.measure.clip import ClipObserved
from vae_compat.measure.draws import draw_floors, in_doubt
from vae_compat.measure.models import Models, Supplies, WeightFiles, key_of
from vae_compat.measure.observation import (
    WHOLE,
    Baseline,
    Failure,
    Floors,
    LayoutVAE,
    Observation,
    Observed,
    Origin,
)
from vae_compat.measure.performed import WholePerformed
from vae_compat.measure.scenarios import SCENES
from vae_compat.measure.sealing import Seal
from vae_compat.measure.store import BaselineStore
from vae_compat.measure.whole import beside_untiled, seen, untiled_conventions
from vae_compat.subject.profile import Profile

T = TypeVar("T")

PATIENCE = 3
"""Cases of a hook that may be ended for what they took, before it is tried no more: each takes
minutes."""


class GaveNone(Exception):  # noqa: N818 (a fact about a hook, not a fault of the run)
    """There is no result of a hook, for a reason that is a failure of its own."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Runners(Protocol):
    """Has cases performed by the hooks under test, wherever those are."""

    def perform(self, name: str, ask: Ask, kind: type[T]) -> T:
        """What a hook does of a case. Raises `GaveNone`."""
        ...

    def printed(self, name: str) -> str:
        """What the hook has printed meanwhile."""
        ...


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
class Workbench:
    """Has cases performed, one at a time, and makes what they are held against.

    What costs time to make is kept for the next case: the last observation (every check of a case
    looks at the same one), a few small VAEs, one large one. ``folder`` is shared with the other
    processes of the run. No hook is ever loaded here.
    """

    subjects: Mapping[str, Subject]
    supplies: Supplies
    runners: Runners
    folder: Path
    fingerprint: str
    """Stands for whatever changes baselines without being part of a case: seed, weights, image."""
    seconds: float
    """CPU seconds that any call of a hook may take, however quick untiled is."""
    key: bytes = field(default=b"", repr=False)
    """Known to the processes of the run alone: with it they tell their files from a hook's."""
    _last: tuple[str, Case, Observed] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        seal = Seal(self.key)
        self._store = BaselineStore(self.folder / "baselines", self.fingerprint, seal=seal)
        self._models = Models(self.supplies)
        self._files = WeightFiles(self.folder / "weights", self.supplies.build, seal)

    def observation(self, name: str, case: Case, *, every_way: bool) -> Observed:
        """Run a case, or return its observation if it is the one that ran last."""
        if self._last is not None and self._last[:2] == (name, case):
            return self._last[2]
        self._last = None
        subject = self.subjects[name]
        try:
            observed = self._observed(subject, case, every_way)
        except GaveNone as none:
            observed = self._without(subject, case, none.failure)
        observed = replace(
            observed, repeat=subject.repeat(case), printed=self.runners.printed(name)
        )
        self._last = (name, case, observed)
        return observed

    def _observed(self, subject: Subject, case: Case, every_way: bool) -> Observed:
        promise = subject.profile.promise(case)
        if case.scenario is not None:
            scene = SCENES[case.scenario]
            baseline = self.baseline(replace(case, scenario=None)) if scene.against else None
            ask = self._ask(subject, case, baseline, scene.needs(case))
            performed: Any = self.runners.perform(subject.name, ask, scene.performed)
            return scene.examine(case, promise, performed, self)
        baseline = self.baseline(case)
        ask = replace(self._ask(subject, case, baseline, (case,)), every_way=every_way)
        whole = self.runners.perform(subject.name, ask, WholePerformed)
        ways = None
        if whole.conventions is not None:
            untiled = untiled_conventions(case, self._models, open_device(case.device))
            ways = beside_untiled(whole.conventions, untiled)
        observed = seen(whole.whole, case, promise, baseline, ways)
        return self.beyond_doubt(replace(observed, times=whole.times))

    def _ask(
        self, subject: Subject, case: Case, baseline: Baseline | None, needs: tuple[Case, ...]
    ) -> Ask:
        untiled = 0.0 if baseline is None else baseline.cpu_seconds
        return Ask(
            case=case,
            promise=subject.profile.promise(case),
            seconds=seconds_for(self.seconds, untiled),
            leaves=() if baseline is None else baseline.leaves,
            weights={key_of(each): str(self._files.of(each)) for each in needs},
        )

    def _without(self, subject: Subject, case: Case, failure: Failure) -> Observed:
        """What checks look at where there is no result at all."""
        promise = subject.profile.promise(case)
        if case.scenario is not None and case.scenario is not Scenario.CLIP:
            return Observed(case=case, promise=promise, failure=failure)
        whole = Observation(
            case=case,
            promise=promise,
            baseline=self.baseline(case),
            output=None,
            failure=failure,
        )
        if case.scenario is None:
            return whole
        return ClipObserved(case=case, promise=promise, failure=failure, whole=whole)

    def make_input(self, case: Case) -> Tensor:
        """What the direction of a case is given, on the plain CPU."""
        return self._models.make_input(case)

    def baseline(self, case: Case) -> Baseline:
        """The untiled result of a case, from the store where it is known."""

        def truth() -> Tensor:
            twin = self._models.truth(case)
            view = self.supplies.views(twin, Layout.DIFFUSERS, case.facts)[0]
            return measure_truth(case, view, self.make_input(case), open_device(case.device))

        def baseline() -> Baseline:
            known = self._store.truth(case, truth)
            x, device = self.make_input(case), open_device(case.device)
            return measure_baseline(case, self.view(case), known, x, device)

        return self._store.get(case, baseline)

    def raised(self, case: Case) -> Baseline:
        """The baseline of a case, its floors raised to the largest of several draws."""
        first = self.baseline(case)

        def compute() -> Floors:
            x, device = self.make_input(case), open_device(case.device)
            return draw_floors(case, self.view(case), x, first.truth, device)

        further = self._store.further(case, compute)
        return replace(first, floor=first.floor.largest(further.get(WHOLE)), further=further)

    def beyond_doubt(self, observation: Observation) -> Observation:
        """The observation, with the floors of several draws where one leaves it in doubt."""
        if not in_doubt(observation):
            return observation
        plain = replace(observation.case, scenario=None)
        return replace(observation, baseline=self.raised(plain))

    def view(self, case: Case) -> LayoutVAE:
        """The VAE of a case in its layout, on the plain CPU."""
        return self._models.view(case)

    def twin(self, case: Case) -> LayoutVAE:
        """Its float64 twin in the same layout."""
        return self._models.twin(case)

    def views(self, case: Case) -> tuple[LayoutVAE, ...]:
        """The VAE of a case in every variant of its layout."""
        return self._models.views(case)

    def twins(self, case: Case) -> tuple[LayoutVAE, ...]:
        """The float64 twins of ``views``."""
        return self._models.twins(case)


def not_run(reason: str) -> GaveNone:
    """What is said of a case that was not tried."""
    return GaveNone(Failure("NotRun", reason, "", "", "run", Origin.NOT_RUN))
