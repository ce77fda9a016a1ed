"""The one grammar of messages: what was got, what it should be, where, and how to repeat it."""

from __future__ import annotations

from vae_compat.measure.observation import Failure, Observed, Origin
from vae_compat.text import told_apart as apart

__all__ = [
    "IN",
    "apart",
    "deviation",
    "ended_by",
    "mebibytes",
    "mebibytes_apart",
    "nothing_to_judge",
    "number",
    "over",
    "raised",
    "raised_at",
    "shape",
]


IN = "in: "
"""Comes before the name of a call of a scenario, where a message says which one it is about."""


def deviation(observation: Observed, got: str, should: str, where: str = "") -> str:
    """``decode got ...; should be ...; at ...; repeat: ...``, or ``in: ...`` for a call."""
    parts = [f"{observation.case.direction} got {got}", f"should be {should}"]
    if where:
        parts.append(where if where.startswith((IN, "along ")) else f"at {where}")
    return "; ".join([*parts, *_repeat(observation)])


def nothing_to_judge(observation: Observed, why: str, blocked_by: str | None) -> str:
    """``not judged: ... (see ...); repeat: ...``."""
    see = f" (see {blocked_by})" if blocked_by else ""
    return "; ".join([f"not judged: {why}{see}", *_repeat(observation)])


def _repeat(observation: Observed) -> list[str]:
    """The command that repeats the case, where one is known."""
    return [f"repeat: {observation.repeat}"] if observation.repeat else []


def raised(failure: Failure) -> str:
    """``ValueError: only 4-D latents``."""
    return f"{failure.kind}: {failure.message or '(no message)'}"


def raised_at(failure: Failure) -> str:
    """``ValueError: only 4-D latents (hook.py:12)``."""
    return raised(failure) + (f" ({failure.where})" if failure.where else "")


def ended_by(failure: Failure) -> str:
    """Why a run gave no result, in a few words: another check of the same case tells the rest."""
    by_hook = failure.origin is Origin.HOOK
    return f"the hook raised {failure.kind}" if by_hook else failure.message


def shape(size: tuple[int, ...] | None) -> str:
    """``1x3x128x128``."""
    return "x".join(map(str, size)) if size else "no shape" if size is None else "a scalar"


def number(value: float | None) -> str:
    """Three significant digits, or ``not measured``."""
    return "not measured" if value is None else f"{value:.3g}"


def over(value: float, floor: float, bound: float) -> str:
    """``, 8.0003 x floor``: told apart from the bound; nothing where there is no floor."""
    return f", {apart(value / floor, bound)[0]} x floor" if floor else ""


def mebibytes(count: int | None) -> str:
    """``1.5 MiB``, or ``not measured``."""
    return "not measured" if count is None else f"{count / 2**20:.3g} MiB"


def mebibytes_apart(count: int, bound: int) -> tuple[str, str]:
    """Two sizes, with as many digits more as it takes to tell them apart."""
    ours, theirs = apart(count / 2**20, bound / 2**20)
    return f"{ours} MiB", f"{theirs} MiB"
