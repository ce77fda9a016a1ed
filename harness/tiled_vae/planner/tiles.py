"""Partitions of a plane: every pixel in exactly one tile."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ..program.window import Span

Cell = tuple[Span, Span]
"""Rows and columns."""


def cuts(size: int, tile: int, unit: int = 0, smallest: int = 1) -> list[int]:
    """Borders of as few tiles of at most ``tile`` pixels as possible, all of about the same size.

    Borders fall on multiples of ``unit``. Without one, borders of large tiles fall on multiples of
    8, which convolution libraries run faster. To avoid a tile smaller than ``smallest``, a tile may
    become larger than ``tile``.
    """
    if not unit:
        unit = next(step for step in (8, 4, 2, 1) if step == 1 or (tile % step == 0 and tile >= 64))
    units = -(-size // unit)
    count = -(-units // max(tile // unit, 1))
    count = max(min(count, size // max(smallest, 1)), 1)
    return [*(part * units // count * unit for part in range(count)), size]


def grid(height: int, width: int, tile: int) -> list[Cell]:
    """Tiles of at most ``tile`` pixels a side, row by row."""
    return crossed(cuts(height, tile), cuts(width, tile))


def crossed(rows: list[int], cols: list[int]) -> list[Cell]:
    """The tiles between borders, row by row."""
    spans = [[Span(*pair) for pair in pairwise(borders)] for borders in (rows, cols)]
    return [(row, col) for row in spans[0] for col in spans[1]]


def scaled(cells: list[Cell], old: tuple[int, int], new: tuple[int, int]) -> list[Cell]:
    """The same partition on a plane of another resolution. Tiles that vanish are left out.

    Borders are mapped one by one and the last one to the end of the plane, so that the result is
    a partition again, whatever the rounding.
    """
    moved = [
        tuple(
            Span(*(move(border, before, after) for border in span))
            for span, before, after in zip(cell, old, new, strict=True)
        )
        for cell in cells
    ]
    return [(rows, cols) for rows, cols in moved if rows.size and cols.size]


def move(border: int, before: int, after: int) -> int:
    """A border between 0 and ``before`` on a plane of ``after`` pixels."""
    if border >= before:
        return after
    factor = after / before
    if factor >= 1:
        return min(border * round(factor), after)
    return min(border // round(1 / factor), after)


def quadtree(
    content: Tensor, tile: int, *, align: int, threshold: float, depth: int, smallest: int
) -> list[Cell]:
    """Tiles that are small where there is much detail.

    ``content`` is ``B C [T] H W``. The plane is cut into tiles of at most ``tile`` pixels a side;
    each is then quartered while its standard deviation exceeds ``threshold`` times that of the
    plane, at most ``depth`` times, and never below ``smallest`` pixels a side. Borders fall on
    multiples of ``align``.
    """
    values = content.detach().float()
    if values.dim() == 5:
        values = values.flatten(1, 2)
    spread = float(values.std(dim=(0, 2, 3), correction=0).mean())
    height, width = values.shape[2:]
    smallest = max(smallest, align)
    cells: list[Cell] = []
    for rows, cols in crossed(*(cuts(side, tile, align, smallest) for side in (height, width))):
        cells.extend(_quartered(values, rows, cols, threshold * spread, align, depth, smallest))
    return cells


def _quartered(
    values: Tensor, rows: Span, cols: Span, limit: float, align: int, depth: int, smallest: int
) -> Iterator[Cell]:
    middles = [span.start + (span.size // 2 + align - 1) // align * align for span in (rows, cols)]
    halves = [
        min(middle - span.start, span.stop - middle)
        for middle, span in zip(middles, (rows, cols), strict=True)
    ]
    part = values[..., slice(*rows), slice(*cols)]
    if depth <= 0 or min(halves) < smallest or not _busy(part, limit):
        yield rows, cols
        return
    for upper in (Span(rows.start, middles[0]), Span(middles[0], rows.stop)):
        for side in (Span(cols.start, middles[1]), Span(middles[1], cols.stop)):
            yield from _quartered(values, upper, side, limit, align, depth - 1, smallest)


def _busy(part: Tensor, limit: float) -> bool:
    deviation = part.std(dim=(0, 2, 3), correction=0).mean()
    return bool(torch.isfinite(deviation)) and float(deviation) > limit
