"""Recognises the modules of coders, and whether their parameters may be used directly."""

from __future__ import annotations

from types import FunctionType, MethodType
from typing import Any

from torch import nn

from ..errors import UnknownCoderError
from ..program.window import Window
from .provenance import of_torch, origin, role, runs

ACTIVATIONS = (nn.SiLU, nn.ReLU, nn.GELU, nn.Mish, nn.LeakyReLU, nn.Identity)
"""Pointwise, so that a tile gives the same values as the plane."""

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


def kind(module: nn.Module) -> str:
    """The published class whose code the module runs; empty where the code is not known.

    Without the prefix that diffusers gives to modules of Qwen and Wan.
    """
    return bare(role(type(module)) or "")


def base_kind(module: nn.Module) -> str:
    """The published class that a layer extends; empty where there is none.

    Enough for a layer that is called, since `following` sees what it does to a tile.
    """
    return bare(next(filter(None, map(role, type(module).__mro__)), ""))


def bare(name: str) -> str:
    """A class name without diffusers' prefixes."""
    for prefix in ("QwenImage", "Wan"):
        name = name.removeprefix(prefix)
    return name


def tampered(module: nn.Module) -> bool:
    """Whether calling the module does more than its class says: hooks, or replaced methods."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or not of_torch(type(module).__call__)
        or any(is_replaced(module, name, value) for name, value in module.__dict__.items())
    )


def is_replaced(module: nn.Module, name: str, value: Any) -> bool:
    """Whether an attribute of the module itself stands in the way of a method of its class."""
    if not callable(value) or name == "_compiled_call_impl":
        return False
    own = getattr(type(module), name, None)
    bound = isinstance(value, MethodType) and value.__self__ is module
    return isinstance(own, FunctionType) and not (bound and value.__func__ is own)


def is_genuine(module: nn.Module) -> bool:
    """Whether the module runs torch's own code for one of torch's classes."""
    wanted = ("forward", "_conv_forward") if isinstance(module, CONVOLUTIONS) else ("forward",)
    for name in wanted:
        owner = next(each for each in type(module).__mro__ if name in each.__dict__)
        if not of_torch(owner.__dict__[name], f"{owner.__name__}.{name}"):
            return False
    return True


def is_plain(module: nn.Module, base: type[nn.Module]) -> bool:
    """Whether the parameters may be used directly, as ``base.forward`` would."""
    return type(module).forward is base.forward and is_genuine(module) and not tampered(module)


def is_plain_causal(module: nn.Module) -> bool:
    """Whether a causal convolution is torch's own one behind the known padding in time."""
    if tampered(module) or kind(module) != "CausalConv3d":
        return False
    after = type(module).__mro__
    after = after[after.index(runs(type(module))[0]) + 1 :]
    return (
        next(each for each in after if "forward" in each.__dict__) is nn.Conv3d
        and of_torch(nn.Conv3d.forward, "Conv3d.forward")
        and of_torch(getattr(type(module), "_conv_forward", None), "Conv3d._conv_forward")
    )


def is_trusted(module: nn.Module) -> bool:
    """Whether the module does what is known of its class, and nothing else."""
    return not tampered(module) and (is_genuine(module) or bool(kind(module)))


def is_container(module: nn.Module) -> bool:
    """Whether a module only holds others, for its holder to call."""
    return is_genuine(module) or type(module).forward is nn.Module.forward


def expect(condition: bool, what: str, module: nn.Module) -> None:
    """Refuse a coder that is not what its names promise."""
    if not condition:
        raise UnknownCoderError(f"{type(module).__name__}: {what}")


def expect_kind(module: nn.Module, *kinds: str) -> None:
    """Refuse a module whose code is not known, or is not that of one of ``kinds``, if given."""
    found = kind(module)
    if not found and not is_genuine(module):
        raise UnknownCoderError(f"{type(module).__name__} {origin(type(module))}")
    if kinds:
        expect(found in kinds, f"stands where {' or '.join(kinds)} should", module)


def expect_trusted(module: nn.Module) -> None:
    """Refuse a module that may do something else than its class is known for."""
    expect_kind(module)
    expect(not tampered(module), "carries hooks or replaced methods", module)


def children(module: nn.Module, name: str) -> list[nn.Module]:
    """A list of submodules; empty where the attribute is missing or ``None``."""
    return list(getattr(module, name, None) or ())


def inner(module: nn.Module, name: str) -> nn.Module:
    """A submodule that must exist."""
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


def plane_windows(module: nn.Module, pad: tuple[int, int] | None = None) -> tuple[Window, Window]:
    """Dependence of a 2D convolution along rows and columns; ``pad`` is added around it first."""
    conv = geometry(module)
    if not isinstance(conv, nn.Conv2d):
        raise UnknownCoderError(f"{type(module).__name__} stands where a 2D convolution should")
    check_convolution(conv)
    windows = []
    own: tuple[Any, ...] = tuple(conv.padding)
    before, after = pad or (0, 0)
    for kernel, stride, side in zip(conv.kernel_size, conv.stride, own, strict=True):
        windows.append(Window(kernel, stride, int(side) + before, int(side) + after))
    return windows[0], windows[1]


def causal_windows(module: nn.Module) -> tuple[Window, Window, int]:
    """Dependence of a causal 3D convolution along rows and columns, and its past padding."""
    if not isinstance(module, nn.Conv3d) or base_kind(module) != "CausalConv3d":
        raise UnknownCoderError(
            f"{type(module).__name__} extends no causal convolution that this hook knows"
        )
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
    """Accept only what VAEs have: no dilation; padding, zero or circular, given in numbers."""
    expect(set(module.dilation) == {1}, f"dilation {module.dilation}", module)
    known = module.padding_mode in ("zeros", "circular")
    expect(known, f"padding {module.padding_mode}", module)
    expect(not isinstance(module.padding, str), f"padding {module.padding}", module)


def is_local_norm(module: nn.Module) -> bool:
    """RMS norm over channels, as Qwen and Wan have it."""
    return base_kind(module) == "RMS_norm" and bool(getattr(module, "channel_first", False))


def changes_when_called(module: nn.Module) -> bool:
    """Whether every call moves the module's state on: spectral norm in training."""
    parts = [each for each in module.modules() if each.training]
    parts += [hook for each in parts for hook in each._forward_pre_hooks.values()]  # type: ignore[misc]
    return any(type(each).__name__ in ("SpectralNorm", "_SpectralNorm") for each in parts)
