"""Every family computes the same bits on the simulated accelerator, and the same FLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vae_compat.device import Reading, open_device
from vae_compat.families import FAMILIES
from vae_compat.suites.selftest.quicker import Quicker

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Outcome:
    output: Tensor
    flops: int
    reading: Reading | None = None


@cache
def vae_of(family: str) -> Any:
    facts = FAMILIES[family]
    config = {k: list(v) if isinstance(v, tuple) else v for k, v in facts.mock.items()}
    torch.manual_seed(4)
    return getattr(diffusers, facts.model_class)(**config).eval()


def input_of(family: str, direction: str, tiled: bool) -> Tensor:
    """A latent of 12 x 9 (tiled) or 6 x 5 pixels, or the image it belongs to."""
    facts = FAMILIES[family]
    height, width = (12, 9) if tiled else (6, 5)
    generator = torch.Generator().manual_seed(9)
    if direction == "decode":
        frames = (1 if tiled else 2,) if facts.frame_axis else ()
        shape = (1, facts.latent_channels, *frames, height, width)
    else:
        frames = (1 if tiled else 5,) if facts.frame_axis else ()
        shape = (1, facts.image_channels, *frames, height * facts.ratio, width * facts.ratio)
    return torch.randn(shape, generator=generator)


def set_tiling(vae: Any, family: str, tiled: bool) -> None:
    if not tiled:
        vae.disable_tiling()
        return
    ratio = FAMILIES[family].ratio
    vae.enable_tiling()
    if FAMILIES[family].frame_axis:
        # To encode, diffusers takes the size of a tile in pixels of the patchified image.
        tile = 4 * ratio if family == "wan22" else 8 * ratio
        vae.tile_sample_min_height = vae.tile_sample_min_width = tile
        vae.tile_sample_stride_height = vae.tile_sample_stride_width = tile * 3 // 4
    else:
        vae.tile_latent_min_size, vae.tile_sample_min_size = 8, 8 * ratio


def run(vae: Any, direction: str, x: Tensor) -> Tensor:
    if direction == "decode":
        return vae.decode(x).sample  # type: ignore[no-any-return]
    return vae.encode(x).latent_dist.parameters  # type: ignore[no-any-return]


def on_cpu(vae: Any, direction: str, x: Tensor) -> Outcome:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = run(vae, direction, x)
    return Outcome(output, counter.get_total_flops())


def on_sim(vae: Any, direction: str, x: Tensor, inference: bool) -> Outcome:
    with open_device("sim") as device:
        device.place(vae)
        there = device.put(x)
        with torch.inference_mode(inference), device.metered() as reading:
            output = run(vae, direction, there)
        result = device.host(output)
    assert reading.flops is not None
    return Outcome(result, reading.flops, reading)


@pytest.mark.parametrize("tiled", [False, True], ids=["whole", "tiled"])
@pytest.mark.parametrize("direction", ["decode", "encode"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_bit_differs_from_the_plain_cpu(family: str, direction: str, tiled: bool) -> None:
    vae = vae_of(family)
    set_tiling(vae, family, tiled)
    x = input_of(family, direction, tiled)
    with Quicker():
        plain = on_cpu(vae, direction, x)
    # Inference mode takes another way through PyTorch's dispatcher; one of both is enough a case.
    simulated = on_sim(vae, direction, x, inference=tiled)
    assert torch.equal(simulated.output, plain.output)
    assert simulated.flops == plain.flops > 0
    reading = simulated.reading
    assert reading is not None
    assert reading.peak_bytes is not None
    assert reading.live_before is not None
    assert reading.peak_bytes > reading.live_before > 0
    assert (reading.host_to_device, reading.device_to_host) == (0, 0)
    largest = max(max(convolution.plane) for convolution in reading.convolutions)
    image = max(x.shape[-2:]) * (FAMILIES[family].ratio if direction == "decode" else 1)
    assert (largest < image // FAMILIES[family].patch) is tiled


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", ["sd", "qwen"])
def test_half_precision_errs_like_that_of_the_cpu_and_takes_half_the_memory(
    family: str, dtype: torch.dtype
) -> None:
    vae = vae_of(family)
    set_tiling(vae, family, tiled=False)
    x = input_of(family, "decode", tiled=False)
    single = on_sim(vae, "decode", x, inference=False)
    full = single.reading
    try:
        plain = on_cpu(vae.to(dtype), "decode", x.to(dtype))
        half = on_sim(vae, "decode", x.to(dtype), inference=False)
    finally:
        vae_of.cache_clear()
    assert half.output.dtype == dtype
    assert not torch.equal(half.output, single.output.to(dtype))
    assert error(half.output, single.output) <= 1.5 * error(plain.output, single.output)
    assert half.reading is not None
    assert full is not None
    assert full.peak_bytes is not None
    assert half.reading.peak_bytes is not None
    assert half.reading.peak_bytes < 0.6 * full.peak_bytes


def error(output: Tensor, truth: Tensor) -> float:
    return (output.float() - truth).square().mean().sqrt().item()


def test_two_runs_read_the_same_bytes() -> None:
    vae, x = vae_of("sd"), input_of("sd", "decode", tiled=True)
    set_tiling(vae, "sd", tiled=True)
    first, second = (on_sim(vae, "decode", x, inference=False) for _ in range(2))
    assert first.reading == second.reading
    assert torch.equal(first.output, second.output)
