"""Weights that others bring to the device for the time of a call: diffusers' group offloading."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

from torch import nn

from .fingerprints import method_of


def is_lent_whole(module: nn.Module) -> bool:
    """Whether all that is special about a module is that its weights come and go by groups."""
    hooks = lenders(module)
    if not hooks or module._forward_hooks or module._forward_pre_hooks:
        return False
    forward: Any = module.__dict__.get("forward")
    registry: Any = module.__dict__["_diffusers_hook"]
    others = [
        name
        for name, value in module.__dict__.items()
        if name != "forward" and callable(value) and method_of(type(module), name) is not None
    ]
    if others or not isinstance(forward, partial) or len(registry._fn_refs) != 1:
        return False
    return is_own(module, registry._fn_refs[0].forward)


def is_own(module: nn.Module, forward: Any) -> bool:
    """Whether a function is the forward of a module's class."""
    return (
        isinstance(forward, MethodType)
        and forward.__self__ is module
        and forward.__func__ is method_of(type(module), "forward")
    )


def lenders(module: nn.Module) -> list[Any]:
    """The hooks of group offloading on a module; none where there are hooks of another kind."""
    registry = module.__dict__.get("_diffusers_hook")
    hooks = list(getattr(registry, "hooks", {}).values())
    known = all(
        type(hook).__module__ == "diffusers.hooks.group_offloading"
        and type(hook).__name__ == "GroupOffloadingHook"
        for hook in hooks
    )
    return hooks if known else []


@contextmanager
def brought(net: nn.Module) -> Iterator[None]:
    """Have all groups of weights of a coder on the device, and send them away afterwards."""
    groups = [hook.group for module in net.modules() for hook in lenders(module)]
    try:
        for group in groups:
            group.onload_()
        yield
    finally:
        for group in groups:
            group.offload_()
