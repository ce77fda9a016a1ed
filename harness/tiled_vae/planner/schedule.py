"""Borders of tiles that keep their last rows and columns for the tiles after them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..program.steps import Step, Value
from ..program.window import Span, Window

Cuts = list[int]
"""Ascending borders between tiles along one axis, both ends included.

Equal neighbours denote an empty tile.
"""


def schedule(
    steps: Sequence[Step],
    output: Value,
    cuts: Cuts,
    demand: bool,
    size: Callable[[Value], int],
    window: Callable[[Step], Window],
) -> dict[Value, Cuts]:
    """Borders of every value along one axis.

    With ``demand``, ``cuts`` are the output's borders, and earlier values are computed as far
    ahead as it needs. Without, they are the input's borders, and later values lag behind.
    """
    borders: dict[Value, Cuts] = {}
    if demand:
        borders[output] = cuts
        for step in reversed(steps):
            for value in step.inputs:
                need = [window(step).demand(stop, size(value)) for stop in borders[step.output]]
                known = borders.get(value, need)
                borders[value] = [max(a, b) for a, b in zip(known, need, strict=True)]
        return borders
    for step in steps:
        ready: list[Cuts] = []
        for value in step.inputs:
            have = borders.setdefault(value, cuts)
            ready.append([window(step).ready(stop, size(value)) for stop in have])
        borders[step.output] = [min(stops) for stops in zip(*ready, strict=True)]
    return borders


class Axis:
    """Borders of an input along one axis, and the first pixel that later tiles still need."""

    def __init__(self, borders: Cuts, out: Cuts, window: Window, size: int) -> None:
        self.borders = borders
        self.count = len(borders) - 1
        ended = window.length(size)
        self.keep = [
            have if done >= ended else min(window.oldest(done, size), have)
            for have, done in zip(borders, out, strict=True)
        ]

    def keeps(self, index: int) -> bool:
        """Whether the tiles after one need any of its pixels."""
        return self.keep[index + 1] < self.borders[index + 1]

    def held(self, index: int) -> Span:
        """The pixels available to a tile."""
        return Span(self.keep[index], self.borders[index + 1])
