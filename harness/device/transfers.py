"""What crosses between host and accelerator, and the operations the device would choose itself.

The rules of copies follow ``aten/src/ATen/native/cuda/Copy.cu`` of pytorch: a copy to the device
is converted to the target's dtype on the host first, one to the host afterwards; where source and
target are not laid out alike, a contiguous temporary is made on the device.
"""

# ruff: noqa: ARG001, ARG005 - every rule is called alike
from __future__ import annotations

from collections.abc import Callable
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
from vae_compat.device.tensor import HOST, SimTensor, mixed_devices, wrap

aten = torch.ops.aten

FLASH = 1
"""``SDPBackend.FLASH_ATTENTION``."""


def special_rules(accelerator: Accelerator) -> dict[Any, Rule]:
    """Rules that an operation's schema does not tell."""
    rules: dict[Any, Rule] = {
        aten._to_copy.default: _to_copy(accelerator),
        aten.copy_.default: _copy(accelerator),
        aten._local_scalar_dense.default: _read(accelerator, aten._local_scalar_dense.default),
        aten.equal.default: _read(accelerator, aten.equal.default),
        aten.scaled_dot_product_attention.default: _attention(),
        aten.is_pinned.default: lambda args, kwargs: is_pinned(args[0]),
        aten._pin_memory.default: lambda args, kwargs: pin(args[0]),
        aten.record_stream.default: lambda args, kwargs: None,
    }
    for func in (aten.index.Tensor, aten._unsafe_index.Tensor):
        rules[func] = _gather(accelerator, func)
    for func in (aten.index_put_.default, aten._index_put_impl_.default):
        rules[func] = _scatter(accelerator, func)
    return rules


def _to_copy(accelerator: Accelerator) -> Rule:
    ledger = accelerator.ledger
    op = aten._to_copy.default._op

    def rule(args: Args, kwargs: Kwargs) -> Any:
        source = args[0]
        device = kwargs.get("device")
        from_device = type(source) is SimTensor
        to_device = from_device if device is None else is_accelerator(device)
        plain = {**kwargs, "device": HOST}
        pinned = plain.pop("pin_memory", None)
        if not from_device:
            out = op(source, **plain)
            if not to_device:
                out.simulated_pinned = bool(pinned)
                return out
            result = wrap(out, ledger.allocate(out.nbytes))
            ledger.tally.host_to_device += out.nbytes
            alike = out.dtype == source.dtype and out.stride() == source.stride()
            if not alike and not out.is_contiguous():
                ledger.allocate(out.nbytes)
            return result
        inner = source._inner
        out = op(inner, **plain)
        if to_device:
            return wrap(out, ledger.allocate(out.nbytes))
        ledger.tally.device_to_host += inner.nbytes
        alike = out.dtype == inner.dtype and out.stride() == inner.stride()
        if not alike and not inner.is_contiguous():
            ledger.allocate(inner.nbytes)
        return out

    return rule


def _copy(accelerator: Accelerator) -> Rule:
    ledger = accelerator.ledger
    op = aten.copy_.default._op

    def rule(args: Args, kwargs: Kwargs) -> Any:
        target, source = args[0], args[1]
        to_device = type(target) is SimTensor
        from_device = type(source) is SimTensor
        to = target._inner if to_device else target
        origin = source._inner if from_device else source
        if to_device != from_device:
            size = to.numel() if origin.dim() else 1
            alike = to.dtype == origin.dtype and to.stride() == origin.stride() and is_dense(to)
            if to_device:
                moved = size * to.element_size()
                ledger.tally.host_to_device += moved
                temporary = not alike and not to.is_contiguous()
            else:
                moved = size * origin.element_size()
                ledger.tally.device_to_host += moved
                temporary = not alike and not (origin.is_contiguous() and size == origin.numel())
            if temporary:
                ledger.allocate(moved)
        op(to, origin)
        if to_device:
            note_write(target)
        return target

    return rule


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

    def rule(args: Args, kwargs: Kwargs) -> Any:
        inner, plain, sim = unwrap(args, kwargs)
        if sim is not None:
            of_bool = func is aten.equal.default
            ledger.tally.device_to_host += 1 if of_bool else sim.element_size()
        return op(*inner, **plain)

    return rule


def _gather(accelerator: Accelerator, func: Any) -> Rule:
    ledger = accelerator.ledger
    op = func._op

    def rule(args: Args, kwargs: Kwargs) -> Any:
        source = args[0]
        if type(source) is not SimTensor:
            for index in args[1]:
                if type(index) is SimTensor:
                    raise RuntimeError(
                        "indices should be either on cpu or on the same device as the indexed "
                        "tensor (cpu)"
                    )
            return op(*args, **kwargs)
        out = op(source._inner, _indices(accelerator, args[1]))
        return wrap(out, ledger.allocate(out.nbytes))

    return rule


def _scatter(accelerator: Accelerator, func: Any) -> Rule:
    op = func._op

    def rule(args: Args, kwargs: Kwargs) -> Any:
        target, indices, values, *rest = args
        if type(target) is not SimTensor:
            for part in (*indices, values):
                if type(part) is SimTensor:
                    raise mixed_devices(target, part)
            return op(*args, **kwargs)
        if type(values) is SimTensor:
            values = values._inner
        elif values.dim():
            raise mixed_devices(target, values)
        op(target._inner, _indices(accelerator, indices), values, *rest, **kwargs)
        note_write(target)
        return target

    return rule


def _indices(accelerator: Accelerator, indices: Any) -> list[Any]:
    """Index tensors for the inner operation; those on the host are moved, and counted."""
    plain = []
    for index in indices:
        if type(index) is SimTensor:
            plain.append(index._inner)
            continue
        if index is not None:
            accelerator.ledger.tally.host_to_device += index.nbytes
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


def pin(tensor: Tensor) -> Tensor:
    """A copy of a host tensor that says it is pinned."""
    if is_pinned(tensor):
        return tensor
    pinned = tensor.clone()
    pinned.simulated_pinned = True  # type: ignore[attr-defined]
    return pinned


def is_pinned(tensor: Tensor) -> bool:
    """Whether ``pin_memory`` was called on a host tensor."""
    return getattr(tensor, "simulated_pinned", False)
