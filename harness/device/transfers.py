"""Copies between host and accelerator, and operations whose kernel the device chooses.

The rules of copies follow ``aten/src/ATen/native/cuda/Copy.cu`` of pytorch: a copy to the device
is converted to the target's dtype on the host first, one to the host afterwards; where source and
target are not laid out alike, a contiguous temporary is made on the device.
"""

# ruff: noqa: ARG005 - every rule is called alike
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vae_compat.device.dispatch import (
    Accelerator,
    Args,
    Kwargs,
    Rule,
    is_accelerator,
    note_write,
    unwrapper,
)
from vae_compat.device.ledger import Ledger
from vae_compat.device.recording import gathered, index_moved, recorder, scattered, tracker
from vae_compat.device.tensor import HOST, SimTensor, mixed_devices, undispatched, wrap
from vae_compat.device.trace import Copied, HostWork, Kernels, Part

aten = torch.ops.aten

FLASH = 1
"""``SDPBackend.FLASH_ATTENTION``."""


def special_rules(accelerator: Accelerator) -> dict[Any, Rule]:
    """Rules that do not follow from an operation's schema."""
    rules: dict[Any, Rule] = {
        aten._to_copy.default: _to_copy(accelerator),
        aten.copy_.default: _copy(accelerator),
        aten._local_scalar_dense.default: _read(accelerator, aten._local_scalar_dense.default),
        aten.equal.default: _read(accelerator, aten.equal.default),
        aten.scaled_dot_product_attention.default: _attention(),
        aten.is_pinned.default: lambda args, kwargs: accelerator.ledger.host.is_pinned(args[0]),
        aten._pin_memory.default: lambda args, kwargs: accelerator.ledger.host.pin(args[0]),
        aten.record_stream.default: lambda args, kwargs: args[0].record_stream(args[1]),
    }
    for func in (aten.index.Tensor, aten._unsafe_index.Tensor):
        rules[func] = _gather(accelerator, func)
    for func in (aten.index_put_.default, aten._index_put_impl_.default):
        rules[func] = _scatter(accelerator, func)
    return rules


def _to_copy(accelerator: Accelerator) -> Rule:
    ledger = accelerator.ledger
    func = aten._to_copy.default
    op = func._op
    host = ledger.host
    record = recorder(ledger, func)

    def rule(args: Args, kwargs: Kwargs) -> Any:
        source = args[0]
        device = kwargs.get("device")
        from_device = type(source) is SimTensor
        if device is not None and device.type == "meta":  # shapes alone
            return op(source._inner if from_device else source, **kwargs)
        to_device = from_device if device is None else is_accelerator(device)
        plain = {**kwargs, "device": HOST}
        pinned = plain.pop("pin_memory", None)
        waits = not plain.pop("non_blocking", False)
        if not from_device:
            if not to_device:
                if not pinned:
                    return host.run(func, op, args, {**plain, "non_blocking": not waits})
                out = op(source, **plain)
                host.register(out, pinned=True)
                return out
            out = op(source, **plain)
            result = wrap(out, ledger.allocate(out.nbytes))
            alike = out.dtype == source.dtype and out.stride() == source.stride()
            moved(ledger, Way(True, result, source, out.nbytes, alike, waits))
            return result
        inner = source._inner
        out = op(inner, **plain)
        if to_device:
            result = wrap(out, ledger.allocate(out.nbytes))
            record((inner,), {}, out, args, {}, result)
            return result
        host.register(out, pinned=bool(pinned) or not waits)
        alike = out.dtype == inner.dtype and out.stride() == inner.stride()
        moved(ledger, Way(False, source, out, inner.nbytes, alike, waits))
        return out

    return rule


def _copy(accelerator: Accelerator) -> Rule:
    ledger = accelerator.ledger
    func = aten.copy_.default
    op = func._op
    host = ledger.host
    record = recorder(ledger, func)

    def rule(args: Args, kwargs: Kwargs) -> Any:
        target, source = args[0], args[1]
        to_device = type(target) is SimTensor
        from_device = type(source) is SimTensor
        if not (to_device or from_device):
            return host.run(func, op, args, kwargs)
        to = target._inner if to_device else target
        origin = source._inner if from_device else source
        if to_device != from_device:
            size = to.numel() if origin.dim() else 1
            alike = to.dtype == origin.dtype and to.stride() == origin.stride() and is_dense(to)
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
            nbytes = size * (to if to_device else origin).element_size()
            there, here = (target, source) if to_device else (source, target)
            moved(ledger, Way(to_device, there, here, nbytes, alike, waits))
        op(to, origin)
        if to_device:
            note_write(target)
            if from_device:
                record((to, origin), {}, to, args, {}, target)
        return target

    return rule


@dataclass(frozen=True)
class Way:
    """A copy between host and device."""

    to_device: bool
    there: SimTensor
    """The tensor on the device."""
    here: Tensor
    """The tensor on the host."""
    nbytes: int
    alike: bool
    """Whether both are laid out alike, without gaps, with the same dtype."""
    waits: bool
    """Whether the host waits for it."""


def moved(ledger: Ledger, way: Way) -> None:
    """Write a copy down, with what it takes on either side.

    Where source and target are not laid out alike, both sides pass through a contiguous temporary
    unless they are contiguous themselves; one on the host is pageable memory.
    """
    tally, trace, host = ledger.tally, ledger.trace, ledger.host
    inner, here, nbytes = way.there._inner, way.here, way.nbytes
    if way.to_device:
        tally.host_to_device += nbytes
    else:
        tally.device_to_host += nbytes
    whole = inner.is_contiguous() and (way.to_device or nbytes >= inner.nbytes)
    packed_there = not way.alike and not whole
    converted = here.dtype != inner.dtype and (way.to_device or way.waits)
    packed_here = not way.alike and (converted or not here.is_contiguous())
    pinned = host.is_pinned(here) and not packed_here
    if packed_there:
        ledger.allocate(nbytes)
    if not trace.on:
        return
    if packed_here:
        trace.note(HostWork(2 * nbytes))
        host.passed_through(nbytes, shared=way.to_device)
    if packed_there and not way.to_device:
        pack(ledger, nbytes)
    direction = "host_to_device" if way.to_device else "device_to_host"
    trace.note(Copied(direction, trace.stream, nbytes, pinned, way.waits, strided=not way.alike))
    if packed_there and way.to_device:
        pack(ledger, nbytes)
    if not way.to_device:
        host.first_touched(here, nbytes, shared=packed_here)
    _ordered(ledger, way, pinned)


def pack(ledger: Ledger, nbytes: int) -> None:
    """A kernel that packs a strided tensor into contiguous memory, or unpacks it."""
    stream = ledger.trace.stream
    ledger.trace.note(Kernels("pack", stream, nbytes, nbytes, (Part("transpose", 2 * nbytes),)))


def _ordered(ledger: Ledger, way: Way, pinned: bool) -> None:
    """Keep the order of a copy; one that the host does not wait for begins it."""
    asynchronous = pinned and not way.waits
    if asynchronous:
        ledger.watch()
    order, stream = ledger.order, ledger.trace.stream
    if order is None:
        ledger.settled = ledger.allocations if way.waits else ledger.settled
        return
    what = "a copy to the device" if way.to_device else "a copy to the host"
    moment = order.tick(stream)
    ledger.used(way.there._block, way.there._inner, moment, way.to_device, what)
    if asynchronous:
        ledger.host.copied(way.here, stream, moment, writes=not way.to_device, what=what)
    else:
        ledger.host.touched(way.here, what, writes=not way.to_device)
    if way.waits:
        ledger.settled = ledger.allocations
        order.settle_stream(stream)


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor fills a stretch of memory without gaps, in any order of dimensions."""
    expected = 1
    order = sorted(zip(tensor.stride(), tensor.shape, strict=True))
    for stride, size in order:
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def _read(accelerator: Accelerator, func: Any) -> Rule:
    """An operation whose result goes to the host: one element."""
    ledger = accelerator.ledger
    op = func._op
    unwrap = unwrapper(func)
    host = ledger.host
    name = str(func._schema.name).removeprefix("aten::")
    track = tracker(func, name)

    def rule(args: Args, kwargs: Kwargs) -> Any:
        inner, plain, sim = unwrap(args, kwargs)
        if sim is None:
            return host.run(func, op, args, kwargs)
        of_bool = func is aten.equal.default
        ledger.tally.device_to_host += 1 if of_bool else sim.element_size()
        if ledger.order is not None:
            track(ledger, args, kwargs, None)
        ledger.waited("read", ledger.trace.stream)
        return op(*inner, **plain)

    return rule


def _gather(accelerator: Accelerator, func: Any) -> Rule:
    ledger = accelerator.ledger
    op = func._op
    host = ledger.host

    def rule(args: Args, kwargs: Kwargs) -> Any:
        source = args[0]
        if type(source) is not SimTensor:
            for index in args[1]:
                if type(index) is SimTensor:
                    raise RuntimeError(
                        "indices should be either on cpu or on the same device as the indexed "
                        "tensor (cpu)"
                    )
            return host.run(func, op, args, kwargs)
        out = op(source._inner, _indices(accelerator, args[1]))
        result = wrap(out, ledger.allocate(out.nbytes))
        gathered(ledger, source, result, args[1])
        return result

    return rule


def _scatter(accelerator: Accelerator, func: Any) -> Rule:
    ledger = accelerator.ledger
    op = func._op
    host = ledger.host

    def rule(args: Args, kwargs: Kwargs) -> Any:
        target, indices, values, *rest = args
        if type(target) is not SimTensor:
            for part in (*indices, values):
                if type(part) is SimTensor:
                    raise mixed_devices(target, part)
            return host.run(func, op, args, kwargs)
        nbytes = values.nbytes
        if type(values) is SimTensor:
            values = values._inner
        elif values.dim():
            raise mixed_devices(target, values)
        op(target._inner, _indices(accelerator, indices), values, *rest, **kwargs)
        note_write(target)
        scattered(ledger, target, nbytes, indices)
        return target

    return rule


def picked(source: SimTensor, result: SimTensor, key: Any, nbytes: int) -> None:
    """``source[key]`` with tensors of indices gave ``result``; ``nbytes`` of them came along."""
    ledger = source._block.ledger
    if nbytes:
        index_moved(ledger, nbytes)
    gathered(ledger, source, result, key if type(key) is tuple else (key,))


def assigned(target: SimTensor, value: Any, key: tuple[Any, Any, bool], nbytes: int) -> None:
    """``target[key] = value`` was done; ``key`` as it came, with plain indices, and whether any
    of them is a tensor."""
    ledger = target._block.ledger
    given, plain, advanced = key
    if nbytes:
        index_moved(ledger, nbytes)
    if advanced:
        size = value.nbytes if isinstance(value, Tensor) else 0
        scattered(ledger, target, size, given if type(given) is tuple else (given,))
        return
    with undispatched(target._inner):
        inner = target._inner[plain]
    view = wrap(inner, target._block)
    if isinstance(value, Tensor) and type(value) is not SimTensor:
        alike = (value.dtype, value.stride()) == (inner.dtype, inner.stride()) and is_dense(inner)
        size = value.numel() * target.element_size()
        moved(ledger, Way(True, view, value, size, alike, waits=True))
        return
    read = value.nbytes if isinstance(value, Tensor) else 0
    trace = ledger.trace
    if trace.on:
        part = Part("memory", read + inner.nbytes)
        trace.note(Kernels("setitem", trace.stream, read, inner.nbytes, (part,)))
    if ledger.order is not None:
        moment = ledger.order.tick(trace.stream)
        if type(value) is SimTensor:
            ledger.used(value._block, value._inner, moment, False, "an assignment")
        ledger.used(view._block, inner, moment, True, "an assignment")


def _indices(accelerator: Accelerator, indices: Any) -> list[Any]:
    """Index tensors for the inner operation; those on the host are moved, and counted."""
    plain = []
    for index in indices:
        if type(index) is SimTensor:
            plain.append(index._inner)
            continue
        if index is not None:
            index_moved(accelerator.ledger, index.nbytes)
        plain.append(index)
    return plain


def _attention() -> Rule:
    attend = make_attention()

    def rule(args: Args, kwargs: Kwargs) -> Any:
        return attend(*args, **kwargs)

    return rule


def make_attention() -> Callable[..., Any]:
    """``scaled_dot_product_attention`` by the kernel that the CPU would choose.

    PyTorch chooses by device, and would choose another one for CUDA in a build without it.
    """
    whole = aten.scaled_dot_product_attention.default
    fused = aten._scaled_dot_product_flash_attention_for_cpu.default
    math = aten._scaled_dot_product_attention_math.default
    unwrap = unwrapper(whole)

    def scaled_dot_product_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        options: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
        given = (query, key, value, attn_mask, dropout_p, is_causal)
        with torch._C.DisableTorchFunction():
            inner, _, sim = unwrap(given, {})
            if sim is None:
                return whole(*given, **options)
            mask = _additive(attn_mask, query)
            if _kernel(inner, options) != FLASH:
                return math(query, key, value, mask, dropout_p, is_causal, None, **options)[0]
            return fused(query, key, value, dropout_p, is_causal, attn_mask=mask, scale=scale)[0]

    return scaled_dot_product_attention


def _kernel(inner: list[Any], options: dict[str, Any]) -> int:
    """The choice of the CPU; for tensors without data, that for plain ones laid out alike."""
    if type(inner[0]) is Tensor:
        return torch._fused_sdp_choice(*inner, **options)
    with torch._C._DisableTorchDispatch():
        alike: list[Any] = [
            torch.empty_strided(part.shape, part.stride(), dtype=part.dtype)
            if isinstance(part, Tensor)
            else part
            for part in inner
        ]
        return torch._fused_sdp_choice(*alike, **options)


def _additive(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """A boolean mask as one that is added to the scores."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    added = torch.zeros_like(mask, dtype=query.dtype)
    return added.masked_fill_(mask.logical_not(), float("-inf"))
