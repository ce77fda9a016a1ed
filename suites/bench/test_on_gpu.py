"""What the hook that ships here would take of untiled's time and memory on one H200.

Counted on shapes alone and estimated, so that it needs no GPU; `nox -s calibrate` says how near the
estimates come to measured times.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial

import pytest

from vae_compat.contracts.cases import Direction
from vae_compat.device.estimate import estimate
from vae_compat.device.meter import Reading
from vae_compat.fixtures.layouts.base import View
from vae_compat.suites.bench.tables import TABLES
from vae_compat.suites.calibration.scenes import Run, Scene, counted, untiled
from vae_compat.tiled_vae import VAEHook, tiled

GPU = "h200"
MIB = 2**20

SDXL = Scene("sdxl", 128, 128)
FLUX = Scene("flux", 256, 256)
QWEN = Scene("qwen", 128, 128)
WAN = Scene("wan21", 60, 104, frames=5)


@dataclass(frozen=True)
class Work:
    """A picture or clip, and the bounds, as multiples of untiled."""

    name: str
    scene: Scene
    time: float
    peak: float
    budget: float | None = None
    """``max_vram`` as a share of untiled's peak; ``None`` for all memory that is free."""
    launches: float | None = None
    """A bound where one is set: small bands launch more."""
    mode: str = "exact"
    is_coder: bool = False
    """Whether a `VAEHook` is on the coder, which is given a clip chunk by chunk."""

    @property
    def waits(self) -> int:
        """How often the host may wait: once a chunk, where its caller reads what is parked."""
        return self.scene.frames if self.is_coder else 0

    def __str__(self) -> str:
        scene = self.scene
        parts = (scene.family, scene.direction, scene.dtype, self.mode, self.budget or "free")
        return "-".join(map(str, (*parts, *(["coder"] if self.is_coder else []))))


def encoding(scene: Scene) -> Scene:
    """The same picture on its way to a latent."""
    return replace(scene, direction=Direction.ENCODE)


WORKS = (
    Work("SDXL 1024 px", SDXL, 0.85, 0.56, launches=3.0),
    Work("SDXL 1024 px, float16", replace(SDXL, dtype="float16"), 0.85, 0.56, launches=3.0),
    Work("SDXL 1024 px, float32", replace(SDXL, dtype="float32"), 1.1, 0.65, launches=3.0),
    Work("SDXL 1024 px", SDXL, 1.4, 0.25, budget=0.25, launches=3.0),
    Work("Flux 2048 px", FLUX, 0.80, 0.50),
    Work("Flux 2048 px", FLUX, 1.8, 0.12, budget=0.12),
    Work("Qwen image 1024 px", QWEN, 1.5, 0.07, budget=0.07, launches=3.0),
    Work("Wan 2.1 480 x 832, 5 frames", WAN, 1.3, 0.2, budget=0.2),
    Work("SDXL 1024 px, encode", encoding(SDXL), 1.1, 1.0, launches=3.0),
    Work("SDXL 1024 px, fast", SDXL, 1.1, 1.0, launches=3.0, mode="fast"),
    Work("SDXL 1024 px, encode, fast", encoding(SDXL), 1.1, 1.0, launches=3.0, mode="fast"),
    Work("SDXL 1024 px, encode, color_fix", encoding(SDXL), 1.1, 1.0, mode="color_fix"),
    Work("Qwen image 1024 px, on the coder", QWEN, 1.7, 0.07, budget=0.07, is_coder=True),
)


@contextmanager
def hooked(work: Work, budget: int | None, seen: View) -> Iterator[Run]:
    """The VAE with the hook on."""
    if work.is_coder:
        net = seen.decoder
        net.original_forward = net.forward
        net.forward = VAEHook(net, None, True, max_vram=budget)
        yield seen.run
        del net.forward, net.original_forward
        return
    settings = {"fast": work.mode != "exact", "color_fix": work.mode == "color_fix"}
    with tiled(seen.vae, max_vram=budget, **settings):
        yield seen.run


@cache
def without(scene: Scene) -> Reading:
    """The meters of untiled."""
    return counted(scene, untiled)


def held(reading: Reading) -> int:
    """Bytes at the peak, with the workspaces of libraries, beyond what was there before."""
    return reading.peak_with_workspaces - (reading.live_before or 0)


@pytest.mark.parametrize("work", WORKS, ids=str)
def test_bounds_are_kept(work: Work, request: pytest.FixtureRequest) -> None:
    plain = without(work.scene)
    budget = None if work.budget is None else int(work.budget * held(plain))
    ours = counted(work.scene, partial(hooked, work, budget))
    time = estimate(ours, GPU).seconds / estimate(plain, GPU).seconds
    peak, launches = held(ours) / held(plain), ours.kernels / plain.kernels
    touched = [each.bytes_read + each.bytes_written for each in (ours, plain)]
    pinned = sum(copy.nbytes for copy in ours.copies if copy.pinned)
    request.config.stash[TABLES].on_gpu.append(
        [
            work.name,
            "free memory" if work.budget is None else f"{work.budget:g} of untiled",
            f"{time:.2f} ({work.time:g})",
            f"{peak:.2f} ({work.peak:g})",
            f"{launches:.1f} x",
            f"{touched[0] / touched[1]:.2f} x",
            f"{ours.flops / plain.flops:.2f} x",
            f"{pinned / MIB:.0f} MiB",
        ]
    )
    assert time <= work.time
    assert peak <= work.peak
    assert work.launches is None or launches <= work.launches
    assert touched[0] <= 1.4 * touched[1]
    assert ours.waits.total <= work.waits
    assert not ours.races
    assert not any(copy.nbytes for copy in ours.copies if not copy.pinned)
