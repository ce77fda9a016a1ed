"""What ``vae-compat list`` prints."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vae_compat.cases import Case, Direction, Layout, Mode, Scale
from vae_compat.explain import check_docs
from vae_compat.families import FAMILIES
from vae_compat.matrix import Selection, generate, is_claimed

if TYPE_CHECKING:
    from vae_compat.checks.registry import Check
    from vae_compat.subject.profile import Profile


def render(options: argparse.Namespace) -> str:
    """The list that was asked for, a line an item."""
    match options.what:
        case "families":
            lines = [f"{name:<8} {family.title}" for name, family in FAMILIES.items()]
        case "checks":
            lines = _checks(options)
        case "hooks":
            lines = _hooks()
        case _:
            lines = _cases(options)
    return "\n".join(lines) + "\n" if lines else ""


def cases_of(profile: Profile, options: argparse.Namespace, *, full: bool) -> tuple[Case, ...]:
    """The matrix of a profile, claimed and unclaimed, before any filter: what a run would make.

    The hook tells what modes it can be asked for. Raises ``UsageError``.
    """
    from vae_compat.device import open_device
    from vae_compat.subject.describing import described

    comfyui = None if options.comfyui is None else Path(options.comfyui)
    return generate(
        profile.claims,
        Layout(profile.hook.layout),
        options.device,
        open_device(options.device).dtypes,
        full=full,
        unclaimed_modes=described(profile, comfyui).modes,
    )


def selection_of(options: argparse.Namespace) -> Selection:
    """The filters of the options, which ``check_selection`` has found right."""
    return Selection(
        scales=frozenset(Scale(name) for name in options.scale or Scale),
        families=frozenset(options.families or ()),
        directions=frozenset(Direction(name) for name in options.directions or ()),
        modes=frozenset(Mode(name) for name in options.modes or ()),
    )


def _cases(options: argparse.Namespace) -> list[str]:
    from vae_compat.launch import check_selection, profiles

    check_selection(options)
    selection, checks = selection_of(options), _of_tiers(options.tier)
    lines: list[str] = []
    seen: set[str] = set()
    for profile in profiles(options):
        cases = [
            case
            for case in cases_of(profile, options, full=options.full)
            if selection.admits(case) and (not checks or _is_checked(profile, case, checks))
        ]
        if options.ids:
            lines += [case.id for case in cases if case.id not in seen]
            seen.update(case.id for case in cases)
            continue
        claimed = [is_claimed(profile.claims, case) for case in cases]
        lines.append(f"hook {profile.hook.name}: {_counts(cases, claimed)}")
        lines += [
            f"  {case.id}{'' if promise else '  (not claimed: must refuse or fall back)'}"
            for case, promise in zip(cases, claimed, strict=True)
        ]
    return lines


def _checks(options: argparse.Namespace) -> list[str]:
    from vae_compat.launch import check_selection

    check_selection(options)
    wanted = {check.name for check in _of_tiers(options.tier)}
    return [
        f"{name:<20} {_first_line(text)}"
        for name, text in check_docs().items()
        if not wanted or name in wanted
    ]


def _of_tiers(tiers: Sequence[str] | None) -> tuple[Check, ...]:
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
    from vae_compat.launch import load_subject, subject_folders
    from vae_compat.subject.profile import embedded_names

    lines = []
    for name in embedded_names(*subject_folders()):
        hook = load_subject(name).hook
        lines.append(f"{name:<14} {hook.entry} (kind {hook.kind}, layout {hook.layout})")
    return lines


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0]
