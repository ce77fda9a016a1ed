"""What a hook may be told, and what is said about values that cannot work."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .errors import TilingError
from .segments import BANDS, CARRY, REST

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

Progress = Callable[[int, int], object]
"""Called with the number of tiles done and the number of all."""


def check_sizes(tile_size: Any, min_tile_size: Any) -> None:
    """Sizes of tiles: whole numbers of pixels, or ``None``."""
    for name, value in (("tile_size", tile_size), ("min_tile_size", min_tile_size)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise TilingError(f"{name} is {value!r}: give a whole number of pixels, at least one")


def check_settings(max_depth: Any, residency: Any, method: Any, progress: Any) -> None:
    """Everything else."""
    if isinstance(max_depth, bool) or not isinstance(max_depth, int) or max_depth < 0:
        raise TilingError(f"max_depth is {max_depth!r}: give 0 or more")
    if residency not in ("host", "device", "auto"):
        raise TilingError(f"residency is {residency!r}: choose host, device or auto")
    if method not in ("auto", BANDS, CARRY, REST):
        raise TilingError(f"method is {method!r}: choose auto, {BANDS}, {CARRY} or {REST}")
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise TilingError(
            f"progress is {progress!r}: give True for a bar, or a function of tiles done and of all"
        )


def bytes_of(max_vram: Any) -> int | None:
    """A budget in bytes, from a number or from words such as ``4GiB`` or ``800 MB``."""
    if max_vram is None:
        return None
    words = f"max_vram is {max_vram!r}: give a number of bytes to spend, or words such as '4GiB'"
    if isinstance(max_vram, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?b?)\s*", max_vram.lower())
        if match is None or match[2] not in UNITS:
            raise TilingError(words)
        max_vram = int(float(match[1]) * UNITS[match[2]])
    if isinstance(max_vram, bool) or not isinstance(max_vram, int | float) or max_vram < 1:
        raise TilingError(words)
    return int(max_vram)
