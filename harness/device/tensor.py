"""The tensor of a simulated accelerator: reports ``cuda:0``, keeps its numbers on the CPU."""

# ruff: noqa: D102, ARG002 - methods of torch.Tensor, documented there
from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any, NoReturn

import torch
from torch import Tensor

from vae_compat.device.ledger import Block

DEVICE = torch.device("cuda", 0)
HOST = torch.device("cpu")
ORDINAL: ContextVar[int] = ContextVar("ordinal", default=0)
"""Number of the device beside 0. Each rank on a machine has its own GPU, with the rank's number."""

_base_data = Tensor.data

is_alias_of: Callable[[Tensor, Tensor], bool] = torch._C._is_alias_of  # type: ignore[attr-defined]


class SimTensor(Tensor):
    """A tensor on the simulated accelerator.

    Operations on it reach ``__torch_dispatch__``. What PyTorch's C++ front does before dispatch,
    and would refuse in a build without CUDA (indexing, ``numpy``, printing), is done here.
    Autograd does not record: in such a build, a graph node of a CUDA tensor ends the process.
    """

    _inner: Tensor
    _block: Block
    _wants_grad: bool

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # Reached where the mode of the device is not on top: inside one of its own operations, on
        # another thread, or after the device was left.
        return accelerator_of(args, kwargs).perform(func, args, kwargs or {})

    # -- indexing -----------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        inner = self._inner
        block = self._block
        plain, moved, _ = plain_key(key)
        with undispatched(inner), torch._C.DisableTorchFunction():
            out = inner[plain]
            if is_alias_of(out, inner):
                return wrap(out, block)
            result = wrap(out, block.ledger.allocate(out.nbytes))
        from vae_compat.device.transfers import picked  # stands above this module

        picked(self, result, key, moved)
        return result

    def __setitem__(self, key: Any, value: Any) -> None:
        block = self._block
        plain, moved, advanced = plain_key(key)
        if isinstance(value, Tensor) and type(value) is not SimTensor and advanced and value.dim():
            raise mixed_devices(self, value)
        with undispatched(self._inner):
            self._inner[plain] = value._inner if type(value) is SimTensor else value
        from vae_compat.device.transfers import assigned  # stands above this module

        assigned(self, value, (key, plain, advanced), moved)
        if block.source is not None:
            torch.autograd.graph.increment_version(block.source)

    # -- to the host --------------------------------------------------------------------------

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
                "tensor to host memory first."
            )
        return self.cpu().numpy()

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
            "tensor to host memory first."
        )

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        return self._inner.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self._inner.untyped_storage()

    def pin_memory(self, device: Any = None) -> NoReturn:
        raise RuntimeError(f"cannot pin '{self.type()}' only dense CPU tensors can be pinned")

    def is_pinned(self, device: Any = None) -> bool:
        return False

    def record_stream(self, stream: Any) -> None:
        """The memory is not reused before that stream has reached this point."""
        ledger = self._block.ledger
        if ledger.order is not None:
            ledger.uses(self._block).recorded.add(stream.stream_id)

    # -- the flag, without the graph ----------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        return self._wants_grad

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        self._wants_grad = wanted

    def requires_grad_(self, requires_grad: bool = True) -> SimTensor:
        self._wants_grad = requires_grad
        return self

    @property
    def data(self) -> Tensor:
        return wrap(self._inner.detach(), self._block)

    @data.setter
    def data(self, new: Tensor) -> None:
        set_data(self, new)

    # -- methods whose C++ front asks for the device ------------------------------------------

    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
        if self.is_contiguous(memory_format=memory_format):
            return self
        return self.clone(memory_format=memory_format)

    def copy_(self, other: Any, non_blocking: bool = False) -> Tensor:
        source = other if isinstance(other, Tensor) else torch.as_tensor(other)
        with torch._C.DisableTorchFunction():
            copied: Tensor = torch.ops.aten.copy_.default(self, source, non_blocking)
        return copied

    def nonzero(self, *, as_tuple: bool = False) -> Any:
        where = torch.ops.aten.nonzero(self)
        return where.unbind(1) if as_tuple else where

    def __invert__(self) -> Tensor:
        return self.bitwise_not()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return operator.index(self.item())  # type: ignore[arg-type]

    def __complex__(self) -> complex:
        return complex(self.item())

    # -- for people ---------------------------------------------------------------------------

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            text = repr(self._inner.detach())
        flag = ", requires_grad=True" if self._wants_grad else ""
        text = f"{text[:-1]}, device='cuda:0'{flag})"
        is_parameter = getattr(self, "_is_param", False)
        return f"Parameter containing:\n{text}" if is_parameter else text

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else format(repr(self), spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copy = self.clone()
            copy._wants_grad = self._wants_grad  # type: ignore[attr-defined]
            if getattr(self, "_is_param", False):
                copy._is_param = True
            memo[id(self)] = copy
        return memo[id(self)]  # type: ignore[no-any-return]

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise RuntimeError(
            "a tensor of the simulated accelerator cannot be pickled: take it to the host with "
            ".cpu() first"
        )


_new = Tensor._make_wrapper_subclass


def wrap(inner: Tensor, block: Block) -> SimTensor:
    """A tensor on the accelerator with these numbers (on the CPU), in that allocation."""
    out = _new(
        SimTensor,
        inner.shape,
        inner.stride(),
        inner.storage_offset(),
        None,
        inner.dtype,
        torch.strided,
        DEVICE,
    )
    out._inner = inner
    out._block = block
    return out


SimTensor._wants_grad = False


def become(tensor: SimTensor, inner: Tensor, block: Block) -> None:
    """Let a tensor have other numbers, another shape and another allocation from now on."""
    _base_data.__set__(tensor, wrap(inner, block))  # type: ignore[attr-defined]
    tensor._inner = inner
    tensor._block = block


def set_data(tensor: Tensor, new: Tensor) -> None:
    """``tensor.data = new``, where either is on the device; it may change devices.

    PyTorch lets a parameter change devices this way and stay the same object
    (``nn.Module.to`` relies on it).
    """
    if type(tensor) is SimTensor and type(new) is SimTensor:
        become(tensor, new._inner.detach(), new._block)
        return
    is_parameter = isinstance(tensor, torch.nn.Parameter)
    twin: Tensor
    if type(new) is SimTensor:
        twin = wrap(new._inner.detach(), new._block)
        twin._is_param = is_parameter
        twin.requires_grad = tensor.requires_grad
    elif is_parameter:
        twin = torch.nn.Parameter(new.detach(), requires_grad=tensor.requires_grad)
    else:
        twin = new.detach()
    torch.utils.swap_tensors(tensor, twin)  # type: ignore[no-untyped-call]


def plain_key(key: Any) -> tuple[Any, int, bool]:
    """A key for the inner tensor, the bytes of indices to be moved, whether a tensor indexes."""
    moved = 0
    advanced = False
    parts = key if type(key) is tuple else (key,)
    plain: list[Any] | None = None
    for i, part in enumerate(parts):
        kind = type(part)
        if kind is slice:
            if SimTensor not in (type(part.start), type(part.stop), type(part.step)):
                continue
            part = slice(*map(_plain_bound, (part.start, part.stop, part.step)))
        elif kind is SimTensor:
            advanced = True
            part = part._inner
        else:
            if isinstance(part, Tensor):
                advanced = True
                if part.dim():
                    moved += part.nbytes
            continue
        if plain is None:
            plain = list(parts)
        plain[i] = part
    return parts if plain is None else tuple(plain), moved, advanced


def undispatched(inner: Tensor) -> AbstractContextManager[Any]:
    """Leave out what would only come back here. A tensor without data needs its own dispatch."""
    return torch._C._DisableTorchDispatch() if type(inner) is Tensor else nullcontext()


def _plain_bound(bound: Any) -> Any:
    return int(bound) if type(bound) is SimTensor else bound


def with_index(device: Any) -> Any:
    """A device as PyTorch's C++ front can take it here: ``cuda`` becomes ``cuda:0``.

    So does the number that the device has in the process of a rank.
    """
    place: Any = device
    if isinstance(device, int) and not isinstance(device, bool):
        place = torch.device("cuda", device)
    elif isinstance(device, str):
        place = torch.device(device)
    return DEVICE if str(place) in ("cuda", f"cuda:{ORDINAL.get()}") else place


def mixed_devices(first: Tensor, second: Tensor) -> RuntimeError:
    """The error PyTorch raises when tensors of two devices meet."""
    return RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, "
        f"{first.device} and {second.device}!"
    )


def accelerator_of(args: Any, kwargs: Any) -> Any:
    """The accelerator that the tensors among these arguments belong to."""
    for arg in _flat((args, kwargs)):
        if type(arg) is SimTensor:
            owner = arg._block.ledger.owner
            accelerator = None if owner is None else owner()
            if accelerator is None:
                raise RuntimeError(
                    "this tensor is on a simulated accelerator that has been left: take results "
                    "to the host before leaving it"
                )
            return accelerator
    raise AssertionError("no tensor of a simulated accelerator among the arguments")


def _flat(tree: Any) -> Any:
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, (tuple, list)):
        yield tree
        return
    for part in tree:
        yield from _flat(part)
