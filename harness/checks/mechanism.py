"""Recommended: which mechanism of a VAE the hook breaks, shown by probes that have only one."""

from __future__ import annotations

from vae_compat.cases import Mechanism
from vae_compat.checks.finding import Finding, Grade, Tier
from vae_compat.checks.parity import judge_parity
from vae_compat.checks.speaking import Speaker
from vae_compat.measure.observation import Observation
from vae_compat.mechanisms import EXPLANATION

_MECHANISM = Speaker("mechanism", Tier.RECOMMENDED)

EXACTLY_TILEABLE = frozenset({Mechanism.STUB, Mechanism.CHANNELS})
"""Probes in which no output pixel depends on anything outside of its tile."""


def check_mechanism(observation: Observation) -> Finding:
    """A net with one mechanism alone keeps its result under the hook.

    Who promises less than ``close`` is excused by statistics, attention or halos. A stub has none
    of them, so there the worst promise is ``close``.
    """
    mechanism = observation.case.mechanism
    if mechanism is None:
        return _MECHANISM.not_judged("the case is no probe")
    least = Grade.CLOSE if mechanism in EXACTLY_TILEABLE else Grade.BROKEN
    return judge_parity(_MECHANISM, observation, EXPLANATION[mechanism], least=least)
