"""What a runner performs a case with: the hook, VAEs, devices, and a store for the results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from vae_compat.contracts.cases import Case
from vae_compat.contracts.coders import LayoutVAE
from vae_compat.contracts.promise import Promise
from vae_compat.device import Device, open_device
from vae_compat.device.meter import largest_plane
from vae_compat.isolation.limiting import limited
from vae_compat.measure.attempt import Attempt, Subject, attempt
from vae_compat.measure.failing import failure_of, returned_kind
from vae_compat.measure.observation import Failure
from vae_compat.measure.placing import called_in, placed
from vae_compat.measure.plain import kept
from vae_compat.scenarios.performed import Called, Memory, Played


class Models(Protocol):
    """Makes the VAEs and the inputs that a case needs."""

    def views(self, case: Case) -> Sequence[LayoutVAE]:
        """The VAE of a case, on the plain CPU, in every variant of its layout.

        Cases run on the first; the others are called in their own conventions.
        """
        ...

    def twins(self, case: Case) -> Sequence[LayoutVAE]:
        """The float64 twins of ``views``."""
        ...

    def make_input(self, case: Case) -> Tensor:
        """What the direction of the case is given, in its dtype, on the plain CPU."""
        ...

    def shapes(self, case: Case) -> LayoutVAE:
        """The VAE without data, in its layout: under a ``FakeTensorMode``."""
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
    capacity: int | None = None
    """Bytes of memory of the device; ``None`` for plenty."""
    broken: list[str] = field(default_factory=list)
    """Damage that the hook has done to a VAE and that could not be undone, so far."""

    @contextmanager
    def play(
        self,
        view: LayoutVAE | None = None,
        *,
        capacity: int | None = None,
        on_host: bool = False,
        context: str | None = None,
    ) -> Iterator[Player]:
        """A device of its own, entered, with a view on it: that of the case, if none is given.

        ``on_host``: the view stays where it is. ``context`` is that in which the hook is called, by
        default the one that the profile claims.
        """
        view = view or self.models.views(self.case)[0]
        device = open_device(self.case.device, capacity=capacity or self.capacity)
        there = nullcontext() if on_host else placed(view, device)
        with torch.no_grad(), device, there, called_in(context or self.promise.context):
            yield Player(self, view, device)


class Stopped(Exception):  # noqa: N818 (a fact about a hook, not a fault of the run)
    """The hook failed, so the scenario ends here."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass
class Player:
    """Puts the hook on a view that is on a device, calls it, and keeps what came back."""

    stage: Stage
    view: LayoutVAE
    device: Device
    calls: list[Called] = field(default_factory=list)
    alone: list[Called] = field(default_factory=list)
    doing: str = ""
    failure: Failure | None = None
    plane: int = 0
    memory: Memory | None = None
    passed_by: tuple[str, ...] = ()
    empty: str = ""

    @property
    def case(self) -> Case:
        """The scenario's own, as a case of one call."""
        return replace(self.stage.case, scenario=None)

    @property
    def exact(self) -> bool:
        """Whether the hook promises to equal the VAE."""
        return self.stage.promise.grade == "exact"

    def x(self, case: Case | None = None) -> Tensor:
        """The input of a case, on the device."""
        return self.device.put(self.stage.models.make_input(case or self.case))

    def attempt(
        self,
        act: Callable[[Any], Any],
        *,
        case: Case | None = None,
        hook: Subject | None = None,
        calls: int = 1,
        metered: bool = True,
    ) -> Attempt:
        """Put the hook on, call ``act``, take the hook off, and restore everything.

        ``act`` is given ``run(direction, x)``, for the whole VAE; the coders of the view are under
        the hook as well. ``case`` is another case, for whose tile size, direction and mode the hook
        is built; ``hook`` is another version of the hook. The time limit is that of this many
        ``calls``.
        """
        stage, case = self.stage, case or self.case
        made = attempt(
            case,
            hook or stage.hook,
            self.view,
            self.device,
            stage.seconds * calls,
            stage.leaves,
            act,
            metered=metered,
        )
        stage.broken.extend(made.beyond_repair)
        return made

    def hooked(self, act: Callable[[Any], Any], case: Case | None = None) -> Attempt:
        """``act`` with the hook on. Raises `Stopped` where the hook fails."""
        made = self.attempt(act, case=case)
        self.plane = max(self.plane, math.prod(largest_plane(made.reading.convolutions)))
        if failure := self.failure or made.failure:
            raise self._stopped(failure)
        return made

    def hooked_both(self, act: Callable[[Any], Any]) -> None:
        """Call ``act`` with both directions hooked: some hooks are put on for each direction."""
        stage = self.stage
        if getattr(stage.hook, "apart", stage.promise.kind == "forward"):
            self.hooked(lambda _: self.hooked(act, self.case.turned))
        else:
            self.hooked(act)

    def bare(self, act: Callable[[Any], Any]) -> None:
        """Call ``act`` with the hook off; any exception is caused by what the hook left behind.

        That may be an object of the hook's own in a slot of the cache, which can do anything when
        read. Raises `Stopped`.
        """
        try:
            with limited(self.stage.seconds):
                act(self.view.run)
        except BaseException as error:
            raise self._stopped(failure_of(error, "run", self.stage.seconds)) from None

    def _stopped(self, failure: Failure) -> Stopped:
        self.failure = failure
        return Stopped(failure)

    def kept(self, result: Any, **more: Any) -> Called:
        """A result in the form that goes to the judge; ``more`` are further fields of the call."""
        output, where, unreadable = kept(result, self.device)
        return Called(
            returned=returned_kind(result),
            output=output,
            output_device=where,
            failure=unreadable,
            **more,
        )

    def called(self, made: Attempt, given: Tensor, **more: Any) -> Called:
        """The outcome of an attempt at one result; drops the result itself."""
        called = self.kept(
            made.result,
            input_device=str(given.device),
            reading=made.reading,
            calls=made.calls,
            residue=made.residue,
            **more,
        )
        made.result = None
        return called if made.failure is None else replace(called, failure=made.failure)

    @property
    def played(self) -> Played:
        """All that is kept."""
        return Played(
            calls=tuple(self.calls),
            alone=tuple(self.alone),
            doing=self.doing,
            failure=self.failure,
            plane=self.plane,
            memory=self.memory,
            passed_by=self.passed_by,
            empty=self.empty,
        )
