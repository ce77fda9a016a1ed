"""Follows a tile through a module that is called as it is.

Whatever brings, casts, adapts or offloads the weights of a module keeps working: only its padding
and its statistics are replaced, in its calls to torch. Every function that the tile meets is looked
at, and one that may mix pixels in another way than the module's convolution ends the attempt: the
coder then runs untiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import UnknownCoderError
from ..runtime.statistics import Moments
from .interpose import apply_moments, named

ROWS, COLS, DONE = 1, 2, 4
"""What has happened to a tensor: padded along rows, along columns, convolved."""

POINTWISE = frozenset(
    """
    abs add clamp clamp_max clamp_min div exp mul neg pow rsqrt sqrt square sub true_divide
    iadd imul isub itruediv radd rmul rsub rtruediv
    dropout gelu hardswish leaky_relu mish relu sigmoid silu softplus tanh
    alias bfloat16 clone contiguous copy detach double empty_like float half ones_like
    requires_grad to type type_as zeros_like
    """.split()  # noqa: SIM905
)
"""Functions whose result at a pixel depends on that pixel alone, without leading underscores."""

READING = frozenset(
    ("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__array__", "__index__")
)
"""Functions that take pixels out of torch's sight."""

CONVOLUTIONS = {
    torch.conv2d: ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    torch.conv3d: ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    # ComfyUI calls it by itself, around a defect of some releases of torch.
    torch.cudnn_convolution: ("input", "weight", "padding", "stride", "dilation", "groups"),
}
"""Convolutions, and how they name their arguments by position."""


@dataclass(frozen=True)
class Given:
    """What a module is given instead of what it would take from the edges of a tile."""

    zeros: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Padding of the plane: left, right, top, bottom."""
    own: tuple[int, int] = (0, 0)
    """The module's own padding along rows and columns, which ``zeros`` replaces."""
    wraps: tuple[bool, bool] = (False, False)
    """Along which of them it pads circularly, with pixels that the tile has already."""
    moments: Moments | None = None
    """Statistics for the group norm inside."""
    tokens: bool = False
    """Whether the tile comes as ``N tokens channels``."""


def followed(module: nn.Module, given: Given, x: Tensor, past: Tensor | None = None) -> Tensor:
    """The result of a module for a tile, shown to depend on what it should and no more.

    Raises `UnknownCoderError` where that cannot be shown.
    """
    watch = Watch(module, given)
    watch.states[x] = 0
    if past is not None:
        watch.states[past] = 0
    with watch:
        out = module(x) if past is None else module(x, past)
    if not isinstance(out, Tensor) or out not in watch.states:
        told = "gives a result that cannot be traced to what it was given"
        raise UnknownCoderError(f"{type(module).__name__} {told}")
    if any(given.own) and not watch.states[out] & DONE:
        watch.refuse("convolves nothing")
    return out


def padding_of(module: nn.Module, x: Tensor, own: tuple[int, int]) -> tuple[bool, bool]:
    """Whether unknown code pads rows, and columns, circularly.

    Found by running it on ``x``, a small plane of zeros. ``own`` is how much it has to pad.
    """
    watch = Watch(module, Given(own=own), recording=True)
    watch.states[x] = 0
    with watch, torch.no_grad():
        module(x)
    total, wraps = [0, 0], [False, False]
    for axis, before, after, mode in watch.pads:
        if before != after:
            watch.refuse("pads its two sides differently")
        total[axis] += before
        wraps[axis] = wraps[axis] or (mode == "circular" and before > 0)
    if tuple(total) != own:
        watch.refuse(f"pads by {tuple(total)}, but says {own}")
    return wraps[0], wraps[1]


@dataclass(eq=False)
class Watch(TorchFunctionMode):
    """Inside, the tensors in ``states`` and everything made of them are followed."""

    module: nn.Module
    given: Given
    recording: bool = False
    """Only find out how the plane is padded; replace nothing."""
    states: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)
    pads: list[tuple[int, int, int, str]] = field(default_factory=list)
    """Axis (0: rows), before, after, mode."""

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Let pass what meets no followed tensor, and what is known of functions that do."""
        kwargs = dict(kwargs or {})
        met = [each for each in tensors((args, kwargs)) if each in self.states]
        if name_of(func) in ("to", "type_as") and args[0] not in self.states:
            met = []  # dtype and device of a followed tensor, and none of its pixels
        if not met:
            return func(*args, **kwargs)
        state = max(self.states[each] for each in met)
        if func is F.pad:
            return self.pad(args, kwargs, state)
        if func in CONVOLUTIONS:
            return self.convolve(func, args, kwargs, state)
        if func is F.group_norm and self.given.moments is not None:
            return self.follow(self.norm(args, kwargs), state)
        out = func(*args, **kwargs)
        if any(True for _ in tensors(out)):
            self.check(func, args, kwargs, out)
        elif name_of(func) in READING:
            self.refuse(f"reads pixels ({name_of(func)})")
        return self.follow(out, state)

    def follow(self, out: Any, state: int) -> Any:
        """Follow a result as well."""
        for each in tensors(out):
            self.states[each] = state
        return out

    def refuse(self, what: str) -> None:
        """Give up."""
        raise UnknownCoderError(f"{type(self.module).__name__} {what}")

    def check(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Accept pointwise functions, and a few more where they do no harm."""
        name = name_of(func)
        if name.strip("_") in POINTWISE or name == "__get__data":
            return
        if name == "linear" and self.given.tokens:
            return
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if name in ("cat", "concat") and dim == 2 and out.dim() == 5:
            return
        # F.normalize(input, p, dim): over channels.
        if name == "normalize" and kwargs.get("dim", args[2] if len(args) > 2 else 1) == 1:
            return
        self.refuse(f"computes with {name!r}, which may look at other pixels")

    def pad(self, args: Any, kwargs: Any, state: int) -> Tensor:
        """``F.pad``, by what is given."""
        given = named(("input", "pad", "mode", "value"), args, kwargs)
        pad, mode = list(given["pad"]), given.get("mode", "constant")
        if mode not in ("constant", "circular") or given.get("value") not in (None, 0, 0.0):
            self.refuse(f"pads in mode {mode!r}")
        pad += [0] * (4 - len(pad))
        sides = ((pad[2:4], ROWS, self.given.zeros[2:]), (pad[:2], COLS, self.given.zeros[:2]))
        new: list[int] = []
        for axis, (asked, flag, zeros) in enumerate(sides):
            put = tuple(asked)
            if any(asked):
                if state & (flag | DONE):
                    self.refuse("pads twice")
                self.pads.append((axis, *asked, mode))
                state |= flag
                if not self.recording:
                    if (mode == "circular") != self.given.wraps[axis]:
                        self.refuse(f"pads in mode {mode!r}")
                    put = zeros
            new = [*put, *new]
        if not self.recording:
            given["mode"] = "constant"
        given["pad"] = [*new, *pad[4:]]
        return self.follow(F.pad(**given), state)  # type: ignore[no-any-return]

    def convolve(self, func: Any, args: Any, kwargs: Any, state: int) -> Tensor:
        """A convolution, padded by what is given where it would pad itself."""
        given = named(CONVOLUTIONS[func], args, kwargs)
        others = args[len(CONVOLUTIONS[func]) :]
        if given["input"] not in self.states or given["weight"] in self.states:
            self.refuse("convolves with what it was given")
        pad = given.get("padding", 0)
        if isinstance(pad, str):
            self.refuse(f"pads by {pad!r}")
        pad = list(pad) if isinstance(pad, tuple | list) else [pad] * (given["weight"].dim() - 2)
        kernel = given["weight"].shape[-2:]
        wide = max(kernel) > 1
        if wide and state & DONE:
            self.refuse("convolves twice")
        zeros = [0, 0, 0, 0]
        for axis, flag in ((0, ROWS), (1, COLS)):
            side = pad[axis - 2]
            if side and (state & flag or not wide):
                self.refuse("pads twice")
            if side:
                self.pads.append((axis, side, side, "constant"))
                if not self.recording and self.given.wraps[axis]:
                    self.refuse("pads with zeros")
                at = 2 - 2 * axis
                zeros[at : at + 2] = self.given.zeros[at : at + 2]
            elif kernel[axis] > 1 and self.given.own[axis] and not state & flag:
                self.refuse("does not pad as it says")
        if not self.recording and any(pad[-2:]):
            given["input"] = F.pad(given["input"], zeros)
            given["padding"] = (*pad[:-2], 0, 0)
        in_order = [given.pop(name) for name in CONVOLUTIONS[func][: len(args)]]
        out = func(*in_order, *others, **given)
        return self.follow(out, state | DONE if wide else state)  # type: ignore[no-any-return]

    def norm(self, args: Any, kwargs: Any) -> Tensor:
        """``F.group_norm`` by given statistics, with the weights that reach it."""
        names = ("input", "num_groups", "weight", "bias", "eps")
        given = {"weight": None, "bias": None, "eps": 1e-5, **named(names, args, kwargs)}
        moments = self.given.moments
        assert moments is not None
        if given["num_groups"] != moments.groups:
            self.refuse(f"norms {given['num_groups']} groups, but says {moments.groups}")
        return apply_moments(given["input"], given["weight"], given["bias"], given["eps"], moments)


def name_of(func: Any) -> str:
    """How a function is called; properties by their own name."""
    name = str(getattr(func, "__name__", func))
    if name == "__get__":
        return f"__get__{getattr(getattr(func, '__self__', None), '__name__', '')}"
    return name


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from tensors(each)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
