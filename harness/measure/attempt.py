"""One attempt with the hook on: guarded, metered, and with everything restored afterwards."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from vae_compat.contracts.cases import Case
from vae_compat.contracts.coders import CoderCall, LayoutVAE
from vae_compat.device import Device
from vae_compat.device.meter import Reading
from vae_compat.isolation.limiting import limited
from vae_compat.measure.failing import failure_of
from vae_compat.measure.modes import Modes
from vae_compat.measure.observation import Failure
from vae_compat.measure.process import ProcessState, settings_now
from vae_compat.subject.imports import Imports
from vae_compat.subject.state import Change, Snapshot, snapshot_of


class Fitting(AbstractContextManager[Any], Protocol):
    """A hook on a VAE; its context's value runs the VAE: ``run(direction, x)``."""

    phase: str
    residue: tuple[str, ...]
    beyond_repair: tuple[str, ...]
    restored: bool

    @property
    def calls(self) -> tuple[CoderCall, ...]:
        """Calls that reached the coders."""
        ...


class Subject(Protocol):
    """The hook under test."""

    def put_on(
        self, view: LayoutVAE, case: Case, *, expected: Any = (), before: Snapshot | None = None
    ) -> Any:
        """A `Fitting` that is not entered yet."""
        ...


@dataclass
class Attempt:
    """The outcome of one guarded attempt with the hook on."""

    result: Any = None
    """Whatever ``act`` returned; ``None`` where something raised."""
    failure: Failure | None = None
    reading: Reading = field(default_factory=Reading)
    calls: tuple[CoderCall, ...] = ()
    residue: tuple[str, ...] = ()
    beyond_repair: tuple[str, ...] = ()
    """What the hook left in the VAE that could not be undone: it must be built anew."""
    fitting: Fitting | None = None
    """Keeps the hook alive, and what the hook holds, as a program does that leaves the hook on."""


def attempt(
    case: Case,
    hook: Subject,
    view: LayoutVAE,
    device: Device,
    seconds: float,
    leaves: tuple[tuple[str, str], ...] | None,
    act: Callable[[Any], Any],
    *,
    metered: bool = True,
) -> Attempt:
    """Put the hook on, call ``act``, take the hook off, and restore the process.

    ``seconds`` are CPU seconds. ``leaves`` are the changes that an untiled run leaves behind as
    well, by module path and attribute; none where they don't matter. ``metered`` is whether to
    count what it does, which takes time at every operation.
    """
    made = Attempt()
    fitting: Fitting | None = None
    expected = tuple(Change(*place) for place in leaves or ())
    whole = snapshot_of(view)
    before = ProcessState()
    imports = Imports(settings_now)
    process: tuple[str, ...] = ()
    error: BaseException | None = None
    try:
        meters = device.metered() if metered else nullcontext(made.reading)
        with limited(seconds), meters as made.reading:
            modes = Modes()
            try:
                with imports.noted():
                    fitting = hook.put_on(view, case, expected=expected, before=whole)
                    with fitting as run:
                        made.result = act(run)
            finally:  # inside, because the meter's own context restores some switches and modes
                process = modes.undo()
                process += before.undo(imports.set)
    except BaseException as caught:
        error = caught
    # The remaining cleanup, where the limit interrupted the first.
    process += before.undo(imports.set)
    if error is not None:
        phase = "put_on" if fitting is None else fitting.phase
        made.failure = failure_of(error, phase, seconds, _file_of(hook))
        made.result = error = None
        gc.collect()  # a failed attempt may hold tensors in cycles; the next case needs the room
    if fitting is None or not fitting.restored:  # or the limit interrupted it
        whole.restore()
    made.fitting = fitting
    if fitting is not None:
        made.calls = fitting.calls
        made.beyond_repair = fitting.beyond_repair
        made.residue = fitting.residue
    made.residue = (*made.residue, *process)
    return made


def _file_of(hook: Subject) -> str:
    """File of the hook's entry; empty where it is a module of an installed package."""
    return str(getattr(getattr(hook, "source", None), "file", None) or "")
