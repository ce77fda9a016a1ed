"""Scenario strip: a plane that is long along one axis, in tiles of two sizes, for its counters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vae_compat.contracts.cases import Case
from vae_compat.contracts.promise import Promise
from vae_compat.device.meter import Reading
from vae_compat.measure.observation import Observed, untold
from vae_compat.scenarios.performed import Played
from vae_compat.scenarios.scene import Scene
from vae_compat.scenarios.stage import Player, Stage
from vae_compat.scenarios.usage import call, units_of

if TYPE_CHECKING:
    from vae_compat.measure.bench import Bench  # the judge's alone


@dataclass(frozen=True, kw_only=True, eq=False)
class StripObserved(Observed):
    """How far the largest tiles reached along the longer side of the plane."""

    reached: tuple[float, ...] = ()
    """Latent pixels, for the tile size of the case and for twice that; 0 where no convolution ran.
    """

    @property
    def axis(self) -> str:
        """The longer side: ``height`` or ``width``."""
        return "height" if self.case.height > self.case.width else "width"


class Strip(Scene):
    """The same plane in tiles of the case's size, and in tiles twice as large.

    A hook that takes both sides of a tile is given the other size across the strip, where nothing
    is cut: one that mistakes one side for the other shows.
    """

    def perform(self, stage: Stage) -> Played:
        """Make both calls."""
        with stage.play() as player:
            sizes = both_sizes(player.case)
            for case, other in zip(sizes, reversed(sizes), strict=True):
                told = f"tiles of {case.tile} latent pixels"
                sides = _sides(player, case.tile, other.tile)
                if call(player, told, case=case, settings=sides).failure is not None:
                    break
        return player.played

    def examine(
        self, case: Case, promise: Promise, performed: Played, bench: Bench
    ) -> StripObserved:
        """Look at the planes of the convolutions alone: other cases judge the values."""
        del bench
        failure = next((made.failure for made in performed.calls if made.failure), None)
        if failure is None and len(performed.calls) < len(both_sizes(case)):
            failure = untold("the runner told nothing of one of the tile sizes")
        reached = tuple(_reached(made.reading, case) for made in performed.calls)
        return StripObserved(case=case, promise=promise, failure=failure, reached=reached)


def both_sizes(case: Case) -> tuple[Case, Case]:
    """The case, and the same with tiles twice as large."""
    return case, replace(case, tile=2 * case.tile)


def _sides(player: Player, along: int, across: int) -> dict[str, int]:
    """The settings of a tile that is so long along the strip, and has another size across it."""
    high = player.case.height > player.case.width
    return units_of(player).sides(*((along, across) if high else (across, along)))


def _reached(reading: Reading, case: Case) -> float:
    """The longest side of a plane that a convolution wrote along the strip, in latent pixels.

    That is a side of the finest plane. A hook may well cut small planes into larger tiles.
    """
    axis = 0 if case.height > case.width else 1
    longest = max((ran.plane[axis] for ran in reading.convolutions), default=0)
    return longest / (case.facts.ratio // case.facts.patch)
