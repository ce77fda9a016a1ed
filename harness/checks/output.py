"""Minimum: the output has the shape, the dtype and the place it should have, and is finite."""

from __future__ import annotations

import math

from vae_compat.checks.finding import Finding, Tier
from vae_compat.checks.speaking import Speaker, incomparable, no_output
from vae_compat.checks.wording import shape
from vae_compat.measure.distance import distance_of, in_words
from vae_compat.measure.observation import Observation

_SHAPE = Speaker("output_shape", Tier.MINIMUM)
_DTYPE = Speaker("output_dtype", Tier.MINIMUM)
_DEVICE = Speaker("output_device", Tier.MINIMUM)
_FINITE = Speaker("finite", Tier.MINIMUM)


def check_output_shape(observation: Observation) -> Finding:
    """One tensor, as large as the untiled one."""
    if observation.failure is not None:
        return _SHAPE.not_judged(no_output(observation) or "")
    should = tuple(observation.baseline.output.shape)
    if observation.output is None:
        return _SHAPE.failed(observation, observation.returned, f"one tensor {shape(should)}")
    got = tuple(observation.output.shape)
    if got != should:
        dimensions = "B C T H W" if len(should) == 5 else "B C H W"
        return _SHAPE.failed(observation, f"shape {shape(got)}", f"{shape(should)} ({dimensions})")
    return _SHAPE.passed()


def check_output_dtype(observation: Observation) -> Finding:
    """The dtype in which the untiled result comes."""
    if (why := no_output(observation)) is not None or observation.output is None:
        return _DTYPE.not_judged(why or "")
    got, should = observation.output.dtype, observation.baseline.output.dtype
    if got != should:
        return _DTYPE.failed(
            observation, f"dtype {_named(got)}", f"{_named(should)}, as the untiled result is"
        )
    return _DTYPE.passed()


def check_output_device(observation: Observation) -> Finding:
    """Where the input lives."""
    if (why := no_output(observation)) is not None:
        return _DEVICE.not_judged(why)
    got, should = observation.output_device, observation.input_device
    if got is None or should is None:
        return _DEVICE.not_judged("the device of input or output is not known")
    if got != should:
        return _DEVICE.failed(observation, f"a result on {got}", f"on {should}, as the input is")
    return _DEVICE.passed()


def check_finite(observation: Observation) -> Finding:
    """No NaN and no infinity, and no pixel that no tile wrote."""
    if (why := no_output(observation)) is not None or observation.output is None:
        return _FINITE.not_judged(why or "")
    if incomparable(observation) is not None:  # of another shape: only count
        bad = int((~observation.output.isfinite()).sum())
        if not bool(observation.baseline.output.isfinite().all()):
            return _FINITE.not_judged("the untiled result itself is not finite")
        where = ""
    else:
        measured = distance_of(observation)
        bad = measured.non_finite
        where = in_words(measured.worst_at, observation.case, tuple(observation.output.shape))
    if bad:
        share = bad / max(math.prod(observation.output.shape), 1)
        return _FINITE.failed(
            observation,
            f"{bad} NaN or infinite elements ({share:.2%})",
            "finite, as the untiled result is",
            where,
            metrics={"non_finite": bad},
        )
    return _FINITE.passed({"non_finite": 0})


def _named(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
