"""Minimum: the coder can be called as the field calls it, and the run completes."""

from __future__ import annotations

from vae_compat.checks.finding import Finding, Tier
from vae_compat.checks.speaking import Speaker
from vae_compat.checks.wording import repeat, shape
from vae_compat.measure.observation import ConventionResult, Failure, Observation

_CONTRACT = Speaker("call_contract", Tier.MINIMUM)
_COMPLETES = Speaker("completes", Tier.MINIMUM)

_RULE = "a hook must accept and pass on every argument that the coder's own forward takes"


def check_call_contract(observation: Observation) -> Finding:
    """The hooked coder takes every call that the coder takes."""
    failure, conventions = observation.failure, observation.conventions
    bad = [result for result in conventions or () if _trouble(result)]
    count = len(conventions or ())
    if failure is not None and failure.refuses_call:
        called = f" ({bad[0].convention})" if bad else ""
        return _CONTRACT.failed(
            observation,
            f"{failure.kind}: {failure.message} when the {_coder(observation)} was called as "
            f"the field calls it{called}",
            f"a result: {_RULE}",
            failure.where,
            metrics={"conventions": count, "refused": len(bad)},
        )
    if bad:
        names = ", ".join(result.convention for result in bad)
        return _CONTRACT.failed(
            observation,
            f"{_trouble(bad[0])} when the {_coder(observation)} was called as the field calls "
            f"it ({bad[0].convention})",
            f"what the bare coder gives: {_RULE}",
            bad[0].failure.where if bad[0].failure else "",
            metrics={"conventions": count, "refused": len(bad), "refused_ways": names},
        )
    if failure is not None and not conventions:
        return _CONTRACT.not_judged(f"the hook raised {failure.kind} (see completes)")
    return _CONTRACT.passed({"conventions": count, "refused": 0})


def _coder(observation: Observation) -> str:
    return f"{observation.case.direction}r"


def _trouble(result: ConventionResult) -> str:
    """What is wrong with a result, or with where a call leaves the cache index; or nothing."""
    if result.failure is not None:
        return f"{result.failure.kind}: {result.failure.message}"
    if result.shape != result.expected_shape:
        return f"shape {shape(result.shape)} instead of {shape(result.expected_shape)}"
    if not result.finite:
        return "NaN or infinite values"
    for call, (ours, theirs) in enumerate(zip(result.index, result.expected_index, strict=False)):
        if ours != theirs:
            return f"feat_idx at {ours} instead of {theirs} after call {call}"
    return ""


def check_completes(observation: Observation) -> Finding:
    """The run ends without an exception."""
    failure = observation.failure
    if failure is None:
        return _COMPLETES.passed()
    if failure.refuses_call:
        return _COMPLETES.not_judged(
            "; ".join(["the coder could not be called (see call_contract)", *repeat(observation)])
        )
    return _COMPLETES.failed(
        observation,
        f"{failure.kind}: {failure.message or '(no message)'}",
        f"a result ({_phase(failure)})",
        failure.where,
    )


def _phase(failure: Failure) -> str:
    return {
        "load": "it was raised while the hook was loaded",
        "put_on": "it was raised while the hook was put on",
        "take_off": "it was raised while the hook was taken off",
    }.get(failure.phase, "it was raised while the hook ran")
