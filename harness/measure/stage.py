"""What a scenario is given to work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from vae_compat.cases import Case
from vae_compat.device import Device
from vae_compat.measure.observation import Baseline, LayoutVAE, Promise
from vae_compat.measure.run import Subject, Trial, attempt


class Bench(Protocol):
    """The part of a workbench that makes what a case needs."""

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

    def anew(self, case: Case) -> tuple[LayoutVAE, ...]:
        """``views`` of a VAE that no hook has been on."""
        ...


@dataclass(frozen=True)
class Stage:
    """Everything a scenario works with."""

    case: Case
    promise: Promise
    hook: Subject
    bench: Bench
    device: Device
    """Not entered yet."""
    seconds: float
    """What the hook may take for each attempt."""

    def attempt(
        self,
        view: LayoutVAE,
        act: Callable[[Any], Any],
        *,
        case: Case | None = None,
        hook: Subject | None = None,
        baseline: Baseline | None = None,
    ) -> Trial:
        """Put the hook on, ``act`` and take it off, with everything put back as it was.

        To be called with the device entered and the view placed. ``act`` is given ``run(direction,
        x)``, for the whole VAE; the coders of the view are under the hook as well. ``case`` is
        another case whose tile size, direction and mode the hook is built for, ``hook`` another
        make of it; ``baseline`` knows what an untiled run leaves in the VAE as well.
        """
        case, hook = case or self.case, hook or self.hook
        return attempt(case, hook, view, self.device, self.seconds, baseline, act)
