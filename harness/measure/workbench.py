"""The workbench: everything a case needs, made once and kept only while it is needed."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import psutil
import torch
from torch import Tensor, nn
from vae_compat.cases import Case, Layout, Scale, Scenario
from vae_compat.device import open_device
from vae_compat.families import Family
from vae_compat.measure.baseline import measure_baseline, measure_truth
from vae_compat.measure.clip import ClipObserved
from vae_compat.measure.draws import beyond_doubt, draw_floors
from vae_compat.measure.failing import stuck_at, watched
from vae_compat.measure.memory import limited_memory
from vae_compat.measure.observation import (
    WHOLE,
    Baseline,
    ConventionResult,
    Failure,
    Floors,
    LayoutVAE,
    Observation,
    Observed,
    Origin,
)
from vae_compat.measure.run import observe, observe_conventions
from vae_compat.measure.scenarios import SCENARIOS
from vae_compat.measure.stage import Stage
from vae_compat.measure.store import BaselineStore
from vae_compat.subject.hook import Hook
from vae_compat.subject.profile import Profile

KEPT = 8
"""Small VAEs kept for later cases."""
PATIENCE = 3
"""Hangs and crashes of a hook after which a run gives it up."""


class Supplies(Protocol):
    """Where VAEs, views of them and inputs come from."""

    def build(self, case: Case) -> nn.Module:
        """The VAE of a case, float32, on the plain CPU."""
        ...

    def truth(self, vae: nn.Module) -> nn.Module:
        """Its float64 twin."""
        ...

    def views(self, vae: nn.Module, layout: Layout, family: Family) -> tuple[LayoutVAE, ...]:
        """The VAE seen through a layout, in every variant of it that the field has.

        Cases run on the first; the others are called in their own ways for the call contract.
        """
        ...

    def make_input(self, case: Case) -> Tensor:
        """What the direction of the case is given, in its dtype, on the plain CPU."""
        ...


@dataclass(frozen=True)
class Subject:
    """A hook under test and what its profile says of it."""

    profile: Profile
    hook: Hook
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
    """Runs cases, one at a time, in one process.

    What costs time to make is kept for the next case: the last observation (every check of a case
    looks at the same one), a few small VAEs, one large one. ``folder`` is shared with the other
    processes of the run.
    """

    subjects: Mapping[str, Subject]
    supplies: Supplies
    folder: Path
    fingerprint: str
    """Stands for whatever changes baselines without being part of a case: seed, weights, image."""
    seconds: float
    """What a hook may take for a mock case; ten times as much for a real one."""
    processes: int = 1
    """How many processes share the machine in this run."""
    _vaes: OrderedDict[tuple[str, ...], nn.Module] = field(default_factory=OrderedDict)
    _last: tuple[str, Case, Observed] | None = None
    _plain: dict[tuple[str, ...], nn.Module] = field(default_factory=dict)
    """The float64 twin of a scenario's VAE, taken while that is on the plain CPU: during a scenario
    it may be on a device, and its copies would be."""

    def __post_init__(self) -> None:
        self._store = BaselineStore(self.folder / "baselines", self.fingerprint)

    def observation(self, name: str, case: Case, *, every_way: bool) -> Observed:
        """Run a case, or return its observation if it is the one that ran last.

        A case that took the process down when it was tried before is not tried again, and neither
        is a hook that has hung or crashed too often: the observation says so.
        """
        if self._last is not None and self._last[:2] == (name, case):
            return self._last[2]
        self._last = None
        lost = self._lost(name)
        mark = self.mark(name, case)
        if mark.exists():
            observation = self._untried(name, case, self._death(name, case))
        elif len(lost) >= PATIENCE:
            reason = f"the hook hung or died in {PATIENCE} cases of this run, so no more were tried"
            failure = _unseen("NotRun", reason, origin=Origin.NOT_RUN)
            observation = self._untried(name, case, failure)
        else:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(str(os.getpid()))
            try:
                observation = self._observe(name, case, every_way)
            except BaseException:  # ours, not the hook's
                mark.unlink(missing_ok=True)
                raise
            mark.unlink(missing_ok=True)  # a hook may have deleted the folder
            if observation.failure is not None and observation.failure.hung:
                mark.parent.mkdir(parents=True, exist_ok=True)
                mark.with_suffix(".hung").touch()
        self._last = (name, case, observation)
        return observation

    def _observe(self, name: str, case: Case, every_way: bool) -> Observed:
        if case.scenario is not None:
            return self._play(name, case)
        subject = self.subjects[name]
        x = self.make_input(case)
        baseline = self.baseline(case)
        seconds = self.seconds * (10 if case.scale is Scale.REAL else 1)
        trace = self._trace(name, case)
        with limited_memory(self.processes), watched(_given_up(seconds), trace):
            observation = observe(
                case,
                subject.profile.promise(case),
                subject.hook,
                self.view(case),
                x,
                baseline,
                open_device(case.device),
                seconds=seconds,
            )
        if observation.beyond_repair:
            self._vaes.pop(_key(case))
        observation = beyond_doubt(observation, partial(self.raised, case))
        hung = observation.failure is not None and observation.failure.hung
        ways = None
        if every_way and not hung:
            with watched(_given_up(self.seconds), trace):
                ways = self._ways(subject, case)
        return replace(observation, conventions=ways, repeat=subject.repeat(case))

    def _play(self, name: str, case: Case) -> Observed:
        """Run a scenario. What it has broken in the VAE for good is not kept."""
        assert case.scenario is not None
        subject = self.subjects[name]
        stage = Stage(
            case,
            subject.profile.promise(case),
            subject.hook,
            self,
            open_device(case.device),
            self.seconds,
        )
        trace = self._trace(name, case)
        self._plain = {_key(case): self.supplies.truth(self._vae(case))}
        with limited_memory(self.processes), watched(_given_up(self.seconds), trace):
            observed = SCENARIOS[case.scenario](stage)
        if observed.failure is not None or observed.beyond_repair:
            self._vaes.pop(_key(case), None)
        return replace(observed, repeat=subject.repeat(case))

    def _ways(self, subject: Subject, case: Case) -> tuple[ConventionResult, ...]:
        """Call the coder in every way of the field, on a plane as small as tells anything."""
        small = replace(case, height=12, width=12, tile=4, batch=1, frames=2)
        if not case.facts.causal:
            small = replace(small, frames=1)
        x = self.make_input(small)
        return tuple(
            result
            for view in self.views(case)
            for result in observe_conventions(
                small, subject.hook, view, x, open_device(case.device), seconds=self.seconds
            )
        )

    def make_input(self, case: Case) -> Tensor:
        """What the direction of a case is given, on the plain CPU."""
        return self.supplies.make_input(case)

    def baseline(self, case: Case) -> Baseline:
        """The untiled result of a case, from the store where it is known."""

        def truth() -> Tensor:
            twin = self.supplies.truth(self._vae(case))
            seen = self.supplies.views(twin, Layout.DIFFUSERS, case.facts)[0]
            return measure_truth(case, seen, self.make_input(case), open_device(case.device))

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
            return draw_floors(case, self.anew(case)[0], x, first.truth, device)

        further = self._store.further(case, compute)
        return replace(first, floor=first.floor.largest(further.get(WHOLE)), further=further)

    def anew(self, case: Case) -> tuple[LayoutVAE, ...]:
        """``views`` of a VAE that no hook has been on."""
        if case.scale is Scale.REAL:
            self._vaes.clear()
        vae = self.supplies.build(case).to(getattr(torch, case.dtype))
        return self.supplies.views(vae, case.layout, case.facts)

    def view(self, case: Case) -> LayoutVAE:
        """The VAE of a case in its layout, on the plain CPU."""
        return self.views(case)[0]

    def twin(self, case: Case) -> LayoutVAE:
        """Its float64 twin in the same layout."""
        return self.twins(case)[0]

    def views(self, case: Case) -> tuple[LayoutVAE, ...]:
        """The VAE of a case in every variant of its layout."""
        return self.supplies.views(self._vae(case), case.layout, case.facts)

    def twins(self, case: Case) -> tuple[LayoutVAE, ...]:
        """The float64 twins of ``views``."""
        source = self._plain.get(_key(case)) or self._vae(case)
        return self.supplies.views(self.supplies.truth(source), case.layout, case.facts)

    def _vae(self, case: Case) -> nn.Module:
        key = _key(case)
        vae = self._vaes.pop(key, None)
        if vae is None:
            if case.scale is Scale.REAL:  # gigabytes: never two of them
                self._vaes.clear()
            vae = self.supplies.build(case).to(getattr(torch, case.dtype))
        self._vaes[key] = vae
        while len(self._vaes) > KEPT:
            self._vaes.popitem(last=False)
        return vae

    def mark(self, name: str, case: Case) -> Path:
        """A file that is there while a case runs, and stays where that never ended."""
        told = hashlib.sha256(case.id.encode()).hexdigest()[:24]
        return self.folder / "running" / name.replace("/", "_") / told

    def _trace(self, name: str, case: Case) -> Path:
        """A file that tells where a hook was stuck, if its process had to be killed."""
        mark = self.mark(name, case)
        return self.folder / "stuck" / mark.parent.name / mark.name

    def _death(self, name: str, case: Case) -> Failure:
        """Why there is nothing of a case that was tried."""
        where = stuck_at(self._trace(name, case))
        if where is None:
            return _unseen("ProcessDied", "the process that ran this case died")
        told = f"stuck outside Python: after much more than {self.seconds:g} s it was killed"
        return _unseen("ProcessDied", told, where)

    def _lost(self, name: str) -> list[Path]:
        """Cases of a hook that hung, or that their process did not survive."""
        folder = self.folder / "running" / name.replace("/", "_")
        if not folder.is_dir():
            return []
        return [mark for mark in folder.iterdir() if mark.suffix or not _runs(mark)]

    def _untried(self, name: str, case: Case, failure: Failure) -> Observed:
        subject = self.subjects[name]
        promise, repeat = subject.profile.promise(case), subject.repeat(case)
        if case.scenario is not None and case.scenario is not Scenario.CLIP:
            return Observed(case=case, promise=promise, failure=failure, repeat=repeat)
        whole = Observation(
            case=case,
            promise=promise,
            baseline=self.baseline(case),
            output=None,
            failure=failure,
            repeat=repeat,
        )
        if case.scenario is None:
            return whole
        return ClipObserved(case=case, promise=promise, failure=failure, repeat=repeat, whole=whole)


def _given_up(seconds: float) -> float:
    """After how long a call is killed that the alarms of ``limited`` do not get through to."""
    return 4 * seconds + 5


def _unseen(kind: str, reason: str, where: str = "", *, origin: Origin = Origin.DEATH) -> Failure:
    return Failure(kind, reason, where, traceback="", phase="run", origin=origin)


def _key(case: Case) -> tuple[str, ...]:
    return case.family, case.scale, str(case.mechanism), case.dtype


def _runs(mark: Path) -> bool:
    """Whether the process that left a mark is still at it."""
    try:
        process = psutil.Process(int(mark.read_text()))
        return bool(process.status() != psutil.STATUS_ZOMBIE)  # dead, and nobody has asked yet
    except psutil.NoSuchProcess:
        return False
    except (OSError, ValueError):  # gone or not yet written: it ran a moment ago
        return True
