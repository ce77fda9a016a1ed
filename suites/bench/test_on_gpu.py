"""What the hook that ships here would take of untiled's time and memory on one H200.

Counted on shapes alone and estimated, so that it needs no GPU; `nox -s calibrate` says how near the
estimates come to measured times.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale
from vae_compat.device import open_device
from vae_compat.device.estimate import estimate
from vae_compat.device.meter import Reading
from vae_compat.fixtures.layouts import view
from vae_compat.fixtures.vaes.building import unseeded
from vae_compat.suites.bench.tables import TABLES
from vae_compat.tiled_vae import tiled

GPU = "h200"
MIB = 2**20


@dataclass(frozen=True)
class Work:
    """A picture or clip to decode, and the bounds, as multiples of untiled."""

    name: str
    family: str
    size: tuple[int, int]
    """Latent rows and columns."""
    time: float
    peak: float
    frames: int = 1
    budget: float | None = None
    """``max_vram`` as a share of untiled's peak; ``None`` for all memory that is free."""
    launches: float | None = None
    """A bound where one is set: small bands launch more."""

    @property
    def case(self) -> Case:
        """What is decoded."""
        return Case(
            family=self.family,
            scale=Scale.REAL,
            layout=Layout.DIFFUSERS,
            direction=Direction.DECODE,
            mode=Mode.EXACT,
            height=self.size[0],
            width=self.size[1],
            tile=64,
            frames=self.frames,
            dtype="bfloat16",
        )


WORKS = (
    Work("SDXL 1024 px", "sdxl", (128, 128), 0.85, 0.56, launches=3.0),
    Work("SDXL 1024 px", "sdxl", (128, 128), 1.4, 0.25, budget=0.25),
    Work("Flux 2048 px", "flux", (256, 256), 0.80, 0.52),
    Work("Flux 2048 px", "flux", (256, 256), 1.8, 0.12, budget=0.12),
    Work("Qwen image 1024 px", "qwen", (128, 128), 1.5, 0.07, budget=0.07),
    Work("Wan 2.1 480 x 832, 5 frames", "wan21", (60, 104), 1.3, 0.2, frames=5, budget=0.2),
)


@cache
def counted(case: Case, budget: int | None, *, is_tiled: bool) -> Reading:
    """The meters of a decode without data."""
    dtype = torch.bfloat16
    with torch.no_grad(), FakeTensorMode(), open_device("sim") as device:
        seen = view(unseeded(case.facts, case.facts.real, dtype), case.layout, case.facts)
        device.place(nn.ModuleList([seen.vae, seen.encoder, seen.decoder]))
        x: Tensor = device.put(torch.zeros(case.input_shape, dtype=dtype))
        hooked = tiled(seen.vae, max_vram=budget) if is_tiled else contextlib.nullcontext()
        with hooked, device.metered() as reading:
            seen.run(case.direction, x)
    return reading


def held(reading: Reading) -> int:
    """Bytes at the peak, with the workspaces of libraries, beyond what was there before."""
    return reading.peak_with_workspaces - (reading.live_before or 0)


@pytest.mark.parametrize("work", WORKS, ids=lambda work: f"{work.family}-{work.budget or 'free'}")
def test_bounds_are_kept(work: Work, request: pytest.FixtureRequest) -> None:
    untiled = counted(work.case, None, is_tiled=False)
    budget = None if work.budget is None else int(work.budget * held(untiled))
    ours = counted(work.case, budget, is_tiled=True)
    time = estimate(ours, GPU).seconds / estimate(untiled, GPU).seconds
    peak, launches = held(ours) / held(untiled), ours.kernels / untiled.kernels
    touched = [each.bytes_read + each.bytes_written for each in (ours, untiled)]
    pinned = sum(copy.nbytes for copy in ours.copies if copy.pinned)
    request.config.stash[TABLES].on_gpu.append(
        [
            work.name,
            "free memory" if work.budget is None else f"{work.budget:g} of untiled",
            f"{time:.2f} ({work.time:g})",
            f"{peak:.2f} ({work.peak:g})",
            f"{launches:.1f} x",
            f"{touched[0] / touched[1]:.2f} x",
            f"{ours.flops / untiled.flops:.2f} x",
            f"{pinned / MIB:.0f} MiB",
        ]
    )
    assert time <= work.time
    assert peak <= work.peak
    assert work.launches is None or launches <= work.launches
    assert touched[0] <= 1.4 * touched[1]
    assert ours.waits.total == 0
    assert not ours.races
    assert not any(copy.nbytes for copy in ours.copies if not copy.pinned)
