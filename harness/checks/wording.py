"""The one grammar of messages: what was got, what it should be, where, and how to repeat it."""

from __future__ import annotations

from vae_compat.measure.observation import Observed


def deviation(observation: Observed, got: str, should: str, where: str = "") -> str:
    """``decode got ...; should be ...; at ...; repeat: ...``."""
    parts = [f"{observation.case.direction} got {got}", f"should be {should}"]
    if where:
        parts.append(f"at {where}")
    return "; ".join([*parts, *repeat(observation)])


def repeat(observation: Observed) -> list[str]:
    """The command that repeats the case, where one is known."""
    return [f"repeat: {observation.repeat}"] if observation.repeat else []


def shape(size: tuple[int, ...] | None) -> str:
    """``1x3x128x128``."""
    return "x".join(map(str, size)) if size else "no shape" if size is None else "a scalar"


def number(value: float | None) -> str:
    """Three significant digits, or ``not measured``."""
    return "not measured" if value is None else f"{value:.3g}"


def mebibytes(count: int | None) -> str:
    """``1.5 MiB``, or ``not measured``."""
    return "not measured" if count is None else f"{count / 2**20:.3g} MiB"
