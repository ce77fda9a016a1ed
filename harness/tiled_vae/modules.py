"""Recognises the modules of coders, and whether their parameters may be used directly."""

from __future__ import annotations

from typing import Any

from torch import nn

from .errors import UnknownCoderError
from .window import Window

ACTIVATIONS = (nn.SiLU, nn.ReLU, nn.GELU, nn.Mish, nn.LeakyReLU, nn.Identity)
"""Pointwise, so that a tile gives the same values as the plane."""


def kind(module: nn.Module) -> str:
    """Class name without the prefix that diffusers gives to modules of Qwen and Wan."""
    name = type(module).__name__
    for prefix in ("QwenImage", "Wan"):
        name = name.removeprefix(prefix)
    return name


def tampered(module: nn.Module) -> bool:
    """Whether calling the module does more than its class says: hooks, or a replaced forward."""
    return bool(
        "forward" in module.__dict__
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
    )


def is_plain(module: nn.Module, base: type[nn.Module]) -> bool:
    """Whether the parameters may be used directly, as ``base.forward`` would."""
    return type(module).forward is base.forward and not tampered(module)


def expect(condition: bool, what: str, module: nn.Module) -> None:
    """Refuse a coder that is not what its names promise."""
    if not condition:
        raise UnknownCoderError(f"{type(module).__name__}: {what}")


def children(module: nn.Module, name: str) -> list[nn.Module]:
    """A list of submodules; empty where the attribute is missing or ``None``."""
    return list(getattr(module, name, None) or ())


def inner(module: nn.Module, name: str) -> nn.Module:
    """A submodule that must exist."""
    found = getattr(module, name, None)
    if not isinstance(found, nn.Module):
        raise UnknownCoderError(f"{type(module).__name__} has no module {name!r}")
    return found


def plane_windows(module: nn.Module, pad: tuple[int, int] | None = None) -> tuple[Window, Window]:
    """Dependence of a 2D convolution along rows and columns; ``pad`` is added around it first."""
    if not isinstance(module, nn.Conv2d):
        raise UnknownCoderError(f"{type(module).__name__} stands where a 2D convolution should")
    check_convolution(module)
    windows = []
    own: tuple[Any, ...] = tuple(module.padding)
    before, after = pad or (0, 0)
    for kernel, stride, side in zip(module.kernel_size, module.stride, own, strict=True):
        windows.append(Window(kernel, stride, int(side) + before, int(side) + after))
    return windows[0], windows[1]


def causal_windows(module: nn.Module) -> tuple[Window, Window, int]:
    """Dependence of a causal 3D convolution along rows and columns, and its past padding."""
    if not isinstance(module, nn.Conv3d) or kind(module) != "CausalConv3d":
        raise UnknownCoderError(f"{type(module).__name__} stands where a causal one should")
    check_convolution(module)
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
    """Accept only what every published VAE has: no dilation, zero padding given in numbers."""
    expect(set(module.dilation) == {1}, f"dilation {module.dilation}", module)
    expect(module.padding_mode == "zeros", f"padding {module.padding_mode}", module)
    expect(not isinstance(module.padding, str), f"padding {module.padding}", module)


def is_local_norm(module: nn.Module) -> bool:
    """RMS norm over channels, as Qwen and Wan have it."""
    return kind(module).lower() in ("rms_norm", "rmsnorm") and bool(
        getattr(module, "channel_first", False)
    )
