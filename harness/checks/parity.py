"""Recommended: the output equals the untiled result, within the VAE's own noise."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from vae_compat.checks.comparing import comparable, promised, seams_of
from vae_compat.checks.conditions import claimed, several_items, single_run, whole_net
from vae_compat.checks.declaring import Answer, check, failed, passed
from vae_compat.checks.wording import apart, number, over
from vae_compat.contracts.cases import Direction, Mode
from vae_compat.contracts.finding import Grade, Metrics, Tier
from vae_compat.measure.distance import (
    FLOOR_RATIO,
    WORST_RATIO,
    Distance,
    Part,
    correlation,
    distance_of,
    in_words,
    is_exact,
)
from vae_compat.measure.observation import Observation
from vae_compat.measure.once import once
from vae_compat.measure.planes import halves, planes

CLOSE_PSNR = 40.0
"""dB above which a difference without structure is held to be invisible: an rms error of 2.55 8-bit
levels. The value is a choice."""
LIKENESS = 0.25
"""Correlation with the truth below which a picture counts as a different one. The lowest value of a
sound hook is 0.51: blended tiles of nets with seeded weights, where attention and statistics differ
most."""
FAR = f"off by more than {WORST_RATIO:g} x the floor's worst"
"""What the pixels are that metric `differing` counts."""
UNLIKE = 1000.0
"""Errors in floors from which on an item shows that tiles ran: far above any noise. The value is a
choice."""
MISSING = 4
"""So many pixels that are zero in every channel, where the truth is not, are no coincidence. The
value is a choice: a tile that nobody wrote misses hundreds."""


def grade_of(observation: Observation) -> Grade:
    """How right an output is; `Grade.BROKEN` where there is none to compare."""
    if isinstance(comparable(observation), Answer) or broken(observation):
        return Grade.BROKEN
    measured = distance_of(observation)
    if is_exact(measured.error, measured.floor):
        return Grade.EXACT
    if measured.level_change is not None and measured.level_change <= 1:
        return Grade.LOSSLESS
    if measured.psnr >= CLOSE_PSNR and not seams_of(observation).seam:
        return Grade.CLOSE
    return Grade.BROKEN if _likeness(observation) < LIKENESS else Grade.DEGRADED


def broken(observation: Observation) -> str:
    """What is broken about a comparable output; empty where nothing is."""
    measured = distance_of(observation)
    if measured.non_finite:
        return f"{measured.non_finite} NaN or infinite elements"
    if measured.missing >= MISSING:
        return f"{measured.missing} pixels that no tile wrote"
    output, untiled = observation.output, observation.baseline.output
    if output is not None and output.dtype != untiled.dtype:
        return f"dtype {output.dtype} instead of {untiled.dtype}"
    ours, given = observation.output_device, observation.input_device
    if ours is not None and given is not None and ours != given:
        return f"device {ours} instead of {given}"
    return ""


@once
def _likeness(observation: Observation) -> float:
    """Pearson correlation of a comparable, finite output with the truth.

    Of moments it is the lower one of mean and log-variance, which have different ranges. It is 0
    for a constant output, and 1 where the truth itself is constant and has no structure to find.
    """
    assert observation.output is not None
    ours, truth = planes(observation.output), planes(observation.baseline.truth)
    parts = halves(truth.shape[1], observation.case.direction)
    return min(correlation(ours[:, part], truth[:, part]) for part in parts)


@check(tier=Tier.RECOMMENDED, when=claimed & single_run & whole_net)
def check_parity(observation: Observation) -> Answer:
    """The grade of the output is at least the promised one."""
    return graded(observation)


def graded(observation: Observation, meaning: str = "", *, least: Grade = Grade.BROKEN) -> Answer:
    """Grade an output and hold it to the promise; ``meaning`` says what a failure means.

    Where less than ``least`` is promised, the output is held to ``least``.
    """
    output = comparable(observation)
    if isinstance(output, Answer):
        return replace(output, grade=Grade.BROKEN)
    measured, grade, bar = distance_of(observation), grade_of(observation), promised(observation)
    bar = bar if bar.meets(least) else least
    numbers = {**_numbers(measured, _likeness(observation)), **_latent(observation)}
    if grade.meets(bar):
        return passed(numbers, grade=grade)
    return failed(
        f"{meaning + ': ' if meaning else ''}grade {grade} ({described(observation, grade)})",
        f"{bar} ({_bound(bar, measured, observation)})",
        in_words(measured.worst_at, observation.case, tuple(output.shape)),
        grade=grade,
        metrics=numbers,
    )


def _latent(observation: Observation) -> Metrics:
    """How far the mean of an encoder's moments, which a model is given, is from the truth."""
    if observation.case.direction is Direction.DECODE or observation.output is None:
        return {}
    truth = planes(observation.baseline.truth)
    part = halves(truth.shape[1], Direction.ENCODE)[0]
    error = planes(observation.output)[:, part].double() - truth[:, part]
    spread = float(truth[:, part].std()) or 1.0
    return {"deviations": float(error.square().mean().sqrt()) / spread}


def _numbers(measured: Distance, likeness: float) -> Metrics:
    place = measured.worst_at
    return {
        "error_rms": measured.error.rms,
        "error_worst": measured.error.worst,
        "floor_rms": measured.floor.rms,
        "floor_worst": measured.floor.worst,
        "ratio": measured.ratio,
        "psnr": measured.psnr,
        "correlation": likeness,
        "level_change": measured.level_change if measured.level_change is not None else "none",
        "differing": measured.differing,
        "worst_at": " ".join(f"{name}={value}" for name, value in place._asdict().items()),
        "worst_frame": max(measured.frames, key=lambda part: part.ratio).frame or 0,
    }


def described(observation: Observation, grade: Grade) -> str:
    """Why a comparable output has its grade."""
    measured = distance_of(observation)
    if grade is Grade.BROKEN:
        likeness, _ = apart(_likeness(observation), LIKENESS, ".2f")
        return broken(observation) or f"a correlation of {likeness} with the untiled result"
    ratio, _ = apart(measured.ratio, FLOOR_RATIO)
    worst = over(measured.error.worst, measured.floor.worst, WORST_RATIO)
    psnr, _ = apart(measured.psnr, CLOSE_PSNR, ".1f")
    said = [
        f"rms error {number(measured.error.rms)}, {ratio} x floor",
        f"worst {number(measured.error.worst)}{worst}",
        f"PSNR {psnr} dB",
    ]
    if measured.level_change is not None:
        said.append(f"up to {measured.level_change} levels")
    said.append(f"{measured.differing:.1%} of the pixels {FAR}")
    if grade is Grade.DEGRADED and seams_of(observation).seam:
        said.append(f"seam at {seams_of(observation)}")
    return ", ".join(said)


def _bound(bar: Grade, measured: Distance, observation: Observation) -> str:
    if bar is Grade.EXACT or (
        bar is Grade.LOSSLESS and observation.case.direction is Direction.ENCODE
    ):
        return (
            f"rms error at most {FLOOR_RATIO:g} x floor {number(measured.floor.rms)}, worst at "
            f"most {WORST_RATIO:g} x {number(measured.floor.worst)}"
        )
    return {
        Grade.LOSSLESS: "no 8-bit level moves by more than one",
        Grade.CLOSE: f"PSNR at least {CLOSE_PSNR:g} dB and no seam",
        Grade.DEGRADED: f"right shape, dtype and device, finite, no pixel missing, "
        f"correlation at least {LIKENESS:g}",
    }.get(bar, "anything")


@check(tier=Tier.RECOMMENDED, when=claimed & single_run & whole_net & several_items)
def check_batch_items(observation: Observation) -> Answer:
    """Each batch item is right by itself, and in its own place.

    An average over the batch would hide one item that is wrong. Where tiles change the result,
    they change that of each item: one that is as right as untiled, beside another that is not, was
    not tiled. A quadtree may find nothing to cut in one of them.
    """
    output = comparable(observation)
    if isinstance(output, Answer):
        return replace(output, grade=Grade.BROKEN)
    measured = distance_of(observation)
    numbers: Metrics = {f"ratio_{part.batch}": part.ratio for part in measured.items}
    for part in measured.items:
        if is_exact(part.error, part.floor):
            continue
        other = _nearer(output, observation.baseline.truth, part)
        if other is not None:
            return failed(
                f"batch item {part.batch} that is nearer to item {other} of the untiled result",
                f"item {part.batch}: items are mixed up",
                metrics=numbers,
            )
        if not _item_meets(part, measured, promised(observation)):
            ratio, _ = apart(part.ratio, FLOOR_RATIO)
            return failed(
                f"batch item {part.batch} with rms error {number(part.error.rms)}, "
                f"{ratio} x its floor",
                f"{promised(observation)} by itself",
                metrics=numbers,
            )
    least, most = (pick(measured.items, key=lambda part: part.ratio) for pick in (min, max))
    unlike = is_exact(least.error, least.floor) and most.ratio > UNLIKE
    if unlike and observation.case.mode is not Mode.QUADTREE:
        return failed(
            f"batch item {most.batch} with {most.ratio:.3g} x its floor, and item {least.batch} "
            f"with {least.ratio:.3g} x its own, which is untiled",
            "tiles for every item",
            metrics=numbers,
        )
    return passed(numbers)


def _item_meets(part: Part, measured: Distance, bar: Grade) -> bool:
    if bar is Grade.EXACT:
        return False
    if bar in (Grade.LOSSLESS, Grade.CLOSE):
        share = part.error.rms / measured.error.rms if measured.error.rms else 0.0
        return not share or measured.psnr - 20 * math.log10(share) >= CLOSE_PSNR
    return math.isfinite(part.error.rms)


def _nearer(output: Tensor, truth: Tensor, part: Part) -> int | None:
    """Another item of the untiled result to which this output item is nearer than to its own.

    Items that are apart by no more than the floor are one picture twice.
    """
    ours, own = output[part.batch].double(), truth[part.batch]
    for other in range(truth.shape[0]):
        if other != part.batch:
            apart = (own - truth[other]).square_().mean().sqrt()
            away = (ours - truth[other]).square_().mean().sqrt()
            if float(away) < part.error.rms and float(apart) > part.floor.rms:
                return other
    return None
