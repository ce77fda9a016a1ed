"""The simulated accelerator accounts like an allocator."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_compat.device import Convolution, Device, UsageError, available_devices, open_device

KIB = 1024


@pytest.fixture
def device() -> Iterator[Device]:
    with open_device("sim") as opened:
        yield opened


def live(device: Device) -> int:
    with device.metered() as reading:
        pass
    assert reading.live_before is not None
    return reading.live_before


def test_a_tensor_is_live_until_the_last_reference_dies(device: Device) -> None:
    x = torch.zeros(4 * KIB, device="cuda")
    assert live(device) == 16 * KIB
    y = x
    del x
    assert live(device) == 16 * KIB
    del y
    assert live(device) == 0


def test_sizes_are_rounded_up_to_512_bytes(device: Device) -> None:
    x = torch.zeros(1, device="cuda")
    assert live(device) == 512
    y = torch.zeros(129, device="cuda")
    assert live(device) == 512 + 1024
    z = torch.zeros(0, device="cuda")
    assert live(device) == 512 + 1024
    assert len({id(x), id(y), id(z)}) == 3


def test_views_share_one_storage_which_outlives_the_base(device: Device) -> None:
    x = torch.zeros(4, KIB, device="cuda")
    views = [
        x[1:2, ::2],
        x.view(-1),
        x.permute(1, 0),
        *x.chunk(2),
        x.detach(),
        x.reshape(2, -1),
        x.expand(3, 4, KIB),
        x.flatten(),
        *x.unbind(0),
        torch.as_tensor(x),
        x.data,
        x.contiguous(),
        x.to("cuda"),
        x.T,
        x[None, ..., 0],
        torch.ops.aten._unsafe_view(x, [-1]),
        torch.unsafe_chunk(x, 2)[0],
        torch.ops.aten.lift(x),
    ]
    assert live(device) == 16 * KIB
    del x
    assert live(device) == 16 * KIB
    del views
    assert live(device) == 0


def test_nothing_waits_for_the_garbage_collector(device: Device) -> None:
    gc.disable()
    try:
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU()).to("cuda")
        x = torch.rand(1, 3, 16, 16, device="cuda")
        y = F.interpolate(net(x), scale_factor=2.0).mean((2, 3))
        assert y.shape == (1, 8)
        del x, y, net
        assert live(device) == 0
    finally:
        gc.enable()


def test_the_peak_counts_what_is_alive_at_once(device: Device) -> None:
    x = torch.zeros(KIB, device="cuda")  # 4 KiB
    with device.metered() as reading:
        y = x + 1  # 8
        z = y * 2  # 12
        del y  # 8
        z = z + x  # 12 at once, 8 after
        z.mul_(2).add_(x)  # nothing new
    assert reading.live_before == 4 * KIB
    assert reading.peak_bytes == 12 * KIB
    assert reading.live_after == 8 * KIB
    assert reading.allocations == 3


def test_temporaries_in_one_expression_count(device: Device) -> None:
    x = torch.zeros(KIB, device="cuda")
    with device.metered() as reading:
        x = (x + 1) * (x + 2)
    assert reading.peak_bytes == 16 * KIB
    assert reading.live_after == 4 * KIB


WRITES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "add_": lambda x, o: x.add_(o),
    "out": lambda x, o: torch.add(x, o, out=x),
    "setitem": lambda x, o: x.__setitem__(slice(0, 4), o[:4]),
    "copy_": lambda x, o: x.copy_(o),
    "view": lambda x, _: x[:4].mul_(2),
    "broadcast": lambda x, o: x.__iadd__(o[:1]),
    "silu": lambda x, _: F.silu(x, inplace=True),
    "clamp_": lambda x, _: x.clamp_(0, 1),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_writing_in_place_allocates_nothing(
    device: Device, write: Callable[[Tensor, Tensor], object]
) -> None:
    x, other = torch.ones(8, 8, device="cuda"), torch.ones(8, 8, device="cuda")
    with device.metered() as reading:
        write(x, other)
    assert reading.allocations == 0
    assert reading.peak_bytes == reading.live_before


def test_out_that_grows_is_accounted(device: Device) -> None:
    x = torch.ones(KIB, device="cuda")
    out = torch.empty(0, device="cuda")
    result = torch.add(x, x, out=out)
    assert result is out
    assert out.shape == (KIB,)
    assert out.sum().item() == 2 * KIB
    assert live(device) == 8 * KIB


def test_transfers_are_counted_in_bytes_and_direction(device: Device) -> None:
    host = torch.rand(10, 10)
    with device.metered() as reading:
        x = host.to("cuda")
    assert (reading.host_to_device, reading.device_to_host) == (400, 0)
    with device.metered() as reading:
        back = x.cpu()
    assert (reading.host_to_device, reading.device_to_host) == (0, 400)
    assert torch.equal(back, host)
    with device.metered() as reading:
        x[:5].copy_(host[:5])
        host[:2] = x[:2]
        x[0] = host[0]
    assert (reading.host_to_device, reading.device_to_host) == (200 + 40, 80)
    rows = torch.tensor([0, 2])  # 16 bytes
    with device.metered() as reading:
        x[rows] = x[rows]
        x.index_put_((rows,), torch.ops.aten.index(x, [rows]))
    assert (reading.host_to_device, reading.device_to_host) == (64, 0)
    with device.metered() as reading:
        assert x.sum().item() == pytest.approx(host.sum().item(), rel=1e-5)
        assert not x.isinf().any()
    assert (reading.host_to_device, reading.device_to_host) == (0, 4 + 1)


def test_a_transfer_is_converted_on_the_host(device: Device) -> None:
    host = torch.rand(10, 10)
    with device.metered() as reading:
        x = host.to("cuda", torch.float16)
    assert reading.host_to_device == 200
    with device.metered() as reading:
        back = x.to("cpu", torch.float32)
    assert reading.device_to_host == 200
    assert torch.equal(back, host.half().float())


def test_a_strided_piece_passes_through_a_temporary_on_its_way_to_the_host(device: Device) -> None:
    x = torch.rand(64, 64, device="cuda")
    with device.metered() as whole:
        x.cpu()
    with device.metered() as piece:
        x[:, :32].cpu()
    assert whole.peak_bytes == whole.live_before
    assert piece.peak_bytes is not None
    assert piece.live_before is not None
    assert piece.peak_bytes - piece.live_before == 64 * 32 * 4
    assert piece.live_after == piece.live_before


def test_put_and_host_are_copies_that_no_counter_of_transfers_sees(device: Device) -> None:
    host = torch.rand(1, 3, 8, 8).to(memory_format=torch.channels_last)
    with device.metered() as reading:
        x = device.put(host)
        x.add_(1)
        back = device.host(x)
    assert (reading.host_to_device, reading.device_to_host) == (0, 0)
    assert reading.live_after == 1024  # 768, rounded up
    assert x.device == torch.device("cuda:0")
    assert type(back) is torch.Tensor
    assert torch.equal(back, host + 1)
    assert back.is_contiguous(memory_format=torch.channels_last)


def test_code_under_test_that_resets_the_peak_does_not_disturb_the_reading(device: Device) -> None:
    with device.metered() as reading:
        torch.zeros(16 * KIB, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        assert torch.cuda.max_memory_allocated() == 0
        torch.zeros(KIB, device="cuda")
        assert torch.cuda.max_memory_allocated() == 4 * KIB
    assert reading.peak_bytes == 64 * KIB
    assert torch.cuda.max_memory_allocated() == 4 * KIB


def test_readings_can_be_nested(device: Device) -> None:
    with device.metered() as outer:
        torch.zeros(16 * KIB, device="cuda")
        with device.metered() as inner:
            torch.zeros(KIB, device="cuda").cpu()
    assert (inner.peak_bytes, inner.allocations, inner.device_to_host) == (4 * KIB, 1, 4 * KIB)
    assert (outer.peak_bytes, outer.allocations, outer.device_to_host) == (64 * KIB, 2, 4 * KIB)


def test_a_reading_is_complete_after_an_exception(device: Device) -> None:
    def fail() -> None:
        torch.zeros(KIB, device="cuda")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), device.metered() as reading:
        fail()
    assert reading.peak_bytes == 4 * KIB
    assert reading.live_after == 0
    assert reading.flops == 0


def test_capacity_refuses_in_the_words_of_the_allocator() -> None:
    with open_device("sim", capacity=2 * 2**20) as device:
        x = torch.zeros(2**18, device="cuda")
        message = r"CUDA out of memory. Tried to allocate 2\.00 MiB\. GPU 0 has a total capacity of"
        with pytest.raises(torch.OutOfMemoryError, match=message):
            torch.zeros(2**19, device="cuda")
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.cat([x, x])
        assert torch.cuda.memory_stats()["num_ooms"] == 2
        assert live(device) == 2**20
        y = x + 1  # fits exactly
        assert live(device) == 2 * 2**20
        del x, y
        assert live(device) == 0


def test_tensors_of_a_failed_attempt_live_as_long_as_the_exception() -> None:
    with open_device("sim", capacity=4 * 2**20) as device:

        def attempt() -> None:
            kept = torch.zeros(2**19, device="cuda")
            torch.cat([kept, kept])

        try:
            attempt()
        except torch.OutOfMemoryError:
            inside = live(device)
        assert inside == 2 * 2**20
        assert live(device) == 0


def test_convolutions_are_counted_by_weight_and_plane(device: Device) -> None:
    x = device.put(torch.rand(1, 3, 8, 6))
    v = device.put(torch.rand(1, 3, 4, 8, 6))
    w2, w3 = device.put(torch.rand(5, 3, 3, 3)), device.put(torch.rand(5, 3, 3, 3, 3))
    with device.metered() as reading:
        F.conv2d(x, w2, padding=1)
        F.conv2d(x, w2, padding="same")
        F.conv2d(x, w2, stride=2)
        F.conv3d(v, w3)
        F.conv2d(torch.rand(1, 3, 8, 6), torch.rand(5, 3, 3, 3))  # on the host: not the device's
    assert reading.convolutions == {
        Convolution((5, 3, 3, 3), (8, 6)): 2,
        Convolution((5, 3, 3, 3), (3, 2)): 1,
        Convolution((5, 3, 3, 3, 3), (6, 4)): 1,
    }


def test_two_runs_read_the_same() -> None:
    def run() -> object:
        torch.manual_seed(3)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 3, 3))
        with open_device("sim") as device:
            device.place(net)
            x = device.put(torch.rand(2, 3, 19, 23))
            with device.metered() as reading:
                torch.cat([net(half).cpu() for half in x.chunk(2)])
        return reading

    assert run() == run()


def test_devices_are_independent() -> None:
    with open_device("sim") as first:
        kept = torch.zeros(KIB, device="cuda")
        assert live(first) == 4 * KIB
    with open_device("sim") as second:
        assert live(second) == 0
        y = torch.zeros(2 * KIB, device="cuda")
        assert live(second) == 8 * KIB
        del kept
        assert live(second) == 8 * KIB
        del y
        assert live(second) == 0


def test_names_and_capacities_that_make_no_sense_are_refused() -> None:
    assert available_devices()[0] == "sim"
    with pytest.raises(UsageError, match=r"unknown device 'tpu'.*sim, cuda, cpu"):
        open_device("tpu")
    with pytest.raises(UsageError, match="capacity of 0 bytes"):
        open_device("sim", capacity=0)
    with pytest.raises(UsageError, match="'cpu' has no capacity"):
        open_device("cpu", capacity=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none() -> None:
    assert "cuda" not in available_devices()
    with pytest.raises(UsageError, match="no CUDA device"):
        open_device("cuda")
