"""Minimum: the output has the right shape and dtype, is on the right device, and is finite."""

from __future__ import annotations

import math

from vae_compat.checks.comparing import comparable, output_of
from vae_compat.checks.conditions import claimed, single_run
from vae_compat.checks.declaring import Answer, check, failed, not_judged, passed
from vae_compat.checks.wording import shape
from vae_compat.contracts.finding import Tier
from vae_compat.measure.distance import distance_of, in_words
from vae_compat.measure.observation import Observation


@check(tier=Tier.MINIMUM, when=claimed & single_run)
def check_output_shape(observation: Observation) -> Answer:
    """The hook returns one tensor, as large as the untiled result."""
    should = tuple(observation.baseline.output.shape)
    output = output_of(observation)
    if isinstance(output, Answer):
        if observation.failure is not None:
            return output
        return failed(observation.returned, f"one tensor {shape(should)}")
    got = tuple(output.shape)
    if got != should:
        dimensions = "B C T H W" if len(should) == 5 else "B C H W"
        return failed(f"shape {shape(got)}", f"{shape(should)} ({dimensions})")
    return passed()


@check(tier=Tier.MINIMUM, when=claimed & single_run)
def check_output_dtype(observation: Observation) -> Answer:
    """The output has the dtype of the untiled result."""
    output = output_of(observation)
    if isinstance(output, Answer):
        return output
    got, should = output.dtype, observation.baseline.output.dtype
    if got != should:
        return failed(f"dtype {_name(got)}", f"{_name(should)}, as the untiled result is")
    return passed()


@check(tier=Tier.MINIMUM, when=claimed & single_run)
def check_output_device(observation: Observation) -> Answer:
    """The output is on the device of the input."""
    output = output_of(observation)
    if isinstance(output, Answer):
        return output
    got, should = observation.output_device, observation.input_device
    if got is None or should is None:
        return not_judged("the device of input or output is not known")
    if got != should:
        return failed(f"a result on {got}", f"on {should}, as the input is")
    return passed()


@check(tier=Tier.MINIMUM, when=claimed & single_run)
def check_finite(observation: Observation) -> Answer:
    """The output has no NaN and no infinity, and no pixel that no tile wrote."""
    output = output_of(observation)
    if isinstance(output, Answer):
        return output
    if isinstance(comparable(observation), Answer):  # of another shape: only count
        bad = int((~output.isfinite()).sum())
        if not bool(observation.baseline.output.isfinite().all()):
            return not_judged("the untiled result itself is not finite")
        where = ""
    else:
        measured = distance_of(observation)
        bad = measured.non_finite
        where = in_words(measured.worst_at, observation.case, tuple(output.shape))
    if bad:
        share = bad / max(math.prod(output.shape), 1)
        return failed(
            f"{bad} NaN or infinite elements ({share:.2%})",
            "finite, as the untiled result is",
            where,
            metrics={"non_finite": bad},
        )
    return passed({"non_finite": 0})


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
