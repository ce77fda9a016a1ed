"""What every check needs: to name itself, to say why it cannot judge, and the measured numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vae_compat.cases import Scenario
from vae_compat.checks.finding import NOT_JUDGED, Finding, Grade, Status, Tier
from vae_compat.checks.wording import deviation, shape
from vae_compat.measure.observation import Observation, Observed
from vae_compat.measure.seams import Seams, find_seams

Metrics = Mapping[str, float | int | str | None]


@dataclass(frozen=True)
class Speaker:
    """Makes the findings of one check."""

    check: str
    tier: Tier

    def passed(self, metrics: Metrics | None = None, *, grade: Grade | None = None) -> Finding:
        """Nothing to complain about."""
        return Finding(self.check, self.tier, Status.PASSED, "", grade, metrics or {})

    def failed(
        self,
        observation: Observed,
        got: str,
        should: str,
        where: str = "",
        *,
        grade: Grade | None = None,
        metrics: Metrics | None = None,
    ) -> Finding:
        """What was got is not what it should be."""
        message = deviation(observation, got, should, where)
        return Finding(self.check, self.tier, Status.FAILED, message, grade, metrics or {})

    def not_judged(
        self, why: str, *, grade: Grade | None = None, metrics: Metrics | None = None
    ) -> Finding:
        """There was nothing to judge, which is an error and never a pass."""
        message = NOT_JUDGED + why
        return Finding(self.check, self.tier, Status.ERROR, message, grade, metrics or {})


def no_output(observation: Observation) -> str | None:
    """Why there is no output to look at; ``None`` where there is one."""
    if observation.failure is not None:
        kind = observation.failure.kind
        return (
            f"the hook raised {kind} (see {_told_by(observation, 'completes, or call_contract')})"
        )
    if observation.output is None:
        told_by = _told_by(observation, "output_shape")
        return f"the hook returned {observation.returned} (see {told_by})"
    return None


def _told_by(observation: Observation, usual: str) -> str:
    """The check that says more; a clip has one for whatever keeps it from coming through."""
    return "clip_completes" if observation.case.scenario is Scenario.CLIP else usual


def incomparable(observation: Observation) -> str | None:
    """Why the output cannot be compared with the untiled one; ``None`` where it can."""
    why = no_output(observation)
    if why is not None or observation.output is None:
        return why
    should = tuple(observation.baseline.output.shape)
    if tuple(observation.output.shape) != should:
        got = shape(tuple(observation.output.shape))
        told_by = _told_by(observation, "output_shape")
        return f"the output is {got} instead of {shape(should)} (see {told_by})"
    if not bool(observation.baseline.output.isfinite().all()):
        return "the untiled result itself is not finite"
    return None


def seams_of(observation: Observation) -> Seams:
    """Seams of a comparable output, looked for once for all checks."""
    found = observation.memo.get("seams")
    if not isinstance(found, Seams):
        assert observation.output is not None
        found = find_seams(observation.output, observation.baseline, observation.case)
        observation.memo["seams"] = found
    return found


def promised(observation: Observed) -> Grade:
    """The grade that the profile promises for the case."""
    return Grade(observation.promise.grade)
