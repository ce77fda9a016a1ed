"""Compare two runs by what is deterministic: grades, bytes, transfers, FLOPs, launches, records.

Wall time is no part of it: it informs and never fails a run. Counters depend on the device, on
torch and on the switches for dtypes; between runs that differ in these, only grades and outcomes
are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from vae_compat.checks.metrics import WAITS
from vae_compat.contracts.finding import Grade
from vae_compat.judge import Record, Verdict
from vae_compat.text import told_apart
from vae_compat.vocabulary import BAD, ExitCode

from . import digest
from .results import Header, Results

ALLOWED_PERCENT = 2.0
"""Growth that is tolerated. Counters are exact, but a new torch may need other buffers."""

COUNTERS = frozenset(
    {
        "peak_bytes",
        "host_to_device",
        "device_to_host",
        "allocations",
        "kernels",
        "kernel_bytes_read",
        "kernel_bytes_written",
        "waits",
        "waits_per_tile",
        *(f"waits_{cause}" for cause in WAITS),
        "pageable_bytes",
        "strided_bytes",
        "blocking_bytes",
        "collections",
        "cache_clears",
        "host_peak_pageable",
        "host_peak_pinned",
        "host_allocated",
        "flops",
        "calls",
        "vram_ratio",
        "flops_ratio",
    }
)
"""Metrics of which less is better and which are the same in two runs of the same code."""

_TWINS = (("peak_bytes", "vram_ratio"), ("flops", "flops_ratio"))
"""Counters with one cause: a number, and what it is as a fraction of untiled. Where both became
worse, or both better, the first stands for both."""


@dataclass(frozen=True)
class Change:
    """One thing that one of two runs did better."""

    hook: str
    id: str
    """Record id, ``parity[sd-mock-...]``."""
    what: str
    """``grade``, ``status``, ``record`` or the name of a counter."""
    before: str
    after: str

    @property
    def message(self) -> str:
        """``diffusers parity[sd-...]: grade was exact, is close``."""
        return f"{self.hook} {self.id}: {self.what} was {self.before}, is {self.after}"


@dataclass(frozen=True)
class Comparison:
    """What became worse, what became better, and what could not be compared."""

    regressions: tuple[Change, ...]
    mended: tuple[Change, ...]
    notes: tuple[str, ...]
    """In what the runs differ, and what was not compared for it."""
    compared: int
    """Records present in both runs."""
    disjoint: str = ""
    """Why nothing could be compared; a regression as well."""
    drift: tuple[str, ...] = ()
    """A sentence for each counter of a hook that moved by less than what is tolerated."""

    @property
    def worse(self) -> tuple[str, ...]:
        """A sentence for everything that must not pass."""
        told = tuple(change.message for change in self.regressions)
        return (self.disjoint, *told) if self.disjoint else told


class Difference(NamedTuple):
    """A setting in which two runs differ."""

    what: str
    before: str
    after: str

    def __str__(self) -> str:
        """``torch was 2.11.0, is 2.13.0``."""
        return f"{self.what} was {self.before}, is {self.after}"


def apart(before: Header, after: Header) -> tuple[Difference, ...]:
    """Why what was counted in two runs cannot be compared; empty where it can."""
    return tuple(
        Difference(what, was or "not told", now or "not told")
        for what, (was, now) in _paired(_decisive(before), _decisive(after)).items()
        if was != now
    )


def _decisive(header: Header) -> dict[str, str]:
    """What bytes and FLOPs depend on."""
    facts = {} if header.gpu is None else header.gpu.facts
    return {"torch": header.torch, "device": header.device, **facts}


def _paired(one: dict[str, str], other: dict[str, str]) -> dict[str, tuple[str, str]]:
    names = dict.fromkeys([*one, *other])
    return {name: (one.get(name, ""), other.get(name, "")) for name in names}


def compare(
    before: Results, after: Results, *, allowed_percent: float = ALLOWED_PERCENT
) -> Comparison:
    """Find what ``before`` did better than ``after``, and the other way round.

    A counter regresses where it grew by more than ``allowed_percent``, or is no longer measured.
    A record that vanished is a regression if both runs made the same selection on the same device;
    otherwise it is only counted in a note. Two runs without a common record have nothing to
    compare, which must not pass as "nothing became worse".
    """
    counted = not apart(before.header, after.header)
    across = before.header.device != after.header.device
    old = {_key(record, across): record for record in before.records}
    new = {_key(record, across): record for record in after.records}
    common = [key for key in old if key in new]
    notes = list(_differing(before.header, after.header))
    if not common:
        return Comparison((), (), tuple(notes), 0, _disjoint(before, after))
    behind = {_key(record, across) for record in digest.dependents(after.records)}
    found = [
        each
        for key in common
        if key not in behind  # the check that says why is told, and stands for them
        for each in _changes(old[key], new[key], allowed_percent, counted=counted)
    ]
    regressions = [change for change, is_worse in found if is_worse]
    gone = [old[key] for key in old if key not in new]
    if not counted:
        notes += _left_out(before.header, after.header, [(old[key], new[key]) for key in common])
    if _selected(before.header) == _selected(after.header) and not across:
        regressions += [Change(each.hook, each.id, "record", "there", "gone") for each in gone]
    elif gone:
        notes.append(f"{len(gone)} earlier records were not compared: {_narrowed(before, after)}")
    mended = tuple(change for change, is_worse in found if not is_worse)
    pairs = [(old[key], new[key]) for key in common if key not in behind] if counted else []
    drift = tuple(_drift(pairs, allowed_percent))
    return Comparison(tuple(regressions), mended, tuple(notes), len(common), drift=drift)


def _selected(header: Header) -> str:
    """What was to be run: the selection, and the part of it where it was split."""
    return header.selection + (f", shard {header.shard}" if header.shard else "")


def _disjoint(before: Results, after: Results) -> str:
    """Why two runs share no record, in one sentence."""
    if not before.records or not after.records:
        return f"nothing to compare: the {'later' if before.records else 'earlier'} run is empty"
    was, now = before.header, after.header
    hooks = [", ".join(hook.name for hook in header.hooks) for header in (was, now)]
    reasons = [
        f"the {what} was '{one}', is '{other}'"
        for what, one, other in (
            ("hook", *hooks),
            ("selection", _selected(was), _selected(now)),
            ("device", was.device, now.device),
        )
        if one != other
    ]
    told = f" ({'; '.join(reasons)})" if reasons else ""
    return f"nothing to compare: the runs have no record in common{told}"


def _narrowed(before: Results, after: Results) -> str:
    was, now = before.header, after.header
    if _selected(was) != _selected(now):
        return f"the selection was '{_selected(was)}', is '{_selected(now)}'"
    return f"the device was {was.device}, is {now.device}"


def _left_out(before: Header, after: Header, pairs: list[tuple[Record, Record]]) -> Iterator[str]:
    """How many counters of both runs are not compared, and why."""
    left = sum(bool(COUNTERS & old.metrics.keys() & new.metrics.keys()) for old, new in pairs)
    if left:
        why = ", ".join(each.what for each in apart(before, after))
        yield f"bytes, FLOPs and launches of {left} records were not compared: they hang on {why}"


def hold_against(results: Results, before: Results) -> Results:
    """The same results with what changed; where anything became worse, the gate does not hold."""
    found = compare(before, results)
    verdict = results.verdict
    if found.worse and verdict.code in {ExitCode.HOLDS, ExitCode.FAILS}:
        count = len(found.regressions)
        many = "regression" if count == 1 else "regressions"
        worse = found.disjoint or f"{count} {many} against the earlier run"
        reason = f"{verdict.reason}, {worse}" if verdict.reason else worse
        verdict = Verdict(ExitCode.FAILS, reason)
    return replace(
        results,
        verdict=verdict,
        against=_named(before.header),
        regressions=found.worse,
        new=unheard_of(results, before),
        mended=tuple(change.message for change in found.mended),
        drift=found.drift,
        notes=(*results.notes, *found.notes),
    )


def _named(header: Header) -> str:
    """``the run of 2026-11-28T02:17:00+00:00 (hook 0123456789ab)``."""
    hooks = ", ".join(f"{hook.name} {hook.commit or 'of no commit'}" for hook in header.hooks)
    return f"the run of {header.started}" + (f" ({hooks})" if hooks else "")


def unheard_of(results: Results, earlier: Results) -> tuple[str, ...]:
    """Failures of records that the earlier run did not have."""
    known = {(record.hook, record.id) for record in earlier.records}
    return tuple(
        f"{record.hook} {record.id}: {record.status}, was not there"
        for record in digest.independent(results.records)
        if record.status in BAD and (record.hook, record.id) not in known
    )


def _key(record: Record, across: bool) -> tuple[str, str, str]:
    """What a record is about; ``across`` devices, which are the last word of a case id."""
    case = record.case.rpartition("-")[0] or record.case if across else record.case
    return (record.hook, case, record.check)


def worse(old: Record, new: Record, allowed_percent: float = ALLOWED_PERCENT) -> Iterator[Change]:
    """What the earlier of two records of one case and check did better."""
    found = _changes(old, new, allowed_percent, counted=True)
    return (change for change, is_worse in found if is_worse)


def _changes(
    old: Record, new: Record, allowed_percent: float, *, counted: bool
) -> Iterator[tuple[Change, bool]]:
    """Every change between two records of one case and check, and whether it is for the worse.

    ``counted``: whether their counters can be compared.
    """

    def change(what: str, before: object, after: object) -> Change:
        return Change(new.hook, new.id, what, str(before), str(after))

    was, now = digest.severity(old.status), digest.severity(new.status)
    grades = change("grade", old.grade or "not reached", new.grade or "not reached")
    # A grade that is worse is why a check fails: one cause has one name.
    if old.grade and not _meets(new, old):
        yield grades, True
    elif now < was and new.status != "passed":
        yield change("status", old.status, new.status), True
    elif new.grade and not _meets(old, new):
        yield grades, False
    elif was < now and old.status != "passed":
        yield change("status", old.status, new.status), False
    if counted:
        yield from _counted(old, new, allowed_percent)


def _meets(record: Record, other: Record) -> bool:
    """Whether the grade of one is at least as good as that of the other, which has one."""
    return bool(record.grade) and Grade(str(record.grade)).meets(Grade(str(other.grade)))


def _counted(old: Record, new: Record, allowed_percent: float) -> Iterator[tuple[Change, bool]]:
    found: dict[str, tuple[Change, bool]] = {}
    for name in sorted(COUNTERS & (old.metrics.keys() | new.metrics.keys())):
        told = _growth(old.metrics.get(name), new.metrics.get(name), 1 + allowed_percent / 100)
        if told is not None:
            before, after, is_worse = told
            found[name] = Change(new.hook, new.id, name, before, after), is_worse
    for first, twin in _TWINS:
        if first in found and twin in found and found[first][1] == found[twin][1]:
            del found[twin]
    yield from found.values()


def _growth(was: object, now: object, allowed: float) -> tuple[str, str, bool] | None:
    """A counter before and after in words, and whether it is worse; ``None`` where it is alike."""
    if not isinstance(was, int | float):
        return None
    if not isinstance(now, int | float):
        return number(was), "not measured", True
    if now > was * allowed or was > now * allowed:
        return number(was, now), grown(was, now), now > was
    return None


def _drift(pairs: Sequence[tuple[Record, Record]], allowed_percent: float) -> Iterator[str]:
    """What moved by no more than is tolerated, the largest move first."""
    found: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for old, new in pairs:
        for name in COUNTERS & old.metrics.keys() & new.metrics.keys():
            was, now = old.metrics[name], new.metrics[name]
            if not isinstance(was, int | float) or not isinstance(now, int | float) or was == now:
                continue
            if _growth(was, now, 1 + allowed_percent / 100) is None:
                told = f"in {new.id}, where it was {number(was, now)} and is {grown(was, now)}"
                found.setdefault((new.hook, name), []).append((abs(now / was - 1), told))
    for first, twin in _TWINS:
        for hook in [hook for hook, name in found if name == first]:
            found.pop((hook, twin), None)
    for (hook, name), moves in sorted(found.items(), key=lambda each: (-max(each[1])[0], each[0])):
        count = "1 record" if len(moves) == 1 else f"{len(moves)} records"
        yield f"{hook}: {name} moved in {count}, most {max(moves)[1]}"


def grown(was: float, now: float) -> str:
    """A number, and by how much it is more than it was: ``1,021 (+2.1 %)``."""
    if not was:
        return number(now)
    percent = 100 * (now / was - 1)
    size, _ = told_apart(abs(percent), 0.0, ".1f")
    return f"{number(now, was)} ({'-' if percent < 0 else '+'}{size} %)"


def number(value: float, other: float | None = None) -> str:
    """A counter for readers, ``1,021`` or ``0.4713``, with digits that tell it from another."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if other is None else told_apart(value, other, ".4g")[0]


def _differing(before: Header, after: Header) -> Iterator[str]:
    """What decides on numbers and is not the hook: told before anything else."""
    for what in ("version", "commit", "diffusers", "seed"):
        was, now = getattr(before, what), getattr(after, what)
        if was != now:
            name = {"version": "vae-compat", "commit": "vae-compat's commit"}.get(what, what)
            yield str(Difference(name, str(was or "not told"), str(now or "not told")))
    yield from map(str, apart(before, after))
