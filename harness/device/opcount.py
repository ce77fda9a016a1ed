"""Convolutions and FLOPs of single operations, as ``torch.utils.flop_counter`` counts them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

from vae_compat.device.ledger import Tally
from vae_compat.device.meter import Convolution, Product

aten = torch.ops.aten

Args = Sequence[Any]
Count = Callable[[Tally, Args, Mapping[str, Any], Any], None]
"""Called with the tally, the arguments and the output of an operation that has just run."""

CONVOLUTIONS = (aten.convolution, aten._convolution, aten.convolution_overrideable)
"""Operations with ``input, weight, bias, stride, padding, dilation, transposed`` in front."""

PRODUCTS = {
    aten.mm.default: 0,
    aten.bmm.default: 0,
    aten.addmm.default: 1,
    aten.baddbmm.default: 1,
}
"""Products of two matrices, whose FLOPs depend on their shapes alone, with the place of the first.
"""


def counter_of(func: Any) -> Count | None:
    """How to count an operation, or ``None`` where there is nothing to count.

    ``func`` is an overload such as ``aten.mm.default``. FLOPs come from the formulas that
    ``FlopCounterMode`` uses; a formula is evaluated once for each set of shapes.
    """
    packet = getattr(func, "_overloadpacket", None)
    formula = flop_registry.get(packet)
    if formula is None:
        return None
    if packet in CONVOLUTIONS:
        return _convolution_counter(formula)
    if func in PRODUCTS:
        return _product_counter(formula, PRODUCTS[func])

    def count(tally: Tally, args: Args, kwargs: Mapping[str, Any], out: Any) -> None:
        tally.flops += int(formula(*args, **kwargs, out_val=out))

    return count


def _product_counter(formula: Callable[..., Any], first: int) -> Count:
    known: dict[Any, tuple[int, Product]] = {}

    def count(tally: Tally, args: Args, kwargs: Mapping[str, Any], out: Any) -> None:
        key = (args[first].shape, args[first + 1].shape)
        entry = known.get(key)
        if entry is None:
            *batch, rows, inner = map(int, key[0])
            product = Product(math.prod(batch), rows, inner, int(key[1][-1]))
            entry = known[key] = (int(formula(*args, **kwargs, out_val=out)), product)
        tally.flops += entry[0]
        tally.products[entry[1]] = tally.products.get(entry[1], 0) + 1

    return count


def _convolution_counter(formula: Callable[..., Any]) -> Count:
    known: dict[Any, tuple[int, Convolution]] = {}

    def count(tally: Tally, args: Args, kwargs: Mapping[str, Any], out: Any) -> None:
        shape, weight = out.shape, args[1].shape
        # The formula uses only these; stride, padding and groups show in the shapes.
        key = (args[0].shape, weight, shape, args[6])
        entry = known.get(key)
        if entry is None:
            # Under torch.jit.trace sizes are tensors.
            plane = (int(shape[-2]) if len(shape) > 3 else 1, int(shape[-1]))
            flops = int(formula(*args, **kwargs, out_val=out))
            items = int(shape[0])
            entry = known[key] = (flops, Convolution(tuple(map(int, weight)), plane, items))
        tally.flops += entry[0]
        convolutions = tally.convolutions
        convolutions[entry[1]] = convolutions.get(entry[1], 0) + 1

    return count
