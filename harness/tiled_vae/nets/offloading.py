"""Weights that diffusers' group offloading brings to the device for the time of a call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

from torch import nn


def is_offloaded_whole(module: nn.Module) -> bool:
    """Whether all that is special about a block is that its weights come and go as a group."""
    hooks = group_hooks(module)
    if not hooks or module._forward_hooks or module._forward_pre_hooks:
        return False
    registry: Any = module.__dict__["_diffusers_hook"]
    replaced = [
        name
        for name, value in module.__dict__.items()
        if name != "forward" and callable(value) and hasattr(type(module), name)
    ]
    forward = module.__dict__.get("forward")
    if replaced or not isinstance(forward, partial) or len(registry._fn_refs) != 1:
        return False
    return is_own_forward(module, registry._fn_refs[0].forward)


def is_own_forward(module: nn.Module, forward: Any) -> bool:
    """Whether a function is the forward of a module's class."""
    return (
        isinstance(forward, MethodType)
        and forward.__self__ is module
        and forward.__func__ is type(module).forward
    )


def group_hooks(module: nn.Module) -> list[Any]:
    """The hooks of group offloading on a module; none where there are hooks of another kind."""
    registry = module.__dict__.get("_diffusers_hook")
    hooks = list(getattr(registry, "hooks", {}).values())
    known = all(
        (type(hook).__module__, type(hook).__name__)
        == ("diffusers.hooks.group_offloading", "GroupOffloadingHook")
        for hook in hooks
    )
    return hooks if known else []


@contextmanager
def onloaded(net: nn.Module) -> Iterator[None]:
    """Have all offloaded groups of a coder on the device, and send them away afterwards."""
    groups = [hook.group for module in net.modules() for hook in group_hooks(module)]
    try:
        for group in groups:
            group.onload_()
        yield
    finally:
        for group in groups:
            group.offload_()
