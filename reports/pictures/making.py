"""Makes the pictures of a case from what the judge has seen of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from vae_compat.checks.comparing import comparable, seams_of
from vae_compat.checks.declaring import Answer
from vae_compat.contracts.cases import Case, Direction
from vae_compat.measure.caches import Holds
from vae_compat.measure.distance import Distance, Place, distance_of, is_exact
from vae_compat.measure.observation import Observation, Observed
from vae_compat.measure.planes import level_sizes, output_tile, planes
from vae_compat.measure.seams import Line
from vae_compat.scenarios.clip import ClipObserved, Way

from . import drawing
from .drawing import Bytes, Floats
from .exhibit import Exhibit, Picture, Profile, Shown, Slots

MOST_PIXELS = 384
"""Side of a picture."""
CROP = 72
"""Side of a crop, in pixels of the result."""
REACH = 32
"""Pixels on either side of a seam that a profile shows."""
FILM_FRAMES, FILM_PIXELS = 8, 96
"""Frames of a film, and the side of one."""
MOST_SLOTS, MOST_CHUNKS, MOST_FRAMES = 64, 32, 500


def differs(observed: Observed) -> bool:
    """Whether there is anything to see: a result that is not that of untiled, or a wrong slot."""
    return not _is_right(observed) or _worst_way(observed) is not None


def _is_right(observed: Observed) -> bool:
    whole = whole_of(observed)
    if whole is None or whole.output is None:
        return True
    if isinstance(comparable(whole), Answer):
        return whole.output.shape == whole.baseline.output.shape
    measured = distance_of(whole)
    return not measured.non_finite and is_exact(measured.error, measured.floor)


def whole_of(observed: Observed) -> Observation | None:
    """The call of the whole VAE; ``None`` where a scenario keeps none."""
    if isinstance(observed, ClipObserved):
        return observed.whole
    return observed if isinstance(observed, Observation) else None


def psnr_of(observed: Observed) -> float | None:
    """dB against the truth; ``None`` where the result is not finite or cannot be compared."""
    whole = whole_of(observed)
    if whole is None or isinstance(comparable(whole), Answer):
        return None
    found = distance_of(whole).psnr
    return None if math.isnan(found) else min(found, 1000.0)


def shown(hook: str, observed: Observed) -> Shown | None:
    """The pictures of a case; ``None`` where there is nothing to draw."""
    whole = whole_of(observed)
    if whole is None:
        return None
    way = _worst_way(observed)
    slots = None if way is None else _slots(way)
    plain = Exhibit(
        hook=hook,
        case=observed.case.id,
        psnr=psnr_of(observed),
        shows="",
        height=0,
        width=0,
        tile=output_tile(observed.case),
        slots=slots,
    )
    if whole.output is None or not _is_picture(whole.output):
        return None if slots is None else Shown(plain, {})
    if isinstance(comparable(whole), Answer):
        return _misshapen(plain, whole.output, whole.baseline.output, observed.case)
    return _compared(plain, whole)


def _is_picture(output: Tensor) -> bool:
    return output.dim() in (4, 5) and output.numel() > 0 and output.is_floating_point()


# A result that can be held against untiled


class _Frame(NamedTuple):
    """One frame of both results in 8-bit levels, ``C H W``, of the channels that are shown."""

    untiled: Floats
    ours: Floats
    channels: tuple[int, ...]

    @property
    def moved(self) -> Floats:
        """The largest difference of any channel, ``H W``."""
        away: Floats = np.abs(self.ours - self.untiled).max(axis=0)
        return away


def _compared(plain: Exhibit, whole: Observation) -> Shown:
    measured = distance_of(whole)
    place = measured.worst_at
    frame = _frame(whole, place, place.frame)
    scale = drawing.full_scale_of(frame.moved)
    height, width = frame.moved.shape
    crop = _around(place, height, width)
    rows, columns = slice(crop[0], crop[0] + crop[2]), slice(crop[1], crop[1] + crop[3])
    cut = _Frame(frame.untiled[:, rows, columns], frame.ours[:, rows, columns], frame.channels)
    drawn = {
        "untiled": _whole(frame.untiled),
        "hook": _whole(frame.ours),
        "difference": drawing.in_colours(drawing.pooled(frame.moved, MOST_PIXELS), scale),
        "untiled_crop": drawing.seen(cut.untiled),
        "hook_crop": drawing.seen(cut.ours),
        "difference_crop": drawing.in_colours(cut.moved, scale),
    }
    film = _film_frames(measured, place)
    if film:
        drawn |= _film(whole, place, film, scale)
    frames = [part for part in measured.frames if part.batch == place.batch]
    return _packed(
        Exhibit(
            hook=plain.hook,
            case=plain.case,
            psnr=plain.psnr,
            shows=_words(whole.case, place, frame.channels, len(frames)),
            height=height,
            width=width,
            tile=plain.tile,
            full_scale=scale,
            worst=(place.y, place.x),
            crop=crop,
            profile=_profile(whole, measured),
            frames=tuple(_finite(part.ratio) for part in frames[:MOST_FRAMES]) if film else (),
            film=film,
            slots=plain.slots,
        ),
        drawn,
    )


def _packed(exhibit: Exhibit, drawn: dict[str, Bytes]) -> Shown:
    made = tuple(Picture(kind, each.shape[1], each.shape[0]) for kind, each in drawn.items())
    images = {
        kind: drawing.encoded(each, lossless=kind.endswith("_crop")) for kind, each in drawn.items()
    }
    return Shown(replace(exhibit, pictures=made), images)


def _whole(levels: Floats) -> Bytes:
    return drawing.fitted(drawing.seen(levels), MOST_PIXELS)


def _frame(whole: Observation, place: Place, frame: int) -> _Frame:
    assert whole.output is not None
    channels = _channels(whole.case, place, planes(whole.output).shape[1])
    level = level_sizes(whole.baseline.truth, whole.case.direction)
    lowest = _lowest(whole, place, channels, frame)

    def levels(result: Tensor) -> Floats:
        some = planes(result)[place.batch, list(channels), frame].double()
        shifted = (some - lowest) / level[list(channels), None, None]
        made: Floats = shifted.numpy()
        return made

    return _Frame(levels(whole.baseline.output), levels(whole.output), channels)


def _channels(case: Case, place: Place, count: int) -> tuple[int, ...]:
    """Colours of a decoded picture, else the worst channel alone."""
    if case.direction is Direction.DECODE and place.channel < 3 <= count:
        return (0, 1, 2)
    return (place.channel,)


def _lowest(whole: Observation, place: Place, channels: tuple[int, ...], frame: int) -> float:
    """The value that is drawn black: -1 in a picture, the least of a channel of moments."""
    if whole.case.direction is Direction.DECODE:
        return -1.0
    untiled = planes(whole.baseline.output)[place.batch, list(channels), frame]
    return float(untiled.min())


def _words(case: Case, place: Place, channels: tuple[int, ...], frames: int) -> str:
    if case.direction is Direction.ENCODE:
        what = f"channel {channels[0]} of the moments"
    else:
        what = "the decoded picture" if len(channels) == 3 else f"channel {channels[0]}"
    item = f", batch item {place.batch}" if case.batch > 1 else ""
    return f"{what}{item}" + (f", frame {place.frame}" if frames > 1 else "")


def _around(place: Place, height: int, width: int) -> tuple[int, int, int, int]:
    """A crop around a pixel, as far as the plane reaches: y, x, height, width."""
    tall, wide = min(CROP, height), min(CROP, width)
    y = min(max(place.y - tall // 2, 0), height - tall)
    x = min(max(place.x - wide // 2, 0), width - wide)
    return y, x, tall, wide


# Clips


def _film_frames(measured: Distance, place: Place) -> tuple[int, ...]:
    """Frames for the film: evenly spread, the worst among them; none of a single frame."""
    count = sum(part.batch == place.batch for part in measured.frames)
    if count < 2:
        return ()
    spread = np.linspace(0, count - 1, min(FILM_FRAMES, count)).round().astype(int).tolist()
    nearest = min(range(len(spread)), key=lambda index: abs(spread[index] - place.frame))
    spread[nearest] = place.frame
    return tuple(dict.fromkeys(spread))


def _film(
    whole: Observation, place: Place, film: tuple[int, ...], scale: float
) -> dict[str, Bytes]:
    frames = [_frame(whole, place, number) for number in film]
    return {
        "untiled_film": drawing.row([_thumbnail(each.untiled) for each in frames]),
        "hook_film": drawing.row([_thumbnail(each.ours) for each in frames]),
        "difference_film": drawing.row(
            [drawing.in_colours(drawing.pooled(each.moved, FILM_PIXELS), scale) for each in frames]
        ),
    }


def _thumbnail(levels: Floats) -> Bytes:
    return drawing.fitted(drawing.seen(levels), FILM_PIXELS)


def _worst_way(observed: Observed) -> Way | None:
    """The way of a clip that left the worst cache; ``None`` where every slot is right."""
    if not isinstance(observed, ClipObserved):
        return None
    ranked = [(_badness(way), -number) for number, way in enumerate(observed.shown)]
    worst = max(ranked, default=(0.0, 0))
    return observed.shown[-worst[1]] if worst[0] else None


def _badness(way: Way) -> float:
    """The largest error over its floor of any slot that is not right; 0 where all are."""
    found = 0.0
    for chunk in way.chunks:
        for slot in chunk.slots:
            if not slot.same_kind:
                return math.inf
            if slot.error and slot.floor and not is_exact(slot.error, slot.floor):
                found = max(found, _finite(_quotient(slot.error.rms, slot.floor.rms)))
    return found


def _slots(way: Way) -> Slots:
    chunks = way.chunks[:MOST_CHUNKS]
    count = min(MOST_SLOTS, max((len(chunk.slots) for chunk in chunks), default=0))
    names, ratios, unlike = [], [], []
    for number in range(count):
        seen = [chunk.slots[number] if number < len(chunk.slots) else None for chunk in chunks]
        names.append(next((slot.name for slot in seen if slot is not None), ""))
        cells: list[float | None] = []
        for at, slot in enumerate(seen):
            if slot is not None and slot.error and slot.floor and slot.same_kind:
                cells.append(_finite(_quotient(slot.error.rms, slot.floor.rms)))
                continue
            cells.append(None)
            if slot is None or not slot.same_kind or Holds.FOREIGN in slot.holds:
                unlike.append((number, at))
        ratios.append(tuple(cells))
    return Slots(tuple(names), tuple(ratios), tuple(unlike))


def _quotient(error: float, floor: float) -> float:
    return error / floor if floor else (math.inf if error else 1.0)


def _finite(value: float) -> float:
    """A number that JSON has a word for."""
    return value if math.isfinite(value) else 1e9


# Across a seam


def _profile(whole: Observation, measured: Distance) -> Profile | None:
    """Across the worst seam, a mean along it; where there is none, through the worst pixel."""
    assert whole.output is not None
    if measured.non_finite:
        return None
    lines = seams_of(whole).lines
    line = lines[0] if lines else _through(measured.worst_at)
    axis = -1 if line.axis == "x" else -2
    level = level_sizes(whole.baseline.truth, whole.case.direction)
    pair = []
    for result in (whole.baseline.output, whole.output):
        plane = planes(result)[line.batch, :, line.frame].double() / level[:, None, None]
        across = plane if axis == -1 else plane.mT
        pair.append(across[:, line.start : line.stop].mean(dim=1).numpy())
    untiled, ours = pair
    channel = measured.worst_at.channel if not lines else _jumping(ours - untiled, line.position)
    start = max(line.position - REACH, 0)
    stop = min(line.position + REACH, untiled.shape[1])
    shift = 127.5 if whole.case.direction is Direction.DECODE else 0.0
    return Profile(
        axis=line.axis,
        start=start,
        at=line.position,
        seam=bool(lines),
        channel=channel,
        untiled=tuple(round(float(v) + shift, 3) for v in untiled[channel, start:stop]),
        ours=tuple(round(float(v) + shift, 3) for v in ours[channel, start:stop]),
    )


def _through(place: Place) -> Line:
    return Line(
        "x", place.x, place.y, place.y + 1, place.batch, place.frame, 0.0, 0.0, nominal=False
    )


def _jumping(moved: Floats, position: int) -> int:
    """The channel whose difference jumps most at a line."""
    jump = np.abs(moved[:, min(position, moved.shape[1] - 1)] - moved[:, max(position - 1, 0)])
    return int(jump.argmax())


# A result of another shape


def _misshapen(plain: Exhibit, output: Tensor, untiled: Tensor, case: Case) -> Shown | None:
    """Both results as they are, without a difference."""
    drawn: dict[str, Bytes] = {}
    for kind, result in (("untiled", untiled), ("hook", output)):
        plane = planes(result)[0, :, 0].double().numpy()
        channels = plane[:3] if len(plane) >= 3 else plane[:1]
        if case.direction is Direction.DECODE:
            levels = (channels + 1) * 127.5
        else:
            levels = (channels - channels.min()) * (255 / (np.ptp(channels) or 1.0))
        drawn[kind] = _whole(levels)
    height, width = untiled.shape[-2:]
    told = " x ".join(map(str, output.shape[-2:]))
    words = f"a result of {told} pixels where untiled gives {height} x {width}"
    if output.shape[-2:] == untiled.shape[-2:]:
        words = "a result of another shape or dtype"
    return _packed(replace(plain, shows=words, height=height, width=width), drawn)
