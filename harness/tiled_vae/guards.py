"""What has to hold around a coder before it is run in another way than by its own code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules_of_torch

from .errors import UnknownCoderError
from .fingerprints import method_of, of_torch
from .modules import expect, is_replaced
from .offloading import is_own, lenders

OURS = ("forward", "original_forward")
"""Where installers put this hook, and what it stands for."""


def check_surroundings(net: nn.Module, original: Any, strict: bool) -> None:
    """No hooks on all modules, and nothing between the coder's class and this hook.

    Whoever installs a hook by hand may put a listener in its place as the original, which names
    what it wraps (``__wrapped__``); with ``strict`` nothing of that kind is let pass.
    """
    for hooks in (
        modules_of_torch._global_forward_hooks,
        modules_of_torch._global_forward_pre_hooks,
    ):
        for hook in hooks.values():
            if not of_torch(getattr(hook, "__func__", hook)):
                raise UnknownCoderError(
                    "hooks on the forward of all modules are registered, which might change results"
                )
    lent = bool(lenders(net)) and original is net.__dict__.get("original_forward")
    expect(
        is_own(net, original) or lent or (not strict and listens(net, original)),
        "its forward had been replaced before this hook was put on",
        net,
    )
    for name, value in net.__dict__.items():
        if name not in OURS and is_replaced(net, name, value):
            raise UnknownCoderError(f"{type(net).__name__}: its {name} is replaced")


def listens(net: nn.Module, original: Any) -> bool:
    """Whether a method of a coder says that it wraps the forward of the coder's class."""
    wrapped = getattr(original, "__wrapped__", None)
    return (
        getattr(original, "__self__", None) is net
        and wrapped is not None
        and wrapped is method_of(type(net), "forward")
    )


def check_input(net: nn.Module, x: Tensor, slots: list[Any] | None) -> None:
    """Only planes, and nothing that a gradient is wanted for."""
    if x.dim() not in (4, 5) or 0 in x.shape:
        raise UnknownCoderError(f"the input has shape {tuple(x.shape)}")
    if not torch.is_grad_enabled():
        return
    kept = [slot for slot in slots or () if isinstance(slot, Tensor)]
    if any(each.requires_grad for each in (x, *kept, *net.parameters())):
        raise UnknownCoderError(
            "gradients are on and wanted, which tiles cannot give: call it under torch.no_grad()"
        )
