"""Intercepts calls before PyTorch's C++ layer looks for a CUDA device that does not exist."""

# ruff: noqa: ARG001, ARG005 - the signatures are those of PyTorch
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vae_compat.device.hostmemory import Host
from vae_compat.device.tensor import DEVICE, SimTensor, set_data, with_index
from vae_compat.device.transfers import make_attention

Handler = Callable[..., Any]

_SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]


class Front(TorchFunctionMode):
    """Sees every call of PyTorch's Python interface; few are changed."""

    def __init__(self, handlers: dict[Any, Handler]) -> None:
        super().__init__()
        self._handlers = handlers

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        handler = self._handlers.get(func)
        if handler is not None:
            return handler(*args, **(kwargs or {}))
        if not kwargs:
            return func(*args)
        if type(kwargs.get("device")) is int:
            kwargs = {**kwargs, "device": with_index(kwargs["device"])}
        return func(*args, **kwargs)


def handlers_of(host: Host) -> dict[Any, Handler]:
    """Replacements of PyTorch's behaviour, by function."""

    def pin(tensor: Tensor, device: Any = None) -> Tensor:
        return tensor.pin_memory() if type(tensor) is SimTensor else host.pin(tensor)

    def reading(name: str) -> Handler:
        read = getattr(Tensor, name)

        def method(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            host.touched(tensor, name, writes=False)
            return read(tensor, *args, **kwargs)

        return method

    return {
        Tensor.numpy: reading("numpy"),
        Tensor.tolist: reading("tolist"),
        Tensor.__array__: reading("__array__"),
        Tensor.to: _to,
        Tensor.cuda: _cuda,
        Tensor.new_tensor: _new_tensor,
        Tensor.pin_memory: pin,
        Tensor.is_pinned: lambda tensor, device=None: host.is_pinned(tensor),
        torch.device: _device,
        torch.tensor: _built(torch.tensor),
        torch.as_tensor: _built(torch.as_tensor),
        torch.asarray: _built(torch.asarray),
        torch.nn.functional.scaled_dot_product_attention: make_attention(),
        torch.nonzero: _nonzero,
        _SET_DATA: _set_data,
        torch._C._set_grad_enabled: lambda enabled: None,
    }


def _device(*args: Any, **kwargs: Any) -> torch.device:
    """``torch.device(0)``, as ComfyUI asks for it, is the accelerator."""
    if len(args) == 1 and type(args[0]) is int and not kwargs:
        place: torch.device = with_index(args[0])
        return place
    return torch.device(*args, **kwargs)


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if args and isinstance(args[0], (str, int, torch.device)):
        args = (with_index(args[0]), *args[1:])
    elif kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": with_index(kwargs["device"])}
    return tensor.to(*args, **kwargs)


def _cuda(
    tensor: Tensor,
    device: Any = None,
    non_blocking: bool = False,
    memory_format: torch.memory_format = torch.preserve_format,
) -> Tensor:
    place = DEVICE if device is None else with_index(device)
    return tensor.to(place, non_blocking=non_blocking, memory_format=memory_format)


def _nonzero(tensor: Tensor, *, out: Tensor | None = None, as_tuple: bool = False) -> Any:
    if out is not None:
        return torch.ops.aten.nonzero.out(tensor, out=out)
    return tensor.nonzero(as_tuple=True) if as_tuple else tensor.nonzero()


def _set_data(tensor: Tensor, new: Tensor) -> None:
    if type(new) is SimTensor:
        set_data(tensor, new)
    else:
        _SET_DATA(tensor, new)


def _new_tensor(tensor: Tensor, data: Any, **kwargs: Any) -> Tensor:
    kwargs.setdefault("device", tensor.device)
    kwargs.setdefault("dtype", tensor.dtype)
    return _built(torch.tensor)(data, **kwargs)  # type: ignore[no-any-return]


def _built(build: Callable[..., Tensor]) -> Handler:
    """A constructor from Python data: built on the host, then moved, as PyTorch does it."""

    def constructor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        place = with_index(device)
        if type(data) is SimTensor:
            return _from_sim(build, data, place, args, kwargs)
        data = _read_out(data)
        if place is None or torch.device(place).type != "cuda":
            if place is not None:
                kwargs["device"] = place
            return build(data, *args, **kwargs)
        kwargs.pop("pin_memory", None)
        return build(data, *args, **kwargs).to(place)

    return constructor


def _from_sim(
    build: Callable[..., Tensor], data: Tensor, place: Any, args: Any, kwargs: Any
) -> Tensor:
    dtype = kwargs.get("dtype") or (args[0] if args else None) or data.dtype
    must_copy = build is torch.tensor or bool(kwargs.get("copy"))
    return data.to(place or data.device, dtype, copy=must_copy)


def _read_out(data: Any) -> Any:
    """Python data with the tensors of the device in it read by the host, as PyTorch does it."""
    if isinstance(data, (list, tuple)) and any(
        isinstance(part, (list, tuple, SimTensor)) for part in data
    ):
        return [_read_out(part) for part in data]
    return data.tolist() if type(data) is SimTensor else data
