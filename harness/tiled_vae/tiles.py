"""Partitions of a plane: every pixel in exactly one tile."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .window import Span

Cell = tuple[Span, Span]
"""Rows and columns."""


def cuts(size: int, tile: int) -> list[int]:
    """Borders of tiles of at most ``tile`` pixels, as even as whole multiples of it allow."""
    return [*range(0, size, max(tile, 1)), size]


def grid(height: int, width: int, tile: int) -> list[Cell]:
    """Square tiles, row by row; the last ones may be narrower."""
    rows, cols = cuts(height, tile), cuts(width, tile)
    return [
        (Span(*rows[i : i + 2]), Span(*cols[j : j + 2]))
        for i in range(len(rows) - 1)
        for j in range(len(cols) - 1)
    ]


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
    """Tiles that are small where there is much to see.

    ``content`` is ``B C [T] H W``. The plane is cut into squares of ``tile``; the square is then
    quartered while its standard deviation exceeds ``threshold`` times that of the plane, at most
    ``depth`` times, and never below ``smallest`` pixels along a side. Borders fall on multiples
    of ``align``.
    """
    values = content.detach().float()
    if values.dim() == 5:
        values = values.flatten(1, 2)
    spread = float(values.std(dim=(0, 2, 3), correction=0).mean())
    height, width = values.shape[2:]
    tile = max(tile // align * align, align)
    smallest = max(smallest, align)
    cells: list[Cell] = []
    for rows, cols in grid(height, width, tile):
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
