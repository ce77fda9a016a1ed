"""Whether what a hook returned is a genuine tensor."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

from vae_compat.device import Device
from vae_compat.device.tensor import SimTensor
from vae_compat.isolation.wire import REAL
from vae_compat.measure.failing import failure_of, kind_of
from vae_compat.measure.observation import Failure, Origin
from vae_compat.measure.placing import ordinary


def is_plain(thing: object) -> bool:
    """Whether this is a genuine tensor of real numbers in memory.

    A subclass could still compute when it is read, unmetered. Types are compared by ``is``, because
    comparing with ``==`` could run a metaclass of the hook.
    """
    return _honest(thing) and _dense(thing)


def on_host(device: Device, tensor: Tensor) -> Tensor:
    """A copy on the plain CPU that no counter sees."""
    with ordinary():
        return device.host(tensor).detach().clone()


def kept(result: object, device: Device) -> tuple[Tensor | None, str | None, Failure | None]:
    """A result as a tensor on the plain CPU, the device it was on, and why there is none.

    Reading it may fail. Where something other than a tensor was returned, all three are ``None``.
    """
    # Not `isinstance`: it asks the object, which may lie.
    if not issubclass(type(result), Tensor):
        return None, None, None
    if not _honest(result):
        told = (
            f"returned a {kind_of(result)}, a subclass of torch.Tensor that may run code "
            "when it is read: return a plain torch.Tensor"
        )
        return None, None, _not_plain(told)
    if not _dense(result):
        told = (
            f"returned a tensor of {result.dtype} with layout {result.layout} that is "
            "not dense or not of numbers that torch computes with: return a plain one"
        )
        return None, None, _not_plain(told)
    try:
        output = on_host(device, result)
        if not is_plain(output):
            raise TypeError(f"the tensor returned holds a {kind_of(output)} or is not dense")
        return output, str(result.device), None
    except Exception as error:
        return None, None, failure_of(error, "run")


def _not_plain(told: str) -> Failure:
    return Failure("NotPlainTensor", told, "", "", "run", Origin.HARNESS)


def _honest(thing: object) -> TypeGuard[Tensor]:
    return any(type(thing) is plain for plain in (Tensor, nn.Parameter, SimTensor))


def _dense(tensor: Tensor) -> bool:
    """Whether it is made of real numbers in memory: no other can be compared with a result."""
    there = not tensor.is_nested and not tensor.is_meta
    return there and tensor.layout is torch.strided and str(tensor.dtype) in REAL
