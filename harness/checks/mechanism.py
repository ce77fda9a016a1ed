"""Recommended: which mechanism of a VAE the hook breaks, shown by probes that have only one."""

from __future__ import annotations

from collections.abc import Mapping

from harness.cases import Mechanism
from harness.checks.finding import Finding, Tier
from harness.checks.parity import judge_parity
from harness.checks.speaking import Speaker
from harness.measure.observation import Observation

_MECHANISM = Speaker("mechanism", Tier.RECOMMENDED)

EXPLANATION: Mapping[Mechanism, str] = {
    Mechanism.STUB: "tiles are placed or blended wrongly",
    Mechanism.UPSAMPLE: "tiles are not aligned with the upsampling",
    Mechanism.DOWNSAMPLE: "tiles are not aligned with the strided downsampling",
    Mechanism.HALO: "tiles are cut without the neighbourhood their convolutions read",
    Mechanism.ATTENTION: "attention is computed per tile",
    Mechanism.GROUP_NORM: "GroupNorm statistics are not those of the whole plane",
    Mechanism.CAUSAL_CACHE: "causal caches are not carried from chunk to chunk for every tile",
}
"""What breaks, mechanism by mechanism; the order in which they explain a failure: a hook that
places tiles wrongly fails every probe after the stub, too."""


def check_mechanism(observation: Observation) -> Finding:
    """A net with one mechanism alone keeps its result under the hook."""
    mechanism = observation.case.mechanism
    if mechanism is None:
        return _MECHANISM.not_judged("the case is no probe")
    return judge_parity(_MECHANISM, observation, EXPLANATION[mechanism])
