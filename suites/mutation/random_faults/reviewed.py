"""Surviving mutants that are not faults: code or a value differs, and the hook is still sound."""

from __future__ import annotations

from vae_compat.reports.kill_matrix import Mutant
from vae_compat.subject.profile import KnownFailure

_BORDERS = (
    "decides where tiles are cut and nothing else: the plane is still covered once, the result is "
    "as near to the truth, and no counter is worse"
)
_CUTTING = (
    *(f"Planner.{name}" for name in ("side", "nominal", "most", "cells", "borders")),
    *(f"Planner.{name}" for name in ("bands", "band", "visit", "tile", "made")),
    "tiles.cuts",
    "BandPlan.bands",
    "bandplan.even",
)
REVIEWED: tuple[KnownFailure, ...] = (
    *(
        KnownFailure(f"reference: *{function}{follows}*", _BORDERS)
        for function in _CUTTING
        for follows in "(:"  # a value of it, or a line
    ),
    KnownFailure(
        "reference: swap *VAEHook.__init__(skip_zeros) *",
        "an option of the hook: taps that would meet padding alone are left out, to the same end",
    ),
    KnownFailure(
        "* scale *.normalise(h) *", "GroupNorm takes a scale of its input out again, but for eps"
    ),
)
"""Hook, operator and place, with ``*`` for anything, and why it is not a fault, found by review."""


def why_sound(mutant: Mutant) -> str:
    """Why a survivor is sound, as found by review; empty if it was not reviewed, or is a fault."""
    told = f"{mutant.hook}: {mutant.operator} {mutant.place}"
    return next((entry.reason for entry in REVIEWED if entry.matches(told)), "")
