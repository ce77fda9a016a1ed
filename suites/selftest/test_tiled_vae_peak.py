"""What a plan says that a call takes is what the simulated accelerator measures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest

from vae_compat.contracts.cases import Direction, Scale
from vae_compat.device.meter import Reading
from vae_compat.fixtures.layouts.base import View
from vae_compat.suites.calibration.scenes import Run, Scene, counted, untiled
from vae_compat.tiled_vae import VAEHook, tiled
from vae_compat.tiled_vae.planner.bandplan import BandPlan
from vae_compat.tiled_vae.planner.plan import Planner

pytestmark = pytest.mark.slow

NEAR = 0.05


@dataclass(frozen=True)
class Work:
    """A picture or clip, and the share of untiled's peak that its call may take."""

    family: str
    direction: str
    share: float
    side: int = 96
    """Of the latent."""
    frames: int = 1
    dtype: str = "bfloat16"
    scale: Scale = Scale.MOCK
    """Real where a mock's output, which its VAE copies, would outweigh what the hook holds."""
    is_coder: bool = False
    settings: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def scene(self) -> Scene:
        """The same for the simulated accelerator."""
        given = {"direction": Direction(self.direction), "frames": self.frames}
        return Scene(self.family, self.side, self.side, dtype=self.dtype, scale=self.scale, **given)

    def __str__(self) -> str:
        said = [self.family, self.direction, f"{self.share:g}", self.dtype, *self.settings]
        return "-".join(said + ["coder"] * self.is_coder)


WORKS = (
    Work("sd", "decode", 0.4),
    Work("sd", "decode", 0.4, dtype="float32"),
    Work("sd", "encode", 0.3, dtype="float16"),
    Work("sd", "decode", 0.5, settings={"fast": True}),
    Work("flux", "encode", 0.15),
    Work("flux", "decode", 0.3, dtype="float16"),
    Work("qwen", "decode", 0.2),
    Work("qwen", "decode", 0.2, side=32, dtype="float32", scale=Scale.REAL),
    Work("qwen", "encode", 0.3),
    Work("qwen", "decode", 0.2, is_coder=True),
    Work("wan21", "decode", 0.2, side=32, frames=3, scale=Scale.REAL),
    Work("wan21", "encode", 0.3, side=32, frames=2, dtype="float16", scale=Scale.REAL),
)


@cache
def plain(scene: Scene) -> Reading:
    """The meters of untiled."""
    return counted(scene, untiled)


def held(reading: Reading) -> int:
    """Bytes at the peak beyond what was there before, with the workspaces of kernels."""
    return reading.peak_with_workspaces - (reading.live_before or 0)


def planned(hook: VAEHook, job: Any, way: Any, x: Any) -> float:
    """Bytes that a call was planned to take, its input counted."""
    plan = way.run.args[0]
    if isinstance(plan, BandPlan):
        return plan.peak
    planner = Planner(job.program, job.shapes, plan, hook.parts(job.program))
    return planner.peak() * x.element_size()


@pytest.mark.parametrize("work", WORKS, ids=str)
def test_planned_and_measured_peaks_agree(work, monkeypatch):
    budget = int(work.share * held(plain(work.scene)))
    plans: list[float] = []
    run = VAEHook.items

    def items(hook, job, way, x):
        plans.append(planned(hook, job, way, x))
        return run(hook, job, way, x)

    monkeypatch.setattr(VAEHook, "items", items)

    @contextmanager
    def hooked(seen: View) -> Iterator[Run]:
        if not work.is_coder:
            with tiled(seen.vae, max_vram=budget, **work.settings):
                yield seen.run
            return
        net = seen.decoder
        net.original_forward = net.forward
        net.forward = VAEHook(net, None, True, max_vram=budget)
        yield seen.run

    reading = counted(work.scene, hooked)
    assert reading.live_before is not None
    measured = held(reading)
    assert plans
    assert measured <= budget
    assert measured == pytest.approx(max(plans), rel=NEAR)
