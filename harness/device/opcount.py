"""Convolutions and FLOPs of single operations, as ``torch.utils.flop_counter`` counts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from harness.device.ledger import Tally

aten = torch.ops.aten

CONVOLUTIONS = frozenset(
    {
        aten.convolution,
        aten._convolution,
        aten.convolution_overrideable,
        aten.cudnn_convolution,
        aten._slow_conv2d_forward,
    }
)

Count = Callable[[Tally, tuple[Any, ...], Mapping[str, Any], Any], None]
"""Called with the tally, the arguments and the output of an operation that has just run."""


def counter_of(func: Any) -> Count | None:
    """How to count an operation, or ``None`` where there is nothing to count.

    ``func`` is an overload such as ``aten.mm.default``. FLOPs come from the same formulas that
    ``FlopCounterMode`` uses; a formula is evaluated once for each set of shapes.
    """
    packet = getattr(func, "_overloadpacket", None)
    formula = flop_registry.get(packet)
    if formula is None:
        return None
    known: dict[Any, int] = {}
    convolves = packet in CONVOLUTIONS

    def count(tally: Tally, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        key = tuple([_shape(arg) for arg in args])
        flops = known.get(key) if not kwargs else None
        if flops is None:
            flops = int(formula(*args, **kwargs, out_val=out))
            if not kwargs:
                known[key] = flops
        tally.flops += flops
        if convolves:
            tally.count_convolution(tuple(args[1].shape), tuple(out.shape))

    return count


def _shape(arg: Any) -> Any:
    """What of an argument a FLOP formula looks at, as part of a key."""
    if isinstance(arg, Tensor):
        return arg.shape
    return tuple(arg) if isinstance(arg, list) else arg
