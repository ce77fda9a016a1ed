"""For each mechanism, what a hook does wrong that breaks it."""

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
}
"""A hook that places tiles wrongly also fails every probe after the stub, and a hook without a
halo also fails the probes of the resampling convolutions. Of mechanisms that explain as much, the
first is named."""
