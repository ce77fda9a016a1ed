"""What a video coder returns from one call: a tensor, a list of frame pairs, or nothing yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnknownCoderError
from ..program.steps import Conv, Program, Reshuffle, Shape, TimeDown, TimeUp
from ..runtime.caches import Caches


@dataclass(frozen=True)
class CallProtocol:
    """What one call of a coder returns, and what it leaves for the next call."""

    program: Program
    """Ends early where the coder keeps its only frame for the next call."""
    moved: int
    """How far the caller's cache index moves."""
    answer: Callable[[Tensor, Caches], Any]
    """Turns the program's output into what the coder returns."""


def call_protocol(
    program: Program, shapes: list[Shape], caches: Caches, final: bool
) -> CallProtocol:
    """The protocol of a call with inputs of these shapes."""
    if program.pairs:
        return in_pairs(program, shapes, caches)
    if program.defers and caches.cached and not final:
        for step in program.steps:
            if not isinstance(step, TimeDown) or caches.holds(step.slot) is None:
                continue
            if shapes[step.output].frames == 1:
                return deferred(program, step)
    return CallProtocol(program, program.slots, lambda out, _: out)


def deferred(program: Program, step: TimeDown) -> CallProtocol:
    """A single frame is kept for the next call, in the slot after that of the step that made it."""
    waiting = step.slot + 1
    head = replace(program, steps=program.steps[: step.output], slots=step.slot + 2)

    def keep(out: Tensor, caches: Caches) -> None:
        caches.keep(waiting, out)

    return CallProtocol(head, head.slots, keep)


def in_pairs(program: Program, shapes: list[Shape], caches: Caches) -> CallProtocol:
    """A decoder that splits its frames into pairs once it has more than two, and returns a list.

    Running all frames at once gives the same values, as long as no later slot is empty and every
    convolution has a cache that carries frames from one pair to the next. The caller's index
    stays at the step where the frames were split.
    """
    split = [
        step
        for step in program.steps
        if isinstance(step, TimeUp) and (shapes[step.output].frames or 1) > 2
    ]
    if not split:
        return CallProtocol(program, program.slots, lambda out, _: [out])
    later = [step for step in program.steps if isinstance(step, TimeUp)]
    if not caches.cached or any(caches.holds(step.slot) is None for step in later):
        raise UnknownCoderError("frames that part without a cache between them")
    return CallProtocol(program, split[0].slot + 1, lambda out, _: list(torch.split(out, 2, dim=2)))


def check_shapes(program: Program, shapes: list[Shape], dims: int) -> None:
    """Refuse shapes that the coder refuses: it then runs untiled and raises its own error."""
    first = program.steps[0]
    if isinstance(first, Conv) and isinstance(first.module, nn.Conv3d) != (dims == 5):
        raise UnknownCoderError(f"the input has {dims} dimensions")
    for step in program.steps:
        shape, source = shapes[step.output], shapes[step.inputs[0]]
        if min(shape.height, shape.width) < 1 or (shape.frames is not None and shape.frames < 1):
            raise UnknownCoderError("the input is too small for the coder")
        if isinstance(step, Reshuffle) and not step.spreads:
            side = step.window.stride
            if source.height % side or source.width % side:
                raise UnknownCoderError("the plane does not divide into the blocks of a shortcut")
        if len({(shapes[value].height, shapes[value].width) for value in step.inputs}) > 1:
            raise UnknownCoderError("the two ways through a block give different planes")
        if len({shapes[value].frames for value in step.inputs}) > 1:
            raise UnknownCoderError("the two ways through a block give different clips")
