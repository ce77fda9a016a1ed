"""Judges hooks with the checks of a run, in this process, on chosen cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vae_compat.checks.registry import CHECKS
from vae_compat.contracts.cases import Case, Scale, Scenario
from vae_compat.families import FAMILIES
from vae_compat.families.installed import installed_families
from vae_compat.fixtures.specimens import Specimen
from vae_compat.fixtures.supplies import Fixtures
from vae_compat.fixtures.vaes.building import model_class
from vae_compat.front.run.session import Item, Run
from vae_compat.front.selection.options import Options
from vae_compat.front.selection.subjects import load_subject
from vae_compat.judge import Outcome, Record
from vae_compat.matrix import cost
from vae_compat.measure.observation import Observed
from vae_compat.scenarios.case_runner import Subject
from vae_compat.scenarios.runners import InProcess
from vae_compat.subject.describing import remember
from vae_compat.subject.hook import Hook
from vae_compat.subject.loading import facts_of, load_hook
from vae_compat.subject.profile import Profile, profile_from_flags

WRONG = frozenset({Outcome.FAILED, Outcome.ERROR})
"""How the record of a defect stands in a run."""
HURRY = 20.0
"""CPU seconds that a call of a hook with a defect may take; a sound one has more."""


def profile_of(specimen: Specimen) -> Profile:
    """What the registry says of a specimen, as a profile would."""
    return profile_from_flags(
        specimen.entry,
        specimen.kind,
        specimen.layout,
        specimen.host,
        name=specimen.name,
        families=specimen.families,
        directions=specimen.directions,
        modes=specimen.modes,
        cache=specimen.cache,
        grade=specimen.grade,
        further=specimen.claims,
        settings=specimen.settings,
    )


def reference() -> Profile:
    """The profile of the hook that ships here."""
    return load_subject("reference")


def prepared(profiles: Iterable[Profile], folder: Path) -> Run:
    """A run of these hooks over their default matrix. ``folder`` may hold baselines already.

    They are performed in this process, and so is again what has ended an earlier run over the
    folder. What takes seconds to import is imported here, so that processes forked later have it.
    """
    for name in installed_families():
        model_class(FAMILIES[name])
    options = Options(timeout=60.0)
    named = {profile.hook.name: profile for profile in profiles}
    hooks: dict[str, Any] = {}
    for name, profile in named.items():
        hooks[name] = load_hook(profile)
        remember(profile, facts_of(hooks[name]))
    run = Run.prepare(options, list(named.items()), Fixtures(), folder)
    run.cases = {name: tuple(filter(_is_quick, cases)) for name, cases in run.cases.items()}
    run.key = b""  # one for all runs over the folder: nobody else's hooks are near it
    run.runners = InProcess(hooks, run.supplies, folder)
    for name in hooks:
        run.runners.forget(name)
    return run


def _is_quick(case: Case) -> bool:
    """Real nets say the same of a hook, a hundred times as slowly, unless they have no data."""
    return case.scale is not Scale.REAL or case.scenario is Scenario.ESTIMATE


def hurried(run: Run) -> Run:
    """The same for hooks with a defect, some of which never end."""
    made = replace(run, options=replace(run.options, timeout=HURRY))
    made.runners = run.runners
    return made


def guarded(run: Run) -> Run:
    """The same with every hook in a process of its own, for those that end or hang theirs."""
    return Run(run.options, run.subjects, run.cases, run.folder, run.supplies, key=run.key)


@dataclass(frozen=True)
class Tried:
    """A hook on trial that is in no profile."""

    subject: Subject
    hook: Hook


def tried(profile: Profile, hook: Hook) -> Tried:
    """What a run takes for a hook under test."""
    return Tried(Subject(profile, ("--hook", profile.hook.entry)), hook)


def joined(run: Run, others: Mapping[str, Tried], cases: Sequence[Case]) -> Run:
    """Other hooks, on these cases, over the same baselines."""
    chosen = dict.fromkeys(others, tuple(cases))
    subjects = {name: other.subject for name, other in others.items()}
    made = Run(run.options, subjects, chosen, run.folder, run.supplies, key=run.key)
    hooks: dict[str, Any] = {name: other.hook for name, other in others.items()}
    made.runners = InProcess(hooks, run.supplies, run.folder)
    return made


def narrowed(cases: Iterable[Case]) -> list[Case]:
    """The cases of one claimed family a build, cheapest first and probes before all.

    Families of one build differ in numbers of channels. Probes are only made for the first claimed
    one of each, so that one it is; what is not claimed comes last, one family a build as well.
    """
    found = list(cases)
    chosen: dict[tuple[object, ...], str] = {}
    for case in sorted(found, key=lambda case: case.scale is not Scale.PROBE):
        chosen.setdefault(_build(case), case.family)
    kept = (case for case in found if chosen[_build(case)] == case.family)
    return sorted(kept, key=lambda case: (case.scale is not Scale.PROBE, cost(case), case.id))


def _build(case: Case) -> tuple[object, ...]:
    return case.facts.build


def judged(run: Run, name: str, case: Case) -> tuple[list[Record], Observed | None]:
    """All records of one case, and what they are about; ``None`` where no check is for the case."""
    promise = run.subjects[name].profile.promise(case)
    records, observed = [], None
    for check in CHECKS:
        if check.applies(case, promise):
            item = Item(name, case, check.name, known=None)
            observed = run.observe(item)
            records.append(run.record(item, observed, check(observed)))
    return records, observed


def records_of(
    run: Run, name: str, cases: Iterable[Case], enough: Callable[[Record], bool] | None = None
) -> Iterator[Record]:
    """Records of one hook, case after case, until one is ``enough``."""
    for case in cases:
        records, _ = judged(run, name, case)
        yield from records
        if enough is not None and any(map(enough, records)):
            return


def is_wrong(record: Record) -> bool:
    """Whether a record is a failure of the hook."""
    return record.status in WRONG


def is_cause(record: Record) -> bool:
    """Whether a failed record is a failure of its own, and not just blocked by another."""
    return record.blocked_by is None
