"""Advanced: the result of a call does not depend on the calls before it."""

from __future__ import annotations

from vae_compat.checks.conditions import claimed, may_run_untiled, plays_sequence
from vae_compat.checks.declaring import Answer, check, failed, not_judged, passed
from vae_compat.checks.parity import LIKENESS
from vae_compat.checks.wording import IN, apart, number, over, raised, raised_at
from vae_compat.contracts.finding import Metrics, Tier
from vae_compat.measure.distance import FLOOR_RATIO, WORST_RATIO, is_exact
from vae_compat.measure.observation import Observed
from vae_compat.scenarios.rights import Step
from vae_compat.scenarios.sequence import SequenceObserved


@check(tier=Tier.ADVANCED, when=claimed & plays_sequence)
def check_sequence(observed: Observed) -> Answer:
    """Every call of a sequence has the result that it has alone, within the noise of the VAE.

    Alone, a call has the untiled result where ``exact`` is promised, and the hook's own result
    otherwise. Where an inexact call before it may change the result, the result must only be the
    same picture.
    """
    failure = observed.failure
    if not isinstance(observed, SequenceObserved):
        return not_judged(raised(failure) if failure else "not run")
    measured = [step for step in observed.steps if step.error is not None]
    ratios = [step.error.rms / step.floor.rms for step in measured if step.error]
    numbers: Metrics = {"steps": len(observed.steps), "worst_ratio": max(ratios, default=None)}
    for step in observed.steps:
        if (wrong := _wrong(step)) is not None:
            return failed(*wrong, IN + step.name, metrics=numbers)
    if failure is not None:
        return failed(
            raised_at(failure),
            "a result for every call",
            IN + (observed.doing or "the start"),
            metrics=numbers,
        )
    if observed.empty or not measured:
        return not_judged(observed.empty or "no call came back", metrics=numbers)
    ours, untiled = observed.plane, observed.untiled_plane
    if ours >= untiled and not may_run_untiled(observed.case, observed.promise):
        return not_judged(
            f"tiles did not run in every call: the largest plane of a convolution has {ours} "
            f"pixels, untiled {untiled}",
            metrics=numbers,
        )
    return passed(numbers)


def _wrong(step: Step) -> tuple[str, str] | None:
    """What is wrong with the result of a call, and what it should be; ``None`` where nothing is."""
    if step.error is None:
        return step.got, step.should
    if step.strict:
        if is_exact(step.error, step.floor):
            return None
        rms = over(step.error.rms, step.floor.rms, FLOOR_RATIO)
        worst = over(step.error.worst, step.floor.worst, WORST_RATIO)
        return (
            f"a result with rms error {number(step.error.rms)}{rms} and worst "
            f"{number(step.error.worst)}{worst}",
            f"{step.against}, within {FLOOR_RATIO:g} x the floor {number(step.floor.rms)} and "
            f"worst within {WORST_RATIO:g} x {number(step.floor.worst)}",
        )
    if (step.correlation or 0.0) >= LIKENESS:
        return None
    likeness, least = apart(step.correlation or 0.0, LIKENESS)
    return (
        f"a result with a correlation of {likeness} with untiled",
        f"the same picture, with a correlation of at least {least}",
    )
