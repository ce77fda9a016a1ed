"""Random faults in sound hooks, each judged by the harness until something accuses it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vae_compat.contracts.cases import Case, Mode, Scale
from vae_compat.front.run.session import Run
from vae_compat.judge import Record
from vae_compat.matrix import cost
from vae_compat.measure.observation import Observation, Observed
from vae_compat.reports.compare import worse
from vae_compat.reports.kill_matrix import Mutant
from vae_compat.suites.mutation.random_faults.faults import (
    Fault,
    Planted,
    Seen,
    Target,
    Watch,
    value_faults,
)
from vae_compat.suites.mutation.random_faults.reviewed import why_sound
from vae_compat.suites.mutation.random_faults.rewriting import source_faults
from vae_compat.suites.mutation.spreading import spread
from vae_compat.suites.mutation.trial import (
    hurried,
    is_cause,
    is_wrong,
    joined,
    judged,
    narrowed,
    prepared,
)

LEVELS = ("tile", "halo", "statistics", "cache", "merge", "install")
EXACT = (Mode.EXACT, Mode.QUADTREE)
"""Modes in which a right hook gives the VAE's result. In the others a picture is promised, so a
wrong estimate is as good as a right one."""
DEAR = 30_000
"""Cost of a case above which no fault meets it: clips through Wan 2.2."""
WAYS = 6
"""What it takes, times a single call, to call a coder in every way of the field."""
PIECE = 8
"""Faults, or cases, that share a process."""


@dataclass(frozen=True)
class Plan:
    """How many faults are drawn for a target."""

    target: Target
    values: Mapping[str, int]
    """Wrong values, by level."""
    lines: int
    """Wrong lines of source."""


class Shown(NamedTuple):
    """What a case shows of a hook, to be held against what it shows of another."""

    output: str
    """A hash, to the bit."""
    numbers: str
    """A hash of counters, and of whatever the checks have measured."""
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Sound:
    """What the target without a fault does."""

    seen: Seen
    shows: Mapping[str, Shown]
    """What each case shows, by its id."""


def cases_for(target: Target, run: Run) -> list[Case]:
    """A part of the target's default matrix in which all of its traits occur.

    Of each family, direction and mode the cheapest whole nets that together have all that its
    cases differ in: tiles or none, an odd side, several items, several frames, dtypes. Without
    probes, which explain what whole nets find; without float16, which a CPU emulates a hundred
    times as slowly as it computes float32; and without what is dear.
    """
    kept, known = [], set()
    for case in sorted(narrowed(run.cases[target.profile.hook.name]), key=_early):
        usual = case.scenario is None and case.given is None
        claimed = target.profile.promise(case).claimed and usual
        whole = case.scale is Scale.MOCK and case.dtype != "float16" and cost(case) <= DEAR
        if not claimed or not whole or case.mode not in EXACT:
            continue
        place = (case.family, case.direction, case.mode)
        new = {(place, trait) for trait in _traits(case)} - known
        if new:
            known |= new
            kept.append(case)
    narrow = replace(run, cases={target.profile.hook.name: tuple(kept)})
    ways = {case for _, case in narrow.called_in_every_way}
    return sorted(kept, key=lambda case: _early(case, WAYS if case in ways else 1))


def _early(case: Case, times: int = 1) -> tuple[Any, ...]:
    """Most defects show where tiles must run, and in a single call."""
    return case.mode is not Mode.EXACT, not case.must_tile, cost(case) * times, case.id


def _traits(case: Case) -> set[str]:
    """What makes a case worth running beside others; a quadtree has one trait alone."""
    if case.mode is not Mode.EXACT:
        return {"quadtree"}
    traits = {
        "tiles": case.must_tile,
        "small": case.fits_one_tile,
        "odd": bool(case.height % 2),
        "several items": case.batch > 1,
        "several frames": case.frames > 1,
        case.dtype: True,
    }
    return {trait for trait, has in traits.items() if has}


def on_trial(plan: Plan, folder: Path, seed: int, processes: int) -> list[Mutant]:
    """Draw faults of a target and judge each. ``folder`` may hold baselines already."""
    target = plan.target
    run = prepared([target.profile], folder)
    cases = cases_for(target, run)
    sound = watched(target, run, cases, processes)
    faults: list[Fault] = [
        *value_faults(target, sound.seen, seed, plan.values),
        *source_faults(target, sound.seen, seed, plan.lines),
    ]
    named = {f"{target.profile.hook.name}-{n:03}": fault for n, fault in enumerate(faults)}
    chunks = [dict(some) for some in pieces(list(named.items()))]
    work = functools.partial(_tried, target, run, cases, sound)
    done = spread(work, chunks, _room(folder, target, "mutants"), processes)
    return [mutant for some in done for mutant in some]


def watched(target: Target, run: Run, cases: Sequence[Case], processes: int) -> Sound:
    """What the target does in each case, without a fault."""
    seen, shows = Seen(), {}
    # Of all cases, so that the one that is called in every way is the same one for every hook.
    work = functools.partial(_watched, target, run, cases)
    room = _room(run.folder, target, "watch")
    for some_seen, some_shows in spread(work, pieces(cases), room, processes):
        seen.add(some_seen)
        shows |= some_shows
    return Sound(seen, shows)


def pieces(items: Sequence[Any]) -> list[Sequence[Any]]:
    """Parts of a list, each for one process."""
    return [items[start : start + PIECE] for start in range(0, len(items), PIECE)]


def _room(folder: Path, target: Target, name: str) -> Path:
    room = folder / f"{name}-{target.profile.hook.name}"
    room.mkdir(parents=True)
    return room


def _watched(
    target: Target, run: Run, every: Sequence[Case], some: Sequence[Case]
) -> tuple[Seen, dict[str, Shown]]:
    watch, shows = Watch(target), {}
    run = joined(run, {"watch": target.subject("watch", watch)}, every)
    for case in some:
        watch.case, watch.lines = case.id, case.must_tile
        records, observed = judged(run, "watch", case)
        if wrong := next(filter(is_wrong, records), None):
            raise RuntimeError(f"the sound hook is accused: {wrong.id}: {wrong.message}")
        shows[case.id] = shown(observed, records)
    return watch.seen, shows


def _tried(
    target: Target, run: Run, cases: Sequence[Case], sound: Sound, faults: Mapping[str, Fault]
) -> list[Mutant]:
    """Case after case, so that its VAE and its baseline are there for all faults left alive."""
    planted = {name: Planted(fault) for name, fault in faults.items()}
    subjects: dict[str, Any] = {}
    found = {name: _unharmed(target, name, fault) for name, fault in faults.items()}
    for name, source in planted.items():
        try:
            subjects[name] = target.subject(name, source)
        except Exception as error:  # it cannot even be loaded: a crash
            found[name] = replace(found[name], check="load", crash=True, message=repr(error))
    run = joined(hurried(run), subjects, cases)
    meets = {name: meeting(sound.seen, fault, cases) for name, fault in faults.items()}
    for case in cases:
        for name in _alive(found):
            if case.id in meets[name]:
                found[name] = _met(run, name, case, found[name], sound.shows[case.id])
                if found[name].check:
                    planted[name].forget()
    return [
        replace(found[name], acted=faults[name].acted, reviewed=why_sound(found[name]))
        for name in faults
    ]


def meeting(seen: Seen, fault: Fault, cases: Sequence[Case]) -> set[str]:
    """Cases in which a fault can act, in the cheapest families whose coders run the function.

    That is one of those with causal caches and one of those without. A quadtree is another way to
    cut a plane, whatever the coder is: one family shows that.
    """
    reached = [case for case in cases if seen.reaches(case.id, fault.function, fault.which)]
    family: dict[tuple[Mode, bool], str] = {}
    for case in sorted(reached, key=cost):
        family.setdefault(_kind(case), case.family)
    return {case.id for case in reached if family[_kind(case)] == case.family}


def _kind(case: Case) -> tuple[Mode, bool]:
    return case.mode, case.facts.feature_cache and case.mode is Mode.EXACT


def _alive(found: Mapping[str, Mutant]) -> Iterator[str]:
    return (name for name, mutant in list(found.items()) if not mutant.check)


def _unharmed(target: Target, name: str, fault: Fault) -> Mutant:
    return Mutant(
        name=name,
        hook=target.profile.hook.name,
        level=fault.level,
        operator=fault.operator,
        place=fault.place,
    )


def _met(run: Run, name: str, case: Case, mutant: Mutant, sound: Shown) -> Mutant:
    """What is known of a mutant after one more case."""
    records, observed = judged(run, name, case)
    mutant = replace(mutant, cases=mutant.cases + 1)
    wrong = list(filter(is_wrong, records))
    if wrong:
        first = first_cause(wrong)
        return replace(
            mutant,
            check=first.check,
            checks=tuple(record.check for record in wrong if is_cause(record)),
            case=case.id,
            crash=observed is not None and observed.failure is not None,
            message=first.message,
        )
    got = shown(observed, records)
    costs = (
        f"{case.id}: {regression.what} was {regression.before}, is {regression.after}"
        for old, new in zip(sound.records, records, strict=True)
        for regression in worse(old, new)
    )
    return replace(
        mutant,
        other_output=mutant.other_output + (got.output != sound.output),
        other_numbers=mutant.other_numbers + (got.numbers != sound.numbers),
        worse=mutant.worse or next(costs, ""),
    )


def first_cause(wrong: Collection[Record]) -> Record:
    """The record that says what is wrong."""
    return next(filter(is_cause, wrong), next(iter(wrong)))


def shown(observed: Observed | None, records: Sequence[Record]) -> Shown:
    """What a case shows of a hook."""
    output, numbers = hashlib.sha256(), hashlib.sha256()
    if isinstance(observed, Observation) and observed.output is not None:
        values = observed.output.contiguous()
        output.update(f"{values.shape} {values.dtype}".encode())
        output.update(values.view(torch.uint8).numpy().tobytes())
        numbers.update(repr(observed.reading).encode())
    for record in records:
        numbers.update(f"{record.id} {record.status} {sorted(record.metrics.items())}".encode())
    return Shown(output.hexdigest(), numbers.hexdigest(), tuple(records))
