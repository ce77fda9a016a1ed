"""What the simulated accelerator says against what a real GPU says.

Run where there is a CUDA device; the simulated one, which would hide it, answers from another
process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import diffusers
import pytest
import torch
from torch import Tensor

from vae_compat.device import Reading, open_device
from vae_compat.families import FAMILIES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

WORKSPACE = 32 * 2**20
"""Bytes that cuBLAS and cuDNN may take for themselves while an operation runs."""


def decode(name: str) -> Reading:
    """A mock SD decode of 32 x 32 latent pixels."""
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(**FAMILIES["sd"].mock).eval()
    return metered(name, vae, lambda x: vae.decode(x).sample, torch.randn(1, 4, 32, 32))


def elementwise(name: str) -> Reading:
    """Operations without scratch memory, on tensors below 1 MiB.

    The allocator hands these out to the 512 bytes; of larger ones it may give away up to 1 MiB
    too much, where it does not split a cached block.
    """

    def compute(x: Tensor) -> Tensor:
        y = torch.nn.functional.silu(x + 1)
        y = torch.cat([y, x], 1)[:, :5, 1:].contiguous()
        y.mul_(2)
        return (y * 2).to(torch.float16) + torch.zeros(1, device=x.device, dtype=torch.float16)

    return metered(name, torch.nn.Identity(), compute, torch.rand(1, 3, 101, 99))


def metered(
    name: str, module: torch.nn.Module, compute: Callable[[Tensor], Tensor], x: Tensor
) -> Reading:
    with open_device(name) as device, torch.no_grad():
        device.place(module)
        there = device.put(x)
        if name == "cuda":
            compute(there)  # what libraries allocate once is not the VAE's
        with device.metered() as reading:
            output = compute(there)
        del output
    return reading


def simulated(scene: str) -> dict[str, int]:
    """Peak and live bytes of a scene, from a process that sees no CUDA device."""
    code = (
        f"from {__name__} import {scene} as scene; r = scene('sim');"
        "print(r.peak_bytes, r.live_before, r.live_after, r.flops)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    names = ("peak", "before", "after", "flops")
    return dict(zip(names, map(int, done.stdout.split()), strict=True))


def test_elementwise_peaks_agree_to_the_byte() -> None:
    real, pretended = elementwise("cuda"), simulated("elementwise")
    assert real.peak_bytes is not None
    assert real.live_before is not None
    assert real.live_after is not None
    assert real.peak_bytes - real.live_before == pretended["peak"] - pretended["before"]
    assert real.live_after - real.live_before == pretended["after"] - pretended["before"]


def test_the_peak_of_a_decode_agrees_but_for_workspaces() -> None:
    with torch.backends.cudnn.flags(benchmark=False, allow_tf32=False):
        real, pretended = decode("cuda"), simulated("decode")
    assert real.peak_bytes is not None
    assert real.live_before is not None
    assert real.flops is not None
    # The formulas count fused attention on a GPU, and not that of the CPU.
    assert real.flops >= pretended["flops"]
    rise = real.peak_bytes - real.live_before
    expected = pretended["peak"] - pretended["before"]
    assert expected <= rise <= expected + WORKSPACE
