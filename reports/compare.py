"""Compare two runs by what is deterministic: grades, bytes, transfers, FLOPs, calls, records.

Wall time is no part of it: it informs and never fails a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from vae_compat.checks.finding import Grade
from vae_compat.judge import Record, Verdict
from vae_compat.vocabulary import ExitCode

from . import digest
from .results import Results

ALLOWED_PERCENT = 2.0
"""Growth that is let pass. The counters are exact; a new torch may still ask for other buffers."""

COUNTERS = frozenset(
    {
        "peak_bytes",
        "host_to_device",
        "device_to_host",
        "allocations",
        "flops",
        "calls",
        "vram_ratio",
        "flops_ratio",
    }
)
"""Metrics of which less is better and which two runs of the same code give alike."""


@dataclass(frozen=True)
class Regression:
    """One thing that the earlier run did better."""

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
    """What became worse, and what could not be compared."""

    regressions: tuple[Regression, ...]
    notes: tuple[str, ...]
    compared: int
    """Records present in both runs."""


def compare(
    before: Results, after: Results, *, allowed_percent: float = ALLOWED_PERCENT
) -> Comparison:
    """Find what ``before`` did better than ``after``.

    A counter regresses where it grew by more than ``allowed_percent``, or is no longer measured.
    A record that vanished is a regression if both runs made the same selection; otherwise it is
    only counted in a note. Two runs without a common record have nothing to compare, and that is a
    regression as well: it must not pass as "nothing became worse".
    """
    old = {_key(record): record for record in before.records}
    new = {_key(record): record for record in after.records}
    common = [key for key in old if key in new]
    found = [one for key in common for one in worse(old[key], new[key], allowed_percent)]
    gone = [key for key in old if key not in new]
    notes = list(_notes(before, after))
    if before.header.selection == after.header.selection or not common:
        found += [
            Regression(hook, _id(old[hook, case, check]), "record", "there", "gone")
            for hook, case, check in gone
        ]
    elif gone:
        notes.append(
            f"{len(gone)} earlier records were not compared: the selection was"
            f" '{before.header.selection}', is '{after.header.selection}'"
        )
    return Comparison(tuple(found), tuple(notes), len(common))


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


def _key(record: Record) -> tuple[str, str, str]:
    return (record.hook, record.case, record.check)


def _id(record: Record) -> str:
    return f"{record.check}[{record.case}]"


def worse(
    old: Record, new: Record, allowed_percent: float = ALLOWED_PERCENT
) -> Iterator[Regression]:
    """What the earlier of two records of one case and check did better."""

    def regression(what: str, before: object, after: object) -> Regression:
        return Regression(new.hook, _id(new), what, str(before), str(after))

    if digest.severity(new.status) < digest.severity(old.status) and new.status != "passed":
        yield regression("status", old.status, new.status)
    if old.grade and not (new.grade and Grade(new.grade).meets(Grade(old.grade))):
        yield regression("grade", old.grade, new.grade or "not reached")
    for name in sorted(COUNTERS & old.metrics.keys()):
        was, now = old.metrics[name], new.metrics.get(name)
        if not isinstance(was, int | float):
            continue
        if not isinstance(now, int | float):
            yield regression(name, _number(was), "not measured")
        elif now > was * (1 + allowed_percent / 100):
            grown = f" (+{100 * (now / was - 1):.1f} %)" if was else ""
            yield regression(name, _number(was), _number(now) + grown)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _notes(before: Results, after: Results) -> Iterator[str]:
    for name in ("torch", "diffusers", "device", "seed"):
        was, now = getattr(before.header, name), getattr(after.header, name)
        if was != now:
            yield f"{name} was {was}, is {now}"
