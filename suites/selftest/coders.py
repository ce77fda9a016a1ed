"""Mock coders, latents for them, and the reference hook on one: what its tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from vae_compat.families import FAMILIES
from vae_compat.fixtures.vaes import build
from vae_compat.tiled_vae import VAEHook


@cache
def shared(family: str) -> nn.Module:
    """A mock for tests that leave it as it was."""
    return build(family, "mock")


def latent(
    family: str = "sd", height: int = 5, width: int = 6, *, batch: int = 1, frames: int = 1
) -> Tensor:
    """A latent for a family, or a clip of latents where its VAE has a frame axis."""
    facts = FAMILIES[family]
    time = (frames,) if facts.frame_axis else ()
    shape = (batch, facts.latent_channels, *time, height, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@contextmanager
def tiling(
    net: nn.Module, tile: int = 4, is_decoder: bool = True, **settings: Any
) -> Iterator[VAEHook]:
    """The hook in the place of a coder's forward, as its users put it there."""
    net.original_forward = net.forward
    net.forward = VAEHook(net, tile_size=tile, is_decoder=is_decoder, **settings)
    try:
        yield net.forward
    finally:
        del net.forward, net.original_forward
