"""Minimum: the coder can be called as the field calls it, and the run completes."""

from __future__ import annotations

from vae_compat.checks.conditions import claimed, single_run
from vae_compat.checks.declaring import Answer, check, failed, not_judged, passed
from vae_compat.checks.wording import ended_by, raised, shape
from vae_compat.contracts.finding import Tier
from vae_compat.measure.observation import ConventionResult, Failure, Observation

_RULE = "a hook must accept and pass on every argument that the coder's own forward takes"


@check(tier=Tier.MINIMUM, when=claimed & single_run)
def check_call_contract(observation: Observation) -> Answer:
    """The hooked coder takes every call that the coder takes."""
    failure, conventions = observation.failure, observation.conventions
    bad = [result for result in conventions or () if _trouble(result)]
    count = len(conventions or ())
    coder = f"{observation.case.direction}r"
    if failure is not None and failure.refuses_call:
        called = f" ({bad[0].convention})" if bad else ""
        return failed(
            f"{raised(failure)} when the {coder} was called as the field calls it{called}",
            f"a result: {_RULE}",
            failure.where,
            metrics={"conventions": count, "refused": len(bad)},
        )
    if bad:
        names = ", ".join(result.convention for result in bad)
        return failed(
            f"{_trouble(bad[0])} when the {coder} was called as the field calls it "
            f"({bad[0].convention})",
            f"what the bare coder gives: {_RULE}",
            bad[0].failure.where if bad[0].failure else "",
            metrics={"conventions": count, "refused": len(bad), "refused_ways": names},
        )
    if failure is not None and not conventions:
        return not_judged(ended_by(failure), blocked_by="completes")
    return passed({"conventions": count, "refused": 0})


def _trouble(result: ConventionResult) -> str:
    """What is wrong with a result or with the cache index after a call; empty if nothing is."""
    if result.failure is not None:
        return raised(result.failure)
    if result.shape != result.expected_shape:
        return f"shape {shape(result.shape)} instead of {shape(result.expected_shape)}"
    if not result.finite:
        return "NaN or infinite values"
    for call, (ours, theirs) in enumerate(zip(result.index, result.expected_index, strict=False)):
        if ours != theirs:
            return f"feat_idx at {ours} instead of {theirs} after call {call}"
    return ""


@check(tier=Tier.MINIMUM, when=claimed & single_run)
def check_completes(observation: Observation) -> Answer:
    """The run ends without an exception."""
    failure = observation.failure
    if failure is None:
        return passed()
    if failure.refuses_call:
        return not_judged("the coder could not be called", blocked_by="call_contract")
    return failed(raised(failure), f"a result ({_phase(failure)})", failure.where)


def _phase(failure: Failure) -> str:
    return {
        "load": "it was raised while the hook was loaded",
        "put_on": "it was raised while the hook was put on",
        "take_off": "it was raised while the hook was taken off",
    }.get(failure.phase, "it was raised while the hook ran")
