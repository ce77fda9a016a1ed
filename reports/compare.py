"""Compare two runs by what is deterministic: grades, bytes, transfers, FLOPs, launches, records.

Wall time is no part of it: it informs and never fails a run. Counters depend on the device, on
torch and on the switches for dtypes; between runs that differ in these, only grades and outcomes
are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from vae_compat.contracts.finding import Grade
from vae_compat.judge import Record, Verdict
from vae_compat.vocabulary import ExitCode

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
        "waits",
        "flops",
        "calls",
        "vram_ratio",
        "flops_ratio",
    }
)
"""Metrics of which less is better and which are the same in two runs of the same code."""


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
    compared: int
    """Records present in both runs."""


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
    compare, and that is a regression as well: it must not pass as "nothing became worse".
    """
    counted = not apart(before.header, after.header)
    across = before.header.device != after.header.device
    old = {_key(record, across): record for record in before.records}
    new = {_key(record, across): record for record in after.records}
    common = [key for key in old if key in new]
    found = [
        each
        for key in common
        for each in _changes(old[key], new[key], allowed_percent, counted=counted)
    ]
    regressions = [change for change, is_worse in found if is_worse]
    gone = [old[key] for key in old if key not in new]
    notes = list(_notes(before, after))
    if not counted:
        notes += _left_out(before.header, after.header, [(old[key], new[key]) for key in common])
    same = before.header.selection == after.header.selection and not across
    if same or not common:
        regressions += [Change(each.hook, each.id, "record", "there", "gone") for each in gone]
    elif gone:
        notes.append(f"{len(gone)} earlier records were not compared: {_narrowed(before, after)}")
    mended = tuple(change for change, is_worse in found if not is_worse)
    return Comparison(tuple(regressions), mended, tuple(notes), len(common))


def _narrowed(before: Results, after: Results) -> str:
    was, now = before.header, after.header
    if was.selection != now.selection:
        return f"the selection was '{was.selection}', is '{now.selection}'"
    return f"the device was {was.device}, is {now.device}"


def _left_out(before: Header, after: Header, pairs: list[tuple[Record, Record]]) -> Iterator[str]:
    """How many counters of both runs are not compared, and why."""
    left = sum(bool(COUNTERS & old.metrics.keys() & new.metrics.keys()) for old, new in pairs)
    if left:
        why = ", ".join(each.what for each in apart(before, after))
        yield f"bytes, FLOPs and launches of {left} records were not compared: they hang on {why}"


def hold_against(results: Results, before: Results) -> Results:
    """The same results with what became worse; where anything did, the gate does not hold."""
    found = compare(before, results)
    verdict = results.verdict
    if found.regressions and verdict.code in {ExitCode.HOLDS, ExitCode.FAILS}:
        worse = f"{len(found.regressions)} regressions against the earlier run"
        reason = f"{verdict.reason}, {worse}" if verdict.reason else worse
        verdict = Verdict(ExitCode.FAILS, reason)
    return replace(
        results,
        verdict=verdict,
        regressions=tuple(regression.message for regression in found.regressions),
        notes=(*results.notes, *found.notes),
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
    if now < was and new.status != "passed":
        yield change("status", old.status, new.status), True
    elif was < now and old.status != "passed":
        yield change("status", old.status, new.status), False
    grades = change("grade", old.grade or "not reached", new.grade or "not reached")
    if old.grade and not _meets(new, old):
        yield grades, True
    elif new.grade and not _meets(old, new):
        yield grades, False
    if counted:
        yield from _counted(old, new, allowed_percent)


def _meets(record: Record, other: Record) -> bool:
    """Whether the grade of one is at least as good as that of the other, which has one."""
    return bool(record.grade) and Grade(str(record.grade)).meets(Grade(str(other.grade)))


def _counted(old: Record, new: Record, allowed_percent: float) -> Iterator[tuple[Change, bool]]:
    allowed = 1 + allowed_percent / 100
    for name in sorted(COUNTERS & (old.metrics.keys() | new.metrics.keys())):
        was, now = old.metrics.get(name), new.metrics.get(name)

        def change(before: str, after: str, name: str = name) -> Change:
            return Change(new.hook, new.id, name, before, after)

        if not isinstance(was, int | float):
            continue
        if not isinstance(now, int | float):
            yield change(number(was), "not measured"), True
        elif now > was * allowed:
            yield change(number(was), grown(was, now)), True
        elif was > now * allowed:
            yield change(number(was), grown(was, now)), False


def grown(was: float, now: float) -> str:
    """A number, and by how much it is more than it was: ``1,021 (+2.1 %)``."""
    return number(now) + (f" ({100 * (now / was - 1):+.1f} %)" if was else "")


def number(value: float) -> str:
    """A counter for readers: ``1,021`` or ``0.4713``."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _notes(before: Results, after: Results) -> Iterator[str]:
    for name in ("diffusers", "seed"):
        was, now = getattr(before.header, name), getattr(after.header, name)
        if was != now:
            yield f"{name} was {was}, is {now}"
    yield from map(str, apart(before.header, after.header))
