"""Recommended: where little is promised, the output is still no worse than plain tiles make it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from vae_compat.checks.clips import LEVEL
from vae_compat.checks.comparing import seams_of
from vae_compat.checks.conditions import LONG, beside_plain_tiles, whole_net
from vae_compat.checks.declaring import Answer, check, failed, not_judged, passed
from vae_compat.checks.picture import finite_output
from vae_compat.checks.wording import apart
from vae_compat.contracts.cases import Direction
from vae_compat.contracts.finding import Metrics, Tier
from vae_compat.measure.borders import Step, most_distinct
from vae_compat.measure.distance import Part, distance_of, frame_changes, is_exact
from vae_compat.measure.observation import Observation
from vae_compat.measure.regions import most_shifted
from vae_compat.measure.seams import CONTRAST, Line

WORSE = 2.0
"""Times the error of plain tiles, for tiles that lie, overlap and fade otherwise. Diffusers' tiles
measure 1.00, padded tiles 0.27 to 0.46 (image families, decode). The value is a choice: about as
far above 1 as padded tiles are below."""
TONE = 3.0
"""Times the shift of their worst region, which is one of hundreds and varies more than an error
over all. Diffusers' tiles measure 1.00, padded tiles 0.4 to 0.7 (image families, decode). The value
is a choice, half as much again as for the error."""
TONE_LEVELS = 2.0
"""Beyond that, so many 8-bit levels: where plain tiles shift by nothing, thrice that is nothing.
The value is a choice: two steps of an 8-bit picture."""
HARD = 2.5
"""Times the contrast of their most distinct line. Tiles that fade otherwise leave lines that stand
out up to 2.4 times as much (diffusers' encode of Wan 2.2; 1.6 times for that of Stable Diffusion),
and a tone of its own in each tile 8 times and more. On a photograph tiles with statistics of their
own that meet without fading have 5.7 times as much, and tiles that fade as much as plain ones. In
mocks, where the difference is a texture of 20 levels and more, they cannot be told apart."""
FRAMES_APART = 2.0
"""Tilers that cut no clip in time measure up to 1.6, and those that do 2.5 and more: mocks of Qwen
and Wan, both directions, clips in two tiles."""


@check(tier=Tier.RECOMMENDED, when=beside_plain_tiles & whole_net)
def check_plain_tiles(observation: Observation) -> Answer:
    """Where no more than ``degraded`` is promised, the output is no worse than plain tiles make it.

    These are square tiles of the same size that overlap by a quarter of it, each run through the
    whole VAE by itself, and fade into each other. No batch item and no frame of the output may have
    more than twice their error, no region more than three times the shift of their worst region and
    2 levels, and no change between frames more than twice their largest and a level. No seam may
    stand out 2.5 times as much as any of theirs, and along no line may a picture jump 2.5 times as
    distinctly as along any of theirs. In a long clip
    no latent frame may be twice as far from their error as any other: it would be cut in time,
    which is for hooks that claim to do so. Then plain tiles are cut as well.
    """
    output = finite_output(observation)
    if isinstance(output, Answer):
        return output
    if observation.plain_tiles is None or not bool(observation.plain_tiles.isfinite().all()):
        return not_judged("nothing is known of plain tiles, or they are not finite")
    plain = replace(observation, output=observation.plain_tiles, plain_tiles=None)
    ours, theirs = distance_of(observation), distance_of(plain)
    shifts = [
        most_shifted(each, observation.baseline, observation.case)
        for each in (output, observation.plain_tiles)
    ]
    seam = _seam(observation, plain)
    numbers: Metrics = {
        "error_rms": ours.error.rms,
        "plain_rms": theirs.error.rms,
        "shift": shifts[0].levels,
        "plain_shift": shifts[1].levels,
        "seam": int(seam is not None),
    }
    for part, plainly in _parts(observation, plain):
        most = WORSE * plainly.error.rms
        if part.error.rms > most and not is_exact(part.error, part.floor):
            got, should = apart(part.error.rms, most)
            return failed(
                f"an rms error of {got}",
                f"at most {should}, {WORSE:g} x that of plain tiles",
                _place(part),
                metrics=numbers,
            )
    most = TONE * abs(shifts[1].levels) + TONE_LEVELS
    if abs(shifts[0].levels) > most:
        got, should = apart(abs(shifts[0].levels), most, ".2f")
        sign = "-" if shifts[0].levels < 0 else "+"
        return failed(
            f"a region whose mean is shifted by {sign}{got} 8-bit levels",
            f"within {should}: that of plain tiles by {shifts[1].levels:+.2f}",
            str(shifts[0]),
            metrics=numbers,
        )
    if seam is not None:
        return failed("a seam", "none, as with plain tiles", str(seam), metrics=numbers)
    step = _step(observation, plain)
    if step is not None:
        return failed("a seam", "none, as with plain tiles", str(step), metrics=numbers)
    apart_by, where = _frames_apart(observation, plain)
    if observation.case.frames >= LONG:
        numbers = {**numbers, "frames_apart": apart_by}
    if apart_by > FRAMES_APART:
        got, should = apart(apart_by, FRAMES_APART, ".2f")
        return failed(
            f"an error that is {got} x as large beside that of plain tiles as in other frames",
            f"at most {should} x: a clip is not cut in time",
            where,
            metrics=numbers,
        )
    flash = _flash(observation, plain)
    if flash is not None:
        frame, jump, most = flash
        got, should = apart(jump, most)
        return failed(
            f"a difference from untiled that jumps by {got} between frames {frame - 1} and {frame}",
            f"at most {should}, as with plain tiles",
            metrics=numbers,
        )
    return passed(numbers)


def _seam(ours: Observation, plain: Observation) -> Line | None:
    """A line that no fading of one tile into the next leaves."""
    theirs = max((line.contrast for line in seams_of(plain).lines), default=CONTRAST)
    most = HARD * max(CONTRAST, theirs)
    return next((line for line in seams_of(ours).lines if line.contrast > most), None)


def _step(ours: Observation, plain: Observation) -> Step | None:
    """The line of a picture along which tiles meet without fading, where there is one."""
    if ours.case.direction is Direction.ENCODE or ours.output is None or plain.output is None:
        return None
    found = most_distinct(ours.output, ours.baseline, ours.case)
    theirs = most_distinct(plain.output, ours.baseline, ours.case)
    return found if found.levels >= 1 and found.contrast > HARD * theirs.contrast else None


def _parts(ours: Observation, plain: Observation) -> Iterator[tuple[Part, Part]]:
    """Batch items and frames, with those of plain tiles."""
    one, other = distance_of(ours), distance_of(plain)
    yield from zip(one.items, other.items, strict=True)
    yield from zip(one.frames, other.frames, strict=True)


def _frames_apart(ours: Observation, plain: Observation) -> tuple[float, str]:
    """By how much the errors of latent frames differ, each over that of plain tiles, and where."""
    case = ours.case
    if case.frames < LONG or ours.promise.temporal:
        return 1.0, ""
    step = case.facts.temporal_ratio if case.direction is Direction.DECODE else 1
    chunks: dict[tuple[int, int], list[tuple[Part, Part]]] = {}
    for pair in zip(distance_of(ours).frames, distance_of(plain).frames, strict=True):
        frame = pair[0].frame or 0
        chunks.setdefault((pair[0].batch, (frame + step - 1) // step), []).append(pair)
    ratios = {
        key: math.hypot(*(one.error.rms for one, _ in pairs))
        / (math.hypot(*(other.error.rms for _, other in pairs)) or math.inf)
        for key, pairs in chunks.items()
    }
    worst, where = 1.0, ""
    for batch in range(case.batch):
        of_item = {key: ratio for key, ratio in ratios.items() if key[0] == batch}
        key = max(of_item, key=of_item.__getitem__)
        exact = all(is_exact(one.error, one.floor) for one, _ in chunks[key])
        least = min(of_item.values())
        found = of_item[key] / least if least else math.inf
        if found > worst and not exact:
            first, last = (chunks[key][end][0].frame for end in (0, -1))
            worst, where = found, f"batch item {batch}, frames {first} to {last}"
    return worst, where


def _place(part: Part) -> str:
    frame = "" if part.frame is None else f", frame {part.frame}"
    return f"batch item {part.batch}{frame}"


def _flash(ours: Observation, plain: Observation) -> tuple[int, float, float] | None:
    """The frame with the largest jump, the jump and its bound, where it is too large."""
    output, tiles, untiled = ours.output, plain.output, ours.baseline.output.double()
    if output is None or tiles is None or untiled.dim() == 4 or untiled.shape[2] == 1:
        return None
    if ours.case.direction is Direction.ENCODE:  # moments have no frames that are played
        return None
    jumps = [noise.rms for noise in frame_changes(output.double() - untiled)]
    theirs = [noise.rms for noise in frame_changes(tiles.double() - untiled)]
    bound = WORSE * max(theirs) + LEVEL
    frame = max(range(len(jumps)), key=jumps.__getitem__)
    return None if jumps[frame] <= bound else (frame + 1, jumps[frame], bound)
