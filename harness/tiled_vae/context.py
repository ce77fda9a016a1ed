"""Tiling of a whole VAE inside a context manager."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from .errors import TilingError
from .hook import VAEHook
from .installing import DECODE, ENCODE, Installed, coder_of
from .settings import check_flags, check_names, check_sizes

_HELD = ("vae", "first_stage_model", "model", "module", "_orig_mod")
"""Under which names pipelines, user interfaces, ``DataParallel`` and ``torch.compile`` hold a VAE.
"""

_INSTEAD = {
    "net": "the VAE",
    "is_decoder": "encode=False or decode=False",
    "fast_decoder": "fast",
    "fast_encoder": "fast",
}
"""What `tiled` gives its hooks itself, with what to give it."""
_OF_HOOKS = inspect.signature(VAEHook).parameters
_SETTINGS = [
    "tile_size",
    "encode",
    "decode",
    "fast",
    *(name for name in _OF_HOOKS if name not in (*_INSTEAD, "tile_size")),
]
"""All that `tiled` takes by name."""


@contextmanager
def tiled(
    vae: Any,
    tile_size: int | None = None,
    *,
    encode: bool = True,
    decode: bool = True,
    fast: bool = False,
    color_fix: bool = False,
    **settings: Any,
) -> Iterator[tuple[VAEHook, ...]]:
    """Inside, ``vae.encode`` and ``vae.decode`` run tile by tile, with the same result.

    ``vae`` is a VAE, or something that holds one: a pipeline, a user interface's wrapper,
    ``DataParallel``, what ``torch.compile`` returns. ``tile_size`` is in image pixels, for both
    directions. Without one, a GPU runs as fast as ``max_vram`` or else the free memory allows;
    elsewhere it is 512 unless ``max_vram`` chooses it. ``settings`` are those of `VAEHook`
    (``min_tile_size`` in image pixels as well); ``progress`` counts the tiles of a whole call, all
    chunks of a clip included. A VAE's own tiling, which blends, is off inside.

    Each thread may open a context of its own; one without takes part in the newest. A decoder that
    is put into the VAE inside is tiled as well, and a copy made inside is not. The VAE is as before
    when the last context ends, however it ends. Raises `TilingError` for what is no VAE or is tiled
    by this thread already, and for settings that cannot work; ``TypeError`` for unknown ones.
    """
    check_names(settings, known=_SETTINGS, instead=_INSTEAD)
    check_sizes(tile_size, settings.get("min_tile_size"))
    check_flags(encode=encode, decode=decode, fast=fast, color_fix=color_fix)
    if color_fix and not fast:
        raise TilingError(
            "color_fix bounds what fast estimates, and fast is off: give fast=True as well, or "
            "leave color_fix out, as nothing is estimated then and colours are exact"
        )
    is_default = tile_size is None and settings.get("max_vram") is None
    if is_default:
        tile_size = 512
    settings |= {"fast_decoder": fast, "fast_encoder": fast, "color_fix": color_fix}
    installed = Installed(holder_of(vae), tile_size, settings, tile_is_default=is_default)
    directions = [name for name, wanted in ((ENCODE, encode), (DECODE, decode)) if wanted]
    try:
        for name in directions:
            installed.install(name)
        yield tuple(installed.hooks.values())
    finally:
        installed.remove()


def holder_of(vae: Any) -> Any:
    """What has the coders: the VAE itself, whatever it may be wrapped in."""
    waiting, seen = [vae], set[int]()
    while waiting and len(seen) < 20:
        holder = waiting.pop(0)
        if holder is None or id(holder) in seen:
            continue
        seen.add(id(holder))
        wrapped = getattr(holder, "_modules", {}).get("_orig_mod")
        if wrapped is None and isinstance(holder, nn.DataParallel):
            wrapped = holder.module
        if wrapped is not None:
            waiting.insert(0, wrapped)
        elif any(coder_of(holder, name) is not None for name in (ENCODE, DECODE)):
            return holder
        else:
            waiting += [getattr(holder, name, None) for name in _HELD]
    raise TilingError(
        f"{type(vae).__name__} has neither an encoder nor a decoder to tile: give the VAE or the "
        "pipeline, or put a VAEHook in the place of a coder's forward"
    )
