"""Bands of full rows: exact, within their budget, nothing left to chance between streams."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from vae_compat.device import Reading, open_device
from vae_compat.fixtures.vaes import build
from vae_compat.fixtures.vaes.precision import truth
from vae_compat.suites.selftest.test_tiled_vae_users import latent, picture, same, tiling
from vae_compat.tiled_vae import TilingError
from vae_compat.tiled_vae.statistics import Moments


@cache
def shared(family: str) -> nn.Module:
    return build(family, "mock")


def noise(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact).square().mean().sqrt())


@pytest.mark.parametrize("residency", ["host", "device", "auto"])
@pytest.mark.parametrize("is_decoder", [True, False])
@pytest.mark.parametrize(("family", "batch"), [("sd", 2), ("flux2", 1)])
def test_bands_are_exact(family, batch, is_decoder, residency):
    vae, exact = shared(family), truth(shared(family))
    x = latent(family, 9, 7, batch) if is_decoder else picture(61, 75).expand(batch, -1, -1, -1)
    net, true = (v.decoder if is_decoder else v.encoder for v in (vae, exact))
    bands: list[tuple[int, int]] = []
    with torch.no_grad():
        plain, right = net(x), true(x.double())
        settings = {"method": "bands", "residency": residency}
        with tiling(
            net,
            3 if is_decoder else 24,
            is_decoder,
            progress=lambda *at: bands.append(at),
            **settings,
        ) as hook:
            got = net(x)
    assert not hook.reasons
    assert bands == [(number + 1, len(bands)) for number in range(len(bands))]
    assert len(bands) > 60
    assert (got.shape, got.stride()) == (plain.shape, plain.stride())
    assert noise(got, right) <= 2 * noise(plain, right)


def decoded(budget: float | None, **settings: object) -> tuple[Tensor, Reading, int]:
    """A small picture on the simulated accelerator; ``budget`` as a share of the untiled peak."""
    vae, z = build("sd", "mock"), latent("sd", 6, 5)
    with open_device("sim") as device, torch.no_grad():
        net = vae.to(device.torch_device).decoder
        z = z.to(device.torch_device)
        with device.metered() as reading:
            plain = net(z)
        untiled = peak_of(reading)
        if budget is not None:
            settings["max_vram"] = int(budget * untiled)
        with tiling(net, None, **settings) as hook, device.metered() as reading:
            got = net(z)
        assert not hook.reasons
        assert same(got.cpu(), plain.cpu())
    return got, reading, untiled


def peak_of(reading: Reading) -> int:
    assert reading.peak_bytes is not None
    assert reading.live_before is not None
    return reading.peak_bytes - reading.live_before


def test_with_memory_to_spare_nothing_leaves_the_device_and_the_host_never_waits():
    _, reading, untiled = decoded(None, residency="auto")
    assert sum(copies.nbytes for copies in reading.copies) == 0
    assert reading.waits is not None
    assert reading.waits.total == 0
    assert peak_of(reading) < untiled


def test_planes_that_do_not_fit_travel_pinned_beside_the_computing_and_in_order():
    _, reading, untiled = decoded(0.4)
    assert peak_of(reading) <= 0.4 * untiled
    assert sum(copies.nbytes for copies in reading.copies) > 0
    assert all(copies.pinned and not copies.blocking for copies in reading.copies if copies.nbytes)
    assert not any(copies.strided for copies in reading.copies if copies.nbytes)
    assert reading.waits is not None
    assert reading.waits.total == 0
    assert not reading.races


def test_too_small_a_budget_names_the_smallest_that_works():
    net, z = shared("sd").decoder, latent("sd", 6, 5)
    with (
        torch.no_grad(),
        tiling(net, None, method="bands", max_vram=1000),
        pytest.raises(TilingError, match=r"needs ([\d.]+) MiB even in bands of one row") as said,
    ):
        net(z)
    words = str(said.value).split("needs ")[1].split(" MiB")[0]
    with (
        torch.no_grad(),
        tiling(net, None, method="bands", max_vram=f"{float(words) + 0.1}MiB") as h,
    ):
        assert same(net(z), shared("sd").decoder(z))
    assert not h.reasons


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_statistics_by_channels_are_those_of_the_plane(dtype):
    plane = torch.randn(1, 12, 9, 7, dtype=torch.float64) * 3 + 100
    plane[:, :, 4:] += 7
    plane = plane.to(dtype)
    moments = Moments(4)
    for rows in (slice(0, 4), slice(4, 8), slice(8, 9)):
        moments.add(plane[:, :, rows].contiguous(memory_format=torch.channels_last))
    assert moments.channels
    mean, variance = moments.summary()
    groups = plane.double().reshape(1, 4, -1)
    close = {"rtol": 1e-5, "atol": 0} if dtype != torch.float64 else {}
    torch.testing.assert_close(mean, groups.mean(-1), **close)
    torch.testing.assert_close(variance, groups.var(-1, correction=0), **close)


def test_statistics_of_bands_of_both_kinds_are_those_of_the_plane():
    plane = torch.randn(1, 12, 5, 1, dtype=torch.float64)
    moments = Moments(4)
    for rows in (slice(0, 1), slice(1, 3), slice(3, 5)):
        moments.add(plane[:, :, rows].contiguous(memory_format=torch.channels_last))
    assert moments.channels
    assert moments.parts
    mean, variance = moments.summary()
    groups = plane.reshape(1, 4, -1)
    torch.testing.assert_close(mean, groups.mean(-1))
    torch.testing.assert_close(variance, groups.var(-1, correction=0))
