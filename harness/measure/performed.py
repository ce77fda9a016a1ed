"""What a runner answers: what the hook did, in numbers, words and tensors on the plain CPU.

Nothing here is judged yet, and nothing of it is believed: a hook can make its runner say anything
about itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from torch import Tensor

from vae_compat.device.meter import Reading
from vae_compat.isolation.wire import OnWire
from vae_compat.measure.caches import Access, Slot
from vae_compat.measure.observation import CoderCall, Failure, Times

Travelling = Annotated[Tensor, OnWire()]


@dataclass(frozen=True, kw_only=True)
class Called:
    """One stretch with the hook on, for one result."""

    what: str = ""
    """Which call of a scenario: ``tiles of 1 latent pixel``."""
    tile: int | None = None
    """Its tile size in latent pixels, where it is another than that of the case."""
    returned: str = "None"
    """What came back, in words: ``Tensor``, ``list of 2 Tensor``, ``None``."""
    output: Travelling | None = None
    output_device: str | None = None
    input_device: str | None = None
    failure: Failure | None = None
    reading: Reading = field(default_factory=Reading)
    calls: tuple[CoderCall, ...] = ()
    residue: tuple[str, ...] = ()
    input_changed: bool = False


@dataclass(frozen=True, kw_only=True)
class ConventionCalled:
    """What came of calling a hooked coder in one convention."""

    variant: int
    """Which variant of the layout, as the fixtures count them."""
    convention: str
    failure: Failure | None
    shape: tuple[int, ...] | None
    finite: bool
    index: tuple[tuple[int, ...] | str | None, ...]
    """Where ``feat_idx`` was after each call: its entries, or the type name of something else."""


@dataclass(frozen=True, kw_only=True)
class WholePerformed:
    """A single call, and the ways in which the field calls the bare coder, where they were asked
    for.
    """

    whole: Called
    conventions: tuple[ConventionCalled, ...] | None = None
    times: Times | None = None
    """Of the hook and of untiled, where the case is timed and both ran."""


@dataclass(frozen=True)
class Sent:
    """What one chunk of a clip left in our hands. Tensors are on the plain CPU."""

    number: int
    """Of the chunk, from 0."""
    frames: int
    """Given to the coder."""
    returned: str
    """In words: ``Tensor``, ``list of 2 Tensor``, ``None``."""
    parts: tuple[Travelling, ...]
    """The frames that came out, ``B C t H W`` each; none where the chunk was deferred."""
    index: int | None
    """Where ``feat_idx`` ended; ``None`` where it is no index any more."""
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
    """As far as the hook came."""
    failure: Failure | None


@dataclass(frozen=True, kw_only=True)
class ClipPerformed:
    """A clip through the whole VAE, and through the bare coder."""

    whole: Called
    ways: tuple[WayPerformed, ...]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """One call of a sequence that came back."""

    name: str
    """``chunk 2 of clip A, untiled``."""
    right: str
    """Which result is the right one: ``call 0``, ``clip A/2``."""
    returned: str
    output: Travelling | None
    bare: bool = False
    """Whether it ran without the hook."""


@dataclass(frozen=True, kw_only=True)
class SequencePerformed:
    """A sequence of calls, as far as the hook came."""

    taken: tuple[Taken, ...]
    alone: tuple[Taken, ...] = ()
    """What the hook gives with no call before, where it promises less than exact."""
    doing: str = ""
    """The call under way when the hook failed, if it did."""
    failure: Failure | None = None
    plane: int = 0
    """Area of the largest plane that a convolution wrote while the hook was on."""
    empty: str = ""
    """Why the sequence shows nothing; empty where it does."""


@dataclass(frozen=True)
class Run:
    """The results of one hook put on once, and its meters."""

    outputs: tuple[Travelling, ...]
    reading: Reading
    dtype: str
    """The narrowest floating dtype in which the hook computed, so far."""

    @property
    def output(self) -> Tensor:
        """That of the last call."""
        return self.outputs[-1]


@dataclass(frozen=True, kw_only=True)
class RelationPerformed:
    """Runs that should give one result."""

    runs: tuple[Run, ...]
    dtype: str
    """In which the VAE ran."""
    failure: Failure | None = None
    empty: str = ""


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
    """More than before the call once it was over."""


@dataclass(frozen=True, kw_only=True)
class UsagePerformed:
    """What a program did with the hook beside calling it."""

    calls: tuple[Called, ...] = ()
    off: tuple[Travelling | None, ...] = ()
    """Results of both directions after the hook was taken off, that of the case first."""
    memory: Memory | None = None
    empty: str = ""
    """Why the scenario shows nothing; empty where it does."""


Performed = WholePerformed | ClipPerformed | SequencePerformed | RelationPerformed | UsagePerformed
