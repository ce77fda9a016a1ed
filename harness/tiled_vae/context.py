"""Tiling of a whole VAE inside a context manager."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .errors import TilingError, UnknownCoderError
from .hook import VAEHook
from .settings import check_sizes
from .translate import translate

FRAME_LOOPS = ("AutoencoderKLQwenImage", "AutoencoderKLWan")
"""VAEs of diffusers whose ``_decode`` and ``_encode`` pass a clip to their coder in chunks."""

_HELD = ("vae", "first_stage_model", "model", "module", "_orig_mod")
"""Under which names pipelines, user interfaces, ``DataParallel`` and ``torch.compile`` hold a VAE.
"""


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
    ``DataParallel``. ``tile_size`` is in image pixels, for both directions. Without one, images on
    a GPU are run as fast as ``max_vram`` or else the free memory allows; elsewhere it is 512 unless
    ``max_vram`` chooses it. ``settings`` are those of `VAEHook` (``min_tile_size`` in image pixels
    as well). A VAE's own tiling, which blends, is off inside. The VAE is as before when the context
    ends, however it ends. Raises `TilingError` for what is no VAE or is tiled already, and for
    settings that cannot work.
    """
    check_sizes(tile_size, settings.get("min_tile_size"))
    is_default = tile_size is None and settings.get("max_vram") is None
    if is_default:
        tile_size = 512
    holder = holder_of(vae)
    coders = coders_of(holder)
    blends = getattr(holder, "use_tiling", None) is True
    wanted = [(net, dec) for net, dec in coders if (decode if dec else encode)]
    hooks: list[VAEHook] = []
    undo: list[tuple[Any, dict[str, Any]]] = []
    try:
        for net, is_decoder in wanted:
            if isinstance(net.__dict__.get("forward"), VAEHook):
                raise TilingError(f"this {type(net).__name__} is tiled already")
            unit = ratio_of(net) if is_decoder else 1
            sizes: dict[str, int | None] = {"tile_size": None}
            if tile_size is not None:
                sizes["tile_size"] = max(tile_size // unit, 1)
            if settings.get("min_tile_size") is not None:
                sizes["min_tile_size"] = max(settings["min_tile_size"] // unit, 1)
            hook = VAEHook(
                net,
                is_decoder=is_decoder,
                fast_decoder=fast,
                fast_encoder=fast,
                color_fix=color_fix,
                **{**settings, **sizes},
            )
            hook.tile_is_default = is_default
            names = ("forward", "original_forward")
            undo.append((net, {name: net.__dict__.get(name) for name in names}))
            net.__dict__["original_forward"] = net.forward
            net.__dict__["forward"] = hook
            hooks.append(hook)
            if type(holder).__name__ in FRAME_LOOPS:
                undo.append(announce(holder, hook))
        if blends:
            holder.use_tiling = False
        yield tuple(hooks)
    finally:
        if blends:
            holder.use_tiling = True
        for net, before in undo:
            for name, value in before.items():
                if value is None:
                    net.__dict__.pop(name, None)
                else:
                    net.__dict__[name] = value


def announce(vae: Any, hook: VAEHook) -> tuple[Any, dict[str, Any]]:
    """Let a hook know how many frames the VAE's loop over a clip will pass to its coder.

    Returns the VAE and what it had in place of what was put there.
    """
    name = "_decode" if hook.is_decoder else "_encode"
    before, loop = vae.__dict__.get(name), getattr(vae, name)

    def announced(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not hook.takes_clips(x):
            return loop(x, *args, **kwargs)
        frames = x.shape[2]
        # An encoder is given one frame and then four at a time; those that are left over never.
        with hook.expecting(frames if hook.is_decoder else (frames - 1) // 4 * 4 + 1):
            return loop(x, *args, **kwargs)

    vae.__dict__[name] = announced
    return vae, {name: before}


def holder_of(vae: Any) -> Any:
    """What has the coders: the VAE itself, whatever it may be wrapped in."""
    waiting, seen = [vae], set[int]()
    while waiting and len(seen) < 20:
        holder = waiting.pop(0)
        if holder is None or id(holder) in seen:
            continue
        seen.add(id(holder))
        wrapped = getattr(holder, "_modules", {}).get("_orig_mod")
        if wrapped is not None:
            waiting.insert(0, wrapped)
        elif coders_of(holder):
            return holder
        else:
            waiting += [getattr(holder, name, None) for name in _HELD]
    raise TilingError(f"{type(vae).__name__} has neither an encoder nor a decoder to tile")


def coders_of(holder: Any) -> list[tuple[nn.Module, bool]]:
    """Encoder and decoder of a VAE, and which of them decodes."""
    return [
        (net, name == "decoder")
        for name in ("encoder", "decoder")
        if isinstance(net := getattr(holder, name, None), nn.Module)
    ]


def ratio_of(decoder: nn.Module) -> int:
    """Image pixels per latent pixel of a decoder; 8 where its layout is unknown."""
    try:
        program = translate(decoder, is_decoder=True)
    except UnknownCoderError:
        return 8
    return round(program.levels[-1]) * program.patch
