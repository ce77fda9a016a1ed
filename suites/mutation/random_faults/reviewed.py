"""Survivors that are no faults: other code or another value, and a hook as sound as before."""

from __future__ import annotations

from vae_compat.reports.kill_matrix import Mutant
from vae_compat.subject.profile import KnownFailure

_BORDERS = (
    "decides where tiles are cut and nothing else: the plane is still covered once, the result is "
    "as near to the truth, and no counter is worse"
)
_CUTTING = (
    *(f"plan.Planner.{name}" for name in ("side", "nominal", "most", "cells", "borders")),
    *(f"plan.Planner.{name}" for name in ("bands", "band", "visit", "tile", "made")),
    "tiles.cuts",
)
REVIEWED: tuple[KnownFailure, ...] = (
    *(
        KnownFailure(f"reference: * {function}{follows}*", _BORDERS)
        for function in _CUTTING
        for follows in "(:"  # a value of it, or a line
    ),
    KnownFailure(
        "reference: swap hook.VAEHook.__init__(skip_zeros) *",
        "an option of the hook: taps that would meet padding alone are left out, to the same end",
    ),
    KnownFailure(
        "* scale *.normalise(h) *", "GroupNorm takes a scale of its input out again, but for eps"
    ),
)
"""Hook, operator and place, with ``*`` for anything, and why it is no fault. Found by reading."""


def why_sound(mutant: Mutant) -> str:
    """What the reading of a survivor has found; empty where it wasn't read, or is a fault."""
    told = f"{mutant.hook}: {mutant.operator} {mutant.place}"
    return next((entry.reason for entry in REVIEWED if entry.matches(told)), "")
