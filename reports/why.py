"""Why the gate does not hold, in one sentence a hook."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vae_compat.contracts.finding import Grade
from vae_compat.judge import ROOTS, Record, causes, diagnose

from . import digest
from .digest import Group

MOST = 300
"""Characters of a message that a sentence quotes."""


@dataclass(frozen=True)
class Why:
    """What a hook is told first."""

    hook: str
    holds: bool
    sentence: str


def whys(records: Iterable[Record]) -> list[Why]:
    """A sentence for each hook, in the order of their first records."""
    some = list(records)
    return [
        _why(hook, [record for record in some if record.hook == hook])
        for hook in digest.hook_names(some)
    ]


def _why(hook: str, records: Sequence[Record]) -> Why:
    failing = digest.groups(records)
    if not failing:
        return Why(hook, True, _kept(records))
    first, *others = failing
    sentence = _first_sentence(first, failing, records)
    if others:
        kinds = "1 more group" if len(others) == 1 else f"{len(others)} more groups"
        sentence += f"; {kinds} of failures"
    return Why(hook, False, sentence)


def _kept(records: Sequence[Record]) -> str:
    known = sum(record.status == "xfailed" for record in records)
    grades = [Grade(record.grade) for record in records if record.grade and record.claimed]
    worst = max(grades, key=list(Grade).index, default=None)
    told = "keeps everything that it claims"
    if worst is not None:
        told += f", at worst grade {worst}"
    return f"{told}; {known} known failures" if known else told


def _first_sentence(first: Group, failing: Sequence[Group], records: Sequence[Record]) -> str:
    where = f"{first.family} {first.direction}".strip() or "the whole run"
    if not first.claimed:
        return f"{where} is not claimed, and not refused: {_quoted(first)}"
    if first.check in ROOTS:
        return f"{where}: {_quoted(first)}"
    off = {(group.family, group.direction) for group in failing if group.psnr < math.inf}
    found = causes(each for each in diagnose(records) if (each.family, each.direction) in off)
    least = min((group.psnr for group in failing), default=math.inf)
    if not found or found[0].psnr == math.inf:
        return f"{where}: {first.check}: {_quoted(first)}"
    far = f" (the picture is down to {least:.1f} dB)" if math.isfinite(least) else ""
    return f"{found[0].reason}: {'; '.join(found[0].places)}{far}"


def _quoted(group: Group) -> str:
    said = " ".join(digest.statement(group.first).split())
    return said if len(said) <= MOST else f"{said[:MOST]} ..."
