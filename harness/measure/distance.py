"""How far a result is from the truth, and whether that is more than the VAE's own noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from vae_compat.contracts.cases import Case, Direction
from vae_compat.measure.observation import WHOLE, Baseline, Floors, Noise, Observation
from vae_compat.measure.once import once
from vae_compat.measure.planes import halves, level_sizes, output_tile, planes, spans

FLOOR_RATIO = 2.0
"""An exact result is as accurate as the VAE itself: another order of additions makes errors of the
same size, and the luck of draws does the rest. Sound hooks measure up to 1.83 on mock nets by one
draw, and 1.02 on real nets with further draws (default run, AVX-512). Tiles that blend measure
161,000 and more (real nets, float32). The value is a choice, close to the sound ones."""
WORST_RATIO = 8.0
"""Times the worst element of the floor, which varies more from draw to draw than an rms does. Sound
hooks measure up to 2.7 (default run, AVX-512). In float32 an element that is one 8-bit level off is
280 times the floor's worst and more (mock nets). The value is a choice between."""
FLATNESS = 1e-6
"""Spread, as a share of the values or of the truth's spread, below which all is a constant. The
value is a choice: ten units of rounding of float32."""


class Place(NamedTuple):
    """Index of an element, in pixels of the result; frame 0 where there is no frame axis."""

    batch: int
    channel: int
    frame: int
    y: int
    x: int


@dataclass(frozen=True)
class Part:
    """Numbers of one frame of one batch item, or of one batch item."""

    batch: int
    frame: int | None
    """``None`` for the whole item."""
    error: Noise
    floor: Noise
    differing: float

    @property
    def ratio(self) -> float:
        """Error over floor."""
        return _quotient(self.error.rms, self.floor.rms)


@dataclass(frozen=True)
class Distance:
    """Numbers of a whole result against the float64 truth."""

    error: Noise
    floor: Noise
    """The VAE's own noise, but never less than the rounding of the result itself."""
    psnr: float
    """dB against the truth, over its peak-to-peak; of moments, the worse of mean and log-variance.
    Infinite where nothing differs, NaN where the result is not finite."""
    level_change: int | None
    """Most 8-bit levels by which a picture moves from the untiled one; ``None`` for moments."""
    differing: float
    """Fraction of pixels of which a channel is farther from the truth than 8 times the floor's
    worst element."""
    shift: tuple[float, ...]
    """Mean difference from the untiled result in 8-bit levels, for every batch item and channel,
    items first. Pictures are clamped to -1 and 1, where levels end."""
    worst_at: Place
    non_finite: int
    """Elements that are NaN or infinite."""
    missing: int
    """Pixels that are zero in every channel where the truth is not: buffers that no tile wrote."""
    items: tuple[Part, ...]
    frames: tuple[Part, ...]

    @property
    def ratio(self) -> float:
        """Error over floor."""
        return _quotient(self.error.rms, self.floor.rms)


def _quotient(error: float, floor: float) -> float:
    if floor:
        return error / floor
    return math.inf if error else 1.0


@dataclass
class _Sums:
    """Sums over the planes of one frame."""

    count: int = 0
    error: float = 0.0
    error_worst: float = 0.0
    floor: float = 0.0
    floor_worst: float = 0.0
    pixels: int = 0
    differing: int = 0

    def add(self, other: _Sums) -> None:
        self.count += other.count
        self.error += other.error
        self.floor += other.floor
        self.error_worst = _worse(self.error_worst, other.error_worst)
        self.floor_worst = _worse(self.floor_worst, other.floor_worst)
        self.pixels += other.pixels
        self.differing += other.differing


def _worse(one: float, other: float) -> float:
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


def distance(output: Tensor, baseline: Baseline, direction: Direction) -> Distance:
    """Compare a result of the baseline's shape with the baseline and the truth.

    All in float64, one plane at a time, so that a large picture is never held twice. Raises
    ``ValueError`` where the shapes differ.
    """
    if output.shape != baseline.truth.shape:
        raise ValueError(f"shapes differ: {tuple(output.shape)}, {tuple(baseline.truth.shape)}")
    measured = _Measured(output, baseline, direction)
    frames = {
        (b, t): measured.frame(b, t) for b in range(measured.batch) for t in range(measured.time)
    }
    whole = _Sums()
    items = [_Sums() for _ in range(measured.batch)]
    for (b, _), sums in frames.items():
        items[b].add(sums)
        whole.add(sums)
    lift = partial(
        lifted,
        dtype=baseline.output.dtype,
        rms=math.sqrt(measured.truth_square / max(whole.count, 1)),
        largest=measured.largest,
    )
    further = baseline.further

    def part(b: int, t: int | None, sums: _Sums) -> Part:
        return Part(
            batch=b,
            frame=t,
            error=_error(sums),
            floor=lift(_floor(sums).largest(further.get((b, t)))),
            differing=sums.differing / max(sums.pixels, 1),
        )

    return Distance(
        error=_error(whole),
        floor=lift(_floor(whole).largest(further.get(WHOLE))),
        psnr=measured.psnr(),
        level_change=measured.level_change if direction is Direction.DECODE else None,
        differing=whole.differing / max(whole.pixels, 1),
        shift=tuple(float(value) for value in measured.shift.flatten()),
        worst_at=measured.worst_at,
        non_finite=measured.non_finite,
        missing=measured.missing,
        items=tuple(part(b, None, sums) for b, sums in enumerate(items)),
        frames=tuple(part(b, t, sums) for (b, t), sums in frames.items()),
    )


@once
def distance_of(observation: Observation) -> Distance:
    """Distance of a comparable output, measured once for all checks."""
    assert observation.output is not None
    return distance(observation.output, observation.baseline, observation.case.direction)


class _Measured:
    """Planes of a result beside those of the untiled one and of the truth."""

    def __init__(self, output: Tensor, baseline: Baseline, direction: Direction) -> None:
        self._planes = planes(output), planes(baseline.output), planes(baseline.truth)
        self.batch, self.channels, self.time = self._planes[2].shape[:3]
        self._spans = spans(baseline.truth, direction)
        self._level = level_sizes(baseline.truth, direction)
        self._halves = halves(self.channels, direction)
        self._decoded = direction is Direction.DECODE
        self.largest = _largest(baseline.truth)
        dtype = baseline.output.dtype
        self._limit = (
            WORST_RATIO * lifted(baseline.floor, dtype=dtype, rms=0.0, largest=self.largest).worst
        )
        self._square = torch.zeros(self.channels, dtype=torch.float64)
        self._count = torch.zeros(self.channels, dtype=torch.float64)
        self.shift = torch.zeros(self.batch, self.channels, dtype=torch.float64)
        self.truth_square = 0.0
        self.level_change = 0
        self.non_finite = 0
        self.missing = 0
        self.worst_at = Place(0, 0, 0, 0, 0)
        self._worst = -1.0

    def frame(self, b: int, t: int) -> _Sums:
        sums = _Sums()
        height, width = self._planes[2].shape[-2:]
        differing = torch.zeros(height, width, dtype=torch.bool)
        blank = torch.ones(height, width, dtype=torch.bool)
        for c, output, untiled, truth in self._channels(b, t):
            moved = output - untiled
            shift = (self._seen(output) - self._seen(untiled)).mean()
            self.shift[b, c] += float(shift) / float(self._level[c]) / self.time
            self._count_levels(output, untiled)
            error = moved.copy_(output).sub_(truth).abs_()
            floor = (untiled - truth).abs_()
            self._note_worst(error, b, c, t)
            differing |= ~(error <= self._limit)  # so that NaN differs
            blank &= output == 0
            square = float(error.square().sum())
            self._square[c] += square
            self._count[c] += truth.numel()
            self.truth_square += float(truth.square().sum())
            sums.add(
                _Sums(
                    count=truth.numel(),
                    error=square,
                    error_worst=float(error.max()),
                    floor=float(floor.square().sum()),
                    floor_worst=float(floor.max()),
                )
            )
        self.missing += int((blank & differing).sum())
        sums.pixels = differing.numel()
        sums.differing = int(differing.sum())
        return sums

    def _channels(self, b: int, t: int) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        for c in range(self.channels):
            output, untiled, truth = (whole[b, c, t].double() for whole in self._planes)
            yield c, output, untiled, truth

    def _seen(self, plane: Tensor) -> Tensor:
        """What of a picture has a level: a host may clamp where the VAE does not."""
        return plane.clamp(-1.0, 1.0) if self._decoded else plane

    def _count_levels(self, output: Tensor, untiled: Tensor) -> None:
        moved = (_levels(output) - _levels(untiled)).abs_().max()
        self.level_change = max(self.level_change, int(moved))

    def _note_worst(self, error: Tensor, b: int, c: int, t: int) -> None:
        bad = ~error.isfinite()
        first = not self.non_finite
        count = int(bad.sum())
        self.non_finite += count
        if count:  # the place to report is the first of them
            position, worst = int(bad.flatten().int().argmax()), math.inf
        else:
            position = int(error.argmax())
            worst = float(error.flatten()[position])
        if (count and first) or (first and worst > self._worst):
            self._worst = worst
            self.worst_at = Place(b, c, t, *divmod(position, error.shape[1]))

    def psnr(self) -> float:
        values = []
        for half in self._halves:
            mean = float(self._square[half].sum() / self._count[half].sum())
            span = float(self._spans[half][0])
            if not math.isfinite(mean):
                return math.nan
            values.append(math.inf if mean == 0 else 10 * math.log10(span**2 / mean))
        return min(values)


def _levels(picture: Tensor) -> Tensor:
    """Levels 0 to 255 of a picture in -1 to 1; NaN becomes 0, as an image writer makes it."""
    return ((picture + 1) * 127.5).clamp_(0, 255).round_().nan_to_num_(0.0)


def is_exact(error: Noise, floor: Noise) -> bool:
    """Whether an error is within the noise of the VAE itself."""
    return error.rms <= FLOOR_RATIO * floor.rms and error.worst <= WORST_RATIO * floor.worst


def lifted(floor: Noise, *, dtype: torch.dtype, rms: float, largest: float) -> Noise:
    """A noise floor, but never less than what rounding the truth to the dtype of the result costs.

    A net that is exact (a stub that only copies) has no noise of its own, but a hook may still sum
    in another order. Rounding is uniform within half a unit in the last place, which is 1/2 to 1
    eps of the value: a quarter of eps is its usual rms. ``rms`` and ``largest`` tell the size of
    the truth.
    """
    eps = torch.finfo(dtype).eps
    return Noise(max(floor.rms, eps / 4 * rms), max(floor.worst, eps / 2 * largest))


def floor_of(untiled: Tensor, truth: Tensor) -> Noise:
    """Distance of an untiled result from the float64 truth, or its rounding where that is more."""
    return lifted(
        noise(untiled, truth),
        dtype=untiled.dtype,
        rms=float(truth.square().mean().sqrt()),
        largest=_largest(truth),
    )


def _largest(truth: Tensor) -> float:
    low, high = truth.aminmax()
    return max(abs(float(low)), abs(float(high)))


def _error(sums: _Sums) -> Noise:
    return Noise(math.sqrt(sums.error / max(sums.count, 1)), sums.error_worst)


def _floor(sums: _Sums) -> Noise:
    return Noise(math.sqrt(sums.floor / max(sums.count, 1)), sums.floor_worst)


def noise(output: Tensor, truth: Tensor) -> Noise:
    """Distance of a float result from the float64 truth, a megapixel at a time."""
    square, worst = 0.0, 0.0
    pieces = (torch.split(whole.flatten(), 2**20) for whole in (output, truth))
    for ours, right in zip(*pieces, strict=True):
        error = (ours.double() - right).abs_()
        worst = _worse(worst, float(error.max()))
        square += float(error.square_().sum())
    return Noise(math.sqrt(square / max(truth.numel(), 1)), worst)


def floors(output: Tensor, truth: Tensor) -> Floors:
    """The noise of all parts of an untiled result; nothing where it is not finite."""
    if not bool(output.isfinite().all()):
        return {}
    ours, right = planes(output), planes(truth)
    found: dict[tuple[int | None, int | None], Noise] = {WHOLE: noise(ours, right)}
    for b in range(right.shape[0]):
        found[b, None] = noise(ours[b], right[b])
        for t in range(right.shape[2]):
            found[b, t] = noise(ours[b, :, t], right[b, :, t])
    changed = frame_changes(ours.double() - right)
    return found | {(None, t): each for t, each in enumerate(changed, 1)}


def largest(one: Floors, other: Floors) -> Floors:
    """The largest noise of each part; a part may be missing from some of the draws."""
    return {**other, **{part: each.largest(other.get(part)) for part, each in one.items()}}


def changes(output: Tensor, baseline: Baseline) -> list[tuple[Noise, Noise]]:
    """Error and floor of the change from each frame to the next; empty for a single one."""
    truth, dtype = planes(baseline.truth), baseline.output.dtype
    if truth.shape[2] == 1:
        return []
    errors = frame_changes(planes(output).double() - truth)
    own = frame_changes(planes(baseline.output).double() - truth)
    size = _largest(truth)
    further = (baseline.further.get((None, t)) for t in range(1, truth.shape[2]))
    return [
        (error, lifted(floor.largest(more), dtype=dtype, rms=size, largest=size))
        for error, floor, more in zip(errors, own, further, strict=True)
    ]


def frame_changes(difference: Tensor) -> list[Noise]:
    """Noise of the changes from each frame to the next of ``B C T H W``."""
    change = difference.double().diff(dim=2).transpose(0, 2).flatten(1)
    rms, worst = change.square().mean(1).sqrt(), change.abs().amax(1)
    return [Noise(*map(float, pair)) for pair in zip(rms, worst, strict=True)]


def correlation(ours: Tensor, truth: Tensor) -> float:
    """Pearson's; 0 where ours alone is a constant, 1 where the truth is one."""
    ours, truth = ours.double(), truth.double()
    level = float(truth.abs().max())
    ours, truth = ours - ours.mean(), truth - truth.mean()
    spread, true_spread = float(ours.square().mean().sqrt()), float(truth.square().mean().sqrt())
    if true_spread <= FLATNESS * level:
        return 1.0
    if not spread > FLATNESS * true_spread:
        return 0.0
    return float((ours * truth).mean()) / (spread * true_spread)


def in_words(place: Place, case: Case, shape: tuple[int, ...]) -> str:
    """Where an element of a result is: its index, the nominal tile, border or interior."""
    tile = output_tile(case)
    height, width = shape[-2:]
    edge = max(1, tile // 16)
    near = [
        f"{name} border at {axis} {border}"
        for name, axis, position, size in (
            ("horizontal", "y", place.y, height),
            ("vertical", "x", place.x, width),
        )
        if (border := (position + tile // 2) // tile * tile) not in (0, size)
        and border < size
        and -edge <= position - border < edge
    ]
    frame = f", frame {place.frame}" if len(shape) == 5 else ""
    return (
        f"batch item {place.batch}, channel {place.channel}{frame}, y {place.y}, x {place.x} "
        f"(tile row {place.y // tile}, column {place.x // tile}, "
        f"{' and '.join(near) or 'interior'})"
    )
