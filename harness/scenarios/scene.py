"""What every scenario is: something that a runner performs and a judge examines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from vae_compat.contracts.cases import Case
from vae_compat.contracts.promise import Promise
from vae_compat.measure.observation import Observed
from vae_compat.scenarios.performed import Played
from vae_compat.scenarios.stage import Stage

if TYPE_CHECKING:
    from vae_compat.measure.bench import Bench  # the judge's alone


class Scene(ABC):
    """How a scenario is performed by the runner, and examined by the judge."""

    performed: ClassVar[type] = Played
    """What `perform` returns."""
    against: ClassVar[bool] = False
    """Whether it is compared with the untiled result of its own case, which is then provided."""

    def needs(self, case: Case) -> tuple[Case, ...]:
        """Cases whose VAEs the runner needs."""
        return (case,)

    @abstractmethod
    def perform(self, stage: Stage) -> Any:
        """Play it. No exception from the hook escapes."""

    @abstractmethod
    def examine(self, case: Case, promise: Promise, performed: Any, bench: Bench) -> Observed:
        """What checks look at."""
