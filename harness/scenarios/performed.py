"""What a runner answers: what the hook did, in numbers, words and tensors on the plain CPU.

Nothing here is judged yet or trusted: a hook can make its runner report anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from torch import Tensor

from vae_compat.contracts.coders import CoderCall
from vae_compat.contracts.travelling import OnWire
from vae_compat.device.meter import Estimate, Reading
from vae_compat.measure.caches import Access, Slot
from vae_compat.measure.observation import Failure, Held, Origin, Times

Travelling = Annotated[Tensor, OnWire()]
Index = tuple[tuple[int, ...] | str | None, ...]
"""Where ``feat_idx`` was after each call: its entries, or the type name of something else."""


@dataclass(frozen=True, kw_only=True)
class Called:
    """What one call gave: of the whole VAE, or of the bare coder for one chunk of a clip."""

    what: str = ""
    """Which call of a scenario: ``tiles of 1 latent pixel``, ``chunk 2 of clip A, untiled``."""
    tile: int | None = None
    """Its tile size in latent pixels, where that differs from the case's."""
    right: str = ""
    """Which result of a sequence is the right one: ``call 0``, ``clip A/2``."""
    bare: bool = False
    """Whether it ran without the hook."""
    returned: str = "None"
    """What came back, in words: ``Tensor``, ``list of 2 Tensor``, ``None``."""
    output: Travelling | None = None
    output_device: str | None = None
    input_device: str | None = None
    failure: Failure | None = None
    dtype: str = ""
    """The narrowest floating dtype in which the hook computed so far, where that was watched."""
    reading: Reading = field(default_factory=Reading)
    """Counters of the whole time the hook was on, where it was on for this call alone."""
    calls: tuple[CoderCall, ...] = ()
    residue: tuple[str, ...] = ()
    input_changed: bool = False
    held: tuple[Held, ...] = ()
    """Tensors that were on the device after the call, where more was live than before."""

    def missing(self, told: str) -> Failure | None:
        """Why there is no output. If something other than a tensor was returned, see ``told``."""
        if self.failure is None and self.output is None:
            return Failure("NoTensor", told, "", "", "run", Origin.HARNESS)
        return self.failure


@dataclass(frozen=True, kw_only=True)
class ConventionCalled:
    """What came of calling a hooked coder in one convention."""

    variant: int
    """Which variant of the layout, as the fixtures count them."""
    convention: str
    failure: Failure | None
    shape: tuple[int, ...] | None
    finite: bool
    index: Index


@dataclass(frozen=True, kw_only=True)
class WholePerformed:
    """A single call, and the calls of the bare coder in every convention, if requested."""

    whole: Called
    conventions: tuple[ConventionCalled, ...] | None = None
    times: Times | None = None
    """Times of the hook and of untiled, where the case is timed and both ran."""


@dataclass(frozen=True)
class Sent:
    """What one chunk of a clip returned and left behind. Tensors are on the plain CPU."""

    number: int
    """Number of the chunk, from 0."""
    frames: int
    """Given to the coder."""
    returned: str
    """In words: ``Tensor``, ``list of 2 Tensor``, ``None``."""
    parts: tuple[Travelling, ...]
    """The frames that came out, ``B C t H W`` each; none where the chunk was deferred."""
    index: int | None
    """Where ``feat_idx`` ended; ``None`` where it no longer holds an index."""
    slots: tuple[Slot, ...]
    """The cache list afterwards."""
    shared: frozenset[tuple[int | str, int | str]]
    """Slots that share memory, with each other, the ``input`` or the ``output``."""
    accesses: tuple[Access, ...]
    """Since the chunk before."""
    peak_bytes: int | None
    """Highest live bytes on the device, beyond what was live before the clip."""
    live_bytes: int | None
    """Live bytes after the output was dropped, beyond what was live before the clip."""


@dataclass(frozen=True, kw_only=True)
class WayPerformed:
    """One clip through the bare coder in one convention."""

    variant: int
    convention: str
    sent: tuple[Sent, ...]
    """The chunks up to the end, or to the hook's failure."""
    failure: Failure | None


@dataclass(frozen=True, kw_only=True)
class ClipPerformed:
    """A clip through the whole VAE, and through the bare coder."""

    whole: Called
    ways: tuple[WayPerformed, ...]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that were live on the device around a failure for want of memory."""

    first: int
    """At the first convolution of an undisturbed call."""
    most: int
    """At the convolution that failed."""
    after: int | None
    """The least at any convolution after it; ``None`` where there was none."""
    left: int
    """Bytes that were live after the call beyond those live before it."""


@dataclass(frozen=True, kw_only=True)
class Played:
    """The calls of a scenario, as far as the hook came."""

    calls: tuple[Called, ...] = ()
    alone: tuple[Called, ...] = ()
    """What an inexact hook gives for each call with no call before it."""
    doing: str = ""
    """The call under way when the hook failed, if it did."""
    failure: Failure | None = None
    """What ended the scenario before its last call."""
    dtype: str = ""
    """Dtype of the VAE, where it is not that of the case."""
    plane: int = 0
    """Area of the largest plane that a convolution wrote while the hook was on."""
    memory: Memory | None = None
    passed_by: tuple[str, ...] = ()
    """Replaced forwards that were never called, by the names of their modules."""
    empty: str = ""
    """Why the scenario gives nothing to judge; empty where it does give something."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A run without data: counters alone."""

    failure: Failure | None = None
    estimate: Estimate | None = None
    """The time on the GPU that the profile names; ``None`` where the hook failed."""
    reading: Reading = field(default_factory=Reading)


Performed = WholePerformed | ClipPerformed | Played | Counted


def taken_by(calls: Sequence[Called]) -> tuple[int, ...]:
    """Bytes on the device at the peak of each call, above what was there before it.

    None at all where the device cannot measure them.
    """
    pairs = [(call.reading.peak_bytes, call.reading.live_before) for call in calls]
    known = [peak - before for peak, before in pairs if peak is not None and before is not None]
    return tuple(known) if len(known) == len(pairs) else ()
