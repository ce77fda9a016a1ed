"""Seams: where a result differs from the untiled one along the borders of tiles.

Two ways in which a border shows, both in the difference ``D`` from the untiled result:

- a step: along a line ``D`` jumps from one pixel to the next, for a stretch of the line, far more
  than it does beside the line, and not because the picture itself has an edge there;
- a band: ``D`` is far larger near the nominal borders than in the interior of tiles, or has a
  narrow ridge along a whole line.

Steps and ridges are searched on every line, because a hook may choose its own borders (overlaps,
evened-out tiles, quadtrees). Medians carry the search, so that neither noise nor single pixels
make a seam; a shift of all pixels makes no step. All bounds are in 8-bit levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vae_compat.contracts.cases import Case
from vae_compat.measure.observation import Baseline
from vae_compat.measure.planes import level_sizes, output_tile, planes

VISIBLE = 1.0
"""Levels: a smaller step moves no level of the picture by more than rounding does."""
CONTRAST = 3.0
"""How much larger a jump must be than the largest beside it, and a ridge or band than its sides.

A ratio judges the place of an error and not its size. Its value is a choice. With it the tests in
``test_measure_seams`` find steps of 1.5 to 10 levels and errors around borders. They find no seam
in noise of 0.3 to 30 levels or in errors at latent resolution. The search for signed steps asks for
1 more: noise nearly cancels in signed medians, so those beside a line are small, and the ratio
varies more by chance.
"""
WHOLE_CONTRAST = 1.6
"""The same for a whole line, whose median over hundreds of pixels hardly varies by chance.

It finds tiles that disagree by a texture all over the plane. There the difference also jumps within
the tiles, so that the jump at the border need not stand out by ``CONTRAST``.
"""
NOISE = 4.0
"""A step must also exceed this many times the floor's rms.

Noise of a right result stays below it. A result at the bound of ``exact`` has an rms error of twice
the floor. Its difference from untiled then has an rms of up to 5 ** 0.5 floors if both errors are
independent, and differs from one pixel to the next by 10 ** 0.5 = 3.2 floors rms.
"""
NEAR = 3
"""Lines closer than this belong to the same border (a hard edge after one more convolution)."""
_BAND_SHARE = 8
"""A band reaches a tile's side over this to either side of a border."""


@dataclass(frozen=True)
class Line:
    """A line along which a result has a seam; pixels of the result."""

    axis: str
    """``x``: the line is vertical, at this x; ``y``: horizontal."""
    position: int
    """First pixel after the border."""
    start: int
    stop: int
    batch: int
    frame: int
    levels: float
    """Median step, or the ridge's rms, in 8-bit levels."""
    beside: float
    """The same beside the line."""
    nominal: bool
    """Whether a nominal tile border lies within two pixels."""

    @property
    def contrast(self) -> float:
        """How much the line stands out: those of small contrast are none."""
        return self.levels / self.beside if self.beside else math.inf

    def __str__(self) -> str:
        across = "y" if self.axis == "x" else "x"
        kind = "a tile border" if self.nominal else "no nominal tile border"
        return (
            f"{self.axis} {self.position} ({kind}), {across} {self.start} to {self.stop}, "
            f"batch item {self.batch}, frame {self.frame}: {self.levels:.1f} levels against "
            f"{self.beside:.1f} beside it"
        )


@dataclass(frozen=True)
class Seams:
    """Difference from the untiled result in bands around borders, and in the interior.

    ``None`` where the nominal grid has no border in the plane, or leaves no interior.
    """

    seam: bool
    lines: tuple[Line, ...] = ()
    """The lines of the seam, worst first, at most 8."""
    band_worst: float | None = None
    """Levels, as the next three."""
    interior_worst: float | None = None
    band_rms: float | None = None
    interior_rms: float | None = None
    band_differing: float | None = None
    """Fraction of pixels that differ by half a level or more."""
    interior_differing: float | None = None
    banded: bool = False
    """Whether the nominal bands as a whole are the seam."""

    def __str__(self) -> str:
        if self.lines:
            return str(self.lines[0])
        if self.banded:
            return (
                f"the nominal tile borders: {self.band_rms:.2f} levels rms against "
                f"{self.interior_rms:.2f} in the interior"
            )
        return "none"


def find_seams(output: Tensor, baseline: Baseline, case: Case) -> Seams:
    """Look for tile borders in a result of the baseline's shape."""
    level = level_sizes(baseline.truth, case.direction)
    least = max(VISIBLE, NOISE * baseline.floor.rms / float(level.min()))
    tile = output_tile(case)
    bands = _Bands(output.shape[-2], output.shape[-1], tile)
    lines: list[Line] = []
    ours, untiled = planes(output), planes(baseline.output)
    for b in range(ours.shape[0]):
        for t in range(ours.shape[2]):
            picture = untiled[b, :, t].double() / level[:, None, None]
            moved = (ours[b, :, t].double() / level[:, None, None] - picture).float()
            picture = picture.float()
            bands.add(moved)
            largest = float(moved.abs().max())
            if not least / 2 <= largest < torch.inf:  # a jump is at most twice that; or NaN
                continue
            for axis in ("x", "y"):
                across = (moved, picture) if axis == "x" else (moved.mT, picture.mT)
                found = _steps(*across, least, tile) + _ridges(*across, least, tile)
                lines += [
                    Line(
                        axis,
                        at,
                        start,
                        stop,
                        b,
                        t,
                        size,
                        beside,
                        _is_nominal(at, tile, across[0].shape[-1]),
                    )
                    for at, start, stop, size, beside in found
                ]
    lines.sort(key=lambda line: (-line.levels, line.batch, line.frame, line.axis, line.position))
    return bands.seams(lines, least)


def _is_nominal(position: int, tile: int, size: int) -> bool:
    border = (position + 2) // tile * tile
    return 0 < border < size and position - border <= 2


_Found = tuple[int, int, int, float, float]
"""Position, start, stop, levels, levels beside."""


def _steps(moved: Tensor, picture: Tensor, least: float, tile: int) -> list[_Found]:
    """Vertical lines along which, or along a stretch of which, ``moved`` (``C H W``) jumps.

    A stretch is a quarter of a tile long, so that it spans several latent pixels: an error made at
    latent resolution has edges of its own, but they change from one latent pixel to the next.
    """
    height, width = moved.shape[-2:]
    length = min(max(8, tile // 4), height // 3)
    far = min(max(12, tile // 6), tile - NEAR - 1)
    if width < 2 * NEAR + 2 or length < 4 or far <= NEAR:
        return []
    delta, jump = moved.diff(dim=-1), _rms(moved.diff(dim=-1))
    activity = _rms(picture.diff(dim=-1))
    own, unsigned = _stretches(activity, length), _stretches(jump, length)
    # Noise cancels in the signed median, which finds faint steps; the unsigned one finds tiles
    # that disagree by a texture, and along a whole line even where all is textured.
    signed = _rms(torch.stack([_stretches(channel, length) for channel in delta]))
    follows = _slope(unsigned, own)
    searches = [
        (signed, own, length, CONTRAST + 1, NEAR),
        (unsigned, own, length, CONTRAST, NEAR),
        (_stretches(jump, height), _stretches(activity, height), height, WHOLE_CONTRAST, 2),
    ]
    hits: dict[int, _Found] = {}
    for values, edges, extent, contrast, near in searches:
        beside = _beside(values, near, far)
        hit = (values >= contrast * beside) & (values >= CONTRAST * follows * _widest(edges))
        hit &= values - beside >= least
        for x in hit.any(dim=0).nonzero().flatten().tolist():
            start, stop = _extent(hit[:, x], extent, height)
            # Edges of a picture end soon, and few of them lie just where tiles are expected.
            if stop - start <= length and not _is_nominal(x + 1, tile, width):
                continue
            found = (x + 1, start, stop, *_worst_of(values[:, x], beside[:, x], hit[:, x]))
            if x not in hits or found[3] > hits[x][3]:
                hits[x] = found
    return list(hits.values())


def _rms(channels: Tensor) -> Tensor:
    return channels.square().mean(dim=0).sqrt_()


def _starts(size: int, length: int) -> list[int]:
    """Half-overlapping stretches; the last one ends with the line."""
    return sorted({*range(0, size - length, length // 2), size - length})


def _stretches(lines: Tensor, length: int) -> Tensor:
    """Median of every stretch of every vertical line: ``H W`` to ``N W``."""
    starts = _starts(lines.shape[0], length)
    stacked = lines.numpy()[np.array(starts)[:, None] + np.arange(length)].transpose(0, 2, 1)
    middle = (length - 1) // 2
    return torch.from_numpy(np.partition(stacked, middle, axis=-1)[..., middle].copy())


def _beside(jump: Tensor, near: int, far: int) -> Tensor:
    """The largest jump of the lines ``near`` to ``far`` beside each line, on both sides."""
    padded = torch.nn.functional.pad(jump, (far, far))
    width = far - near + 1
    runs = padded.unfold(1, width, 1).amax(dim=-1)  # runs[:, i]: lines i - far to i - near
    lines = jump.shape[1]
    return torch.maximum(runs[:, :lines], runs[:, far + near : far + near + lines])


def _widest(own: Tensor) -> Tensor:
    """The largest of each line and the two lines on either side of it."""
    return torch.nn.functional.max_pool1d(own, 5, stride=1, padding=2)


def _slope(jump: Tensor, own: Tensor) -> float:
    """How strongly the difference jumps where the picture itself does.

    A changed contrast, or a blurred or shifted picture, has the picture's edges in its difference;
    they are no borders of tiles.
    """
    x, y = own - own.mean(), jump - jump.mean()
    spread = float(x.square().sum())
    return max(0.0, float((x * y).sum()) / spread) if spread else 0.0


def _extent(hit: Tensor, length: int, size: int) -> tuple[int, int]:
    starts = _starts(size, length)
    rows = hit.nonzero().flatten().tolist()
    return starts[rows[0]], starts[rows[-1]] + length


def _worst_of(values: Tensor, beside: Tensor, hit: Tensor) -> tuple[float, float]:
    index = int(torch.where(hit, values, 0.0).argmax())
    return float(values[index]), float(beside[index])


def _ridges(moved: Tensor, picture: Tensor, least: float, tile: int) -> list[_Found]:
    """Vertical lines along the whole of which ``moved`` is large, and small on both sides.

    Compared with the lines a quarter to three eighths of a tile away. A line on which the picture
    itself is livelier than at its sides (a tree, a pole) is no ridge.
    """
    height, width = moved.shape[-2:]
    near = max(3, tile // 4)
    far = near + max(2, tile // 8)
    if width <= 2 * far or height < 8:
        return []
    profile = _rms(moved).median(dim=0).values
    lively = torch.nn.functional.pad(_rms(picture.diff(dim=-1)).median(dim=0).values, (0, 1))
    beside = _sides(profile, near, far)
    middle = profile[far : width - far]
    peak = middle >= torch.nn.functional.max_pool1d(profile[None], 3, 1, 1)[0, far : width - far]
    calm = _sides(lively, near, far)
    edge = torch.nn.functional.max_pool1d(lively[None], 3, 1, 1)[0, far : width - far]
    hit = (middle >= least) & (middle >= CONTRAST * beside) & peak & (edge <= 2 * calm)
    return [
        (far + x, 0, height, float(middle[x]), float(beside[x]))
        for x in hit.nonzero().flatten().tolist()
    ]


def _sides(profile: Tensor, near: int, far: int) -> Tensor:
    """The largest value from ``near`` to ``far`` on both sides, for all but the outer ``far``."""
    runs = profile.unfold(0, far - near + 1, 1).amax(dim=-1)
    inner = profile.shape[0] - 2 * far
    return torch.maximum(runs[:inner], runs[far + near : far + near + inner])


class _Bands:
    """Sums inside and outside the bands around the nominal borders."""

    def __init__(self, height: int, width: int, tile: int) -> None:
        self._in_band = _near(height, tile)[:, None] | _near(width, tile)[None, :]
        self._usable = bool(self._in_band.any()) and not bool(self._in_band.all())
        self._square = [0.0, 0.0]
        self._worst = [0.0, 0.0]
        self._differing = [0, 0]
        self._count = [0, 0]

    def add(self, moved: Tensor) -> None:
        """Take in one frame, ``C H W``, in levels."""
        if not self._usable:
            return
        largest = moved.abs().amax(dim=0)
        square = moved.square().mean(dim=0)
        for side, mask in enumerate((self._in_band, ~self._in_band)):
            self._square[side] += float(square[mask].sum())
            self._worst[side] = max(self._worst[side], float(largest[mask].max()))
            self._differing[side] += int((largest[mask] >= 0.5).sum())
            self._count[side] += int(mask.sum())

    def seams(self, lines: list[Line], least: float) -> Seams:
        """The verdict, with what the search on the lines found."""
        if not self._usable or not self._count[0]:
            return Seams(seam=bool(lines), lines=tuple(lines[:8]))
        rms = [(s / n) ** 0.5 for s, n in zip(self._square, self._count, strict=True)]
        part = [d / n for d, n in zip(self._differing, self._count, strict=True)]
        # A few single pixels with a large error raise the rms and are no border. So at least a
        # twentieth of the band has to differ, far less than errors along whole borders make.
        banded = rms[0] >= least and rms[0] >= CONTRAST * rms[1] and part[0] >= 0.05
        return Seams(
            seam=bool(lines) or banded,
            lines=tuple(lines[:8]),
            band_worst=self._worst[0],
            interior_worst=self._worst[1],
            band_rms=rms[0],
            interior_rms=rms[1],
            band_differing=part[0],
            interior_differing=part[1],
            banded=banded,
        )


def _near(size: int, tile: int) -> Tensor:
    """Which positions lie in the band of a nominal border inside the plane."""
    reach = max(1, tile // _BAND_SHARE)
    marked = torch.zeros(size, dtype=torch.bool)
    for border in range(tile, size, tile):
        marked[max(0, border - reach) : border + reach] = True
    return marked
