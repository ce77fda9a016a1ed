"""A picture moved by a latent pixel through the family's local probes: the result moves with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from vae_compat.contracts.cases import Case, Direction, Mechanism, Scale
from vae_compat.device.meter import largest_plane
from vae_compat.families import Family
from vae_compat.scenarios.comparison import compared
from vae_compat.scenarios.relation import Compared, Relation, Runs, rounding
from vae_compat.scenarios.results import Results

LEAK = 1e-4
"""Influence of the picture that remains in a GroupNorm made blind to it (``fixtures.probes``)."""
MOVING = (Mechanism.STUB, Mechanism.HALO)
"""Probes whose pixels depend on nearby pixels only."""


def _play(runs: Runs) -> None:
    for case in moving_cases(runs.case):
        here, there = moved(case, runs.x)
        runs.run(here, case=case)
        runs.run(there, case=case)


def _compare(results: Results) -> Compared:
    found, empty = [], ""
    for number, case in enumerate(moving_cases(results.case)):
        here, there = 2 * number, 2 * number + 1
        bound = rounding(results, there)
        bound = bound if case.facts.local_norms else max(LEAK, bound)
        what = f"the {case.mechanism} probe and the same moved by one latent pixel"
        common = in_common(case, results.output(here), results.output(there))
        found.append(compared(what, *common, bound))
        _, untiled = results.metered(case, moved(case, results.x)[0])
        ours, whole = (
            math.prod(largest_plane(reading.convolutions))
            for reading in (results.call(here).reading, untiled)
        )
        if ours >= whole:
            empty = f"tiles did not run ({case.mechanism} probe)"
    return found, empty


def moving_cases(case: Case) -> tuple[Case, ...]:
    """The probes on which a picture is moved."""
    local = (mechanism for mechanism in MOVING if is_local(case.facts, mechanism))
    return tuple(moving(case, mechanism) for mechanism in local)


SHIFT = Relation(_play, _compare, others=moving_cases)


def is_local(family: Family, mechanism: Mechanism) -> bool:
    """Whether the probe of a family depends on nearby pixels only.

    The probe of the halo does not where there are GroupNorms: their remaining influence adds up.
    """
    return mechanism in MOVING and (mechanism is Mechanism.STUB or family.local_norms)


def reach_of(family: Family, mechanism: Mechanism) -> int:
    """The largest distance at which a pixel of such a probe sees others, in latent pixels."""
    return family.receptive_field if mechanism is Mechanism.HALO else 0


def moving(case: Case, mechanism: Mechanism) -> Case:
    """A probe of the family on the plane of the case, enlarged by the probe's reach."""
    width = case.width + 2 * max(reach_of(case.facts, mechanism) - case.tile, 0)
    return replace(case, scale=Scale.PROBE, mechanism=mechanism, scenario=None, width=width)


def moved(case: Case, make_input: Callable[[Case], Tensor]) -> tuple[Tensor, Tensor]:
    """Two parts of one picture, the second a latent pixel further right, and down as well."""
    unit = case.facts.ratio if case.direction is Direction.ENCODE else 1
    rows, cols = _steps(case)
    larger = make_input(replace(case, height=case.height + rows, width=case.width + cols))
    there, here = _overlapping(larger, larger, rows * unit, cols * unit)
    return here.contiguous(), there.contiguous()


def in_common(case: Case, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The part that two results share, without the pixels affected by a border of their planes."""
    unit = 1 if case.direction is Direction.ENCODE else case.facts.ratio
    rows, cols = (step * unit for step in _steps(case))
    here, there = _overlapping(first, second, rows, cols)
    assert case.mechanism is not None
    reach = reach_of(case.facts, case.mechanism) * unit
    inner = slice(reach, -reach or None)
    across, down = inner, inner if rows else slice(None)
    return here[..., down, across], there[..., down, across]


def _overlapping(first: Tensor, second: Tensor, rows: int, cols: int) -> tuple[Tensor, Tensor]:
    """``first`` without its upper left border, ``second`` without its lower right one."""
    height, width = second.shape[-2:]
    return first[..., rows:, cols:], second[..., : height - rows, : width - cols]


def _steps(case: Case) -> tuple[int, int]:
    """Latent pixels by which a picture moves down and right; 0 down where no rows are left."""
    assert case.mechanism is not None
    return int(2 * reach_of(case.facts, case.mechanism) < case.height - 1), 1
