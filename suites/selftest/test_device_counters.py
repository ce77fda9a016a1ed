"""What a GPU pays for is counted: kernels, bytes, copies by kind, waits, memory of the host."""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vae_compat.device import Device, Reading, open_device
from vae_compat.device.meter import Copies, HostMemory, Waits
from vae_compat.device.trace import HostAllocation

MIB = 2**20


@pytest.fixture
def device() -> Iterator[Device]:
    with open_device("sim") as opened:
        yield opened


def copies(reading: Reading) -> list[tuple[str, str, int, int]]:
    """Direction, words, count and bytes of each kind."""
    return [
        (
            "in" if c.direction == "host_to_device" else "out",
            " ".join(
                word
                for word, holds in (
                    ("pinned", c.pinned),
                    ("blocking", c.blocking),
                    ("strided", c.strided),
                )
                if holds
            ),
            c.count,
            c.nbytes,
        )
        for c in reading.copies
    ]


KERNELS: dict[str, tuple[Callable[[Tensor], object], tuple[int, int, int]]] = {
    # kernels, bytes read, bytes written; x has 4 KiB
    "add": (lambda x: x + x, (1, 8192, 4096)),
    "in place": (lambda x: x.mul_(2), (1, 4096, 4096)),
    "fill": (lambda x: x.fill_(2), (1, 0, 4096)),
    "views": (lambda x: x.view(-1)[3:].reshape(-1, 1).squeeze(), (0, 0, 0)),
    "empty": (lambda x: torch.empty_like(x), (0, 0, 0)),
    "zeros": (lambda x: torch.zeros_like(x), (1, 0, 4096)),
    "copy": (lambda x: x.clone(), (1, 4096, 4096)),
    "copy within": (lambda x: x[:2].copy_(x[2:4]), (1, 256, 256)),
    "convert": (lambda x: x.to(torch.float16), (1, 4096, 2048)),
    "cat": (lambda x: torch.cat([x, x]), (1, 8192, 8192)),
    "assign": (lambda x: x.__setitem__(0, x[1]), (1, 128, 128)),
    "assign a number": (lambda x: x.__setitem__(0, 1.0), (1, 0, 128)),
    "mean": (lambda x: x.mean(), (1, 4096, 4)),
    "matmul": (lambda x: x @ x, (1, 8192, 4096)),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_and_their_bytes(device: Device, name: str) -> None:
    compute, expected = KERNELS[name]
    x = torch.ones(32, 32, device="cuda")
    with device.metered() as reading:
        compute(x)
    assert (reading.kernels, reading.bytes_read, reading.bytes_written) == expected


def test_a_convolution_in_half_changes_layouts_and_adds_its_bias(device: Device) -> None:
    x = torch.ones(1, 16, 8, 8, device="cuda", dtype=torch.bfloat16)  # 2 KiB
    w = torch.ones(16, 16, 3, 3, device="cuda", dtype=torch.bfloat16)
    with device.metered() as reading:
        F.conv2d(x, w, w[0, :, 0, 0].contiguous(), padding=1)
    assert reading.kernels == 1 + 4  # one for the contiguous bias
    assert reading.peak_bytes is not None
    assert reading.peak_with_workspaces == reading.peak_bytes + 2 * 2048
    last = torch.channels_last
    with device.metered() as reading:
        F.conv2d(x.contiguous(memory_format=last), w.contiguous(memory_format=last), padding=1)
    assert reading.kernels == 2 + 1
    assert reading.peak_with_workspaces == reading.peak_bytes


def test_a_group_norm_is_three_kernels(device: Device) -> None:
    x = torch.ones(1, 16, 8, 8, device="cuda")
    with device.metered() as reading:
        F.group_norm(x, 4)
    assert reading.kernels == 3


def test_copies_are_told_by_direction_memory_waiting_and_layout(device: Device) -> None:
    host, pinned = torch.ones(64, 64), torch.ones(64, 64).pin_memory()
    x = torch.ones(64, 64, device="cuda")
    with device.metered() as reading:
        host.to("cuda")
        pinned.to("cuda")
        pinned.to("cuda", non_blocking=True)
        x.copy_(pinned, non_blocking=True)
        x[:, :32].copy_(pinned[:, :32], non_blocking=True)
        x.cpu()
        x[:, :32].cpu()
        host[:, :32].copy_(x[:, :32])
        pinned.copy_(x, non_blocking=True)
        torch.cuda.synchronize()
    assert (
        copies(reading)
        == [
            ("out", "", 0, 0),
            ("out", "blocking", 1, 16384),
            ("out", "blocking strided", 2, 16384),
            ("out", "pinned", 1, 16384),
            ("in", "strided", 1, 8192),  # packed in pageable memory first
            ("in", "blocking", 1, 16384),
            ("in", "pinned", 2, 32768),
            ("in", "pinned blocking", 1, 16384),
        ][1:]
    )
    assert reading.waits == Waits(copy=5, synchronize=1)
    assert reading.races == ()


def test_a_copy_to_the_host_that_is_not_waited_for_lands_in_pinned_memory(device: Device) -> None:
    x = torch.ones(64, device="cuda")
    with device.metered() as reading:
        y = x.to("cpu", non_blocking=True)
        torch.cuda.synchronize()
        assert y.is_pinned()
        assert y[3:].is_pinned()
    assert copies(reading) == [("out", "pinned", 1, 256)]


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (lambda x: x.sum().item(), Waits(read=1)),
        (lambda x: 1 if x[0, 0] > 0 else 0, Waits(read=1)),
        (lambda x: float(x.max()), Waits(read=1)),
        (lambda x: torch.equal(x, x), Waits(read=1)),
        (lambda x: x.cpu(), Waits(copy=1)),
        (lambda x: x.tolist(), Waits(copy=1)),
        (lambda x: torch.tensor([1.0], device=x.device), Waits(copy=1)),
        (lambda x: x.nonzero(), Waits(nonzero=1)),
        (lambda x: x[x > 0], Waits(nonzero=1)),
        (lambda x: x.__setitem__(x > 0, 0.0), Waits(nonzero=1)),
        (lambda _: torch.cuda.synchronize(), Waits(synchronize=1)),
        (lambda _: torch.cuda.current_stream().synchronize(), Waits(synchronize=1)),
        (lambda _: torch.cuda.current_stream().record_event().synchronize(), Waits(synchronize=1)),
        (lambda x: x + x, Waits()),
        (lambda x: x * torch.tensor(2.0), Waits()),
    ],
)
def test_the_host_waits(device: Device, wait: Callable[[Tensor], object], expected: Waits) -> None:
    x = torch.ones(4, 4, device="cuda")
    with device.metered() as reading:
        wait(x)
    assert reading.waits == expected


def test_collections_and_cleared_caches_are_counted(device: Device) -> None:
    with device.metered() as reading:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.empty_cache()
    assert (reading.collections, reading.cache_clears) == (1, 2)


def test_memory_of_the_host_is_counted_while_it_lives(device: Device) -> None:
    x = torch.ones(MIB // 4, device="cuda")
    before = torch.ones(MIB)
    with device.metered() as reading:
        planes = [x.cpu(), x.cpu()]
        planes[0].add_(planes[1])  # nothing new
        planes[0][3:]
        del planes
        kept = x.cpu()
        pinned = torch.empty(MIB, pin_memory=True)
        del pinned
    assert reading.host == HostMemory(2 * MIB, 4 * MIB, 4, 7 * MIB)
    del kept, before


def fresh(reading: Reading, *, shared: bool = False) -> list[int]:
    """Bytes of pages that were touched for the first time, in order."""
    assert reading.trace is not None
    touched = [kind for kind in reading.trace if isinstance(kind, HostAllocation)]
    return [kind.nbytes for kind in touched if kind.shared is shared]


def test_memory_of_the_host_that_was_freed_is_given_out_again_with_its_pages(
    device: Device,
) -> None:
    small, large = (torch.empty(mib * MIB // 4, device="cuda") for mib in (8, 40))
    with device.metered() as reading:
        for _ in range(3):
            small.cpu()
    assert fresh(reading) == [8 * MIB]
    with device.metered() as reading:
        kept = [small.cpu() for _ in range(2)]
    assert fresh(reading) == [8 * MIB]  # one of both has what the three before left
    with device.metered() as reading:
        for _ in range(3):
            large.cpu()
    assert fresh(reading) == 3 * [40 * MIB]  # mapped anew each time
    del kept


def test_the_driver_takes_faults_and_the_cores_of_the_host_share_them(device: Device) -> None:
    columns = 10 * MIB // 64
    x = torch.empty(64, columns, device="cuda")
    with device.metered() as reading:
        plane = torch.empty(64, 2 * columns)
        x.copy_(plane[:, :columns])  # packed by the cores, in memory of its own
        plane[:, :columns].copy_(x)  # unpacked by the cores, from where the driver put it
        x.cpu()
        torch.zeros_like(x, device="cpu").copy_(x)
        (torch.empty(64, columns) + 1).copy_(x)
    assert fresh(reading) == [40 * MIB, 40 * MIB]
    # What is packed, the half of the plane, zeros, a sum
    assert fresh(reading, shared=True) == 4 * [40 * MIB]


def test_counters_can_be_nested(device: Device) -> None:
    x = torch.ones(MIB // 4, device="cuda")
    with device.metered() as outer:
        first = x.cpu()
        with device.metered() as inner:
            second = x.cpu()
            x.add_(1)
        del first
    assert (inner.kernels, outer.kernels) == (1, 1)
    assert inner.host == HostMemory(MIB, 0, 1, MIB)
    assert outer.host == HostMemory(2 * MIB, 0, 2, 2 * MIB)
    assert inner.waits == Waits(copy=1)
    assert outer.waits == Waits(copy=2)
    del second


def test_a_reading_can_be_written_down(device: Device) -> None:
    x = torch.ones(4, device="cuda")
    with device.metered() as reading:
        x.add_(1).cpu()
    text = json.dumps(dataclasses.asdict(reading))
    assert '"kernels": 1' in text
    assert reading.copies == (Copies("device_to_host", False, True, False, 1, 16),)
    assert reading.trace is not None
    assert len(reading.trace) == 3  # kernel, memory, copy


def test_two_runs_count_the_same() -> None:
    def run() -> Reading:
        with open_device("sim") as device:
            x = device.put(torch.ones(1, 8, 16, 16))
            with device.metered() as reading:
                parts = [F.group_norm(part, 2).cpu() for part in x.chunk(2, -1)]
                torch.cat(parts, -1).to("cuda").sum().item()
        return reading

    assert run() == run()
