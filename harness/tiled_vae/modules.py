"""Recognising the modules that coders are made of, and telling whether they may be bypassed."""

from __future__ import annotations

from types import FunctionType, MethodType
from typing import Any

from torch import nn

from .errors import UnknownCoderError
from .fingerprints import method_of, of_torch, role
from .window import Window

ACTIVATIONS = (nn.SiLU, nn.ReLU, nn.GELU, nn.Mish, nn.LeakyReLU, nn.Identity)
"""Pixel by pixel, so that a tile gets what the plane would get."""


def kind(module: nn.Module) -> str:
    """The published class that the module's class does the same as; empty where none is known."""
    return role(type(module)) or ""


def tampered(module: nn.Module) -> bool:
    """Whether calling the module does more than its class says: hooks, or replaced methods."""
    if module._forward_hooks or module._forward_pre_hooks:
        return True
    if not of_torch(method_of(type(module), "__call__")):
        return True
    return any(is_replaced(module, name, value) for name, value in module.__dict__.items())


def is_replaced(module: nn.Module, name: str, value: Any) -> bool:
    """Whether an attribute of the module itself stands in the way of a method of its class."""
    if name == "_compiled_call_impl" or not callable(value):
        return False
    own = method_of(type(module), name)
    if not isinstance(own, FunctionType):
        return False
    return not (
        isinstance(value, MethodType) and value.__func__ is own and value.__self__ is module
    )


def is_genuine(module: nn.Module) -> bool:
    """Whether the module's class is called by torch's own code for it."""
    methods = ("forward", "_conv_forward") if isinstance(module, CONVOLUTIONS) else ("forward",)
    for method in methods:
        for owner in type(module).__mro__:
            if method in owner.__dict__:
                break
        else:
            return False
        if not of_torch(owner.__dict__[method], f"{owner.__name__}.{method}"):
            return False
    return True


CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


def is_plain(module: nn.Module) -> bool:
    """Whether the parameters may be used directly, as torch's own forward would."""
    return is_genuine(module) and not tampered(module)


def is_trusted(module: nn.Module) -> bool:
    """Whether the module does what is known of its class, and nothing else."""
    return not tampered(module) and (is_genuine(module) or bool(kind(module)))


def is_plain_causal(module: nn.Module) -> bool:
    """Whether a causal convolution is torch's own one behind the known padding in time."""
    if tampered(module) or kind(module) != "CausalConv3d":
        return False
    forwards = [owner for owner in type(module).__mro__ if "forward" in owner.__dict__]
    inner = method_of(type(module), "_conv_forward")
    return (
        len(forwards) > 1
        and forwards[1] is nn.Conv3d
        and of_torch(nn.Conv3d.__dict__["forward"], "Conv3d.forward")
        and of_torch(inner, "Conv3d._conv_forward")
    )


def expect(condition: bool, what: str, module: nn.Module) -> None:
    """Give up on a coder that is not what its names promise."""
    if not condition:
        raise UnknownCoderError(f"{type(module).__name__}: {what}")


def expect_kind(module: nn.Module, *kinds: str) -> None:
    """Give up on a module whose code is not known to be that of one of ``kinds``."""
    found = kind(module)
    expect(bool(found) or is_genuine(module), UNKNOWN_CODE, module)
    expect(found in kinds, f"stands where {' or '.join(kinds)} should", module)


UNKNOWN_CODE = "its code is none that this hook knows, so it may do anything"


def children(module: nn.Module, name: str) -> list[nn.Module]:
    """A list of submodules; empty where the attribute is missing or ``None``."""
    return list(getattr(module, name, None) or ())


def inner(module: nn.Module, name: str) -> nn.Module:
    """A submodule that has to be there."""
    found = getattr(module, name, None)
    if not isinstance(found, nn.Module):
        raise UnknownCoderError(f"{type(module).__name__} has no module {name!r}")
    return found


def geometry(module: nn.Module) -> nn.Module:
    """The layer whose kernel, stride and padding count: that inside an adapter, if it is one."""
    while not isinstance(module, (*CONVOLUTIONS, nn.Linear)):
        within = getattr(module, "base_layer", None)
        if not isinstance(within, nn.Module):
            break
        module = within
    return module


def plane_windows(
    module: nn.Module, pad: tuple[int, int] | None = None, wraps: tuple[bool, bool] = (False, False)
) -> tuple[Window, Window]:
    """Dependence of a 2D convolution along rows and columns.

    ``pad`` is added around the plane first; ``wraps`` tells for rows and columns whether the
    convolution's own padding is taken from the other side.
    """
    conv = geometry(module)
    if not isinstance(conv, nn.Conv2d):
        raise UnknownCoderError(f"{type(module).__name__} stands where a 2D convolution should")
    check_convolution(conv)
    windows = []
    own: tuple[Any, ...] = tuple(conv.padding)
    before, after = pad or (0, 0)
    for kernel, stride, side, wrap in zip(conv.kernel_size, conv.stride, own, wraps, strict=True):
        wrap = wrap and side > 0
        expect(not wrap or pad is None, "pads in two ways at once", module)
        sides = int(side) + before, int(side) + after
        windows.append(Window(kernel, stride, *sides, wrap=wrap))
    return windows[0], windows[1]


def causal_windows(module: nn.Module) -> tuple[Window, Window, int]:
    """Dependence of a causal 3D convolution along rows and columns, and its past padding."""
    expect_kind(module, "CausalConv3d")
    if not isinstance(module, nn.Conv3d):
        raise UnknownCoderError(f"{type(module).__name__} is no 3D convolution")
    check_convolution(module)
    expect(module.padding_mode == "zeros", f"padding {module.padding_mode}", module)
    own: Any = getattr(module, "_padding", None)
    pad: tuple[Any, ...] = tuple(module.padding)
    if isinstance(own, tuple) and len(own) == 6:
        expect(pad == (0, 0, 0), f"pads {pad} on top of {own}", module)
        expect(own[0] == own[1] and own[2] == own[3] and own[5] == 0, f"pads {own}", module)
        width, height, past = own[0], own[2], own[4]
    elif isinstance(own, int):
        expect(pad[0] == 0, f"pads {pad} in time on top of {own}", module)
        height, width, past = int(pad[1]), int(pad[2]), own
    else:
        raise UnknownCoderError(f"{type(module).__name__} says nothing of its padding")
    rows = Window(module.kernel_size[1], module.stride[1], height, height)
    cols = Window(module.kernel_size[2], module.stride[2], width, width)
    return rows, cols, int(past)


def check_convolution(module: nn.Conv2d | nn.Conv3d) -> None:
    """Only what VAEs have: no dilation, padding by zeros or by the other side, in numbers."""
    expect(set(module.dilation) == {1}, f"dilation {module.dilation}", module)
    known = module.padding_mode in ("zeros", "circular")
    expect(known, f"padding {module.padding_mode}", module)
    expect(not isinstance(module.padding, str), f"padding {module.padding}", module)


def is_local_norm(module: nn.Module) -> bool:
    """RMS norm over channels, as Qwen and Wan have it."""
    return kind(module) == "RMS_norm" and bool(getattr(module, "channel_first", False))
