"""What the simulated accelerator costs, on the real SD decoder at 256 pixels."""

from __future__ import annotations

import time

import pytest
import torch

from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale
from vae_compat.device import open_device
from vae_compat.fixtures.inputs import make_input
from vae_compat.fixtures.layouts import view
from vae_compat.fixtures.vaes import build

CASE = Case("sd", Scale.REAL, Layout.DIFFUSERS, Direction.DECODE, Mode.EXACT, 32, 32, 8)


@pytest.mark.benchmark(group="accelerator")
def test_real_sd_decoder_on_the_simulated_accelerator(benchmark) -> None:
    vae = view(build("sd", "real"), CASE.layout, CASE.facts)
    x = make_input(CASE)

    def bare() -> float:
        start = time.process_time()
        vae.run(CASE.direction, x)
        return time.process_time() - start

    with torch.no_grad():
        bare()  # warms the allocator and the convolution library
        seconds = min(bare() for _ in range(3))
        with open_device("sim") as device:
            device.place(vae.vae)
            given = device.put(x)
            spent = []

            def simulated() -> None:
                start = time.process_time()
                with device.metered():
                    vae.run(CASE.direction, given)
                spent.append(time.process_time() - start)

            benchmark.pedantic(simulated, rounds=3, warmup_rounds=1)
            device.withdraw(vae.vae)
    benchmark.extra_info |= {"cpu bare": seconds, "cpu ratio": min(spent) / seconds}
