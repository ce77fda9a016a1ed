"""Recommended: which mechanism of a VAE the hook breaks, shown by probes that have only one."""

from __future__ import annotations

from vae_compat.checks.conditions import claimed, probe, single_run
from vae_compat.checks.declaring import Answer, check, not_judged
from vae_compat.checks.parity import graded
from vae_compat.contracts.cases import Mechanism
from vae_compat.contracts.finding import Grade, Tier
from vae_compat.contracts.mechanisms import EXPLANATION
from vae_compat.measure.observation import Observation

EXACTLY_TILEABLE = frozenset({Mechanism.STUB, Mechanism.CHANNELS})
"""Probes in which no output pixel depends on anything outside of its tile."""


@check(tier=Tier.RECOMMENDED, when=claimed & single_run & probe)
def check_mechanism(observation: Observation) -> Answer:
    """A net with one mechanism alone keeps its result under the hook.

    A hook that promises less than ``close`` may change statistics, attention or the neighbourhood
    of a tile's border. The stub has none of them, so its result must be ``close`` at least.
    """
    mechanism = observation.case.mechanism
    if mechanism is None:
        return not_judged("the case is no probe")
    least = Grade.CLOSE if mechanism in EXACTLY_TILEABLE else Grade.BROKEN
    return graded(observation, EXPLANATION[mechanism], least=least)
