"""Recommended: what a person would see: seams, shifted colours, values out of range."""

from __future__ import annotations

from torch import Tensor

from vae_compat.checks.comparing import comparable, promised, seams_of
from vae_compat.checks.conditions import (
    claimed,
    clamped,
    decode,
    promises_bounds,
    single_run,
    whole_net,
)
from vae_compat.checks.declaring import Answer, check, failed, not_judged, passed
from vae_compat.checks.wording import apart
from vae_compat.contracts.finding import Grade, Metrics, Tier
from vae_compat.contracts.promise import Bounds
from vae_compat.measure.distance import distance_of
from vae_compat.measure.observation import Observation
from vae_compat.measure.regions import most_shifted

COLOUR_LEVELS = 1.0
"""8-bit levels by which the mean of a channel may move where the result is promised to be close.
The value is a choice: the step of an 8-bit picture, below which a flat area shows at most as
rounding. Diffusers' tiles and padded tiles move it by up to 4.8 levels (mocks of image families,
decode)."""


def finite_output(observation: Observation) -> Tensor | Answer:
    """A comparable output without NaN and infinity, or why there is none."""
    output = comparable(observation)
    if isinstance(output, Answer) or not distance_of(observation).non_finite:
        return output
    return not_judged("the output is not finite", blocked_by="finite")


@check(tier=Tier.RECOMMENDED, when=claimed & single_run & whole_net)
def check_seams(observation: Observation) -> Answer:
    """No tile border shows, where the result is promised to be close or better."""
    output = finite_output(observation)
    if isinstance(output, Answer):
        return output
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
        return failed(
            f"a seam ({max(len(found.lines), 1)} or more lines)",
            f"none where the result is promised to be {promised(observation)}",
            str(found),
            metrics=numbers,
        )
    return passed(numbers)


@check(tier=Tier.RECOMMENDED, when=claimed & single_run & whole_net & promises_bounds)
def check_bounds(observation: Observation) -> Answer:
    """The output keeps what ``[claims.bounds]`` promises beyond its grade.

    ``psnr`` is in dB against the truth. ``levels`` is by how many 8-bit levels the mean of any
    region, a square of half a tile, may be shifted in any channel. With ``seams = true`` no border
    of a tile shows.
    """
    output = finite_output(observation)
    if isinstance(output, Answer):
        return output
    bounds = observation.promise.bounds or Bounds()
    measured = distance_of(observation)
    region = most_shifted(output, observation.baseline, observation.case)
    seams = seams_of(observation)
    numbers: Metrics = {"psnr": measured.psnr, "shift": region.levels, "seam": int(seams.seam)}
    if bounds.psnr is not None and measured.psnr < bounds.psnr:
        got, least = apart(measured.psnr, bounds.psnr, ".1f")
        return failed(f"a PSNR of {got} dB", f"at least {least} dB", metrics=numbers)
    if bounds.levels is not None and abs(region.levels) > bounds.levels:
        got, most = apart(abs(region.levels), bounds.levels, ".2f")
        sign = "-" if region.levels < 0 else "+"
        return failed(
            f"a region whose mean is shifted by {sign}{got} 8-bit levels",
            f"within {most}",
            str(region),
            metrics=numbers,
        )
    if bounds.seams and seams.seam:
        return failed("a seam", "none", str(seams), metrics=numbers)
    return passed(numbers)


@check(tier=Tier.RECOMMENDED, when=claimed & single_run & whole_net & decode & clamped)
def check_value_range(observation: Observation) -> Answer:
    """Where the VAE ends in a clamp, the picture stays within -1 to 1."""
    output = finite_output(observation)
    if isinstance(output, Answer):
        return output
    low, high = map(float, output.aminmax())
    least, most = map(float, observation.baseline.output.aminmax())
    numbers: Metrics = {
        "lowest": low,
        "highest": high,
        "untiled_lowest": least,
        "untiled_highest": most,
    }
    slack = 8 * distance_of(observation).floor.worst
    if least >= -1 and most <= 1 and (low < -1 - slack or high > 1 + slack):
        return failed(
            f"values from {apart(low, -1, '.4g')[0]} to {apart(high, 1, '.4g')[0]}",
            f"within -1 to 1, as untiled ({least:.4g} to {most:.4g}): the final clamp is missing",
            metrics=numbers,
        )
    return passed(numbers)


@check(tier=Tier.RECOMMENDED, when=claimed & single_run & whole_net)
def check_colour_shift(observation: Observation) -> Answer:
    """No channel's mean moves by a level, where the result is promised to be close or better."""
    output = finite_output(observation)
    if isinstance(output, Answer):
        return output
    measured = distance_of(observation)
    worst = max(range(len(measured.shift)), key=lambda index: abs(measured.shift[index]))
    size = measured.shift[worst]
    item, channel = divmod(worst, len(measured.shift) // len(measured.items))
    shifted = abs(size) > COLOUR_LEVELS
    if shifted and promised(observation).meets(Grade.CLOSE) and measured.ratio > 2:
        levels, _ = apart(abs(size), COLOUR_LEVELS, ".2f")
        return failed(
            f"a mean that is shifted by {'-' if size < 0 else '+'}{levels} 8-bit levels",
            f"within {COLOUR_LEVELS:g} level",
            f"batch item {item}, channel {channel}",
            metrics={"shift": size},
        )
    return passed({"shift": size})
