"""Which values are stored as whole planes, and which steps lie between them."""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from ..program.steps import Attend, Norm, Program, Reshuffle, Step, Value

REST, CARRY, BANDS = "rest", "carry", "bands"
"""Methods: store planes between convolutions, or carry borders in line buffers; or store planes
with channels innermost and go by bands of full rows."""


@dataclass(frozen=True)
class Segment:
    """The steps that compute one stored value from other stored values."""

    output: Value
    steps: tuple[Step, ...]
    carried: bool
    """Whether tiles keep their borders in line buffers. Otherwise each recomputes its halo."""

    @property
    def convolutions(self) -> int:
        """How many of the steps look at neighbours."""
        return sum(not (step.rows.local and step.cols.local) for step in self.steps)

    @cached_property
    def sources(self) -> Set[Value]:
        """Stored values that the steps read."""
        made = {step.output for step in self.steps}
        return {value for step in self.steps for value in step.inputs} - made


def segments(program: Program, method: str, given: Collection[nn.Module]) -> list[Segment]:
    """Cut a program into segments.

    ``given`` are the norms whose statistics are known beforehand. A norm over the plane without
    them needs its input as a stored plane, and so does attention.
    """
    stored = stored_values(program, given, rest=method == REST)
    while True:
        found = [closure(program, value, stored, method) for value in sorted(stored)]
        owners: dict[Value, Value] = {}
        shared: set[Value] = set()
        for segment in found:
            for step in segment.steps:
                if owners.setdefault(step.output, segment.output) != segment.output:
                    shared.add(step.output)
        shared = {value for value in shared if program.steps[value - 1].costly} - stored
        if not shared:
            return found
        stored |= shared


def stored_values(program: Program, given: Collection[nn.Module], rest: bool) -> set[Value]:
    """Values that have to be stored as planes, the output included."""
    stored = {program.output}
    dirty = [False]
    stops = any(isinstance(step, Norm) and needs_plane(step, given) for step in program.steps)
    for step in program.steps:
        spatial = needs_plane(step, given)
        looks = isinstance(step, Norm | Reshuffle) or not step.rows.local or not step.cols.local
        looks = looks or step.costly
        # A plane is small before it is upsampled: storing it costs little and allows larger tiles.
        grows = stops and max(step.rows.up, step.cols.up) > 1
        for value in step.inputs:
            if value and (spatial or (((rest and looks) or grows) and dirty[value])):
                stored.add(value)
                dirty[value] = False
        if isinstance(step, Attend):
            stored.add(step.output)
        dirty.append(step.costly or any(dirty[value] for value in step.inputs))
        if isinstance(step, Attend):
            dirty[step.output] = False
    return stored


def needs_plane(step: Step, given: Collection[nn.Module]) -> bool:
    """Whether a step has to see a whole plane before its first pixel."""
    if isinstance(step, Attend):
        return True
    return isinstance(step, Norm) and step.spatial and step.module not in given


def closure(program: Program, value: Value, stored: Collection[Value], method: str) -> Segment:
    """All steps that lead from stored values to ``value``."""
    wanted, found = [value], set()
    while wanted:
        each = wanted.pop()
        if each == 0 or each in found or (each in stored and each != value):
            continue
        found.add(each)
        wanted.extend(program.steps[each - 1].inputs)
    steps = tuple(program.steps[each - 1] for each in sorted(found))
    segment = Segment(value, steps, carried=False)
    carried = method == CARRY and segment.convolutions > 1
    return Segment(value, steps, carried)
