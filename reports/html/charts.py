"""Charts as plain geometry: what the template draws as SVG, in colours that the style sheet has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vae_compat.reports.pictures.exhibit import Profile, Slots
from vae_compat.reports.plot import SERIES, Course
from vae_compat.text import printable

WIDTH, HEIGHT = 320.0, 120.0
"""Size of the area that lines are drawn in, in units of the drawing."""


@dataclass(frozen=True)
class Curve:
    """A line of a chart."""

    name: str
    style: str
    """Class of the style sheet: ``untiled``, ``hook``, ``untiled-live``, ``hook-live``."""
    path: str
    """``d`` of an SVG path."""


@dataclass(frozen=True)
class Lines:
    """Some curves over a common axis."""

    title: str
    """What a reader who sees no picture is told."""
    across: str
    up: str
    """Names of the axes."""
    low: float
    high: float
    """Range of the values."""
    first: int
    last: int
    """Range of the positions."""
    curves: tuple[Curve, ...]
    marks: tuple[float, ...] = ()
    """Where upright lines are drawn."""


@dataclass(frozen=True)
class Bar:
    """A value beside 1, which is untiled."""

    name: str
    value: float
    share: float
    """Length of the bar, 0 to 100."""
    one: float
    """Where untiled stands, 0 to 100."""
    text: str


@dataclass(frozen=True)
class Heat:
    """Slots of a cache (down) by chunks (across)."""

    title: str
    chunks: int
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """A name for each slot, and a class of the style sheet and a text for each of its chunks."""


def profile_lines(profile: Profile) -> Lines:
    """The values of both results across a seam."""
    values = [*profile.untiled, *(value for value in profile.ours if value is not None)]
    low, high = _range(values)
    what = "the worst seam" if profile.seam else "the worst pixel"
    first, last = profile.start, profile.start + len(profile.untiled) - 1
    return Lines(
        title=(
            f"8-bit levels of channel {profile.channel} across {what} at "
            f"{profile.axis} {profile.at}, untiled and hook"
        ),
        across=f"{profile.axis}, pixels",
        up="levels",
        low=low,
        high=high,
        first=first,
        last=last,
        curves=(
            Curve("untiled", "untiled", _path(profile.untiled, low, high)),
            Curve("hook", "hook", _path(profile.ours, low, high)),
        ),
        marks=(WIDTH * (profile.at - 0.5 - first) / max(last - first, 1),),
    )


def memory_lines(course: Course) -> Lines:
    """Memory over a clip."""
    high = max(max(values) for values in course.series.values()) or 1.0
    styles = ("untiled", "untiled-live", "hook", "hook-live")
    length = max(map(len, course.series.values()))
    return Lines(
        title=f"MiB on the device over the chunks of a clip: {course.family} {course.direction}",
        across="chunk",
        up="MiB",
        low=0.0,
        high=high,
        first=0,
        last=length - 1,
        curves=tuple(
            Curve(SERIES[name][0], style, _path(values, 0.0, high))
            for (name, values), style in zip(course.series.items(), styles, strict=True)
        ),
    )


def frame_bars(ratios: Sequence[float]) -> tuple[Bar, ...]:
    """Error of each frame as a multiple of the noise floor."""
    named = [(f"frame {number}", ratio) for number, ratio in enumerate(ratios)]
    return bars(named)


def bars(named: Sequence[tuple[str, float]]) -> tuple[Bar, ...]:
    """Values as bars beside 1, all on one scale."""
    most = max([1.0, *(value for _, value in named if math.isfinite(value))])
    scale = 100 / (most * 1.02)
    return tuple(
        Bar(name, value, round(min(value * scale, 100.0), 2), round(scale, 2), short(value))
        for name, value in named
    )


def heat(slots: Slots) -> Heat:
    """Slot by chunk, in classes of how far the frames are from those of untiled."""
    unlike = set(slots.unlike)
    rows = []
    for number, (name, ratios) in enumerate(zip(slots.names, slots.ratios, strict=False)):
        cells = tuple(
            ("unlike", "another kind of thing than untiled")
            if (number, chunk) in unlike
            else _heated(ratio)
            for chunk, ratio in enumerate(ratios)
        )
        rows.append((f"{number} {printable(name, 200)}", cells))
    count = max((len(cells) for _, cells in rows), default=0)
    return Heat("error of every slot of the cache after every chunk", count, tuple(rows))


def _heated(ratio: float | None) -> tuple[str, str]:
    if ratio is None:
        return "none", "nothing to compare"
    for most, name in ((2.0, "right"), (10.0, "warm"), (1000.0, "hot")):
        if ratio <= most:
            return name, f"{short(ratio)} x floor"
    return "worst", f"{short(ratio)} x floor"


def short(value: float) -> str:
    """``0.12``, ``3.4``, ``1.2e+05``."""
    if value >= 1e9:
        return "beyond measure"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.3g}"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _path(values: Sequence[float | None], low: float, high: float) -> str:
    """An SVG path, broken where a value is missing."""
    parts, pen = [], "M"
    step = WIDTH / max(len(values) - 1, 1)
    for number, value in enumerate(values):
        if value is None:
            pen = "M"
            continue
        y = HEIGHT * (1 - (value - low) / ((high - low) or 1.0))
        parts.append(f"{pen}{number * step:.1f} {y:.1f}")
        pen = "L"
    return "".join(parts)
