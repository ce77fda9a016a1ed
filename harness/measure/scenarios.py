"""The list of all scenarios."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from harness.cases import Scenario
from harness.measure.clip import observe_clip
from harness.measure.observation import Observed
from harness.measure.relations import RELATIONS
from harness.measure.sequences import SEQUENCES, observe_sequence
from harness.measure.stage import Stage
from harness.measure.usage import USAGES

SCENARIOS: Mapping[Scenario, Callable[[Stage], Observed]] = MappingProxyType(
    {
        Scenario.CLIP: observe_clip,
        **dict.fromkeys(SEQUENCES, observe_sequence),
        **RELATIONS,
        **USAGES,
    }
)
"""How each scenario is run. Nothing that the hook does comes out as an exception."""
