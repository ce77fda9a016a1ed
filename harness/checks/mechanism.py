"""Recommended: which mechanism of a VAE the hook breaks, shown by probes that have only one."""

from __future__ import annotations

from harness.checks.finding import Finding, Tier
from harness.checks.parity import judge_parity
from harness.checks.speaking import Speaker
from harness.measure.observation import Observation
from harness.mechanisms import EXPLANATION

_MECHANISM = Speaker("mechanism", Tier.RECOMMENDED)


def check_mechanism(observation: Observation) -> Finding:
    """A net with one mechanism alone keeps its result under the hook."""
    mechanism = observation.case.mechanism
    if mechanism is None:
        return _MECHANISM.not_judged("the case is no probe")
    return judge_parity(_MECHANISM, observation, EXPLANATION[mechanism])
