"""What has to hold around a coder before it is run in another way than by its own code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_of_torch

from .errors import UnknownCoderError
from .nets.modules import is_replaced
from .nets.offloading import group_hooks, is_own_forward
from .nets.provenance import of_torch

F = TypeVar("F", bound=Callable[..., Any])

PLACES = ("forward", "original_forward", "_replicate_for_data_parallel")
"""Where installers put this hook, and what it replaces."""


def uncompiled(method: F) -> F:
    """A method that Dynamo leaves alone: it would unroll loops over tiles.

    `torch.compiler.disable` imports all of Dynamo at once, which takes seconds; and so does the
    first call of a function that is kept apart, which is why it is only called while compiling.
    """
    apart = torch._disable_dynamo(method)  # type: ignore[attr-defined]

    @functools.wraps(method)
    def called(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return apart(*args, **kwargs)
        return method(*args, **kwargs)

    return cast(F, called)


def check_surroundings(net: nn.Module, original: Any) -> None:
    """Raise `UnknownCoderError` for hooks on all modules, and for methods that are replaced.

    What this hook replaces has to be the coder's own forward; or group offloading; or something
    that says of itself that it ``only_listens``.
    """
    for hooks in (
        module_of_torch._global_forward_hooks,
        module_of_torch._global_forward_pre_hooks,
    ):
        if not all(of_torch(getattr(hook, "__func__", hook)) for hook in hooks.values()):
            raise UnknownCoderError(
                "hooks on the forward of all modules are registered, which may change results"
            )
    offloaded = bool(group_hooks(net)) and original is net.__dict__.get("original_forward")
    listens = getattr(original, "only_listens", False) is True
    if not (is_own_forward(net, original) or offloaded or listens):
        raise UnknownCoderError("its forward was replaced before this hook was installed")
    for name, value in net.__dict__.items():
        if name not in PLACES and is_replaced(net, name, value):
            raise UnknownCoderError(f"its {name} is replaced")


def check_input(net: nn.Module, x: Tensor) -> None:
    """Raise `UnknownCoderError` for inputs that are not planes, and where a gradient is wanted."""
    if x.dim() not in (4, 5) or 0 in x.shape:
        raise UnknownCoderError(f"the input has shape {tuple(x.shape)}")
    wanted = (x, *net.parameters()) if torch.is_grad_enabled() else ()
    if any(tensor.requires_grad for tensor in wanted):
        raise UnknownCoderError(
            "the input or a weight requires a gradient, which tiles cannot give; call under "
            "torch.no_grad() to tile"
        )
