"""Following a tile through a module that is called as it is.

Whatever brings, casts, adapts or offloads the weights of a module keeps working; the padding and
the statistics that it would use are replaced on their way to torch. Every function that the tile
meets is looked at: one that could mix pixels in another way than the module's convolution ends
the attempt, and the coder runs untiled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from .errors import UnknownCoderError
from .statistics import Moments

ROWS, COLS, DONE = 1, 2, 4
"""What has happened to a tensor: padded along rows, along columns, convolved."""

PIXELWISE = frozenset(
    [
        "add",
        "sub",
        "mul",
        "div",
        "true_divide",
        "neg",
        "abs",
        "clamp",
        "clamp_min",
        "clamp_max",
        "square",
        "sqrt",
        "rsqrt",
        "pow",
        "exp",
        "silu",
        "relu",
        "gelu",
        "mish",
        "leaky_relu",
        "sigmoid",
        "tanh",
        "hardswish",
        "softplus",
        "dropout",
        "to",
        "type",
        "type_as",
        "float",
        "half",
        "bfloat16",
        "double",
        "contiguous",
        "clone",
        "detach",
        "alias",
        "empty_like",
        "zeros_like",
        "ones_like",
        "copy",
        "requires_grad",
        "rsub",
        "radd",
        "rmul",
        "rtruediv",
        "iadd",
        "imul",
        "isub",
        "itruediv",
    ]
)
"""Functions whose result at a pixel depends on that pixel alone."""

READING = frozenset(
    ["item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__array__", "__index__"]
)


def apply_moments(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    moments: Moments,
) -> Tensor:
    """``(x - mean) / sqrt(variance + eps) * weight + bias`` for ``1 C h w``."""
    if torch.is_autocast_enabled(x.device.type) and x.device.type == "cuda":
        x = x.float()
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean, variance = moments.by_channel(x.shape[1], exact)
    weight, bias = (None if part is None else part.to(exact) for part in (weight, bias))
    if x.device.type == "cpu":
        x = x.contiguous()  # the kernel for views is an order of magnitude slower
    # With given statistics the two norms are the same function, and this one takes them.
    y: Tensor = torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]
    return y


@dataclass(frozen=True)
class Given:
    """What a module gets in place of what it would take from the edges of a tile."""

    zeros: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Padding of the plane: left, right, top, bottom."""
    own: tuple[int, int] = (0, 0)
    """The module's own padding along rows and columns, which ``zeros`` replaces."""
    wraps: tuple[bool, bool] = (False, False)
    """Along which of them it pads with the other side, which the tile has already."""
    moments: Moments | None = None
    """Statistics for the group norm inside."""
    tokens: bool = False
    """Whether the tile comes as ``N tokens channels``."""


def followed(module: nn.Module, given: Given, x: Tensor, past: Tensor | None = None) -> Tensor:
    """The result of a module for a tile, and proof that it depends on what it should."""
    watch = Watched(module, given)
    watch.states[x] = 0
    if past is not None:
        watch.states[past] = 0
    with watch:
        out: Tensor = module(x) if past is None else module(x, past)
    if not isinstance(out, Tensor) or out not in watch.states:
        watch.refuse("gives a result that cannot be followed back to what it was given")
    expected = DONE if any(given.own) else 0
    if expected and not watch.states[out] & DONE:
        watch.refuse("convolves nothing")
    return out


def padding_of(module: nn.Module, x: Tensor, own: tuple[int, int]) -> tuple[bool, bool]:
    """Whether unknown code pads rows and columns of a plane with its other side.

    Found by running it on ``x``, a small plane of zeros.
    """
    watch = Watched(module, Given(own=own), recording=True)
    watch.states[x] = 0
    with watch, torch.no_grad():
        module(x)
    total = [0, 0]
    wraps = [False, False]
    for axis, before, after, mode in watch.pads:
        if before != after:
            watch.refuse("pads its two sides differently")
        total[axis] += before
        wraps[axis] = wraps[axis] or (mode == "circular" and before > 0)
    if tuple(total) != own:
        watch.refuse(f"pads by {tuple(total)}, but says {own}")
    return wraps[0], wraps[1]


@dataclass(eq=False)
class Watched(TorchFunctionMode):
    """Inside, the tensors in ``states`` and all that is made of them are followed."""

    module: nn.Module
    given: Given
    recording: bool = False
    """Only find out how the plane is padded; nothing is replaced."""
    states: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)
    pads: list[tuple[int, int, int, str]] = field(default_factory=list)
    """Axis (0: rows), before, after, mode."""

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Let pass what does not touch a followed tensor, and what is known of those that do."""
        kwargs = dict(kwargs or {})
        followed = [each for each in tensors((args, kwargs)) if each in self.states]
        if not followed:
            return func(*args, **kwargs)
        state = max(self.states[each] for each in followed)
        if func is F.pad:
            return self.pad(args, kwargs, state)
        if func in (torch.conv2d, torch.conv3d):
            return self.convolve(func, args, kwargs, state)
        if func is F.group_norm and self.given.moments is not None:
            return self.mark(self.norm(args, kwargs), state)
        out = func(*args, **kwargs)
        if any(True for _ in tensors(out)):
            self.check(func, args, kwargs, out)
        elif name_of(func) in READING:
            self.refuse(f"reads pixels ({name_of(func)})")
        return self.mark(out, state)

    def mark(self, out: Any, state: int) -> Any:
        """Follow a result as well."""
        for each in tensors(out):
            self.states[each] = state
        return out

    def refuse(self, what: str) -> None:
        """Give up."""
        raise UnknownCoderError(f"{type(self.module).__name__} {what}")

    def check(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Only functions of single pixels, and a few more where they are harmless."""
        name = name_of(func)
        if name.strip("_") in PIXELWISE or name in ("data", "__get__data"):
            return
        if name == "linear" and self.given.tokens:
            return
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if name in ("cat", "concat") and dim == 2 and out.dim() == 5:
            return
        # F.normalize(input, p, dim): over channels.
        if name == "normalize" and kwargs.get("dim", args[2] if len(args) > 2 else 1) == 1:
            return
        self.refuse(f"computes with {name!r}, which tiles may not survive")

    def pad(self, args: Any, kwargs: Any, state: int) -> Tensor:
        """`F.pad`, by what is given."""
        given = _named(("input", "pad", "mode", "value"), args, kwargs)
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
        return self.mark(F.pad(**given), state)  # type: ignore[no-any-return]

    def convolve(self, func: Any, args: Any, kwargs: Any, state: int) -> Tensor:
        """A convolution, padded by what is given where it would pad itself."""
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = _named(names, args, kwargs)
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
        return self.mark(func(**given), state | DONE if wide else state)  # type: ignore[no-any-return]

    def norm(self, args: Any, kwargs: Any) -> Tensor:
        """`F.group_norm` by given statistics, with whatever weights reach it."""
        names = ("input", "num_groups", "weight", "bias", "eps")
        given = {"weight": None, "bias": None, "eps": 1e-5, **_named(names, args, kwargs)}
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


def tensors(value: Any) -> Iterable[Tensor]:
    """All tensors in arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from tensors(each)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def _named(names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**dict(zip(names, args, strict=False)), **kwargs}
