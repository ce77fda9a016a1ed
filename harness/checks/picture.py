"""Recommended: what a person would see: seams, shifted colours, values out of range."""

from __future__ import annotations

from vae_compat.checks.finding import Finding, Grade, Tier
from vae_compat.checks.speaking import Metrics, Speaker, incomparable, promised, seams_of
from vae_compat.measure.distance import distance_of
from vae_compat.measure.observation import Observation

_SEAMS = Speaker("seams", Tier.RECOMMENDED)
_COLOUR = Speaker("colour_shift", Tier.RECOMMENDED)
_RANGE = Speaker("value_range", Tier.RECOMMENDED)

COLOUR_LEVELS = 1.0
"""8-bit levels by which the mean of a channel may move where the result is promised to be close."""


def check_seams(observation: Observation) -> Finding:
    """No tile border shows, where the result is promised to be close or better."""
    if (why := incomparable(observation)) is not None:
        return _SEAMS.not_judged(why)
    if distance_of(observation).non_finite:
        return _SEAMS.not_judged("the output is not finite (see finite)")
    found = seams_of(observation)
    numbers: Metrics = {
        "seam": int(found.seam),
        "lines": len(found.lines),
        "band_worst": found.band_worst,
        "interior_worst": found.interior_worst,
        "band_rms": found.band_rms,
        "interior_rms": found.interior_rms,
        "band_differing": found.band_differing,
        "interior_differing": found.interior_differing,
    }
    if found.band_worst is None:  # the plane has no nominal border: nothing to measure there
        numbers = {"seam": int(found.seam), "lines": len(found.lines)}
    if found.seam and promised(observation).meets(Grade.CLOSE):
        return _SEAMS.failed(
            observation,
            f"a seam ({max(len(found.lines), 1)} or more lines)",
            f"none where the result is promised to be {promised(observation)}",
            str(found),
            metrics=numbers,
        )
    return _SEAMS.passed(numbers)


def check_colour_shift(observation: Observation) -> Finding:
    """No channel's mean moves by a level, where the result is promised to be close or better."""
    if (why := incomparable(observation)) is not None:
        return _COLOUR.not_judged(why)
    measured = distance_of(observation)
    if measured.non_finite:
        return _COLOUR.not_judged("the output is not finite (see finite)")
    worst = max(range(len(measured.shift)), key=lambda index: abs(measured.shift[index]))
    size = measured.shift[worst]
    item, channel = divmod(worst, len(measured.shift) // len(measured.items))
    level = abs(size) > COLOUR_LEVELS
    if level and promised(observation).meets(Grade.CLOSE) and measured.ratio > 2:
        return _COLOUR.failed(
            observation,
            f"a mean that is shifted by {size:+.2f} 8-bit levels",
            f"within {COLOUR_LEVELS:g} level",
            f"batch item {item}, channel {channel}",
            metrics={"shift": size},
        )
    return _COLOUR.passed({"shift": size})


def check_value_range(observation: Observation) -> Finding:
    """Where the untiled picture stays within -1 to 1, so does this one: the last clamp is there."""
    if (why := incomparable(observation)) is not None or observation.output is None:
        return _RANGE.not_judged(why or "")
    measured = distance_of(observation)
    if measured.non_finite:
        return _RANGE.not_judged("the output is not finite (see finite)")
    low, high = map(float, observation.output.aminmax())
    least, most = map(float, observation.baseline.output.aminmax())
    numbers: Metrics = {
        "lowest": low,
        "highest": high,
        "untiled_lowest": least,
        "untiled_highest": most,
    }
    slack = 8 * measured.floor.worst
    if least >= -1 and most <= 1 and (low < -1 - slack or high > 1 + slack):
        return _RANGE.failed(
            observation,
            f"values from {low:.4g} to {high:.4g}",
            f"within -1 to 1, as untiled ({least:.4g} to {most:.4g}): the final clamp is missing",
            metrics=numbers,
        )
    return _RANGE.passed(numbers)
