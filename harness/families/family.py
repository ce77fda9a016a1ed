"""What a family is: an architecture, described by what its coders do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Blocks = Literal["latent-diffusion", "wan", "wan-residual"]
"""What coders are made of. ``wan-residual``: Wan's blocks with a shortcut around each level."""


@dataclass(frozen=True)
class Norm:
    """A kind of normalisation, and what one of its statistics is taken over."""

    kind: Literal["group", "rms"]
    axis: Literal["plane", "channels"]
    """``plane``: a group of channels and every pixel of a frame; ``channels``: those of a pixel."""


@dataclass(frozen=True)
class Chunking:
    """How a VAE cuts a clip before its coders see it. The first frame goes alone."""

    encode: int
    """Image frames a chunk."""
    decode: int
    """Latent frames a chunk."""


@dataclass(frozen=True)
class Family:
    """A published VAE architecture."""

    name: str
    title: str
    source: str
    """Where the published configuration is from."""
    model_class: str
    """Name of the class in diffusers."""
    since: str
    """First release of diffusers whose class takes the published configuration."""
    real: Mapping[str, Any]
    """The published configuration."""
    mock: Mapping[str, Any]
    """The same class with few channels; every mechanism of the real one kept."""

    ratio: int
    """Image pixels per latent pixel, along one side."""
    latent_channels: int
    image_channels: int
    image_keys: tuple[str, ...]
    """Parameters of the configuration that hold the number of image channels, patches folded in."""

    coder_layout: Literal["ldm", "wan"]
    """The layout of the original implementation."""
    blocks: Blocks
    norms: tuple[Norm, ...]
    receptive_field: int
    """Latent pixels on each side that convolutions alone make an output pixel depend on, at most:
    those of the real decoder, which reads further than the encoder and the mock."""
    published_halo: int = 11
    """Latent pixels that published hooks add on each side of a tile
    (multidiffusion-upscaler-for-automatic1111 and its descendants)."""

    frame_axis: bool = False
    """Whether tensors are ``B C T H W``, not ``B C H W``."""
    temporal_ratio: int = 1
    """Image frames per latent frame after the first; 1 where there is no frame axis."""
    feature_cache: bool = False
    """Whether coders keep what causal convolutions remember from one chunk to the next."""
    chunking: Chunking | None = None
    """``None``: coders see the whole input at once."""
    patch: int = 1
    """Side of the squares of image pixels that are folded into channels outside the coders."""

    real_by_default: bool = False
    """Whether a selection runs it at real scale. The whole matrix runs every family."""

    @property
    def local_norms(self) -> bool:
        """Whether no norm looks beyond the pixel that it normalises."""
        return all(norm.axis == "channels" for norm in self.norms)

    @property
    def widest_halo(self) -> int:
        """Latent pixels that a sound hook may add on each side of a tile: no more are of any use.

        The receptive field in whole steps of eight, as hooks set tiles and overlaps.
        """
        return -(-self.receptive_field // 8) * 8

    @property
    def build(self) -> tuple[object, ...]:
        """Families of one build have the same mechanisms, and differ in numbers of channels."""
        return self.blocks, self.norms, self.frame_axis, self.feature_cache, self.ratio
