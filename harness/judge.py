"""Turns findings into records, and records into a verdict: pure functions, nothing is run here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from vae_compat.contracts.caseid import parse_case_id, record_id
from vae_compat.contracts.cases import Mechanism, Scale
from vae_compat.contracts.finding import Finding, Grade, Status
from vae_compat.contracts.mechanisms import EXPLANATION
from vae_compat.families import FAMILIES
from vae_compat.subject.profile import KnownFailure
from vae_compat.vocabulary import ExitCode

ROOTS = frozenset({"call_contract", "completes", "clip_completes", "output_shape", "finite"})
"""Checks whose failure leaves the others of the same case nothing to judge."""


class Outcome(StrEnum):
    """How a record stands in the run."""

    PASSED = "passed"
    """The hook keeps what the profile promises."""
    FAILED = "failed"
    """The hook does not keep what the profile promises."""
    ERROR = "error"
    """Could not be judged, so nothing is proved: as bad as failed."""
    XFAILED = "xfailed"
    """Failed, as the profile says it does."""
    XPASSED = "xpassed"
    """A known failure that passed: the profile is out of date, and the run fails."""
    SKIPPED = "skipped"
    """Not judged because of a known failure of the same case."""


@dataclass(frozen=True)
class Record:
    """One finding as it is stored: JSON-serialisable with ``dataclasses.asdict``."""

    case: str
    check: str
    tier: str
    status: str
    """A value of `Outcome`."""
    grade: str | None = None
    metrics: Mapping[str, float | int | str | None] = field(default_factory=dict)
    """``None`` reads ``not measured``."""
    message: str = ""
    repeat: str | None = None
    """The one command that repeats the case."""
    hook: str = ""
    claimed: bool = True
    reason: str = ""
    """The reason of the known failure that matched, as is its link below."""
    link: str = ""
    judged: bool = True
    """Whether the check had something to judge."""
    blocked_by: str | None = None
    """If it had not: the check of the same case that says why, if there is one."""

    @property
    def id(self) -> str:
        """``parity[sd-mock-ldm-decode-...]``."""
        return record_id(self.check, self.case)


@dataclass(frozen=True)
class Verdict:
    """Whether the gate holds, and why not."""

    code: ExitCode
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Whether a merge may go ahead."""
        return self.code is ExitCode.HOLDS


def judge(
    case: str,
    findings: Sequence[Finding],
    known: Sequence[KnownFailure] = (),
    *,
    hook: str = "",
    claimed: bool = True,
    repeat: str | None = None,
) -> tuple[Record, ...]:
    """Records of all findings of one case, in their order.

    A check that could not be judged because the case's root failure is a known one is skipped: an
    adopter lists the root once, not every check that depends on it.
    """
    settled = [_settle(finding, case, known) for finding in findings]
    excused = any(
        outcome is Outcome.XFAILED and finding.check in ROOTS
        for finding, (outcome, _) in zip(findings, settled, strict=True)
    )
    records = []
    for finding, (outcome, failure) in zip(findings, settled, strict=True):
        unjudged = finding.status is Status.NOT_JUDGED
        dependent = unjudged and outcome is Outcome.ERROR
        records.append(
            Record(
                case=case,
                check=finding.check,
                tier=str(finding.tier),
                status=str(Outcome.SKIPPED if excused and dependent else outcome),
                grade=None if finding.grade is None else str(finding.grade),
                metrics=dict(finding.metrics),
                message=finding.message,
                repeat=repeat,
                hook=hook,
                claimed=claimed,
                reason=failure.reason if failure else "",
                link=failure.link if failure else "",
                judged=not unjudged,
                blocked_by=finding.blocked_by,
            )
        )
    return tuple(records)


def _settle(
    finding: Finding, case: str, known: Sequence[KnownFailure]
) -> tuple[Outcome, KnownFailure | None]:
    record = record_id(finding.check, case)
    failure = next((entry for entry in known if entry.matches(record)), None)
    if failure is None:
        return _OUTCOMES[finding.status], None
    return (Outcome.XPASSED if finding.status is Status.PASSED else Outcome.XFAILED), failure


_OUTCOMES: Mapping[Status, Outcome] = MappingProxyType(
    {
        Status.PASSED: Outcome.PASSED,
        Status.FAILED: Outcome.FAILED,
        Status.NOT_JUDGED: Outcome.ERROR,
    }
)


def gate(
    records: Sequence[Record], *, harness_failure: str | None = None, shard: str | None = None
) -> Verdict:
    """The verdict of a run, or of one shard of it.

    A run without records proves nothing, so it is wrong use and never a pass. Whether a hook has
    shown anything at all is seen in the whole, not in a shard.
    """
    if harness_failure is not None:
        return Verdict(ExitCode.HARNESS, harness_failure)
    if not records:
        return Verdict(ExitCode.USAGE, "no case was selected: widen the selection")
    counts = {
        outcome: sum(record.status == outcome for record in records)
        for outcome in (Outcome.FAILED, Outcome.ERROR, Outcome.XPASSED)
    }
    unheard = sum(record.status not in set(Outcome) for record in records)
    if not any(counts.values()) and not unheard:
        if shard is not None:
            return Verdict(ExitCode.HOLDS, f"shard {shard} alone: merge all for the whole")
        idle = _never_ran(records)
        if idle:
            return Verdict(ExitCode.FAILS, f"{', '.join(idle)} completed none of its cases")
        if not any(record.status == Outcome.PASSED for record in records):
            return Verdict(ExitCode.FAILS, "nothing passed, so nothing was shown")
        return Verdict(ExitCode.HOLDS)
    words = {
        Outcome.FAILED: "failed",
        Outcome.ERROR: "could not be judged",
        Outcome.XPASSED: "known failures passed: take them out of the profile",
    }
    parts = [f"{count} {words[outcome]}" for outcome, count in counts.items() if count]
    if unheard:
        parts.append(f"{unheard} with an unknown status")
    return Verdict(ExitCode.FAILS, ", ".join(parts))


def _never_ran(records: Iterable[Record]) -> list[str]:
    """Hooks that completed no case, all of them known failures: nothing about them was proved."""
    completed: dict[str, bool] = {}
    for record in records:
        if record.check == "completes" and record.claimed:
            passed = record.status == Outcome.PASSED
            completed[record.hook] = completed.get(record.hook, False) or passed
    return [hook for hook, any_passed in completed.items() if not any_passed]


_EVERYWHERE = (Mechanism.STUB, Mechanism.HALO, Mechanism.ATTENTION)
"""Mechanisms that every family has a probe of."""
_NEEDING_A_HALO = (Mechanism.HALO, Mechanism.UPSAMPLE, Mechanism.DOWNSAMPLE)
TRACE = 70.0
"""PSNR in dB above which a probe's difference may be a trace of wrong GroupNorm statistics: nets
that are to be blind to them let up to a ten-thousandth of the picture through, and a wrong gain as
it is. With every halo in place, a variance divided by one value less gives 79 dB in the probe of
the halo, and those of two ranks give 73 dB (xdit-project/DistVAE, layers/normalization.py)."""
EXACT = math.inf
"""PSNR of a probe whose result is as accurate as the VAE."""


@dataclass(frozen=True)
class Diagnosis:
    """Why a hook's results differ, for one family, layout, direction and mode."""

    hook: str
    family: str
    layout: str
    direction: str
    mode: str
    mechanism: Mechanism | None
    """The one that explains most of the difference; ``None`` where no probe differs."""
    further: tuple[Mechanism, ...]
    """Others that differ as well."""
    cases: int
    """How many cases it explains."""
    away: tuple[float, ...] = ()
    """PSNR in dB of the probes of all these mechanisms, the first one's first."""
    told: str = ""
    """What the check said, where every probe differs and tiles are not the cause."""
    unseen: tuple[Mechanism, ...] = ()
    """Mechanisms of every family whose probes were not judged: not selected, or ended early."""

    @property
    def strongest_first(self) -> tuple[tuple[Mechanism, float], ...]:
        """All mechanisms that differ with the PSNR of their probes; none where tiles are no cause.

        None comes before one that it is a consequence of: a hook without a halo also fails the
        probes of the resampling convolutions.
        """
        if self.told or self.mechanism is None:
            return ()
        named = (self.mechanism, *self.further)
        return tuple(zip(named, self.away, strict=True))

    @property
    def reason(self) -> str:
        """What the hook breaks, in words."""
        if self.told:
            return f"every net differs, and tiles are not the cause: {self.told}"
        if self.mechanism is None and self.unseen:
            names = ", ".join(self.unseen)
            return f"no probe that was judged differs; those of {names} were not"
        if self.mechanism is None:
            return "no probe differs, so the mechanism is unknown"
        also = ", ".join(self.further)
        return EXPLANATION[self.mechanism] + (f" (also differ: {also})" if also else "")


class Cause(NamedTuple):
    """What a hook breaks, in every place where it does."""

    hook: str
    reason: str
    """In words."""
    psnr: float
    """dB of the probe that is farthest off; infinite where no probe differs."""
    places: tuple[str, ...]
    """``sd, sdxl decode exact (ldm)``."""

    @property
    def sentence(self) -> str:
        """``diffusers: attention is computed per tile (its probe: 12.3 dB): sd decode exact``."""
        far = f" (its probe: {self.psnr:.1f} dB)" if 0 < self.psnr < EXACT else ""
        return f"{self.hook}: {self.reason}{far}: {'; '.join(self.places)}"


def causes(diagnoses: Iterable[Diagnosis]) -> tuple[Cause, ...]:
    """A cause a hook and mechanism, for each hook what is farthest off first."""
    where: dict[tuple[str, str], dict[str, list[str]]] = {}
    worst: dict[tuple[str, str], float] = {}
    order: dict[tuple[str, str], tuple[float, int]] = {}
    for found in diagnoses:
        reasons = [(EXPLANATION[each], psnr) for each, psnr in found.strongest_first]
        strength = 0.0
        for rank, (reason, psnr) in enumerate(reasons or [(found.reason, EXACT)]):
            key = (found.hook, reason)
            place = f"{found.direction} {found.mode} ({found.layout})"
            where.setdefault(key, {}).setdefault(place, []).append(found.family)
            strength = max(strength, psnr)  # so that a consequence stays behind its cause
            order[key] = min(order.get(key, (EXACT, rank)), (strength, rank))
            worst[key] = min(worst.get(key, EXACT), psnr)
    hooks = list(dict.fromkeys(hook for hook, _ in where))
    return tuple(
        Cause(
            hook,
            reason,
            worst[hook, reason],
            tuple(f"{', '.join(names)} {place}" for place, names in where[hook, reason].items()),
        )
        for hook, reason in sorted(where, key=lambda key: (hooks.index(key[0]), order[key]))
    )


def tell(diagnoses: Iterable[Diagnosis]) -> tuple[str, ...]:
    """A sentence a hook and mechanism, for each hook what is farthest off first."""
    return tuple(cause.sentence for cause in causes(diagnoses))


class _Place(NamedTuple):
    hook: str
    family: str
    layout: str
    direction: str
    mode: str


def diagnose(records: Iterable[Record]) -> list[Diagnosis]:
    """Name the mechanism that explains most of the inexact values, for every place with probes.

    Where all probes differ, and so do planes that one tile holds, or the results are of no use at
    all (of another dtype, say), it is none of them, and what the check said is told.

    This includes differences that the profile allows: adopters who promise ``degraded`` want to
    know why, too. Probes of mode exact stand in where a mode has none, and those of a family of the
    same build where a family has none.
    """
    failing: dict[_Place, dict[str, Record]] = {}
    probes: dict[_Place, dict[Mechanism, float]] = {}
    for record in records:
        placed = _placed(record)
        if placed is None:
            continue
        place, mechanism = placed
        judged = record.judged and record.grade is not None
        differs = judged and record.grade != Grade.EXACT
        if mechanism is not None:
            if record.check == "mechanism" and judged:
                found = probes.setdefault(place, {})
                told = record.metrics.get("psnr") if differs else EXACT
                psnr = float(told) if isinstance(told, int | float) else 0.0
                found[mechanism] = min(found.get(mechanism, EXACT), psnr)
        elif differs and record.check == "parity":
            failing.setdefault(place, {})[record.case] = record
    return [
        _diagnosed(place, known, tuple(cases.values()))
        for place, cases in failing.items()
        if (known := _probes_of(place, probes))
    ]


def _diagnosed(
    place: _Place, probes: Mapping[Mechanism, float], failing: tuple[Record, ...]
) -> Diagnosis:
    first, further = _explained(probes)
    away = () if first is None else tuple(probes[each] for each in (first, *further))
    unseen = tuple(mechanism for mechanism in _EVERYWHERE if mechanism not in probes)
    return Diagnosis(*place, first, further, len(failing), away, _told(probes, failing), unseen)


def _told(probes: Mapping[Mechanism, float], failing: Iterable[Record]) -> str:
    """What the check said where tiles are not the cause; empty where they are, or may be."""
    if Mechanism.STUB not in probes or EXACT in probes.values():
        return ""
    for record in failing:
        case = parse_case_id(record.case)
        whole = case is not None and max(case.height, case.width) <= case.tile
        if whole or record.grade == Grade.BROKEN:
            said, _, _ = record.message.partition("; should be ")
            return said.partition(" got ")[2] or said
    return ""


def _placed(record: Record) -> tuple[_Place, Mechanism | None] | None:
    parts = record.case.split("-")
    if len(parts) < 5:
        return None
    family, scale, layout, direction, mode = parts[:5]
    scale, _, part = scale.partition(".")
    if part and (scale != Scale.PROBE or "." in part):
        return None  # a scenario shows what goes wrong, but no probe explains it
    place = _Place(record.hook, family, layout, direction, mode)
    return place, Mechanism(part) if part else None


def _probes_of(
    place: _Place, probes: Mapping[_Place, Mapping[Mechanism, float]]
) -> Mapping[Mechanism, float]:
    """Probes of the place itself, of mode exact there, or of a family of the same build.

    Each with its PSNR, infinite where it is exact.
    """
    build = FAMILIES[place.family].build
    kin = (name for name, family in FAMILIES.items() if family.build == build)
    for family in (place.family, *kin):
        for mode in (place.mode, "exact"):
            found = probes.get(place._replace(family=family, mode=mode))
            if found:
                return found
    return {}


def _explained(
    probes: Mapping[Mechanism, float],
) -> tuple[Mechanism | None, tuple[Mechanism, ...]]:
    """The mechanism that explains most, and the others unless it implies them all.

    Probes show how much each mechanism alone spoils a picture, by their PSNR. What places tiles
    wrongly comes before all others, and the missing halo before the resampling that it spoils too.
    """
    differing = [mechanism for mechanism in EXPLANATION if probes.get(mechanism, EXACT) < EXACT]
    if Mechanism.GROUP_NORM in differing:
        leaks = {mechanism for mechanism in differing if probes[mechanism] > TRACE}
        differing = [m for m in differing if m is Mechanism.GROUP_NORM or m not in leaks]
    if not differing:
        return None, ()
    spoilt = [mechanism for mechanism in differing if mechanism in _NEEDING_A_HALO]
    halo = min(probes[mechanism] for mechanism in spoilt) if Mechanism.HALO in spoilt else None
    first, *others = sorted(
        differing,
        key=lambda mechanism: (
            mechanism is not Mechanism.STUB,
            halo if halo is not None and mechanism in spoilt else probes[mechanism],
            list(EXPLANATION).index(mechanism),
        ),
    )
    return first, () if first is Mechanism.STUB else tuple(others)
