"""Summarises many records: table cells, groups of failures, what was not measured."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vae_compat.contracts.caseid import CaseId, parse_case_id
from vae_compat.contracts.cases import Direction, Mode
from vae_compat.contracts.finding import Grade, Phase, Tier
from vae_compat.families import FAMILIES, Family
from vae_compat.judge import ROOTS, Record
from vae_compat.vocabulary import BAD

VRAM_RATIO = "vram_ratio"
"""Metric: peak over weights of the hook, divided by that of the untiled VAE."""
TIME_RATIO = "time_ratio"
"""Metric: median time of the hook, divided by that of the untiled VAE in the same process."""
ESTIMATE = "estimated_time"
"""Check: what a run would take on a GPU, divided by what untiled would."""
PHASE = "phase"
"""Metric: how far the hook came with causal caches, a value of `Phase`."""
CLIP_RATIO = "clip_vram_ratio"
"""Metric: peak of a clip, divided by that of untiled."""

# Worst first. A known failure that passed fails the run, and so does an unknown status: nothing
# that this list has not heard of may look like a pass.
_SEVERITY = ("error", "failed", "xpassed", "xfailed", "passed", "skipped")
MARKS = {
    "error": "ERROR",
    "failed": "FAIL",
    "xpassed": "XPASS",
    "xfailed": "known",
    "passed": "pass",
    "skipped": "skip",
}


class Key(NamedTuple):
    """Which cell of the table a record falls into."""

    family: str
    direction: str
    mode: str


@dataclass(frozen=True)
class Cell:
    """A table cell: the outcome for one family, direction and mode."""

    status: str
    """The worst status of the cell's records."""
    grade: Grade | None
    """The worst grade of its cases; ``None`` where none was reached."""
    vram_ratio: float | None
    """The highest ratio of those of its cases that must tile."""
    measured: bool
    """Whether VRAM was measured wherever that was tried."""
    claimed: bool
    cases: int

    @property
    def mark(self) -> str:
        """``pass``, ``FAIL``, ``ERROR``, ``known``, or ``-`` where nothing is claimed."""
        if not self.claimed and self.status in {"passed", "skipped"}:
            return "-"
        return MARKS.get(self.status, self.status.upper())

    @property
    def grade_text(self) -> str:
        """The grade; empty in an error, where a good one next to it would mislead."""
        return str(self.grade) if self.grade and self.status != "error" else ""

    @property
    def ratio_text(self) -> str:
        """``0.12``, ``n/m`` for not measured, empty where there is nothing to measure."""
        if self.status == "error":
            return ""
        if self.vram_ratio is not None:
            return f"{self.vram_ratio:.2f}"
        return "" if self.measured else "n/m"


def phases(records: Iterable[Record]) -> dict[str, dict[str, str]]:
    """What the clips of each family with a cache show, by direction: ``splits 0.21``.

    The worst of all clips, with the highest peak as a fraction of untiled.
    """
    found: dict[tuple[str, str], list[tuple[Phase, float | None]]] = {}
    for record in records:
        case, phase = parse_case_id(record.case), record.metrics.get(PHASE)
        if case is not None and phase in list(Phase):
            ratio = record.metrics.get(CLIP_RATIO)
            measured = float(ratio) if isinstance(ratio, int | float) else None
            found.setdefault((case.family, case.direction), []).append((Phase(phase), measured))
    made: dict[str, dict[str, str]] = {}
    for family, direction in sorted(found, key=lambda place: rank(place[1], Direction)):
        seen = found[family, direction]
        worst = min((phase for phase, _ in seen), key=list(Phase).index)
        ratios = [ratio for _, ratio in seen if ratio is not None]
        shown = f" {max(ratios):.2f}" if ratios and worst is not Phase.CRASHES else ""
        made.setdefault(family, {})[direction] = f"{worst}{shown}"
    return dict(sorted(made.items(), key=lambda row: (rank(row[0], FAMILIES), row[0])))


def hook_names(records: Iterable[Record]) -> tuple[str, ...]:
    """Names of the hooks in the order of their first record."""
    return tuple(dict.fromkeys(record.hook for record in records))


def severity(status: str) -> int:
    """Rank of a status, 0 the worst; an unknown one ranks with errors."""
    return _SEVERITY.index(status) if status in _SEVERITY else 0


@dataclass(frozen=True)
class Timed:
    """Time of a hook relative to untiled, over the cases of a family, direction and mode."""

    ratio: float
    least: float
    most: float

    @property
    def text(self) -> str:
        """``0.77 (0.75 to 0.80)``."""
        return f"{self.ratio:.2f} ({self.least:.2f} to {self.most:.2f})"


def times(records: Iterable[Record]) -> dict[Key, Timed]:
    """The median of each cell that was timed, with what single runs came to."""
    found: dict[Key, list[tuple[float, float, float]]] = {}
    for record in records:
        key = key_of(record)
        names = (TIME_RATIO, f"{TIME_RATIO}_least", f"{TIME_RATIO}_most")
        numbers = [record.metrics.get(name) for name in names]
        told = [float(number) for number in numbers if isinstance(number, int | float)]
        if key is not None and len(told) == len(names):
            found.setdefault(key, []).append((told[0], told[1], told[2]))
    return {
        key: Timed(
            statistics.median(ratio for ratio, _, _ in found[key]),
            min(least for _, least, _ in found[key]),
            max(most for _, _, most in found[key]),
        )
        for key in sorted(found, key=_place)
    }


def estimates(records: Iterable[Record]) -> list[str]:
    """``hook: estimated on an NVIDIA H200, sd decode exact: 32.5 x the time of untiled, ...``."""
    lines = []
    for record in records:
        place, metrics = key_of(record), record.metrics
        ratio, share = metrics.get("estimated_time_ratio"), metrics.get("first_cause_share")
        if record.check != ESTIMATE or place is None:
            continue
        if isinstance(ratio, int | float) and isinstance(share, int | float):
            lines.append(
                f"{record.hook}: estimated on an {metrics.get('gpu')}, {' '.join(place)}: "
                f"{ratio:.2f} x the time of untiled, {share:.0%} of it for "
                f"{metrics.get('first_cause')}"
            )
    return lines


def without_vram(records: Iterable[Record]) -> list[str]:
    """Families that are claimed and of whose cases none was judged by its VRAM."""
    judged: dict[str, bool] = {}
    for record in records:
        key = key_of(record)
        if key is not None and record.claimed:
            told = VRAM_RATIO in record.metrics
            judged[key.family] = judged.get(key.family, False) or told
    return sorted((name for name, any_told in judged.items() if not any_told), key=_family_place)


def dependents(records: Iterable[Record]) -> list[Record]:
    """Records that were not judged because a root check of the same case failed.

    They count as errors, but reports list only the root.
    """
    some = list(records)
    rooted = {
        (record.hook, record.case)
        for record in some
        if record.check in ROOTS and record.status != "passed" and record.judged
    }
    return [each for each in some if not each.judged and (each.hook, each.case) in rooted]


def unjudged(records: Iterable[Record]) -> list[str]:
    """How many checks had nothing to judge, and whether failures or known failures are why."""
    some = list(records)
    left = dependents(some)
    behind = sum(record.status in BAD for record in left)
    lines = []
    if behind:
        lines.append(f"{_checks(behind, 'further ')} not judged behind these failures")
    if behind < len(left):
        cases = {(record.hook, record.case) for record in left if record.status not in BAD}
        roots = dict.fromkeys(
            record.check
            for record in some
            if (record.hook, record.case) in cases
            and record.check in ROOTS
            and record.status == "xfailed"
        )
        why = f"behind known failures of {', '.join(roots)}" if roots else "behind known failures"
        lines.append(f"{_checks(len(left) - behind)} not judged {why}")
    return lines


def _checks(count: int, what: str = "") -> str:
    return f"{count} {what}check was" if count == 1 else f"{count} {what}checks were"


def _cases(count: int) -> str:
    return "1 case" if count == 1 else f"{count} cases"


class Known(NamedTuple):
    """Known failures of one check for one reason."""

    hook: str
    check: str
    reason: str
    records: tuple[Record, ...]

    @property
    def line(self) -> str:
        """``known call_contract: takes no feat_cache (10 cases of qwen)``."""
        names = dict.fromkeys(key.family for each in self.records if (key := key_of(each)))
        cases = _cases(len(self.records))
        where = f"{cases} of {', '.join(sorted(names, key=_family_place))}" if names else cases
        return f"{MARKS['xfailed']} {self.check}: {self.reason or 'no reason given'} ({where})"


def known(records: Iterable[Record]) -> list[Known]:
    """What fails as listed in ``known_failures``: a line each for every check and reason."""
    found: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        if record.status == "xfailed":
            found.setdefault((record.hook, record.check, record.reason), []).append(record)
    return [Known(*key, tuple(alike)) for key, alike in found.items()]


def independent(records: Iterable[Record]) -> list[Record]:
    """All records but the dependent ones."""
    some = list(records)
    left_out = {id(record) for record in dependents(some)}
    return [record for record in some if id(record) not in left_out]


def statement(record: Record) -> str:
    """The message without the command at its end, which reports print on its own."""
    message = record.message
    if record.repeat:
        message = message.removesuffix(f"repeat: {record.repeat}").rstrip("; \n")
    return message or "no message"


def key_of(record: Record) -> Key | None:
    """The cell of a record; ``None`` where its case is no case id (a check of the whole run)."""
    case = parse_case_id(record.case)
    return None if case is None else Key(case.family, case.direction, case.mode)


def cells(records: Iterable[Record]) -> dict[Key, Cell]:
    """One cell per family, direction and mode that ran, families in their published order."""
    grouped: dict[Key, list[Record]] = {}
    for record in records:
        key = key_of(record)
        if key is not None:
            grouped.setdefault(key, []).append(record)
    return {key: _cell(grouped[key]) for key in sorted(grouped, key=_place)}


def columns(keys: Iterable[Key]) -> list[tuple[str, str]]:
    """Directions and modes across, modes in their own order."""
    return sorted(
        {(key.direction, key.mode) for key in keys}, key=lambda column: _column_place(*column)
    )


def _family_place(name: str) -> tuple[int, str]:
    return rank(name, FAMILIES), name


def _place(key: Key) -> tuple[int, str, int, int]:
    return (rank(key.family, FAMILIES), key.family, *_column_place(key.direction, key.mode))


def _column_place(direction: str, mode: str) -> tuple[int, int]:
    return (rank(direction, Direction), rank(mode, Mode))


def rank(word: str, words: Iterable[str]) -> int:
    """Place of a word; an unknown one comes last."""
    known = list(words)
    return known.index(word) if word in known else len(known)


def _cell(records: Sequence[Record]) -> Cell:
    # A probe is built to exaggerate one mechanism; its grade and its memory are not the family's.
    whole = [record for record in records if not _is_probe(record)]
    grades = [Grade(record.grade) for record in whole if record.grade]
    ratios = [ratio for record in whole if (ratio := _ratio(record)) is not None]
    tried = [record for record in independent(whole) if VRAM_RATIO in record.metrics]
    return Cell(
        status=min((record.status for record in independent(records)), key=severity),
        grade=max(grades, key=list(Grade).index, default=None),
        vram_ratio=max(ratios, default=None),
        measured=all(record.metrics[VRAM_RATIO] is not None for record in tried),
        claimed=any(record.claimed for record in records),
        cases=len({record.case for record in records}),
    )


def _is_probe(record: Record) -> bool:
    case = parse_case_id(record.case)
    return case is not None and case.scale == "probe"


def _ratio(record: Record) -> float | None:
    """VRAM ratio of a case; ``None`` where it fits into one padded tile and says nothing."""
    value = record.metrics.get(VRAM_RATIO)
    case = parse_case_id(record.case)
    if case is None or not isinstance(value, int | float):
        return None
    return float(value) if must_tile(case) else None


def must_tile(case: CaseId) -> bool:
    """Whether the plane does not fit into one padded tile, as ``Case.must_tile`` has it."""
    family = FAMILIES.get(case.family)
    halo = Family.published_halo if family is None else family.published_halo
    return max(case.height, case.width) > case.tile + 2 * halo


@dataclass(frozen=True)
class Group:
    """Failures of one check in one family and direction."""

    hook: str
    check: str
    tier: str
    status: str
    family: str
    direction: str
    records: tuple[Record, ...]
    """What is farthest off first."""
    psnr: float = math.inf
    """dB against the truth of the case that is farthest off; infinite where nothing tells."""

    @property
    def first(self) -> Record:
        """The record that stands for the group: of the case that is farthest off."""
        return self.records[0]

    @property
    def count(self) -> int:
        """How many records there are."""
        return len(self.records)

    @property
    def claimed(self) -> bool:
        """Whether any of its cases is claimed."""
        return any(record.claimed for record in self.records)

    @property
    def title(self) -> str:
        """``FAIL parity: sd decode (12 cases)``."""
        where = " ".join(part for part in (self.family, self.direction) if part)
        cases = _cases(self.count)
        mark = MARKS.get(self.status, self.status.upper())
        return f"{mark} {self.check}: {where} ({cases})" if where else f"{mark} {self.check}"


def groups(records: Iterable[Record], statuses: Iterable[str] = BAD) -> list[Group]:
    """Failures grouped by hook, check, family and direction.

    What is claimed comes first, then the worst status, then what is farthest off, then the tier.
    """
    wanted = frozenset(statuses)
    some = list(records)
    off = psnrs(some)
    found: dict[tuple[str, str, str, str, str], list[Record]] = {}
    for record in independent(some):
        known = record.status in MARKS
        if record.status in wanted or (not known and wanted == BAD):
            case = parse_case_id(record.case)
            family, direction = (case.family, case.direction) if case else ("", "")
            key = (record.hook, record.check, record.status, family, direction)
            found.setdefault(key, []).append(record)
    made = []
    for (hook, check, status, family, direction), alike in found.items():
        alike.sort(key=lambda record: off.get((record.hook, record.case), math.inf))
        psnr = off.get((hook, alike[0].case), math.inf)
        tier = str(alike[0].tier)
        made.append(Group(hook, check, tier, status, family, direction, tuple(alike), psnr))
    return sorted(made, key=_group_place)


def _group_place(group: Group) -> tuple[bool, int, bool, float, bool, int]:
    unrooted = group.check not in ROOTS  # without a result there is nothing that could be less off
    tier = rank(group.tier, Tier)
    least = group.check != "parity"  # which tells most of one and the same picture
    return (not group.claimed, severity(group.status), unrooted, group.psnr, least, tier)


def psnrs(records: Iterable[Record]) -> dict[tuple[str, str], float]:
    """PSNR of each hook and case against the truth in dB; what is not finite is -infinite."""
    found: dict[tuple[str, str], float] = {}
    for record in records:
        told = record.metrics.get("psnr")
        if isinstance(told, int | float):
            psnr = -math.inf if math.isnan(told) else float(told)
            key = (record.hook, record.case)
            found[key] = min(psnr, found.get(key, math.inf))
    return found


def counts(records: Iterable[Record]) -> dict[str, Counter[str]]:
    """How many records of each tier have which status."""
    made: dict[str, Counter[str]] = {}
    for record in records:
        made.setdefault(str(record.tier), Counter())[str(record.status)] += 1
    return {str(tier): made[str(tier)] for tier in Tier if str(tier) in made}


def count_line(counted: Counter[str]) -> str:
    """``12 passed, 2 failed, 1 error``, worst last, nothing that is zero."""
    order = ("passed", "skipped", "xfailed", "xpassed", "failed", "error")
    words = {"xfailed": "known to fail", "xpassed": "known to fail but passed"}
    names = [*order, *sorted(set(counted) - set(order))]
    return ", ".join(f"{counted[name]} {words.get(name, name)}" for name in names if counted[name])


def not_measured(records: Iterable[Record]) -> dict[str, int]:
    """Metric names that read ``None``, with the number of records where they do.

    Without the dependent records: where the hook raised, there was nothing to measure.
    """
    missing: Counter[str] = Counter()
    for record in independent(records):
        missing.update(name for name, value in record.metrics.items() if value is None)
    return dict(sorted(missing.items()))


def worst_grades(records: Iterable[Record]) -> list[tuple[str, Record]]:
    """The record with the worst grade of each family, in the families' published order."""

    def badness(record: Record) -> int:
        return list(Grade).index(Grade(record.grade or Grade.BROKEN))

    worst: dict[str, Record] = {}
    for record in records:
        key = key_of(record)
        if key is None or not record.grade or _is_probe(record):
            continue
        old = worst.get(key.family)
        if old is None or badness(record) > badness(old):
            worst[key.family] = record
    return sorted(worst.items(), key=lambda item: _place(Key(item[0], "", "")))
