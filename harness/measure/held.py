"""Tensors that a hook still holds on a device after its call."""

from __future__ import annotations

import gc
from collections.abc import Iterable

import torch
from torch import Tensor

from vae_compat.measure.failing import kind_of
from vae_compat.measure.observation import Held
from vae_compat.measure.plain import is_plain

MOST = 8
"""Tensors that are told."""


def held_tensors(device: torch.device, known: Iterable[Tensor]) -> tuple[Held, ...]:
    """Tensors on an accelerator besides the known ones, each storage once, the largest first.

    Looks at all objects of the process, which takes a tenth of a second.
    """
    storages = {_storage(tensor) for tensor in known}
    found: list[Held] = []
    for thing in gc.get_objects():
        if not is_plain(thing) or thing.device.type != device.type or not thing.numel():
            continue
        if (place := _storage(thing)) in storages:
            continue
        storages.add(place)
        dtype = str(thing.dtype).removeprefix("torch.")
        nbytes = thing.numel() * thing.element_size()
        found.append(Held(tuple(thing.shape), dtype, nbytes, _attribute_of(thing)))
    return tuple(sorted(found, key=lambda held: -held.nbytes)[:MOST])


def _storage(tensor: Tensor) -> int:
    """Where its memory is; of a simulated tensor, that of its numbers."""
    return int(getattr(tensor, "_inner", tensor).untyped_storage().data_ptr())


def _attribute_of(tensor: Tensor) -> str:
    """An attribute that refers to a tensor; empty where there is none. Runs no code of a hook's."""
    for holder in gc.get_referrers(tensor):
        try:
            names = object.__getattribute__(holder, "__dict__")
        except AttributeError:
            names, holder = holder, None
        if type(names) is not dict:
            continue
        for name, value in list(names.items()):
            if value is tensor and type(name) is str:
                return name if holder is None else f"{kind_of(holder)}.{name}"
    return ""
