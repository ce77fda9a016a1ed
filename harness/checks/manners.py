"""Recommended: the hook leaves things as they were, and is honest about what it cannot do."""

from __future__ import annotations

from vae_compat.checks.finding import Finding, Grade, Tier
from vae_compat.checks.parity import grade_of
from vae_compat.checks.speaking import Speaker, incomparable
from vae_compat.checks.wording import mebibytes, number, shape
from vae_compat.measure.distance import distance_of
from vae_compat.measure.observation import Observation

_LIVE = Speaker("live_bytes", Tier.RECOMMENDED)
_LEFT = Speaker("left_behind", Tier.RECOMMENDED)
_INPUT = Speaker("input_untouched", Tier.RECOMMENDED)
_REFUSAL = Speaker("refusal", Tier.RECOMMENDED)

_WORKSPACE = 33 * 2**20
"""Bytes that cuBLAS keeps once it has been used (32 MiB on Hopper, 8 MiB before; CUDA
documentation, cublasSetWorkspace): a real device allocates them whenever the first product runs."""


def check_live_bytes(observation: Observation) -> Finding:
    """As many bytes are live afterwards, the output aside, as before."""
    before, after = observation.reading.live_before, observation.reading.live_after
    if before is None or after is None:
        return _LIVE.not_judged("live bytes were not measured", metrics={"live_bytes_left": None})
    left = after - before
    slack = _WORKSPACE if observation.case.device == "cuda" else 0
    if left > slack:
        return _LIVE.failed(
            observation,
            f"{mebibytes(left)} ({left} bytes) still allocated after the run",
            "none beyond the output",
            metrics={"live_bytes_left": left},
        )
    if left < 0:
        return _LIVE.failed(
            observation,
            f"{-left} bytes fewer live than before",
            "the weights and the input still where they were",
            metrics={"live_bytes_left": left},
        )
    return _LIVE.passed({"live_bytes_left": left})


def check_left_behind(observation: Observation) -> Finding:
    """VAE and process are as they were before the hook was put on."""
    if (why := _unseen(observation)) is not None:
        return _LEFT.not_judged(why)
    if not observation.residue:
        return _LEFT.passed({"residue": 0})
    more = len(observation.residue) - 3
    listed = "; ".join(observation.residue[:3]) + (f"; and {more} more" if more > 0 else "")
    return _LEFT.failed(
        observation,
        f"left behind: {listed}",
        "VAE and process as before",
        metrics={"residue": len(observation.residue)},
    )


def check_input_untouched(observation: Observation) -> Finding:
    """The tensor that was given is not written to: the caller may need it."""
    if (why := _unseen(observation)) is not None:
        return _INPUT.not_judged(why)
    if observation.input_changed:
        return _INPUT.failed(observation, "the input changed in place", "left as it was given")
    return _INPUT.passed()


def _unseen(observation: Observation) -> str | None:
    """Why nothing is known of what the hook did; ``None`` where it was watched to its end."""
    failure = observation.failure
    if failure is None or not failure.unseen:
        return None
    return f"{failure.kind}: {failure.message} (see completes)"


def check_refusal(observation: Observation) -> Finding:
    """What is not claimed is refused with a clear error, or gives the untiled result."""
    failure = observation.failure
    if failure is not None:
        if failure.deliberate:
            return _REFUSAL.passed({"answer": f"refused: {failure.kind}"})
        return _REFUSAL.failed(
            observation,
            f"{failure.kind}: {failure.message or '(no message)'}",
            "an error that the hook raises on purpose and that says what it cannot do, or the "
            "untiled result: this is not claimed",
            failure.where,
            metrics={"answer": "crashed"},
        )
    if observation.output is None:
        return _REFUSAL.failed(
            observation, observation.returned, "a clear error or the untiled result"
        )
    should = tuple(observation.baseline.output.shape)
    if tuple(observation.output.shape) != should:
        got = shape(tuple(observation.output.shape))
        return _REFUSAL.failed(
            observation,
            f"a wrong picture of shape {got}",
            f"a clear error or the untiled result {shape(should)}: this is not claimed",
            metrics={"answer": "wrong"},
        )
    if (why := incomparable(observation)) is not None:
        return _REFUSAL.not_judged(why)
    grade, measured = grade_of(observation), distance_of(observation)
    if grade is Grade.EXACT:
        return _REFUSAL.passed({"answer": "untiled result"}, grade=grade)
    return _REFUSAL.failed(
        observation,
        f"a wrong picture without a word (grade {grade}, {number(measured.ratio)} x floor)",
        "a clear error or the untiled result: this is not claimed",
        grade=grade,
        metrics={"answer": "wrong"},
    )
