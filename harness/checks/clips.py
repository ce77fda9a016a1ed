"""A clip is right from its first frame to its last, and does not flicker; most of it advanced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vae_compat.checks.caches import lone
from vae_compat.checks.comparing import comparable, promised
from vae_compat.checks.conditions import (
    claimed,
    clip,
    decode,
    long_clip,
    promises_exact,
    several_frames,
    single_run,
    whole_net,
)
from vae_compat.checks.declaring import Answer, check, failed, passed
from vae_compat.checks.parity import FAR, LIKENESS, UNLIKE, grade_of
from vae_compat.checks.wording import apart, number, raised, shape
from vae_compat.contracts.cases import Direction
from vae_compat.contracts.finding import Grade, Metrics, Tier
from vae_compat.measure.distance import (
    FLOOR_RATIO,
    changes,
    correlation,
    distance_of,
    frame_changes,
    is_exact,
)
from vae_compat.measure.observation import Observation
from vae_compat.measure.once import once
from vae_compat.scenarios.clip import ClipObserved, Way

STANDS_OUT = 2.0
"""A jump at a chunk border that exceeds the largest within the chunks by this factor is seen as a
beat. The value is a choice: above 1, which the jump at one of a few borders exceeds by chance. What
lies between was not measured."""
LEVEL = 2 / 255
"""One 8-bit level of a decoded picture."""

tells_a_jump = promises_exact | decode
"""Flicker is judged for pictures and for hooks that promise ``exact``. Encoders give each frame of
moments in a chunk of its own, so there are no frames within a chunk to compare a jump with."""


@check(tier=Tier.RECOMMENDED, when=claimed & single_run & whole_net & long_clip)
def check_coherence(observation: Observation) -> Answer:
    """A clip in one call is as right in each frame as in the others, and does not flash.

    Where ``exact`` is promised, each frame and each change from frame to frame must be as right as
    untiled. Otherwise no chunk border of a picture may stand out (see ``flicker``), and no frame
    may be as right as untiled beside others that are not: the clip would be cut in time, as one
    shows whose plane fits one tile. Hooks that claim to do that need not meet this.
    """
    output = comparable(observation)
    if isinstance(output, Answer):
        return output
    frames, promise = distance_of(observation).frames, observation.promise
    least, most = (pick(frames, key=lambda part: part.ratio) for pick in (min, max))
    numbers: Metrics = {"frame_ratio": most.ratio, "worst_frame": most.frame or 0}
    exact = promised(observation) is Grade.EXACT
    right = is_exact(least.error, least.floor)
    if exact and (bad := [part for part in frames if not is_exact(part.error, part.floor)]):
        ratio, _ = apart(bad[0].ratio, FLOOR_RATIO)
        return failed(
            f"frame {bad[0].frame} with rms error {number(bad[0].error.rms)}, {ratio} x its floor",
            "as right as untiled, by itself",
            metrics=numbers,
        )
    if right and most.ratio > UNLIKE and not promise.temporal:
        return failed(
            f"frame {most.frame} with {most.ratio:.3g} x its floor, and frame {least.frame} as "
            "right as untiled",
            "every frame alike: a clip is not cut in time",
            metrics=numbers,
        )
    if not tells_a_jump(observation.case, promise):
        return passed(numbers)
    frame, jump, bound = _jump(observation, _starts(observation), exact=exact)
    if frame is not None:
        size, bar = apart(jump, bound)
        return failed(
            f"a difference from untiled that jumps by {size} between frames {frame - 1} and "
            f"{frame}",
            f"at most {bar}",
            metrics={**numbers, "jump": jump},
        )
    return passed({**numbers, "jump": jump})


@check(tier=Tier.ADVANCED, when=claimed & clip)
def check_clip_completes(observed: ClipObserved) -> Answer:
    """The whole VAE and the bare coder take every chunk and return what they return untiled."""
    told = incomplete(observed, observed.ways) or _misshapen(observed)
    if told is not None:
        return failed(*told)
    return passed({"conventions": len(observed.ways)})


def incomplete(observed: ClipObserved, ways: Sequence[Way]) -> tuple[str, str, str] | None:
    """What a clip gave that did not run to its end, what it should have, and where it broke."""
    # The bare coder comes first because it knows the chunk.
    failures = [(way.convention, way.failure, f" at chunk {len(way.chunks)}") for way in ways]
    failures.append(("the whole VAE", observed.whole.failure, ""))
    for name, failure, place in failures:
        if failure is not None:
            got = f"{raised(failure)}{place} ({name})"
            return got, "a result for every chunk", failure.where
    for way in ways:
        for chunk in way.chunks:
            if chunk.returned[0] != chunk.returned[1]:
                got = f"{chunk.returned[0]} for chunk {chunk.number} ({way.convention})"
                return got, f"{chunk.returned[1]}, as untiled", ""
    return None


def _misshapen(observed: ClipObserved) -> tuple[str, str] | None:
    """What is wrong with the size of a chunk or of the whole clip, and what it should be."""
    for way in observed.ways:
        for chunk in way.chunks:
            ours, untiled = chunk.sizes
            if ours != untiled:
                got = f"{ours} for chunk {chunk.number} ({way.convention})"
                return got, f"{untiled}, as untiled"
    whole, should = observed.whole, tuple(observed.whole.baseline.output.shape)
    if whole.output is None:
        return f"{whole.returned} (the whole VAE)", f"one tensor {shape(should)}"
    if tuple(whole.output.shape) != should:
        return f"{shape(tuple(whole.output.shape))} (the whole VAE)", f"{shape(should)}, as untiled"
    return None


@check(tier=Tier.ADVANCED, when=claimed & clip)
def check_video_parity(observed: ClipObserved) -> Answer:
    """Every frame reaches the promised grade.

    An average over the clip would hide a bad second.
    """
    numbers: Metrics = {}
    for name, run in runs(observed):
        output = comparable(run)
        if isinstance(output, Answer):
            return replace(output, why=f"{output.why} ({name})", grade=Grade.BROKEN)
        frames = distance_of(run).frames
        worst = max(frames, key=lambda part: part.ratio)
        if worst.ratio >= float(numbers.get("frame_ratio") or 0):
            numbers = {"frame_ratio": worst.ratio, "worst_frame": worst.frame or 0, "run": name}
        for part in frames:
            frame = part.frame or 0
            if is_exact(part.error, part.floor) or _meets(observed, run, frame):
                continue
            ratio, _ = apart(part.ratio, FLOOR_RATIO)
            return failed(
                f"frame {frame} with rms error {number(part.error.rms)}, {ratio} x "
                f"its floor, {part.differing:.1%} of its pixels {FAR} ({name})",
                f"{promised(observed)} by itself (rms error at most twice its floor "
                f"{number(part.floor.rms)} to be exact)",
                f"chunk {_chunk(observed, name, frame)}{lone(observed)}",
                metrics=numbers,
            )
    return passed(numbers)


@check(tier=Tier.ADVANCED, when=claimed & clip & several_frames & tells_a_jump)
def check_flicker(observed: ClipObserved) -> Answer:
    """The difference from untiled does not jump from one frame to the next.

    Where ``exact`` is promised, the change from frame to frame must be as right as that of untiled.
    Otherwise no chunk border may stand out. One stands out where the difference from untiled jumps
    by more than an 8-bit level, and by more than twice as much as anywhere within the chunks.
    """
    numbers: Metrics = {}
    for name, run in runs(observed):
        output = comparable(run)
        if isinstance(output, Answer):
            return replace(output, why=f"{output.why} ({name})")
        borders = _borders(observed, name)
        frame, jump, bound = _jump(run, borders, exact=promised(observed) is Grade.EXACT)
        if jump >= float(numbers.get("jump") or 0):
            numbers = {"jump": jump, "run": name}
        if frame is not None:
            chunk = f", where chunk {borders.index(frame) + 1} begins" if frame in borders else ""
            size, most = apart(jump, bound)
            return failed(
                f"a difference from untiled that jumps by {size} between frames "
                f"{frame - 1} and {frame}{chunk} ({name})",
                f"at most {most}",
                metrics=numbers,
            )
    return passed(numbers)


@once
def runs(observed: ClipObserved) -> tuple[tuple[str, Observation], ...]:
    """The whole VAE, and each way through the bare coder, as observations of one run."""
    found = [("whole VAE", observed.whole)]
    for way in observed.shown:
        run = replace(
            observed.whole,
            baseline=way.baseline,
            output=way.output,
            failure=way.failure,
            returned="no tensors that fit together",
        )
        if way.distance is not None:
            distance_of.put(run, way.distance)
        found.append((way.convention, run))
    return tuple(found)


def _meets(observed: ClipObserved, run: Observation, frame: int) -> bool:
    """Whether one frame alone reaches the promised grade, where that is not ``exact``.

    A bare coder need not return a picture, so its frames need only correlate with the truth.
    """
    bar = promised(observed)
    if bar is Grade.EXACT or run.output is None:
        return False
    here = slice(frame, frame + 1)
    base, output = run.baseline, run.output[:, :, here]
    truth = base.truth[:, :, here]
    if run is not observed.whole:
        return correlation(output, truth) >= LIKENESS
    alone = replace(base, output=base.output[:, :, here], truth=truth, further={})
    return grade_of(replace(run, output=output, baseline=alone)).meets(bar)


def _way(observed: ClipObserved, name: str) -> Way | None:
    return next((way for way in observed.ways if way.convention == name), None)


def _borders(observed: ClipObserved, name: str) -> tuple[int, ...]:
    """The first frame of each chunk. A layout's own VAE cuts as its first convention does."""
    way = _way(observed, name)
    if way is not None:
        return way.borders
    return _starts(observed.whole)


def _starts(run: Observation) -> tuple[int, ...]:
    """The first frame of each chunk but the first: chunks are of one latent frame."""
    ratio = run.case.facts.temporal_ratio
    step = ratio if run.case.direction is Direction.DECODE else 1
    return tuple(range(1, run.baseline.truth.shape[2], step))


def _chunk(observed: ClipObserved, name: str, frame: int) -> int:
    return sum(border <= frame for border in _borders(observed, name))


def _jump(
    run: Observation, borders: tuple[int, ...], *, exact: bool
) -> tuple[int | None, float, float]:
    """The frame of the first jump that is too large, if any, with its size and the bound."""
    assert run.output is not None
    truth, untiled = run.baseline.truth, run.baseline.output.double()
    if truth.shape[2] == 1:
        return None, 0.0, 0.0
    if exact:
        measured = changes(run.output, run.baseline)
        for frame, (error, floor) in enumerate(measured, 1):
            if not is_exact(error, floor):
                return frame, error.rms, FLOOR_RATIO * floor.rms
        return None, max(error.rms for error, _ in measured), 0.0
    jumps = [noise.rms for noise in frame_changes(run.output.double() - untiled)]
    inside = [jump for frame, jump in enumerate(jumps, 1) if frame not in borders]
    bound = max(LEVEL, STANDS_OUT * max(inside, default=0.0))
    worst_at = max(borders, key=lambda frame: jumps[frame - 1])
    worst_jump = jumps[worst_at - 1]
    return (worst_at if not worst_jump <= bound else None), worst_jump, bound
