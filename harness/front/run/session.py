"""A run: which hooks meet which cases, and how every process of the run is set up."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from vae_compat.checks.registry import BY_NAME, CHECKS
from vae_compat.contracts.caseid import record_id
from vae_compat.contracts.cases import Case, Layout, Mode, Scale
from vae_compat.contracts.finding import Finding, Status
from vae_compat.device import described_gpu, open_device
from vae_compat.errors import UsageError
from vae_compat.front.selection.options import Options
from vae_compat.front.selection.sharding import costs, groups_of
from vae_compat.isolation.limits import IDLE, memory_share
from vae_compat.judge import ROOTS, Outcome, Record, judge
from vae_compat.matrix import cost, generate
from vae_compat.measure.bench import Bench
from vae_compat.measure.circumstances import circumstances
from vae_compat.measure.models import Supplies
from vae_compat.measure.observation import Observed
from vae_compat.measure.sealing import Seal
from vae_compat.measure.shelf import lasting
from vae_compat.reports.pictures.album import Album
from vae_compat.scenarios.case_runner import CaseRunner, Subject
from vae_compat.scenarios.runners import InRunners, Runners
from vae_compat.subject.describing import described, loading_of
from vae_compat.subject.messages import Loading
from vae_compat.subject.profile import Kind, KnownFailure, Profile
from vae_compat.text import printable


@dataclass(frozen=True)
class Item:
    """A check of a case for a hook: one test."""

    subject: str
    case: Case
    check: str
    known: KnownFailure | None

    @property
    def id(self) -> str:
        """``diffusers:sd-mock-...``."""
        return f"{self.subject}:{self.case.id}"


@dataclass
class Run:
    """One run, as every process of it knows it."""

    options: Options
    subjects: Mapping[str, Subject]
    cases: Mapping[str, tuple[Case, ...]]
    """Cases of each subject, selected, those of other shards included."""
    folder: Path
    """Shared by the processes of the run; the controller removes it at the end."""
    supplies: Supplies
    finished: frozenset[tuple[str, str, str]] = frozenset()
    """Hook, case id and check of the records that an earlier run has already."""
    processes: int = 1
    """How many worker processes share the machine in this run."""
    key: bytes = field(default_factory=partial(secrets.token_bytes, 32), repr=False)
    """Known to the processes of the run alone, so that no hook can forge what they share."""

    began: float = 0.0
    """Seconds since the epoch, before any hook was loaded: what has changed in a cache since then
    may be of a hook."""

    @classmethod
    def prepare(
        cls,
        options: Options,
        profiles: Sequence[tuple[str, Profile]],
        supplies: Supplies,
        folder: Path | None = None,
        *,
        modes: Mapping[str, Sequence[Mode]] | None = None,
        finished: frozenset[tuple[str, str, str]] = frozenset(),
    ) -> Run:
        """Generate the cases of the hooks. Raises ``UsageError``.

        ``profiles`` pairs each profile with the name by which the command line knows it.
        ``folder`` is that of the run where another process has made it already; ``modes`` are what
        each hook can be asked for, by its name; without them a runner is asked.
        """
        subjects: dict[str, Subject] = {}
        cases: dict[str, tuple[Case, ...]] = {}
        device = open_device(options.device)
        for told, profile in profiles:
            subject = Subject(profile, tuple(options.subject_flags(told)))
            if subject.name in subjects:
                raise UsageError(f"two hooks are named {subject.name!r}: rename one in its profile")
            subjects[subject.name] = subject
            offered = (
                described(profile, options.comfyui).modes if modes is None else modes[subject.name]
            )
            whole = generate(
                profile.claims,
                Layout(profile.hook.layout),
                options.device,
                device.dtypes,
                full=options.whole_matrix,
                unclaimed_modes=offered,
                in_ranks=profile.hook.kind is Kind.RANKS,
            )
            cases[subject.name] = tuple(filter(options.selection.admits, whole))
        if options.case is not None:
            cases = {name: _exactly(options.case, some) for name, some in cases.items()}
        folder = folder or Path(tempfile.mkdtemp(prefix="vae-compat-"))
        return cls(options, subjects, cases, folder, supplies, finished)

    @property
    def size(self) -> int:
        """How many cases this run is to run."""
        return sum(map(self._is_mine, chain.from_iterable(self.cases.values())))

    def items(self, check: str) -> Iterator[Item]:
        """All tests of a check."""
        found = BY_NAME[check]
        for name, subject in self.subjects.items():
            for case in self.cases[name]:
                known = (name, case.id, check) in self.finished or not self._is_mine(case)
                if not known and found.applies(case, subject.profile.promise(case)):
                    yield Item(name, case, check, _known(subject.profile, check, case))

    def all_items(self) -> list[Item]:
        """All tests of the selected tiers, in the order in which they are best run."""
        tiers = self.options.tiers_to_run
        found = [item for check in CHECKS if check.tier in tiers for item in self.items(check.name)]
        return sorted(found, key=lambda item: self.place(item.subject, item.case))

    def group(self, case: str) -> str:
        """The group of a test: cases that share a truth run in one process."""
        return self._groups[case]

    @cached_property
    def _groups(self) -> dict[str, str]:
        return {case.id: case.truth_id for some in self.cases.values() for case in some}

    def place(self, subject: str, case: Case) -> tuple[Any, ...]:
        """Sort key of the tests: expensive baselines first, checks of a case in a row."""
        return self._places[case.truth_id], list(self.subjects).index(subject), case.id

    @cached_property
    def _places(self) -> dict[str, tuple[float, str]]:
        """Sort keys of groups: the dearest first."""
        total = costs(chain.from_iterable(self.cases.values()))
        return {group: (-value, group) for group, value in total.items()}

    def _is_mine(self, case: Case) -> bool:
        """Whether the case is of the shard that is to be run."""
        return self._mine is None or case.truth_id in self._mine

    @cached_property
    def _mine(self) -> frozenset[str] | None:
        """The groups of this shard; ``None`` where the whole selection is to be run."""
        if self.options.shard is None:
            return None
        profiles = {name: subject.profile for name, subject in self.subjects.items()}
        return groups_of(self.options, [(profiles[name], self.cases[name]) for name in profiles])

    @cached_property
    def runners(self) -> Runners:
        """Where the hooks under test are."""
        return InRunners(
            {name: self._loading(subject) for name, subject in self.subjects.items()},
            self.folder,
            seal=Seal(self.key),
            idle=min(IDLE, self.options.timeout),
        )

    def _loading(self, subject: Subject) -> Loading:
        options = self.options
        return replace(
            loading_of(subject.profile, options.comfyui),
            image=None if options.image is None else str(options.image),
            threads=torch.get_num_threads(),
            memory=memory_share(self.processes),
        )

    @cached_property
    def bench(self) -> Bench:
        """Makes the baselines that cases are compared with."""
        inputs, cache = self.options.fingerprint, self.options.cache
        if cache is None:
            return Bench(self.supplies, self.folder, inputs, self.key)
        told = circumstances(inputs, described_gpu(self.options.device))
        shelf = lasting(cache, until=self.began)
        return Bench(self.supplies, self.folder, told, self.key, shelf)

    @cached_property
    def case_runner(self) -> CaseRunner:
        """What this process runs cases with."""
        return CaseRunner(self.subjects, self.bench, self.runners, self.options.timeout)

    @cached_property
    def called_in_every_way(self) -> frozenset[tuple[str, Case]]:
        """The one case per hook, family, layout, direction and mode for the call contract.

        Modes other than ``exact`` have one for all families of one build. A scenario calls the
        hook in ways of its own, and an unusual input has troubles of its own: none is chosen.
        """
        chosen: dict[tuple[object, ...], tuple[str, Case]] = {}
        for name, some in self.cases.items():
            for case in sorted(some, key=cost):
                alone = case.scenario is None and case.given is None
                if case.scale is Scale.MOCK and case.must_tile and alone:
                    nets = case.family if case.mode is Mode.EXACT else case.facts.build
                    place = (name, nets, case.layout, case.direction, case.mode)
                    chosen.setdefault(place, (name, case))
        return frozenset(chosen.values())

    def share_cores(self, processes: int) -> None:
        """Give a worker its share of the cores."""
        self.processes = processes
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))

    def observe(self, item: Item) -> Observed:
        """The observation of the hook's one run of the item's case."""
        every_way = (item.subject, item.case) in self.called_in_every_way
        return self.case_runner.observation(item.subject, item.case, every_way=every_way)

    def record(self, item: Item, observation: Observed, finding: Finding) -> Record:
        """The record of a finding, judged with the known failures of the profile.

        A finding that is blocked by a known failure of the same case is skipped with it.
        """
        subject = self.subjects[item.subject]
        known = subject.profile.known_failures
        findings = [finding]
        if finding.status is Status.NOT_JUDGED:
            findings += [
                BY_NAME[root](observation)
                for root in sorted(ROOTS - {item.check})
                if BY_NAME[root].applies(item.case, observation.promise)
            ]
        return judge(
            item.case.id,
            findings,
            known,
            hook=item.subject,
            claimed=observation.promise.claimed,
            repeat=observation.repeat,
        )[0]

    def unjudged(self, hook: str, case: str, check: str, message: str) -> Record:
        """The record of a check that came to no finding, because the harness failed."""
        return Record(
            case=case,
            check=check,
            tier=str(BY_NAME[check].tier),
            status=str(Outcome.ERROR),
            message=printable(message, lines=True),
            hook=hook,
            repeat=self.subjects[hook].repeat_id(case),
        )

    def judged(self, item: Item) -> Record:
        """What a check says of its case, which is run unless it is the one that ran last."""
        observation = self.observe(item)
        return self.record(item, observation, BY_NAME[item.check](observation))

    def rest(self) -> None:
        """End the hooks until they are asked again."""
        if isinstance(runners := vars(self).get("runners"), InRunners):
            runners.close_runners()

    @cached_property
    def album(self) -> Album:
        """The pictures that this process keeps."""
        return Album(self.options.out)

    def close(self) -> None:
        """End the hooks, and remove the shared folder."""
        if isinstance(runners := vars(self).get("runners"), InRunners):
            runners.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _exactly(wanted: str, cases: Iterable[Case]) -> tuple[Case, ...]:
    return tuple(case for case in cases if case.id == wanted)


def _known(profile: Profile, check: str, case: Case) -> KnownFailure | None:
    record = record_id(check, case.id)
    return next((known for known in profile.known_failures if known.matches(record)), None)
