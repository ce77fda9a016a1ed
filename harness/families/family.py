"""What a family is: an architecture, described by what its coders do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Blocks = Literal["latent-diffusion", "wan", "wan-residual"]
"""The blocks of a coder. ``wan-residual``: Wan's blocks with a shortcut around each level."""


@dataclass(frozen=True)
class Norm:
    """A kind of normalisation, and the values over which it computes a statistic."""

    kind: Literal["group", "rms"]
    axis: Literal["plane", "channels"]
    """``plane``: a group of channels of all pixels of a frame; ``channels``: those of one pixel."""


@dataclass(frozen=True)
class Chunking:
    """How a VAE cuts a clip before its coders see it. The first frame is a chunk of its own."""

    encode: int
    """Image frames in each further chunk."""
    decode: int
    """Latent frames in each further chunk."""


@dataclass(frozen=True)
class Trained:
    """Weights that ship here, made by a training (``fixtures/training``)."""

    file: str
    """Name of the file in ``fixtures/vaes/trained_weights``, which families of one net share."""
    config: Mapping[str, Any]
    """The published configuration with few channels, as in a mock or a little more."""


@dataclass(frozen=True)
class Family:
    """A published VAE architecture."""

    name: str
    title: str
    source: str
    """Where the published configuration comes from."""
    model_class: str
    """Name of the class in diffusers."""
    since: str
    """First release of diffusers whose class takes the published configuration."""
    real: Mapping[str, Any]
    """The published configuration."""
    mock: Mapping[str, Any]
    """A configuration of the same class with few channels. It keeps every mechanism of ``real``."""

    deal: int
    """Where the covering selection starts in its list of variations (batch, clip, dtype) when it
    goes through the planes. Families of one build have different ones, so that a plane meets
    several. Kept here: by the place in a list, a new family would change the cases of the others,
    which known failures and known-bad hooks name by their ids."""

    ratio: int
    """Image pixels per latent pixel, along one side."""
    latent_channels: int
    image_channels: int

    coder_layout: Literal["ldm", "wan"]
    """The layout of the original implementation."""
    blocks: Blocks
    norms: tuple[Norm, ...]
    receptive_field: int
    """The most latent pixels on each side that an output pixel depends on through convolutions
    alone. The real decoder sets it: it reads further than the encoder and than the mock."""
    published_halo: int = 11
    """Latent pixels that published hooks add on each side of a tile
    (multidiffusion-upscaler-for-automatic1111 and its descendants)."""

    frame_axis: bool = False
    """Whether tensors are ``B C T H W``, not ``B C H W``."""
    temporal_ratio: int = 1
    """Image frames per latent frame after the first; 1 where there is no frame axis."""
    feature_cache: bool = False
    """Whether causal convolutions keep frames from one chunk for the next."""
    chunking: Chunking | None = None
    """``None``: coders see the whole input at once."""
    patch: int = 1
    """Side of the squares of image pixels that are folded into channels outside the coders."""

    clamped: bool = False
    """Whether the VAE clamps what its decoder gives to -1 to 1."""

    trained: Trained | None = None
    """``None`` where no trained weights ship: a family gets none of a net that is not its own."""
    real_by_default: bool = False
    """Whether the covering selection runs it at real scale. The whole matrix does so for all."""

    @property
    def local_norms(self) -> bool:
        """Whether no norm looks beyond the pixel that it normalises."""
        return all(norm.axis == "channels" for norm in self.norms)

    @property
    def widest_halo(self) -> int:
        """The widest halo that is of use, in latent pixels on each side of a tile.

        It is the receptive field, rounded up to a multiple of 8 because hooks set tiles and
        overlaps in such steps.
        """
        return -(-self.receptive_field // 8) * 8

    @property
    def build(self) -> tuple[object, ...]:
        """Families of equal build have the same mechanisms, with other numbers of channels."""
        return self.blocks, self.norms, self.frame_axis, self.feature_cache, self.ratio
