"""Scenario strip: a plane that is long along one axis, in tiles of two sizes, for its counters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vae_compat.contracts.cases import Case
from vae_compat.contracts.promise import Promise
from vae_compat.device.meter import Reading, largest_plane
from vae_compat.measure.observation import Observed, untold
from vae_compat.scenarios.performed import Called, Played, taken_by
from vae_compat.scenarios.scene import Scene
from vae_compat.scenarios.stage import Player, Stage
from vae_compat.scenarios.usage import call, units_of

if TYPE_CHECKING:
    from vae_compat.measure.bench import Bench  # the judge's alone


GROWTH = 1.5
"""By how many latent pixels the tiles that run may grow for each one that is asked for, and how
many times the area that is asked for they may have. The value is a choice between two: evened-out
tiles may be smaller than was asked by an overlap, a quarter of a tile, for one size and not for the
other, and grow by 1.25; tiles of twice the size that is asked for grow by 2."""


MEMORY_GROWTH = 1.1
"""How many times the memory of the smaller tiles the larger ones take at least. Nothing but the
size that is asked for differs between the calls: a hook that never reads it takes the same to the
byte, and a result that rests on the device is part of both."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StripObserved(Observed):
    """How far the largest tiles reached along the longer side of the plane."""

    doing: str = ""
    """Which call ended early: ``tiles of 8 latent pixels``."""

    reached: tuple[float, ...] = ()
    """Latent pixels, for the tile size of the case and for twice that; 0 where no convolution ran.
    """
    sides: tuple[float, float] | None = None
    """Height and width in latent pixels of the largest tile of the first size on a plane that is
    long both ways; ``None`` where it was not asked for.
    """
    taken: tuple[int, ...] = ()
    """Bytes on the device at the peaks, above what was there before, for both sizes; none where
    the device cannot measure them, or where the larger tile was seen on a longer strip.
    """

    @property
    def most(self) -> float:
        """How far tiles of the second size reach at most, if they are as long as was asked."""
        return self.reached[0] + GROWTH * self.case.tile

    @property
    def follows(self) -> bool:
        """Whether tiles are about as long as was asked, for both sizes.

        A hook may compute a tile piece by piece: pieces are no longer than a tile, whatever its
        size, and only the memory of a tile tells how large it is.
        """
        first, second = self.reached
        grows = first < second or (first == second and self.takes_more)
        return first <= longest_of(self.case) and grows and second <= self.most

    @property
    def takes_more(self) -> bool:
        """Whether tiles of twice the size take more memory."""
        first, second = self.taken or (0, 0)
        return second > MEMORY_GROWTH * first

    @property
    def keeps_area(self) -> bool:
        """Whether tiles are as much shorter across as they are longer than was asked."""
        return self.sides is not None and self.area <= GROWTH * self.case.tile**2

    @property
    def area(self) -> float:
        """Square latent pixels of the largest tile on a plane that is long both ways, less its
        halo: less what is added to each size alike, along the strip.
        """
        first, second = self.reached
        halo = max(0.0, first - (second - first))
        height, width = self.sides or (0.0, 0.0)
        return max(1.0, height - halo) * max(1.0, width - halo)

    @property
    def axis(self) -> str:
        """The longer side: ``height`` or ``width``."""
        return "height" if self.case.height > self.case.width else "width"


class Strip(Scene):
    """The same plane in tiles of the case's size, and in tiles twice as large.

    A hook that takes both sides of a tile is given the other size across the strip, where nothing
    is cut: one that mistakes one side for the other shows. Where the larger tile covers the strip,
    another twice as long shows how far it reaches. Where tiles are longer than was asked, a plane
    that is long both ways shows whether they are as much shorter across.
    """

    def perform(self, stage: Stage) -> Played:
        """Make the calls, up to one that fails."""
        with stage.play() as player:
            smaller, larger = both_sizes(player.case)
            if not (_cut(player, smaller, larger) and _cut(player, larger, smaller)):
                return player.played
            longer = _planes(smaller, player.played.calls) > len(player.played.calls)
            if longer and not _cut(player, _twice_as_long(larger), smaller):
                return player.played
            seen = _reached_in(player.case, stage.promise, player.played)
            if not seen.follows and seen.reached[0] < seen.reached[1]:
                x = _broadened(player, seen.reached[0] + smaller.tile)
                _cut(player, smaller, smaller, x, " on a plane that is long both ways")
        return player.played

    def examine(
        self, case: Case, promise: Promise, performed: Played, bench: Bench
    ) -> StripObserved:
        """Look at the planes of the convolutions alone: other cases judge the values."""
        del bench
        ended = next((made for made in performed.calls if made.failure is not None), Called())
        failure = ended.failure
        if failure is None and len(performed.calls) < _planes(case, performed.calls):
            failure = untold("the runner told nothing of one of the tile sizes")
        found = _reached_in(case, promise, performed)
        return replace(found, failure=failure, doing=ended.what)


def both_sizes(case: Case) -> tuple[Case, Case]:
    """The case, and the same with tiles twice as large."""
    return case, replace(case, tile=2 * case.tile)


def longest_of(case: Case) -> int:
    """Latent pixels to which a tile with the widest useful halo on either side reaches."""
    return case.tile + 2 * case.facts.widest_halo


def _twice_as_long(case: Case) -> Case:
    if case.height > case.width:
        return replace(case, height=2 * case.height)
    return replace(case, width=2 * case.width)


def _planes(case: Case, calls: Sequence[Called]) -> int:
    """How many calls tell how far tiles reach: one more where only the larger cover the strip."""
    count = len(both_sizes(case))
    smaller, *larger = [_reached(made.reading, case) for made in calls[:count]] or [0.0]
    return count + any(smaller < reached >= max(case.height, case.width) for reached in larger)


def _cut(player: Player, case: Case, other: Case, x: Tensor | None = None, plane: str = "") -> bool:
    """Make a call in tiles of one size, and of the other across; whether it came back."""
    told = f"tiles of {case.tile} latent pixels{plane}"
    sides = _sides(player, case.tile, other.tile)
    x = player.x(case) if x is None else x
    return call(player, told, x=x, case=case, settings=sides).failure is None


def _broadened(player: Player, side: float) -> Tensor:
    """The strip, again and again beside itself, until the shorter side is so long as well."""
    high = player.case.height > player.case.width
    times = math.ceil(side / min(player.case.height, player.case.width))
    x = player.stage.models.make_input(player.case)
    return player.device.put(torch.cat([x] * times, -1 if high else -2))


def _sides(player: Player, along: int, across: int) -> dict[str, int]:
    """The settings of a tile that is so long along the strip, and has another size across it."""
    high = player.case.height > player.case.width
    return units_of(player).sides(*((along, across) if high else (across, along)))


def _reached_in(case: Case, promise: Promise, performed: Played) -> StripObserved:
    """What the counters of the calls say."""
    calls = performed.calls
    planes = _planes(case, calls)
    seen = calls[:planes]
    reached = [_reached(made.reading, case) for made in seen]
    del reached[1:-1]  # the strip that the larger tile has covered, where there is a longer one
    sides = None
    if len(calls) > planes:
        height, width = largest_plane(calls[-1].reading.convolutions)
        sides = height / _scale(case), width / _scale(case)
    return StripObserved(
        case=case,
        promise=promise,
        reached=tuple(reached),
        sides=sides,
        taken=taken_by(seen) if len(seen) == planes == len(both_sizes(case)) else (),
    )


def _reached(reading: Reading, case: Case) -> float:
    """The longest side of a plane that a convolution wrote along the strip, in latent pixels.

    That is a side of the finest plane. A hook may well cut small planes into larger tiles. A
    product in the place of a convolution tells how many pixels it wrote: as many as the strip is
    broad, side by side.
    """
    axis, scale = (0 if case.height > case.width else 1), _scale(case)
    convolutions, products = reading.convolved
    sides = [float(ran.plane[axis]) for ran in convolutions]
    broad = min(case.height, case.width) * scale
    sides += [max(ran.rows, ran.columns) / broad for ran in products]
    return max(sides, default=0.0) / scale


def _scale(case: Case) -> int:
    """Pixels of the finest plane to a latent pixel, along one side."""
    return case.facts.ratio // case.facts.patch
