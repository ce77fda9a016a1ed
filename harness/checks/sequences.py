"""Advanced: what came before a call does not show in its result."""

from __future__ import annotations

from vae_compat.checks.finding import Finding, Tier
from vae_compat.checks.parity import LIKENESS
from vae_compat.checks.speaking import Metrics, Speaker
from vae_compat.checks.tiles import may_run_untiled
from vae_compat.checks.wording import number
from vae_compat.measure.distance import FLOOR_RATIO, WORST_RATIO, is_exact
from vae_compat.measure.observation import Observed
from vae_compat.measure.rights import Step
from vae_compat.measure.sequences import SequenceObserved

_SEQUENCE = Speaker("sequence", Tier.ADVANCED)


def check_sequence(observed: Observed) -> Finding:
    """Every call of a sequence gives what it gives by itself, within the noise of the VAE.

    That is the untiled result where ``exact`` is promised, and the hook's own otherwise. Where
    the result rightly depends on an inexact call before it, a likeness to the truth will do.
    """
    failure = observed.failure
    if not isinstance(observed, SequenceObserved):
        return _SEQUENCE.not_judged(f"{failure.kind}: {failure.message}" if failure else "not run")
    measured = [step for step in observed.steps if step.error is not None]
    ratios = [step.error.rms / step.floor.rms for step in measured if step.error]
    numbers: Metrics = {"steps": len(observed.steps), "worst_ratio": max(ratios, default=None)}
    for step in observed.steps:
        if (wrong := _wrong(step)) is not None:
            return _SEQUENCE.failed(observed, *wrong, step.name, metrics=numbers)
    if failure is not None:
        return _SEQUENCE.failed(
            observed,
            f"{failure.kind}: {failure.message or '(no message)'} ({failure.where})",
            "a result for every call",
            observed.doing or "the start",
            metrics=numbers,
        )
    if observed.empty or not measured:
        return _SEQUENCE.not_judged(observed.empty or "no call came back", metrics=numbers)
    ours, untiled = observed.plane, observed.untiled_plane
    if ours >= untiled and not may_run_untiled(observed.case, observed.promise):
        return _SEQUENCE.not_judged(
            f"tiles did not run in every call: the largest plane of a convolution has {ours} "
            f"pixels, untiled {untiled}",
            metrics=numbers,
        )
    return _SEQUENCE.passed(numbers)


def _wrong(step: Step) -> tuple[str, str] | None:
    """What is wrong with the result of a call, and what it should be; ``None`` where nothing is."""
    if step.error is None:
        return step.got, step.should
    if step.strict:
        if is_exact(step.error, step.floor):
            return None
        return (
            f"a result with rms error {number(step.error.rms)} and worst "
            f"{number(step.error.worst)}",
            f"{step.against}, within {FLOOR_RATIO:g} x the floor {number(step.floor.rms)} and "
            f"worst within {WORST_RATIO:g} x {number(step.floor.worst)}",
        )
    if (step.correlation or 0.0) >= LIKENESS:
        return None
    return (
        f"a result with a correlation of {number(step.correlation)} with untiled",
        f"the same picture, at least {LIKENESS:g}",
    )
