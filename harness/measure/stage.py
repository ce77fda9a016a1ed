"""What a runner performs a case with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from vae_compat.cases import Case
from vae_compat.device import Device, open_device
from vae_compat.measure.attempt import Attempt, Subject, attempt
from vae_compat.measure.failing import returned_kind
from vae_compat.measure.observation import LayoutVAE, Promise
from vae_compat.measure.performed import Called
from vae_compat.measure.plain import kept


class Models(Protocol):
    """Makes the VAEs and the inputs that a case needs."""

    def views(self, case: Case) -> tuple[LayoutVAE, ...]:
        """The VAE of a case, on the plain CPU, in every variant of its layout.

        Cases run on the first; the others are called in their own ways.
        """
        ...

    def twins(self, case: Case) -> tuple[LayoutVAE, ...]:
        """The float64 twins of ``views``."""
        ...

    def make_input(self, case: Case) -> Tensor:
        """What the direction of the case is given, in its dtype, on the plain CPU."""
        ...


@dataclass(frozen=True)
class Stage:
    """Everything that a case is performed with."""

    case: Case
    promise: Promise
    hook: Subject
    models: Models
    seconds: float
    """CPU seconds that the hook may take for each attempt."""
    leaves: tuple[tuple[str, str], ...] = ()
    """What an untiled run leaves behind in the VAE: module path and attribute."""
    broken: list[str] = field(default_factory=list)
    """What the hook has left in a VAE beyond repair, so far."""

    def device(self, capacity: int | None = None) -> Device:
        """The device of the case, not entered yet."""
        return open_device(self.case.device, capacity=capacity)

    @property
    def view(self) -> LayoutVAE:
        """The VAE of the case in its layout."""
        return self.models.views(self.case)[0]

    def attempt(
        self,
        view: LayoutVAE,
        device: Device,
        act: Callable[[Any], Any],
        *,
        case: Case | None = None,
        hook: Subject | None = None,
        calls: int = 1,
        metered: bool = True,
    ) -> Attempt:
        """Put the hook on, ``act`` and take it off, with everything put back as it was.

        To be called with the device entered and the view placed. ``act`` is given ``run(direction,
        x)``, for the whole VAE; the coders of the view are under the hook as well. ``case`` is
        another case whose tile size, direction and mode the hook is built for, ``hook`` another
        make of it. It may take as long as so many ``calls``.
        """
        made = attempt(
            case or self.case,
            hook or self.hook,
            view,
            device,
            self.seconds * calls,
            self.leaves,
            act,
            metered=metered,
        )
        self.broken.extend(made.beyond_repair)
        return made

    def called(self, made: Attempt, device: Device, given: Tensor, what: str = "") -> Called:
        """What an attempt at one result has left in our hands; lets go of the result."""
        returned = returned_kind(made.result)
        output, where, failure = kept(made.result, device)
        made.result = None
        return Called(
            what=what,
            returned=returned,
            output=output,
            output_device=where,
            input_device=str(given.device),
            failure=made.failure or failure,
            reading=made.reading,
            calls=made.calls,
            residue=made.residue,
        )
