"""Records the operations that the accelerator has run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vae_compat.device.launches import launcher
from vae_compat.device.ledger import Ledger
from vae_compat.device.opcount import counter_of
from vae_compat.device.tensor import SimTensor
from vae_compat.device.trace import Copied, Kernels, Part

SIZED_BY_NUMBERS = frozenset(
    {
        *("nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive"),
        *("unique_dim_consecutive", "repeat_interleave", "bincount", "histc"),
    }
)
"""Operations whose result size depends on values: the host waits for it."""

MASKS = (torch.bool, torch.uint8)

Record = Callable[[Any, Any, Any, Any, Any, Any], None]


def recorder(ledger: Ledger, func: Any) -> Record:
    """What to call after an operation ran, and its results are on the books.

    It takes the plain arguments (in a row and by name), the plain output, the arguments as they
    came, and the result that is handed back.
    """
    trace = ledger.trace
    count = counter_of(func)
    launch = launcher(trace, func)
    name = str(func._schema.name).removeprefix("aten::")
    waits = name in SIZED_BY_NUMBERS
    track = tracker(func, name)

    def record(inner: Any, plain: Any, out: Any, args: Any, kwargs: Any, result: Any) -> None:
        flops = 0
        if count is not None:
            tally = ledger.tally
            before = tally.flops
            count(tally, inner, plain, out)
            flops = tally.flops - before
        if trace.on and launch is not None:
            scratch = launch(inner, plain, out, flops)
            if scratch:
                ledger.scratch(scratch)
        if ledger.order is not None and launch is not None:
            track(ledger, args, kwargs, result)
        if waits:
            ledger.waited("nonzero", trace.stream)

    return record


def tracker(func: Any, name: str) -> Callable[[Ledger, Any, Any, Any], None]:
    """Notes which memory an operation read and wrote, where several streams work."""
    written = frozenset(
        argument.name
        for argument in func._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    )
    tensors = [
        (place, argument.name in written)
        for place, argument in enumerate(func._schema.arguments)
        if "Tensor" in str(argument.type)
    ]

    def track(ledger: Ledger, args: Any, kwargs: Any, result: Any) -> None:
        order, uses_of, stream = ledger.order, ledger.uses, ledger.trace.stream
        assert order is not None
        moment = order.tick(stream)
        values = [(args[place], writes) for place, writes in tensors if place < len(args)]
        values += [(value, key in written) for key, value in kwargs.items()]
        for value, writes in values:
            for part in _on_device(value):
                uses = uses_of(part._block)
                order.used(uses, part._inner, stream, moment, writes, name)
        for part in _on_device(result):
            if not any(part is value for value, _ in values):
                order.used(uses_of(part._block), part._inner, stream, moment, True, name)

    return track


def _on_device(value: Any) -> Sequence[SimTensor]:
    """The tensors of the device that an argument or a result is, or holds."""
    if type(value) is SimTensor:
        return (value,)
    if isinstance(value, (list, tuple)):
        return [part for part in value if type(part) is SimTensor]
    return ()


def gathered(ledger: Ledger, source: SimTensor, result: SimTensor, indices: Any) -> None:
    """Elements were picked by tensors of indices; where one is a mask, the host waits."""
    nbytes = result._inner.nbytes
    _picked(ledger, "index", nbytes, indices)
    if ledger.order is not None:
        moment = ledger.order.tick(ledger.trace.stream)
        ledger.used(source._block, source._inner, moment, False, "index")
        ledger.used(result._block, result._inner, moment, True, "index")


def scattered(ledger: Ledger, target: SimTensor, nbytes: int, indices: Any) -> None:
    """Elements were written to by tensors of indices."""
    _picked(ledger, "index_put", nbytes, indices)
    if ledger.order is not None:
        moment = ledger.order.tick(ledger.trace.stream)
        ledger.used(target._block, target._inner, moment, True, "index_put")


def _picked(ledger: Ledger, name: str, nbytes: int, indices: Any) -> None:
    trace = ledger.trace
    if trace.on:
        part = Part("memory", 2 * nbytes)
        trace.note(Kernels(name, trace.stream, nbytes, nbytes, (part,)))
    if any(isinstance(index, Tensor) and index.dtype in MASKS for index in indices):
        ledger.waited("nonzero", trace.stream)


def index_moved(ledger: Ledger, nbytes: int) -> None:
    """Indices on the host were brought to the device: a small blocking copy."""
    ledger.tally.host_to_device += nbytes
    trace = ledger.trace
    trace.note(Copied("host_to_device", trace.stream, nbytes, False, True, False))
