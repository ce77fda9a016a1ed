"""What a hook promises of a case."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vae_compat.contracts.cases import (
    ESTIMATING,
    TIME_TILES,
    Case,
    Direction,
    Given,
    Mechanism,
    TimeTiles,
)
from vae_compat.vocabulary import RANKS


@dataclass(frozen=True)
class Bounds:
    """What a hook promises beyond the grade of a case."""

    psnr: float | None = None
    """dB against the truth, at least."""
    levels: float | None = None
    """8-bit levels by which the mean of any region may be shifted, at most."""
    seams: bool = False
    """Whether no border of a tile shows."""


@dataclass(frozen=True)
class Promise:
    """What the profile says of a case."""

    claimed: bool = True
    grade: str = "exact"
    cache: str = "none"
    kind: str = "forward"
    overlap: bool = False
    """Whether the overlap of tiles can be set."""
    parks: bool = False
    """Whether split caches are offloaded between chunks."""
    when: str = "always"
    """When the hook tiles: ``always``, or where ``memory`` is short."""
    coders: tuple[str, ...] = ()
    """Coders on which the hook works, besides plain ones."""
    context: str = ""
    """How the host calls it: ``no_grad``, ``inference_mode``; empty where either must do."""

    temporal: bool = False
    """Whether it cuts clips in time as well, so that frames at a cut lack some of their past."""
    ranks: tuple[int, ...] = RANKS
    """Numbers of processes among which a hook of kind ``ranks`` shares its work."""
    bounds: Bounds | None = None
    slices: bool = False
    """Whether it runs a batch item by item, so that a batch takes no more memory than an item."""
    tile_multiple: int = 1
    """Image pixels: tile sizes that are asked for are rounded to a multiple of this."""
    passes: int = 1
    """In how many ways it cuts each plane, to average the results."""
    time_ratio: float | None = None
    """How many times the estimated time of untiled it takes at most; ``None`` for any time."""
    gpu: str = "h200"
    """The GPU for which times are estimated."""
    waits_per_tile: float | None = None
    """How often the host waits for the device at most, for each tile; ``None`` for any number."""
    host_memory: float | None = None
    """How many times the bytes of the result it holds on the host at most; ``None`` for any."""
    axes: str = "both"
    """Along which sides of a plane it cuts: ``both``, ``height`` or ``width``."""

    @property
    def in_ranks(self) -> bool:
        """Whether several processes share the work of a case."""
        return self.kind == "ranks"

    @property
    def tiles_when_short(self) -> bool:
        """Whether the hook tiles only where untiled does not fit."""
        return self.when == "memory"

    def is_short(self, case: Case) -> bool:
        """Whether the case runs on a device that is too small for untiled.

        Only the simulated accelerator can be made so small. Scenarios set its capacity themselves.
        """
        alone = case.scenario is None and case.device == "sim"
        return self.tiles_when_short and self.claimed and alone and case.must_tile

    def beside_plain_tiles(self, case: Case) -> bool:
        """Whether the result is held to what plain overlapping tiles give.

        So it is where no more than ``degraded`` is promised. Modes that estimate the statistics of
        the whole plane are another compromise, with errors of another kind. On a flat picture
        nothing but borders is to be seen, and those of tiles of another size are elsewhere.
        """
        textured = case.given is not Given.FLAT
        cut = case.scenario is None and not case.fits_one_tile and textured
        estimates = case.mode in ESTIMATING
        return self.claimed and self.grade == "degraded" and cut and not estimates

    def time_tiles(self, case: Case) -> TimeTiles | None:
        """How a clip may be cut in time; ``None`` where it may not be."""
        return TIME_TILES if self.temporal and case.frames > TIME_TILES.size else None

    def longest(self, case: Case) -> int:
        """The longest side of a plane that the hook cuts along, in latent pixels."""
        sides = {"height": case.height, "width": case.width}
        return sides.get(self.axes, max(sides.values()))

    def largest_untiled(self, case: Case) -> int:
        """The longest side, in latent pixels, that the hook may rightly run in one piece."""
        return case.largest_untiled + self.rounded(case.tile, case.facts.ratio) - case.tile

    def rounded(self, tile: int, ratio: int) -> int:
        """The tile size, in latent pixels, that the hook may run where this one is asked for."""
        return rounded_up(tile, self.tile_multiple, ratio)

    def by_noise(self, case: Case) -> bool:
        """Whether the error must stay within the VAE's own noise.

        Grade ``exact`` demands this, and so does ``lossless`` for moments, because they have no
        8-bit levels. Where nothing is claimed, only the untiled result is right. Probes that any
        right placement of tiles solves leave no other error to excuse.
        """
        moments = self.grade == "lossless" and case.direction is Direction.ENCODE
        return self.grade == "exact" or moments or not self.claimed or self.by_placement(case)

    def by_placement(self, case: Case) -> bool:
        """Whether the right placement of tiles alone makes the result that of the VAE."""
        cut = self.temporal and case.mechanism is Mechanism.CAUSAL_CACHE
        return case.exactly_tileable and not cut


def rounded_up(tile: int, multiple: int, ratio: int) -> int:
    """A tile size in latent pixels, up to a multiple of so many image pixels."""
    step = math.lcm(multiple, ratio) // ratio
    return -(-tile // step) * step
