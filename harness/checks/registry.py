"""All checks, in the order in which their findings are told."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

from vae_compat.checks import (
    caches,
    clips,
    contract,
    cost,
    counters,
    estimated,
    mechanism,
    output,
    parity,
    phases,
    picture,
    plain_tiles,
    refusal,
    relations,
    sequences,
    side_effects,
    tiles,
    usage,
)
from vae_compat.checks.declaring import Check
from vae_compat.contracts.finding import Tier

__all__ = ["BY_NAME", "CHECKS", "Check"]

_MODULES = (
    contract,
    output,
    tiles,
    parity,
    picture,
    plain_tiles,
    cost,
    counters,
    estimated,
    side_effects,
    refusal,
    mechanism,
    usage,
    clips,
    caches,
    phases,
    sequences,
    relations,
)
"""From the most basic property to the most special: it runs, its output has the right form and
values, it costs little, it has no side effects, and so on. Within a module the order is that of the
source."""


def _declared_in(module: ModuleType) -> Iterator[Check]:
    """The checks of a module, without those that it imports."""
    for value in vars(module).values():
        if isinstance(value, Check) and value.answer.__module__ == module.__name__:
            yield value


CHECKS: tuple[Check, ...] = tuple(
    check
    for tier in Tier
    for module in _MODULES
    for check in _declared_in(module)
    if check.tier is tier
)
"""Ordered by tier, then as above."""
BY_NAME = {check.name: check for check in CHECKS}
