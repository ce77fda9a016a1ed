"""The plain CPU and a CUDA device count as the simulated accelerator does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vae_compat.device import Device, Reading, UsageError, open_device
from vae_compat.device.meter import Convolution, largest_plane

MODES = pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference"]
)
Mode = Callable[[], AbstractContextManager[None]]


class Net(nn.Module):
    """Convolutions of every kind, a product, attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 8, 3, stride=2, groups=4)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.time = nn.Conv3d(8, 8, 3, padding=1)
        self.linear = nn.Linear(8, 8)
        self.norm = nn.GroupNorm(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.up(self.down(self.first(x))))
        x = self.time(x[:, :, None])[:, :, 0]
        rows = self.linear(x.flatten(2).transpose(1, 2))
        rows = F.scaled_dot_product_attention(rows, rows, rows) @ rows.transpose(1, 2)
        return torch.einsum("bij,bjk->bik", rows, rows) + torch.baddbmm(rows, rows, rows)


@contextmanager
def opened(name: str) -> Iterator[Device]:
    """``stand-in`` is the CUDA device reading the simulated accelerator in place of a real one."""
    if name != "stand-in":
        with open_device(name) as device:
            yield device
        return
    with open_device("sim"), open_device("cuda") as device:
        yield device


def read(name: str, mode: Mode) -> tuple[Reading, Tensor]:
    net, x = Net(), torch.rand(2, 3, 12, 9)
    with opened(name) as device:
        device.place(net)
        there = device.put(x)
        with mode(), device.metered() as reading:
            y = net(there)
        result = device.host(y)
        device.withdraw(net)
    return reading, result


@MODES
@pytest.mark.parametrize("name", ["sim", "cpu", "stand-in"])
def test_flops_are_those_of_torchs_own_counter(name: str, mode: Mode) -> None:
    net, x = Net(), torch.rand(2, 3, 12, 9)
    with mode():
        net(x)
        with FlopCounterMode(display=False) as counter:
            net(x)
    reading, _ = read(name, mode)
    assert reading.flops == counter.get_total_flops() > 0


@MODES
def test_every_device_sees_the_same_convolutions(mode: Mode) -> None:
    simulated, _ = read("sim", mode)
    assert sum(simulated.convolutions.values()) == 4
    for name in ("cpu", "stand-in"):
        assert read(name, mode)[0].convolutions == simulated.convolutions


@MODES
def test_the_cuda_device_reads_the_allocator(mode: Mode) -> None:
    simulated, expected = read("sim", mode)
    stand_in, got = read("stand-in", mode)
    for name in (
        *("peak_bytes", "live_before", "live_after", "host_to_device", "device_to_host"),
        *("allocations", "flops", "convolutions"),
    ):
        assert getattr(stand_in, name) == getattr(simulated, name), name
    assert torch.equal(got, expected)


def test_the_cuda_device_counts_transfers_as_the_simulated_one_does() -> None:
    def transfers(name: str) -> tuple[int | None, int | None]:
        with opened(name) as device:
            x = device.put(torch.rand(8, 8))
            with device.metered() as reading:
                y = torch.rand(8, 8).to("cuda", torch.float16) + x.half()
                y.to("cpu", torch.float32)
                x[:, :3].copy_(torch.rand(8, 3))
                host = torch.zeros(8, 3)
                host.copy_(x[:, :3])
                x.sum().item()
        return reading.host_to_device, reading.device_to_host

    assert transfers("stand-in") == transfers("sim") == (128 + 96, 128 + 96 + 4)


@pytest.mark.parametrize("name", ["sim", "stand-in"])
def test_a_reading_has_the_peak_of_its_own_stretch(name: str) -> None:
    with opened(name) as device:
        torch.zeros(2**16, device="cuda")
        with device.metered() as reading:
            torch.zeros(2**12, device="cuda")
            torch.cuda.reset_peak_memory_stats()
            assert torch.cuda.max_memory_allocated() == 0
    assert reading.peak_bytes == 4 * 2**12


def test_the_cuda_device_gives_the_same_parameters_back() -> None:
    net = Net()
    before = dict(net.named_parameters())
    with opened("stand-in") as device:
        device.place(net)
        assert all(p.is_cuda for p in net.parameters())
        device.withdraw(net)
    assert all(p is before[name] for name, p in net.named_parameters())
    assert not any(p.is_cuda for p in net.parameters())


def test_a_cuda_device_cannot_have_more_memory_than_it_has() -> None:
    with (
        open_device("sim", capacity=2**20),
        pytest.raises(UsageError, match="more than the 1048576"),
    ):
        open_device("cuda", capacity=2**21)


def test_the_cpu_measures_no_memory() -> None:
    reading, _ = read("cpu", torch.no_grad)
    assert reading.peak_bytes is None
    assert reading.live_before is None
    assert reading.host_to_device is None
    assert reading.allocations is None


def test_a_reading_of_the_cpu_is_complete_after_an_exception() -> None:
    def fail() -> None:
        Net()(torch.rand(1, 3, 8, 8))
        raise ZeroDivisionError

    with (
        pytest.raises(ZeroDivisionError),
        open_device("cpu") as device,
        torch.no_grad(),
        device.metered() as reading,
    ):
        fail()
    assert sum(reading.convolutions.values()) == 4
    assert reading.flops


def test_the_largest_plane_is_the_one_with_the_largest_area():
    weight = (8, 8, 3, 3)
    ran = [Convolution(weight, plane) for plane in ((2, 50), (11, 10), (1, 99))]
    assert largest_plane(ran) == (11, 10)
    assert largest_plane([]) == (0, 0)
