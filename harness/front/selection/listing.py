"""What ``vae-compat list`` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vae_compat.checks.metrics import METRICS, line_of
from vae_compat.contracts.cases import Case
from vae_compat.families import FAMILIES
from vae_compat.families.installed import left_out
from vae_compat.front.explaining.explain import check_docs
from vae_compat.front.selection.cases import cases_of, left_out_of
from vae_compat.front.selection.options import Options
from vae_compat.front.selection.sharding import groups_of
from vae_compat.front.selection.subjects import load_subject, resolve, subject_folders
from vae_compat.front.selection.validation import (
    check_known_failures,
    check_profiles,
    check_selection,
    check_some,
)
from vae_compat.matrix import is_claimed
from vae_compat.subject.profile import Profile, embedded_names

if TYPE_CHECKING:
    from vae_compat.checks.registry import Check


def render(options: Options, what: str = "cases", *, ids: bool = False) -> str:
    """The requested list, one item a line; ``ids`` are plain case ids.

    Raises ``UsageError`` for what a run would refuse.
    """
    match what:
        case "families":
            lines = [f"{name:<8} {family.title}" for name, family in FAMILIES.items()]
            lines += left_out().values()
        case "checks":
            lines = _checks(options)
        case "metrics":
            lines = [line_of(name) for name in METRICS]
        case "hooks":
            lines = _hooks()
        case _:
            lines = _cases(options, ids=ids)
    return "\n".join(lines) + "\n" if lines else ""


def _cases(options: Options, *, ids: bool) -> list[str]:
    check_selection(options)
    found = resolve(options)
    for under in found:
        anywhere = cases_of(under, options, full=True, anywhere=True)
        check_known_failures(under.profile, [case.id for case in anywhere])
    check_profiles([under.profile for under in found])
    selection = options.selection
    # A shard is a part of what a run checks, which is not every tier unless it is asked for.
    checks = _of_tiers(options.tiers if options.shard is None else options.tiers_to_run)
    selected = [
        (
            under.profile,
            [
                case
                for case in cases_of(under, options, full=options.full)
                if selection.admits(case)
                and (not checks or _is_checked(under.profile, case, checks))
            ],
        )
        for under in found
    ]
    mine = None if options.shard is None else groups_of(options, selected)
    lines: list[str] = []
    listed: list[Case] = []
    seen: set[str] = set()
    for profile, whole in selected:
        cases = [case for case in whole if mine is None or case.truth_id in mine]
        listed += cases
        if ids:
            lines += [case.id for case in cases if case.id not in seen]
            seen.update(case.id for case in cases)
            continue
        claimed = [is_claimed(profile.claims, case) for case in cases]
        lines.append(f"hook {profile.hook.name}: {_counts(cases, claimed)}")
        lines += [
            f"  {case.id}{'' if promise else '  (not claimed: must refuse or fall back)'}"
            for case, promise in zip(cases, claimed, strict=True)
        ]
    missing = left_out_of(found, options)
    check_some(listed, missing)
    return lines if ids else [*lines, *missing]


def _checks(options: Options) -> list[str]:
    check_selection(options)
    wanted = {check.name for check in _of_tiers(options.tiers)}
    return [
        f"{name:<20} {_first_line(text)}"
        for name, text in check_docs().items()
        if not wanted or name in wanted
    ]


def _of_tiers(tiers: Sequence[str]) -> tuple[Check, ...]:
    """The checks of these tiers; none where none are asked for, which needs no torch."""
    if not tiers:
        return ()
    from vae_compat.checks.registry import CHECKS

    return tuple(check for check in CHECKS if check.tier in tiers)


def _is_checked(profile: Profile, case: Case, checks: Sequence[Check]) -> bool:
    promise = profile.promise(case)
    return any(check.applies(case, promise) for check in checks)


def _counts(cases: Sequence[Case], claimed: Sequence[bool]) -> str:
    scales = Counter(str(case.scale) for case in cases)
    words = ", ".join(f"{count} {scale}" for scale, count in scales.items())
    return f"{len(cases)} cases ({words}), {sum(claimed)} of them claimed" if cases else "no cases"


def _hooks() -> list[str]:
    lines = []
    for name in embedded_names(*subject_folders()):
        hook = load_subject(name).hook
        lines.append(f"{name:<14} {hook.entry} (kind {hook.kind}, layout {hook.layout})")
    return lines


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0]
