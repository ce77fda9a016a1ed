"""What a hook breaks, mechanism by mechanism, in words."""

from __future__ import annotations

from collections.abc import Mapping

from vae_compat.contracts.cases import Mechanism

EXPLANATION: Mapping[Mechanism, str] = {
    Mechanism.STUB: "tiles are placed or blended wrongly",
    Mechanism.HALO: "tiles are cut without the neighbourhood their convolutions read",
    Mechanism.UPSAMPLE: "tiles are not aligned with the upsampling",
    Mechanism.DOWNSAMPLE: "tiles are not aligned with the strided downsampling",
    Mechanism.ATTENTION: "attention is computed per tile",
    Mechanism.GROUP_NORM: "GroupNorm statistics are not those of the whole plane",
    Mechanism.CAUSAL_CACHE: "causal caches are not carried from chunk to chunk for every tile",
    Mechanism.CHANNELS: "three image channels are taken for granted",
}
"""In the order in which they explain a difference: a hook that places tiles wrongly fails every
probe after the stub too, and one without a halo those of the resampling convolutions."""

CAUSES = tuple(mechanism for mechanism in EXPLANATION if mechanism is not Mechanism.CHANNELS)
"""Mechanisms that can be why a published family, whose images have three channels, differs."""
