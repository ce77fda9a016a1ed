"""What every check of values needs: the output, or why there is none to compare."""

from __future__ import annotations

from torch import Tensor

from vae_compat.checks.declaring import Answer, not_judged
from vae_compat.checks.wording import ended_by, shape
from vae_compat.contracts.cases import Scenario
from vae_compat.contracts.finding import Grade
from vae_compat.measure.observation import Failure, Observation, Observed
from vae_compat.measure.once import once
from vae_compat.measure.seams import Seams, find_seams


def output_of(observation: Observation) -> Tensor | Answer:
    """The output, or why there is none."""
    if observation.failure is not None:
        return not_judged(
            ended_by(observation.failure),
            blocked_by=teller_of(observation.failure, observation),
        )
    if observation.output is None:
        return not_judged(
            f"the hook returned {observation.returned}",
            blocked_by=_in_clips("output_shape", observation),
        )
    return observation.output


def comparable(observation: Observation) -> Tensor | Answer:
    """The output, or why it cannot be compared with the untiled one."""
    output, untiled = output_of(observation), observation.baseline.output
    if isinstance(output, Answer):
        return output
    if output.shape != untiled.shape:
        got, should = shape(tuple(output.shape)), shape(tuple(untiled.shape))
        return not_judged(
            f"the output is {got} instead of {should}",
            blocked_by=_in_clips("output_shape", observation),
        )
    if not bool(untiled.isfinite().all()):
        return not_judged("the untiled result itself is not finite")
    return output


def teller_of(failure: Failure, observed: Observed) -> str:
    """The check that says more about a failure."""
    if not observed.promise.claimed:
        return "refusal"
    usual = "call_contract" if failure.refuses_call else "completes"
    return _in_clips(usual, observed)


def _in_clips(usual: str, observed: Observed) -> str:
    """The check that says more. For a clip it is always ``clip_completes``."""
    return "clip_completes" if observed.case.scenario is Scenario.CLIP else usual


@once
def seams_of(observation: Observation) -> Seams:
    """Seams of a comparable output, looked for once for all checks."""
    assert observation.output is not None
    return find_seams(observation.output, observation.baseline, observation.case)


def promised(observation: Observed) -> Grade:
    """The grade that the profile promises for the case."""
    return Grade(observation.promise.grade)
