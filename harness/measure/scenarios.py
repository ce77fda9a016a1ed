"""The list of all scenarios, and who does what of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from vae_compat.cases import Case, Scenario
from vae_compat.measure.clip import examine_clip, perform_clip
from vae_compat.measure.observation import Observed
from vae_compat.measure.performed import (
    ClipPerformed,
    RelationPerformed,
    SequencePerformed,
    UsagePerformed,
)
from vae_compat.measure.relations import RELATIONS, examine_relation, moving_cases, perform_relation
from vae_compat.measure.sequences import SEQUENCES, examine_sequence, perform_sequence
from vae_compat.measure.stage import Stage
from vae_compat.measure.usage import USAGES, examine_usage, perform_usage


@dataclass(frozen=True)
class Scene:
    """How a scenario is performed by the runner, and examined by the judge."""

    perform: Callable[[Stage], Any]
    """Nothing that the hook does comes out as an exception."""
    performed: type
    """What that returns."""
    examine: Callable[..., Observed]
    """Given case, promise, what was performed, and a bench."""
    needs: Callable[[Case], tuple[Case, ...]] = lambda case: (case,)
    """Cases whose VAEs the runner needs."""
    against: bool = False
    """Whether it is held against the untiled result of its own case, which is known then."""


SCENES: Mapping[Scenario, Scene] = MappingProxyType(
    {
        Scenario.CLIP: Scene(perform_clip, ClipPerformed, examine_clip, against=True),
        **dict.fromkeys(SEQUENCES, Scene(perform_sequence, SequencePerformed, examine_sequence)),
        **dict.fromkeys(RELATIONS, Scene(perform_relation, RelationPerformed, examine_relation)),
        Scenario.SHIFT: Scene(
            perform_relation,
            RelationPerformed,
            examine_relation,
            needs=lambda case: (case, *moving_cases(case)),
        ),
        **dict.fromkeys(USAGES, Scene(perform_usage, UsagePerformed, examine_usage, against=True)),
    }
)
"""By scenario."""
