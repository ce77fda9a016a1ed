"""Collects the steps of a coder while a front end walks through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from ..errors import UnknownCoderError
from ..nets.circular import circular_sides
from ..nets.layers import pointwise
from ..nets.modules import (
    ACTIVATIONS,
    causal_windows,
    changes_when_called,
    children,
    expect,
    expect_kind,
    expect_trusted,
    geometry,
    inner,
    is_container,
    is_local_norm,
    is_plain,
    is_plain_causal,
    kind,
    plane_windows,
    tampered,
)
from ..nets.offloading import is_offloaded_whole
from ..program.steps import (
    Add,
    Attend,
    Conv,
    Norm,
    Program,
    Reshuffle,
    Step,
    TimeDown,
    TimeUp,
    Value,
)
from ..program.window import Window

Walk = Callable[["Builder", Value, nn.Module], Value]
"""Translates a part of a coder: from its input to the value that it makes."""


class Builder:
    """Steps so far. Every method takes the value it works on and returns the value it makes."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.steps: list[Step] = []
        self.slots = 0
        self.seen: set[nn.Module] = {net}
        self.deferring = False

    def next_slot(self) -> int:
        """The cache slot of the next step."""
        self.slots += 1
        return self.slots - 1

    @property
    def fresh(self) -> Value:
        """The value that the next step will make."""
        return len(self.steps) + 1

    def add_step(self, step: Step) -> Value:
        """Append a step."""
        self.steps.append(step)
        return step.output

    def enter(self, block: nn.Module) -> nn.Module:
        """Mark a block as translated part by part: its own code is then not run."""
        if not is_container(block):
            expect_kind(block)
        expect(
            not tampered(block) or is_offloaded_whole(block),
            "carries hooks or replaced methods that only calling it whole would run",
            block,
        )
        self.seen.add(block)
        return block

    def conv(
        self,
        x: Value,
        module: nn.Module,
        *,
        pad: tuple[int, int] | None = None,
        up: int = 1,
    ) -> Value:
        """A convolution over the plane, after a nearest upsampling where ``up`` is 2."""
        conv = cast("nn.Conv2d", geometry(module))
        rows, cols = plane_windows(module, pad)
        if any(circular := circular_sides(module, conv)):
            expect(pad is None, "pads in two ways at once", module)
            rows, cols = (
                replace(each, wrap=wrap) for each, wrap in zip((rows, cols), circular, strict=True)
            )
        self.see(module)
        rows, cols = replace(rows, up=up), replace(cols, up=up)
        own = cast("tuple[int, int]", tuple(conv.padding))
        step = Conv((x,), self.fresh, module, rows, cols, conv.out_channels)
        return self.add_step(replace(step, own=own, plain=is_plain(module, nn.Conv2d)))

    def see(self, module: nn.Module) -> None:
        """Mark a layer as called, with all that adapts or parametrises it."""
        expect(not changes_when_called(module), "changes at each call: call eval() first", module)
        self.seen.update(module.modules())

    def causal(self, x: Value, module: nn.Module, *, cached: bool = True) -> Value:
        """A causal convolution; ``cached`` where the coder gives it a slot."""
        rows, cols, past = causal_windows(module)
        conv = cast("nn.Conv3d", module)
        expect(conv.stride[0] == 1, f"stride {conv.stride}", module)
        self.see(module)
        slot = self.next_slot() if cached else None
        step = Conv((x,), self.fresh, module, rows, cols, conv.out_channels, slot, past)
        own, plain = (rows.before, cols.before), is_plain_causal(module)
        return self.add_step(replace(step, own=own, plain=plain))

    def norm(self, x: Value, module: nn.Module, activation: nn.Module | None) -> Value:
        """A norm and the activation after it, if there is one."""
        spatial = isinstance(module, nn.GroupNorm)
        expect(spatial or is_local_norm(module), "is no norm that this hook knows", module)
        self.see(module)
        if activation is not None:
            expect(
                isinstance(activation, ACTIVATIONS),
                "is no activation that this hook knows",
                activation,
            )
            self.seen.add(activation)
        return self.add_step(Norm((x,), self.fresh, module, spatial, activation))

    def drop(self, module: nn.Module) -> None:
        """A dropout, which does nothing except in training."""
        expect(isinstance(module, nn.Dropout), "is no dropout", module)
        expect_trusted(module)
        idle = not module.training or cast("nn.Dropout", module).p == 0
        expect(idle, "drops at random: call eval() first", module)
        self.seen.add(module)

    def middle(self, x: Value, block: nn.Module, residual: Walk, attend: Walk) -> Value:
        """A residual block, then attention and a residual block as often as there are."""
        self.enter(block)
        first, *others = children(block, "resnets")
        x = residual(self, x, first)
        for attention, resnet in zip(cast(Any, block).attentions, others, strict=True):
            if attention is not None:
                x = attend(self, x, attention)
            x = residual(self, x, resnet)
        return x

    def add(self, main: Value, shortcut: Value, divisor: float = 1.0) -> Value:
        """The end of a residual block."""
        return self.add_step(Add((main, shortcut), self.fresh, divisor))

    def reshuffle(self, x: Value, module: nn.Module, first_chunk: bool) -> Value:
        """The shortcut of a level of Wan 2.2."""
        self.enter(module)
        space, time = int(cast(Any, module).factor_s), int(cast(Any, module).factor_t)
        expect_kind(module, "DupUp3D", "AvgDown3D")
        spreads = kind(module) == "DupUp3D"
        window = Window(up=space) if spreads else Window(space, space)
        channels = int(cast(Any, module).out_channels)
        return self.add_step(
            Reshuffle((x,), self.fresh, module, window, channels, time, spreads, first_chunk)
        )

    def resample(self, x: Value, block: nn.Module) -> Value:
        """A resampling of Qwen and Wan: plane, and time where the mode ends in ``3d``."""
        self.enter(block)
        mode = str(getattr(block, "mode", ""))
        if mode == "none":
            return x
        parts = list(inner(block, "resample").children())
        expect(len(parts) == 2, f"resamples in {len(parts)} parts", block)
        self.enter(inner(block, "resample"))
        if mode in ("upsample2d", "upsample3d"):
            up = parts[0]
            expect(isinstance(up, nn.Upsample), "does not upsample", up)
            expect_trusted(up)
            nearest = str(getattr(up, "mode", "")).startswith("nearest")
            factor = getattr(up, "scale_factor", None)
            expect(nearest and factor in (2, 2.0, (2.0, 2.0), (2, 2)), f"by {factor}", up)
            if mode == "upsample3d":
                time = self.time_conv(block, ((3, 1, 1), (1, 1, 1), 2))
                x = self.add_step(TimeUp((x,), self.fresh, time, self.next_slot()))
            self.seen.add(up)
            return self.conv(x, parts[1], up=2)
        expect(mode in ("downsample2d", "downsample3d"), f"mode {mode!r}", block)
        pad = getattr(parts[0], "padding", None)
        expect(isinstance(parts[0], nn.ZeroPad2d) and pad == (0, 1, 0, 1), f"pads {pad}", block)
        expect_trusted(parts[0])
        self.seen.add(parts[0])
        x = self.conv(x, parts[1], pad=(0, 1))
        if mode == "downsample3d":
            time = self.time_conv(block, ((3, 1, 1), (2, 1, 1), 0))
            slot = self.next_slot()
            if self.deferring:
                self.next_slot()
            x = self.add_step(TimeDown((x,), self.fresh, time, slot, self.deferring))
        return x

    def time_conv(self, block: nn.Module, wanted: tuple[Any, Any, int]) -> nn.Module:
        """The convolution over time of a resampling, if it is the known one."""
        module = inner(block, "time_conv")
        _, _, past = causal_windows(module)
        conv = cast("nn.Conv3d", module)
        expect((conv.kernel_size, conv.stride, past) == wanted, "convolves time anew", module)
        self.see(module)
        return module

    def attend(self, x: Value, block: nn.Module, step: Attend) -> Value:
        """An attention over the plane, described by ``step``."""
        del x
        self.enter(block)
        return self.add_step(step)

    def attend_whole(self, x: Value, block: nn.Module, call: Callable[[Tensor], Tensor]) -> Value:
        """An attention of another make, shortcut included: it is called on the whole plane."""
        self.see(block)
        step = Attend((x,), self.fresh, None, False, unused, unused, 1, whole=call)
        return self.add_step(step)

    def finish(self, **facts: Any) -> Program:
        """The program, if no module of the coder was left out."""
        for module in self.net.modules():
            if module in self.seen or not owns_something(module):
                continue
            raise UnknownCoderError(f"{type(module).__name__} has no known place in this coder")
        program = Program(tuple(self.steps), self.slots, **facts).with_levels()
        clips = any(isinstance(step, Conv) and step.past for step in self.steps)
        expect(not (program.wraps and clips), "pads clips circularly", self.net)
        return program


def unused(_band: Tensor) -> Any:
    """In the place of the parts of an attention that is called as a whole."""
    raise AssertionError("unreachable")


def owns_something(module: nn.Module) -> bool:
    """Whether leaving the module out could change the result."""
    if any(True for _ in module.parameters(recurse=False)):
        return True
    inert = (nn.Identity, nn.Dropout, nn.ModuleList, nn.Sequential, *ACTIVATIONS)
    return not isinstance(module, inert) and not any(True for _ in module.children())


def attention_qkv(block: nn.Module, x: Value, output: Value) -> Attend:
    """Attention of Qwen and Wan: one convolution for query, key and value."""
    to_qkv, proj = inner(block, "to_qkv"), inner(block, "proj")
    for module in (to_qkv, proj):
        rows, cols = plane_windows(module)
        expect(rows.local and cols.local, "looks at neighbours", module)
    norm = inner(block, "norm")
    expect(is_local_norm(norm), "is no norm that this hook knows", norm)

    def project(band: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = pointwise(to_qkv, band).chunk(3, dim=1)
        return query, key, value

    def finish(band: Tensor) -> Tensor:
        return pointwise(proj, band)

    return Attend((x,), output, norm, False, project, finish, 1)
