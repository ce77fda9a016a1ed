"""What the judge makes of a scenario's results with: untiled results of its own."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from vae_compat.cases import Case
from vae_compat.measure.observation import Baseline, LayoutVAE, Observation


class Bench(Protocol):
    """The part of a workbench that makes what a case is held against. No hook is ever on it."""

    def view(self, case: Case) -> LayoutVAE:
        """The VAE of a case in its layout, on the plain CPU."""
        ...

    def twin(self, case: Case) -> LayoutVAE:
        """Its float64 twin in the same layout."""
        ...

    def views(self, case: Case) -> tuple[LayoutVAE, ...]:
        """The VAE of a case in every variant of its layout; the first is that of ``view``."""
        ...

    def twins(self, case: Case) -> tuple[LayoutVAE, ...]:
        """The float64 twins of ``views``."""
        ...

    def make_input(self, case: Case) -> Tensor:
        """What the direction of the case is given, on the plain CPU."""
        ...

    def baseline(self, case: Case) -> Baseline:
        """The untiled result of a case, of another one than that of the scenario as well."""
        ...

    def raised(self, case: Case) -> Baseline:
        """The same with the floors of several draws: for results that miss those of one."""
        ...

    def beyond_doubt(self, observation: Observation) -> Observation:
        """The observation, with the floors of several draws where one leaves it in doubt."""
        ...
