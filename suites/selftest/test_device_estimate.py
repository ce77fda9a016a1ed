"""Times estimated from what was counted: causes, overlap, and runs measured on an H200."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode

from vae_compat.device import Reading, open_device
from vae_compat.device.estimate import Estimate, estimate, gpus
from vae_compat.errors import UsageError
from vae_compat.families import FAMILIES
from vae_compat.fixtures.vaes.building import unseeded

MEASURED_SDXL_1024 = 0.0866
"""Seconds of an untiled bfloat16 decode on an H200 (torch 2.11)."""


def counted(work: Callable[[], object]) -> Reading:
    """A run on tensors without data."""
    with torch.no_grad(), FakeTensorMode(), open_device("sim") as device, device.metered() as read:
        work()
    return read


def timed(work: Callable[[], object], gpu: str = "h200") -> Estimate:
    return estimate(counted(work), gpu)


def plane(side: int = 2048) -> torch.Tensor:
    return torch.empty(1, 128, side, side, device="cuda", dtype=torch.bfloat16)


def test_a_kernel_takes_the_longer_of_its_bytes_and_its_flops() -> None:
    moving = timed(lambda: plane().add_(1))
    assert moving.seconds == pytest.approx(2 * 2**30 / 4.3e12, rel=0.1)
    assert moving.first_cause == "memory"
    big = timed(
        lambda: torch.empty(8192, 8192, device="cuda", dtype=torch.bfloat16).mm(
            torch.empty(8192, 8192, device="cuda", dtype=torch.bfloat16)
        )
    )
    assert big.seconds == pytest.approx(2 * 8192**3 / 790e12, rel=0.1)
    assert big.first_cause == "matmul"


def test_a_group_norm_waits_for_few_multiprocessors() -> None:
    few = timed(lambda: F.group_norm(plane(), 32))
    fewer = timed(lambda: F.group_norm(plane(), 4))
    assert few.first_cause == fewer.first_cause == "statistics"
    assert fewer.seconds > 6 * few.seconds
    assert few.seconds > 5 * timed(lambda: torch.batch_norm_stats(plane(), 0.0)).seconds


def test_small_kernels_take_the_time_of_the_host() -> None:
    def many() -> None:
        x = torch.empty(8, device="cuda")
        for _ in range(1000):
            x.add_(1)

    taken = timed(many)
    assert taken.first_cause == "launching"
    assert 4e-3 < taken.seconds < 20e-3


def test_copies_of_pinned_memory_run_beside_kernels_and_others_do_not() -> None:
    def overlapped() -> None:
        x, host = plane(1024), torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
        side = torch.cuda.Stream()
        there = torch.empty(2**28, dtype=torch.uint8, device="cuda")
        with torch.cuda.stream(side):
            there.copy_(host, non_blocking=True)
        for _ in range(50):
            x.add_(1)
        torch.cuda.current_stream().wait_stream(side)

    def blocking() -> None:
        x, host = plane(1024), torch.empty(2**28, dtype=torch.uint8)
        there = torch.empty(2**28, dtype=torch.uint8, device="cuda")
        there.copy_(host)
        for _ in range(50):
            x.add_(1)

    kernels = 50 * 2 * 2**28 / 4.3e12
    fast, slow = timed(overlapped), timed(blocking)
    assert fast.seconds == pytest.approx(max(kernels, 2**28 / 55.4e9), rel=0.15)
    assert slow.seconds == pytest.approx(kernels + 2**28 / 22.2e9, rel=0.15)
    assert slow.first_cause == "pageable copies"


CAUSES: dict[str, Callable[[], object]] = {
    "pageable copies": lambda: [torch.empty(2**26).to("cuda") for _ in range(3)],
    "fresh host memory": lambda: [plane(1024)[..., :512].cpu() for _ in range(3)],
    "gc.collect": lambda: [gc.collect(0) for _ in range(3)],
    "empty_cache": lambda: [torch.cuda.empty_cache() for _ in range(3)],
    "waits": lambda: [torch.cuda.synchronize() for _ in range(9)],
}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_first_cause_is_named(cause: str) -> None:
    taken = timed(CAUSES[cause])
    assert taken.first_cause == cause
    assert sum(taken.shares.values()) == pytest.approx(1)
    assert list(taken.shares.values()) == sorted(taken.shares.values(), reverse=True)


def test_real_numbers_and_shapes_alone_take_the_same_time() -> None:
    def work() -> None:
        x = torch.zeros(1, 8, 16, 16, device="cuda", dtype=torch.bfloat16)
        y = F.conv2d(x, torch.zeros(8, 8, 3, 3, device="cuda", dtype=torch.bfloat16))
        F.group_norm(y, 2).cpu()

    with open_device("sim") as device, device.metered() as reading:
        work()
    for gpu in gpus():
        assert estimate(reading, gpu) == timed(work, gpu)


def test_slower_gpus_are_slower() -> None:
    reading = counted(lambda: F.silu(plane()))
    times = [estimate(reading, gpu).seconds for gpu in ("h200", "h100", "rtx4090", "rtx3060")]
    assert times == sorted(times)
    assert times[0] < times[-1] / 5


def test_an_unknown_gpu_and_a_device_without_a_trace_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'tpu'.*h200"):
        estimate(counted(lambda: None), "tpu")
    with pytest.raises(UsageError, match="only the device 'sim'"):
        estimate(Reading())


def test_an_untiled_decode_takes_about_what_was_measured() -> None:
    facts = FAMILIES["sdxl"]
    with torch.no_grad(), FakeTensorMode():
        vae = unseeded(facts, facts.real, torch.bfloat16)
        with open_device("sim") as device:
            device.place(vae)
            z = device.put(torch.zeros(1, 4, 128, 128, dtype=torch.bfloat16))
            with device.metered() as reading:
                vae.decode(z)
            device.withdraw(vae)
    taken = estimate(reading)
    assert MEASURED_SDXL_1024 / 1.6 < taken.seconds < MEASURED_SDXL_1024 * 1.6
    assert taken.first_cause == "statistics"
    assert 0.35 < taken.shares["statistics"] < 0.65  # measured: 49 of 85 ms
