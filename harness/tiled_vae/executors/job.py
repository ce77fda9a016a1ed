"""One run of a program on one item of a batch: what all executors share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..nets.layers import Prepared, activated, convolve, normalised, over_time
from ..program.steps import (
    KEPT_FRAMES,
    Add,
    Conv,
    Norm,
    Program,
    Reshuffle,
    Shape,
    Step,
    TimeDown,
    TimeUp,
    Value,
)
from ..program.window import Span
from ..runtime.caches import REPEAT, ItemCaches
from ..runtime.planes import Plane
from ..runtime.statistics import Moments


@dataclass
class Job:
    """Everything that a step may need, and the stored planes."""

    program: Program
    shapes: list[Shape]
    device: torch.device
    """Where tiles are computed."""
    home: torch.device
    """Where planes are stored: the host if they are offloaded."""
    caches: ItemCaches
    skip_zeros: bool = False
    given: Mapping[nn.Module, Moments] = field(default_factory=dict)
    """Statistics known beforehand, by norm."""
    seen: dict[nn.Module, Moments] | None = None
    """Statistics that norms were given in this run, where the caller wants them."""
    visit: Callable[[], None] = lambda: None
    """Called after each tile; may raise to stop."""
    resident_limit: float = 0
    """Elements of planes that may stay resident on the device beside the tiles."""
    into: Tensor | None = None
    """Where the program's output is written, if that is a part of a larger tensor."""
    planes: dict[Value, Plane] = field(default_factory=dict)
    unstored: dict[Value, dict[int, Moments]] = field(default_factory=dict)
    """Statistics of planes that are measured and not stored, by number of groups."""
    prepared: Prepared = field(default_factory=Prepared)

    def __post_init__(self) -> None:
        self.prepared.norms = self.program.norms

    def moments(self, module: nn.Module, spatial: bool, value: Value) -> Moments | None:
        """Statistics for a norm of ``value``; ``None`` for a norm that needs none."""
        if not spatial:
            return None
        if module in self.given:
            return self.given[module]
        found = self.unstored.get(value) or self.planes[value].moments
        moments = found[int(module.num_groups)]  # type: ignore[arg-type]
        if self.seen is not None:
            self.seen[module] = moments
        return moments

    def compute(self, step: Step, box: list[Tensor], rows: Span, cols: Span) -> Tensor:
        """Outputs ``rows`` x ``cols`` of a step from exactly the pixels they depend on.

        ``box`` holds a tensor for every input and is emptied. The result is a fresh tensor, or
        the box's own where a step has nothing to do.
        """
        if isinstance(step, Norm):
            moments = self.moments(step.module, step.spatial, step.inputs[0])
            y = normalised(step.module, box.pop(), moments, self.prepared)
            return activated(step.activation, y)
        if isinstance(step, Conv):
            return self.convolve(step, box, rows, cols)
        if isinstance(step, Add):
            return self.add(step, box)
        if isinstance(step, TimeUp):
            return self.time_up(step, box.pop(), rows, cols)
        if isinstance(step, TimeDown):
            return self.time_down(step, box.pop(), rows, cols)
        if isinstance(step, Reshuffle):
            return self.reshuffle(step, box.pop(), rows, cols)
        raise TypeError(f"{type(step).__name__} is not computed tile by tile")

    def convolve(self, step: Conv, box: list[Tensor], rows: Span, cols: Span) -> Tensor:
        """A convolution, with the past frames that its slot holds."""
        plane = self.shapes[step.inputs[0]]
        reach_rows = step.rows.reach(rows, plane.height)
        reach_cols = step.cols.reach(cols, plane.width)
        if step.slot is not None and step.past:
            past = self.caches.past(step.slot, reach_rows.source, reach_cols.source, self.device)
            if past is not None:
                box.append(past)
            del past
        return convolve(step, box, reach_rows, reach_cols, self.prepared, self.skip_zeros)

    def add(self, step: Add, box: list[Tensor]) -> Tensor:
        """The end of a residual block; the first tensor is overwritten where it is fresh."""
        shortcut, main = box.pop(), box.pop()
        maker = self.program.steps[step.inputs[0] - 1]
        fresh = isinstance(maker, Conv) and step.inputs[0] not in self.planes
        fresh = fresh and main.dtype == shortcut.dtype
        main = main.add_(shortcut) if fresh else main + shortcut
        return main if step.divisor == 1.0 else main / step.divisor

    def reshuffle(self, step: Reshuffle, x: Tensor, rows: Span, cols: Span) -> Tensor:
        """A shortcut without weights."""
        plane = self.shapes[step.inputs[0]]
        y: Tensor = step.module(x, first_chunk=step.first_chunk) if step.spreads else step.module(x)
        if step.spreads:
            crop_rows = step.rows.reach(rows, plane.height).crop
            crop_cols = step.cols.reach(cols, plane.width).crop
            y = y[..., slice(*crop_rows), slice(*crop_cols)]
        return y

    def time_up(self, step: TimeUp, x: Tensor, rows: Span, cols: Span) -> Tensor:
        """Makes two frames of each one, from the second frame of a clip on."""
        if self.caches.caches.clip:
            return self.clip_up(step, x)
        held = self.caches.caches.holds(step.slot)
        if not self.caches.caches.cached or held is None:
            return x
        channels = x.shape[1]
        past = self.caches.past(step.slot, rows, cols, self.device)
        y = torch.unflatten(over_time(step.module, x, past), 1, (2, channels))
        return y.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)

    def clip_up(self, step: TimeUp, x: Tensor) -> Tensor:
        """All frames of a clip at once: the convolution never sees the first one."""
        channels, frames = x.shape[1:3]
        if frames == 1:
            return x
        y = torch.unflatten(over_time(step.module, x[:, :, 1:], None), 1, (2, channels))
        y = y.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
        return torch.cat([x[:, :, :1], y], dim=2)

    def time_down(self, step: TimeDown, x: Tensor, rows: Span, cols: Span) -> Tensor:
        """Makes one frame of each two, from the second frame of a clip on."""
        if self.caches.caches.clip:
            if x.shape[2] == 1:
                return x
            return torch.cat([x[:, :, :1], over_time(step.module, x, None)], dim=2)
        past = self.caches.past(step.slot, rows, cols, self.device)
        if not self.caches.caches.cached or past is None:
            return x
        y = over_time(step.module, torch.cat([past[:, :, -1:], x], dim=2), None)
        if step.deferring:
            waiting = self.caches.past(step.slot + 1, rows, cols, self.device)
            if waiting is not None:
                y = torch.cat([waiting, y], dim=2)
        return y

    def remember(self, step: Step, x: Tensor, rows: Span, cols: Span) -> None:
        """Write what the slot of ``step`` will hold for some pixels of the step's input."""
        caches = self.caches
        if not caches.caches.cached:
            return
        shape = self.shapes[step.inputs[0]]
        plane = (shape.height, shape.width)
        if isinstance(step, Conv) and step.slot is not None:
            caches.store(step.slot, rows, cols, self.kept(step.slot, x, rows, cols), plane)
        elif isinstance(step, TimeUp):
            held = caches.caches.holds(step.slot)
            if held is None:
                caches.caches.keep(step.slot, REPEAT)
            else:
                caches.store(step.slot, rows, cols, self.kept(step.slot, x, rows, cols), plane)
        elif isinstance(step, TimeDown):
            first = caches.caches.holds(step.slot) is None
            kept = x if first else x[:, :, -1:]
            # Untiled coders use this slot without moving it to their device first.
            caches.store_at(step.slot, rows, cols, kept, plane, self.device)
            if step.deferring:
                caches.caches.keep(step.slot + 1, None)

    def kept(self, slot: int, x: Tensor, rows: Span, cols: Span) -> Tensor:
        """The last frames of ``x``; a single frame is joined to the last one kept before it."""
        tail = x[:, :, -KEPT_FRAMES:]
        held = self.caches.caches.holds(slot)
        if tail.shape[2] >= KEPT_FRAMES or not self.program.joins or held is None:
            return tail
        if held == REPEAT if isinstance(held, str) else False:
            return torch.cat([torch.zeros_like(tail), tail], dim=2)
        # Joined where it is stored, so that offloaded frames need not come back to the device.
        home = self.caches.home
        past = self.caches.past(slot, rows, cols, home)
        if past is None:
            return tail
        return torch.cat([past[:, :, -1:], tail.to(home)], dim=2)
