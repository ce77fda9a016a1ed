"""Recommended: a hook is honest about what it cannot do."""

from __future__ import annotations

from vae_compat.checks.comparing import comparable
from vae_compat.checks.conditions import claimed, whole_net
from vae_compat.checks.declaring import Answer, check, failed, passed
from vae_compat.checks.parity import grade_of
from vae_compat.checks.wording import apart, raised, shape
from vae_compat.contracts.finding import Grade, Tier
from vae_compat.measure.distance import FLOOR_RATIO, distance_of
from vae_compat.measure.observation import Observation


@check(tier=Tier.RECOMMENDED, when=~claimed & whole_net)
def check_refusal(observation: Observation) -> Answer:
    """What is not claimed is refused with a clear error, or gives the untiled result.

    An error is clear where the hook's own code raised it on purpose and with a message.
    """
    failure = observation.failure
    if failure is not None:
        if failure.deliberate:
            return passed({"answer": f"refused: {failure.kind}"})
        return failed(
            raised(failure),
            "an error that the hook raises on purpose and that says what it cannot do, or the "
            "untiled result: this is not claimed",
            failure.where,
            metrics={"answer": "crashed"},
        )
    if observation.output is None:
        return failed(observation.returned, "a clear error or the untiled result")
    should = tuple(observation.baseline.output.shape)
    if tuple(observation.output.shape) != should:
        return failed(
            f"a wrong picture of shape {shape(tuple(observation.output.shape))}",
            f"a clear error or the untiled result {shape(should)}: this is not claimed",
            metrics={"answer": "wrong"},
        )
    output = comparable(observation)
    if isinstance(output, Answer):
        return output
    grade, measured = grade_of(observation), distance_of(observation)
    if grade is Grade.EXACT:
        return passed({"answer": "untiled result"}, grade=grade)
    ratio, _ = apart(measured.ratio, FLOOR_RATIO)
    return failed(
        f"a wrong picture without a word (grade {grade}, {ratio} x floor)",
        "a clear error or the untiled result: this is not claimed",
        grade=grade,
        metrics={"answer": "wrong"},
    )
