"""The list of all scenarios."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from vae_compat.cases import Scenario
from vae_compat.measure.clip import observe_clip
from vae_compat.measure.observation import Observed
from vae_compat.measure.relations import RELATIONS
from vae_compat.measure.sequences import SEQUENCES, observe_sequence
from vae_compat.measure.stage import Stage
from vae_compat.measure.usage import USAGES

SCENARIOS: Mapping[Scenario, Callable[[Stage], Observed]] = MappingProxyType(
    {
        Scenario.CLIP: observe_clip,
        **dict.fromkeys(SEQUENCES, observe_sequence),
        **RELATIONS,
        **USAGES,
    }
)
"""How each scenario is run. Nothing that the hook does comes out as an exception."""
