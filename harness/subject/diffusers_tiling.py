"""The built-in hook ``diffusers``: the tiling that a diffusers VAE brings along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def enable(vae: nn.Module, *, tile_size: int) -> Callable[[], None]:
    """Switch tiling on, with tiles of ``tile_size`` image pixels; returns the undo.

    Overlaps are diffusers' own: a quarter of a tile. ``AutoencoderKL`` and ``AutoencoderKLFlux2``
    hold sizes as attributes and an overlap factor (``tile_sample_min_size``,
    ``tile_latent_min_size``, ``tile_overlap_factor``); the Qwen and Wan classes take sizes and
    strides in image pixels as keywords of ``enable_tiling``
    (diffusers 0.42, models/autoencoders/autoencoder_kl*.py).
    """
    switch: Any = vae
    saved = _switches(vae)
    if hasattr(vae, "tile_sample_min_size"):
        switch.enable_tiling()
        switch.tile_sample_min_size = tile_size
        switch.tile_latent_min_size = tile_size // 2 ** (len(switch.config.block_out_channels) - 1)
    elif hasattr(vae, "tile_sample_min_height"):
        ratio = int(switch.spatial_compression_ratio)
        stride = max(1, tile_size // ratio * 3 // 4) * ratio
        switch.enable_tiling(
            tile_sample_min_height=tile_size,
            tile_sample_min_width=tile_size,
            tile_sample_stride_height=stride,
            tile_sample_stride_width=stride,
        )
    else:
        raise NotImplementedError(f"{type(vae).__name__} has no tiling of its own.")

    def undo() -> None:
        switch.disable_tiling()
        for name in _switches(vae).keys() - saved.keys():
            delattr(vae, name)
        for name, value in saved.items():
            setattr(vae, name, value)

    return undo


def _switches(vae: nn.Module) -> dict[str, object]:
    return {
        name: value
        for name, value in vars(vae).items()
        if name == "use_tiling" or name.startswith("tile_")
    }
