"""Published facts of each family, as data, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """A published VAE architecture."""

    name: str
    title: str
    model_class: str
    """Name of the class in diffusers."""
    real: Mapping[str, Any]
    """The published configuration."""
    mock: Mapping[str, Any]
    """The same class with few channels; every mechanism of the real one kept."""
    ratio: int
    """Image pixels per latent pixel, along one side."""
    temporal_ratio: int
    """Image frames per latent frame after the first; 1 where there is no frame axis."""
    latent_channels: int
    image_channels: int
    norm: str
    """``group``: statistics over the plane; ``rms``: over channels alone."""
    causal: bool
    """Whether coders keep causal feature caches (and tensors have a frame axis)."""
    coder_layout: str
    """The layout of the original implementation: ``ldm`` or ``wan``."""
    source: str


FAMILIES: Mapping[str, Family] = {}
