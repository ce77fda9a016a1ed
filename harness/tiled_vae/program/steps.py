"""A coder as a short list of steps in single-assignment form: each computes one new value.

Value 0 is the input of the coder. Steps hold the coder's own modules; they never copy weights.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, cast

from torch import Tensor, nn

from .window import POINT, Window

Value = int

KEPT_FRAMES = 2
"""Frames that a causal convolution remembers: its temporal kernel less one."""


class Shape(NamedTuple):
    """Of one item of a batch. ``frames`` is ``None`` where there is no frame axis."""

    channels: int
    frames: int | None
    height: int
    width: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return self.channels * (self.frames or 1) * self.height * self.width

    def resized(self, rows: Window, cols: Window) -> Shape:
        """The plane after a local operation."""
        return self._replace(height=rows.length(self.height), width=cols.length(self.width))


@dataclass(frozen=True, eq=False)
class Step:
    """Base of all steps."""

    inputs: tuple[Value, ...]
    output: Value

    @property
    def windows(self) -> tuple[Window, Window]:
        """Dependence along the height and along the width."""
        return POINT, POINT

    @property
    def rows(self) -> Window:
        """Dependence along the height."""
        return self.windows[0]

    @property
    def cols(self) -> Window:
        """Dependence along the width."""
        return self.windows[1]

    @property
    def costly(self) -> bool:
        """Whether it is worth keeping the result rather than computing it twice."""
        return False

    @property
    def outline(self) -> tuple[Hashable, ...]:
        """What plans depend on, beside the shapes of values."""
        return type(self).__name__, self.inputs, self.rows, self.cols

    def shape(self, inputs: Sequence[Shape], clock: Clock) -> Shape:
        """Shape of the output."""
        del clock
        return inputs[0].resized(self.rows, self.cols)


class Clock(NamedTuple):
    """What a step may ask about time: is there a cache, and what does a slot hold?"""

    cached: bool
    holds: Callable[[int], Tensor | str | None]
    clip: bool = False
    """Whether the call has all frames of a clip, which its VAE would pass chunk by chunk."""


@dataclass(frozen=True, eq=False)
class Conv(Step):
    """A convolution over the plane; causal over time where it has a time axis.

    ``slot`` is the place in the feature cache, counted from where the call starts; ``None`` for
    a convolution that is never given a cache.
    """

    module: nn.Module
    window_rows: Window
    window_cols: Window
    channels: int
    slot: int | None = None
    past: int = 0
    """Frames of padding on the past side; 0 where time is not convolved."""
    own: tuple[int, int] = (0, 0)
    """The module's own padding along rows and columns; any other is put around by its block."""
    plain: bool = False
    """Whether the module's parameters may be used directly."""

    @property
    def windows(self) -> tuple[Window, Window]:
        """Dependence along the height and along the width."""
        return self.window_rows, self.window_cols

    @property
    def costly(self) -> bool:
        """Convolutions are the expensive steps."""
        return True

    @property
    def weights(self) -> int:
        """Elements that act in a plane, where they may be laid out anew for kernels."""
        if not self.plain or max(self.rows.kernel, self.cols.kernel) == 1:
            return 0
        return cast(Tensor, self.module.weight).numel() // (self.past + 1)

    @property
    def outline(self) -> tuple[Hashable, ...]:
        """What plans depend on, beside the shapes of values."""
        return *super().outline, self.weights

    def shape(self, inputs: Sequence[Shape], clock: Clock) -> Shape:
        """Shape of the output: causal convolutions keep the number of frames."""
        return super().shape(inputs, clock)._replace(channels=self.channels)


@dataclass(frozen=True, eq=False)
class Norm(Step):
    """A norm and the activation after it."""

    module: nn.Module
    spatial: bool
    """GroupNorm: statistics over the whole plane. Otherwise over channels alone."""
    activation: nn.Module | None

    @property
    def outline(self) -> tuple[Hashable, ...]:
        """What plans depend on, beside the shapes of values."""
        return *super().outline, self.spatial


@dataclass(frozen=True, eq=False)
class Add(Step):
    """The end of a residual block: ``(main + shortcut) / divisor``."""

    divisor: float = 1.0

    @property
    def outline(self) -> tuple[Hashable, ...]:
        """What plans depend on, beside the shapes of values."""
        return *super().outline, self.divisor


@dataclass(frozen=True, eq=False)
class TimeUp(Step):
    """Makes two frames of each one, except the first of a clip. ``slot`` may hold ``"Rep"``."""

    module: nn.Module
    slot: int

    @property
    def costly(self) -> bool:
        """It convolves."""
        return True

    def shape(self, inputs: Sequence[Shape], clock: Clock) -> Shape:
        """Twice as many frames once the slot is filled."""
        frames = inputs[0].frames or 1
        if clock.clip:
            return inputs[0]._replace(frames=2 * frames - 1)
        acts = clock.cached and clock.holds(self.slot) is not None
        return inputs[0]._replace(frames=frames * 2 if acts else frames)


@dataclass(frozen=True, eq=False)
class TimeDown(Step):
    """Makes one frame of each two, except the first frame of a clip.

    With ``deferring`` a single frame is kept in the slot after its own until the next call.
    """

    module: nn.Module
    slot: int
    deferring: bool = False

    @property
    def costly(self) -> bool:
        """It convolves."""
        return True

    def shape(self, inputs: Sequence[Shape], clock: Clock) -> Shape:
        """Half as many frames once the slot is filled."""
        frames = inputs[0].frames or 1
        if clock.clip:
            return inputs[0]._replace(frames=(frames + 1) // 2)
        if clock.cached and clock.holds(self.slot) is not None:
            frames = (frames + 1 - 3) // 2 + 1
            waiting = clock.holds(self.slot + 1) if self.deferring else None
            if isinstance(waiting, Tensor):
                frames += waiting.shape[2]
        return inputs[0]._replace(frames=frames)


@dataclass(frozen=True, eq=False)
class Reshuffle(Step):
    """A shortcut that averages blocks of pixels, or spreads a pixel over a block (Wan 2.2)."""

    module: nn.Module
    window: Window
    channels: int
    factor_t: int
    spreads: bool
    first_chunk: bool

    @property
    def windows(self) -> tuple[Window, Window]:
        """Dependence along the height and along the width."""
        return self.window, self.window

    def shape(self, inputs: Sequence[Shape], clock: Clock) -> Shape:
        """Channels, frames and plane change together."""
        frames = inputs[0].frames or 1
        if not self.spreads:
            frames = -(-frames // self.factor_t)
        elif self.first_chunk:
            frames = frames * self.factor_t - (self.factor_t - 1)
        else:
            frames = frames * self.factor_t
        return super().shape(inputs, clock)._replace(channels=self.channels, frames=frames)


@dataclass(frozen=True, eq=False)
class Attend(Step):
    """Self-attention over the whole plane, frame by frame, beside a shortcut.

    ``project`` maps a normalised band of rows to query, key and value; ``finish`` maps what was
    attended back to a band. Both take and return ``N C h W``. ``heads`` split the channels.
    """

    norm: nn.Module | None
    spatial: bool
    project: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    finish: Callable[[Tensor], Tensor]
    heads: int
    divisor: float = 1.0
    whole: Callable[[Tensor], Tensor] | None = None
    """Attention by code that is not known: called on the whole plane instead of all the others."""

    @property
    def costly(self) -> bool:
        """It is computed once, over all pixels."""
        return True


@dataclass(frozen=True)
class Program:
    """All steps of a coder, in the order they run."""

    steps: tuple[Step, ...]
    slots: int
    """Number of cache slots that one call uses."""
    joins: bool = True
    """Whether a single frame is stored together with the last frame that the slot held before."""
    pairs: bool = False
    """Whether the coder returns a list of pairs of frames (ComfyUI's Wan decoder)."""
    defers: bool = False
    """Whether the coder may keep a single frame and return ``None`` (ComfyUI's Wan encoder)."""
    patch: int = 1
    """Image pixels that were folded into one pixel of the coder's image side."""
    levels: tuple[float, ...] = field(default=())
    """Scale of the plane of every value against the input's."""

    @cached_property
    def outline(self) -> tuple[Hashable, ...]:
        """What plans depend on, beside shapes: the same for coders that are built alike."""
        return *(step.outline for step in self.steps), self.levels

    @cached_property
    def norms(self) -> list[nn.Module]:
        """Norms with statistics over the plane."""
        found = []
        for step in self.steps:
            norm = step.norm if isinstance(step, Attend) else None
            norm = step.module if isinstance(step, Norm) else norm
            if norm is not None and isinstance(step, Attend | Norm) and step.spatial:
                found.append(norm)
        return found

    @property
    def wraps(self) -> bool:
        """Whether a convolution pads circularly: tiles then depend on those at the other side."""
        return any(step.rows.wrap or step.cols.wrap for step in self.steps)

    @property
    def output(self) -> Value:
        """The value that the coder returns."""
        return self.steps[-1].output

    def shapes(self, first: Shape, clock: Clock) -> list[Shape]:
        """Shape of every value when the input has shape ``first``."""
        shapes = [first]
        for step in self.steps:
            shapes.append(step.shape([shapes[value] for value in step.inputs], clock))
        return shapes

    def with_levels(self) -> Program:
        """Fill in ``levels``."""
        levels = [1.0]
        for step in self.steps:
            levels.append(levels[step.inputs[0]] * step.rows.up / step.rows.stride)
        return replace(self, levels=tuple(levels))
