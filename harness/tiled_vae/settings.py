"""What a hook may be told, and what is said about values that cannot work."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from torch import nn

from .errors import TilingError
from .fusion.segments import BANDS, CARRY, REST

UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}


def check_sizes(tile_size: Any, min_tile_size: Any) -> None:
    """Raise `TilingError` unless the sizes are whole numbers of pixels, or ``None``."""
    for name, value in (("tile_size", tile_size), ("min_tile_size", min_tile_size)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise TilingError(f"{name} is {value!r}: give a whole number of pixels, at least one")


def check_flags(**flags: Any) -> None:
    """Raise `TilingError` for what is neither true nor false: ``"no"`` would be true."""
    for name, value in flags.items():
        number = isinstance(value, int) and value in (0, 1)  # True and False are numbers as well
        if not number and type(value).__name__ not in ("bool", "bool_"):  # as of NumPy
            raise TilingError(f"{name} is {value!r}: give True or False")


def check_names(told: Iterable[str], known: Iterable[str], instead: Mapping[str, str]) -> None:
    """Raise ``TypeError``, as Python does, for a setting that `tiled` does not have.

    ``instead`` are names that a hook has and `tiled` gives itself, with what to give there.
    """
    for name in told:
        if name in instead:
            raise TypeError(f"tiled() takes no {name!r}: give {instead[name]}")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            told_of = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise TypeError(f"tiled() has no setting {name!r}: {told_of}")


def check_net(net: Any) -> None:
    """Raise `TilingError` for what cannot be a coder: no module, one layer, or a whole VAE."""
    name = type(net).__name__
    if not isinstance(net, nn.Module):
        raise TilingError(f"{name} is no module: give a VAE's encoder or decoder")
    parts = dict(net.named_children())
    if {"encoder", "decoder"} <= parts.keys():
        raise TilingError(
            f"{name} has an encoder and a decoder: hook one of them, or use tiled(vae) for both"
        )
    if not parts and type(net).__module__.startswith("torch.nn."):
        raise TilingError(f"{name} is a single layer: give a VAE's encoder or decoder")


def check_progress(progress: Any) -> None:
    """Raise `TilingError` for what can be told nothing."""
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise TilingError(
            f"progress is {progress!r}: give a function of the tiles done and of all tiles, or "
            "True for a bar"
        )


def check_choices(max_depth: Any, residency: Any, method: Any) -> None:
    """Raise `TilingError` for other settings that cannot work."""
    if isinstance(max_depth, bool) or not isinstance(max_depth, int) or max_depth < 0:
        raise TilingError(f"max_depth is {max_depth!r}: give 0 or more")
    if residency not in ("auto", "host", "device"):
        raise TilingError(f"residency is {residency!r}: choose auto, host or device")
    if method not in ("auto", BANDS, CARRY, REST):
        raise TilingError(f"method is {method!r}: choose auto, {BANDS}, {CARRY} or {REST}")


def bytes_of(max_vram: Any) -> int | None:
    """A budget in bytes, from a number or from words such as ``4GiB`` or ``800 MB``.

    Raises `TilingError` for anything else.
    """
    if max_vram is None:
        return None
    given = max_vram
    if isinstance(given, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?b?)\s*", given.lower())
        if match is not None and match[2] in UNITS:
            given = int(float(match[1]) * UNITS[match[2]])
    if isinstance(given, bool) or not isinstance(given, int | float) or not 1 <= given < 2**62:
        raise TilingError(
            f"max_vram is {max_vram!r}: give a number of bytes to spend, or words such as '4GiB'"
        )
    return int(given)
