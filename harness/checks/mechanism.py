"""Recommended: which mechanism of a VAE the hook breaks, shown by probes that have only one."""

from __future__ import annotations

from vae_compat.checks.conditions import claimed, probe, single_run
from vae_compat.checks.declaring import Answer, check, not_judged
from vae_compat.checks.parity import graded
from vae_compat.contracts.finding import Grade, Tier
from vae_compat.contracts.mechanisms import EXPLANATION
from vae_compat.measure.observation import Observation


@check(tier=Tier.RECOMMENDED, when=claimed & single_run & probe)
def check_mechanism(observation: Observation) -> Answer:
    """A net with one mechanism alone keeps its result under the hook.

    A hook that promises less than ``close`` may change statistics, attention or the neighbourhood
    of a tile's border. Where a net has none of them (the stub, and the one that only looks back in
    time), any right placement of tiles gives the VAE's own result, and no less is accepted. Hooks
    that claim to cut clips in time may change what looks back.
    """
    mechanism = observation.case.mechanism
    if mechanism is None:
        return not_judged("the case is no probe")
    solved = observation.promise.by_placement(observation.case)
    least = Grade.EXACT if solved else Grade.BROKEN
    return graded(observation, EXPLANATION[mechanism], least=least)
