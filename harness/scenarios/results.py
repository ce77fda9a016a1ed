"""What the judge examines a scenario with: the reported calls, and untiled results of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from vae_compat.contracts.cases import Case
from vae_compat.contracts.promise import Promise
from vae_compat.device import Reading, open_device
from vae_compat.measure.observation import Observed
from vae_compat.measure.placing import running
from vae_compat.scenarios.comparison import Comparison
from vae_compat.scenarios.performed import Called, Played

if TYPE_CHECKING:
    from vae_compat.measure.bench import Bench  # the judge's alone


class Untold(Exception):  # noqa: N818 (a fact about a runner)
    """The runner did not report a call."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScenarioObserved(Observed):
    """The outcome of the calls of a scenario."""

    comparisons: tuple[Comparison, ...] = ()
    empty: str = ""
    """Why the scenario gives nothing to judge; empty where it does give something."""


@dataclass(frozen=True)
class Results:
    """The calls of one scenario, and the untiled results that they are compared with."""

    case: Case
    """The scenario's own, as a case of one call."""
    promise: Promise
    bench: Bench
    played: Played

    def call(self, number: int) -> Called:
        """One of the calls, in the order in which they were made. Raises `Untold`."""
        if number >= len(self.played.calls):
            raise Untold
        return self.played.calls[number]

    def output(self, number: int) -> Tensor:
        """The result of one of the calls. Raises `Untold`."""
        output = self.call(number).output
        if output is None:
            raise Untold
        return output

    @property
    def wide(self) -> bool:
        """Whether the calls were made on the float64 twin of the VAE."""
        return self.played.dtype == "float64"

    def x(self, case: Case | None = None) -> Tensor:
        """The input of a case, in the dtype of the calls, on the plain CPU."""
        x = self.bench.make_input(case or self.case)
        return x.double() if self.wide else x

    def untiled(self, case: Case) -> Tensor:
        """The result of a case without the hook: of the scenario's own that of its baseline."""
        own = case == self.case
        return self.bench.baseline(case).output if own else self.bench.untiled(case)

    def metered(
        self, case: Case | None = None, x: Tensor | None = None, *, capacity: int | None = None
    ) -> tuple[Tensor, Reading]:
        """The same for another input or on a smaller device, with the memory that it took.

        Raises ``torch.OutOfMemoryError`` beyond a capacity.
        """
        case = case or self.case
        x = self.x(case) if x is None else x
        view = (self.bench.twin if self.wide else self.bench.view)(case)
        with running(view, open_device(case.device, capacity=capacity)) as device:
            with device.metered() as reading:
                result = view.run(case.direction, device.put(x))
            return device.host(result), reading
