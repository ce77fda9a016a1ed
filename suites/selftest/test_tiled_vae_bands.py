"""Bands of full rows: exact, within their budget, and nothing left to chance between streams."""

import copy
import math
from collections import OrderedDict
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from vae_compat.device import Reading, open_device
from vae_compat.families import FAMILIES
from vae_compat.fixtures.vaes import build
from vae_compat.fixtures.vaes.building import unseeded
from vae_compat.fixtures.vaes.precision import truth
from vae_compat.suites.selftest.coders import shared
from vae_compat.tiled_vae import TilingError, VAEHook, tiled
from vae_compat.tiled_vae.front_ends.translate import translate
from vae_compat.tiled_vae.planner import bandplan
from vae_compat.tiled_vae.planner.bandplan import BandPlan, Budget, even, planned
from vae_compat.tiled_vae.program.steps import Shape
from vae_compat.tiled_vae.runtime.caches import Caches
from vae_compat.tiled_vae.runtime.statistics import Moments

pytestmark = pytest.mark.slow


@cache
def exact(family: str) -> nn.Module:
    return truth(shared(family))


def given(family: str, is_decoder: bool, height: int, width: int, batch: int = 1) -> Tensor:
    facts = FAMILIES[family]
    channels, scale = (facts.latent_channels, 1) if is_decoder else (3, facts.ratio)
    generator = torch.Generator().manual_seed(height + width)
    return torch.randn((batch, channels, height * scale, width * scale), generator=generator)


def coder(vae: nn.Module, is_decoder: bool) -> nn.Module:
    return vae.decoder if is_decoder else vae.encoder


def noise(got: Tensor, right: Tensor) -> float:
    return float((got.double() - right).square().mean().sqrt())


@pytest.mark.parametrize("residency", ["host", "device"])
@pytest.mark.parametrize(("is_decoder", "batch"), [(True, 2), (False, 1)])
def test_bands_are_exact(is_decoder, batch, residency):
    x = given("sd", is_decoder, 7, 6, batch)
    net, true = (coder(each("sd"), is_decoder) for each in (shared, exact))
    tiles: list[int] = []
    hook = VAEHook(
        net,
        3 if is_decoder else 24,
        is_decoder,
        method="bands",
        residency=residency,
        progress=lambda done, _: tiles.append(done),
    )
    with torch.no_grad():
        plain, right, got = net(x), true(x.double()), hook(x)
    assert not hook.reasons
    assert len(tiles) > 30
    assert (got.shape, got.dtype) == (plain.shape, plain.dtype)
    assert noise(got, right) <= 2 * noise(plain, right)


def plan_of(net: nn.Module, side: int, tile: int | None, nbytes: float = math.inf) -> BandPlan:
    program = translate(net, is_decoder=True)
    shapes = program.shapes(Shape(4, None, side, side), Caches(None, 0, torch.device("cpu")).clock)
    return BandPlan(program, shapes, Budget(nbytes, 0, 2, tile))


def test_a_plane_that_is_computed_again_gives_the_same():
    net, x = shared("sd").decoder, given("sd", True, 6, 6)
    plan = plan_of(net, 6, 3)
    plan = replace(plan, recomputed=plan.growing())
    assert plan.recomputed
    hook = VAEHook(net, 3, True, method="bands")
    hook.band_plan = lambda *_: plan
    with torch.no_grad():
        plain, right, got = net(x), exact("sd").decoder(x.double()), hook(x)
    assert not hook.reasons
    assert noise(got, right) <= 2 * noise(plain, right)


def test_planes_that_are_written_over_what_they_are_computed_from_are_right():
    net, x = shared("sd").decoder, given("sd", True, 6, 6)
    plan = replace(plan_of(net, 6, None), area=3000)
    apart = replace(plan, known={("shifted", plan.recomputed): {}})
    assert plan.shifted
    numbers = [n for n, part in enumerate(plan.parts) if part.output in plan.shifted]
    assert all(plan.held(number) < apart.held(number) for number in numbers)
    assert all(len(plan.bands(part)) > 3 for part in plan.parts if part.output in plan.shifted)
    hook = VAEHook(net, 3, True, method="bands")
    hook.band_plan = lambda *_: plan
    with torch.no_grad():
        plain, right, got = net(x), exact("sd").decoder(x.double()), hook(x)
    assert not hook.reasons
    assert noise(got, right) <= 2 * noise(plain, right)


def test_what_a_budget_lacks_is_computed_again_before_it_is_sent_to_the_host():
    with FakeTensorMode():
        net = unseeded(FAMILIES["sdxl"], FAMILIES["sdxl"].real).decoder
    whole = planned(plan_of(net, 128, None), "auto")
    assert not whole.offloaded | whole.recomputed
    less = planned(plan_of(net, 128, None, 0.8 * whole.peak), "auto")
    assert less.recomputed
    assert not less.offloaded
    least = planned(plan_of(net, 128, None, 0.4 * whole.peak), "auto")
    assert least.offloaded
    assert 0.2 * whole.peak < least.peak <= 0.4 * whole.peak


def test_a_plan_is_worked_out_once_for_coders_that_are_built_alike(monkeypatch):
    tried: list[BandPlan] = []
    work_out = bandplan.worked_out
    monkeypatch.setattr(bandplan, "_choices", OrderedDict())
    monkeypatch.setattr(
        bandplan, "worked_out", lambda *given: tried.append(given[0]) or work_out(*given)
    )
    nets = shared("sd").decoder, copy.deepcopy(shared("sd").decoder)
    plans = [planned(plan_of(net, 6, 3), "auto") for net in nets]
    assert len(tried) == 1
    assert plans[1].program.steps[0].module is nets[1].conv_in
    assert (plans[0].area, plans[0].peak) == (plans[1].area, plans[1].peak)
    for other in (
        plan_of(nets[0], 6, 2),
        plan_of(nets[0], 7, 3),
        plan_of(nets[0], 6, 3, 2 * plans[0].peak),
    ):
        planned(other, "auto")
    planned(plan_of(nets[0], 6, 3), "host")
    assert len(tried) == 5


def on_sim(share: float | None, **settings: object) -> tuple[Reading, int]:
    """Counters for a small picture, and the untiled peak; ``share`` of that is the budget."""
    vae, z = build("sd", "mock"), given("sd", True, 8, 7)
    with open_device("sim") as device, torch.no_grad():
        device.place(vae)
        z = device.put(z)
        with device.metered() as reading:
            plain = vae.decoder(z)
        untiled = peak_of(reading)
        if share is not None:
            settings["max_vram"] = int(share * untiled)
        hook = VAEHook(vae.decoder, settings.pop("tile", 1), True, **settings)
        hook.tile_is_default = share is None
        with device.metered() as reading:
            got = hook(z)
        assert not hook.reasons
        assert noise(device.host(got), device.host(plain).double()) < 1e-5 * float(plain.std())
    return reading, untiled


def peak_of(reading: Reading) -> int:
    assert reading.peak_bytes is not None
    assert reading.live_before is not None
    return reading.peak_bytes - reading.live_before


def test_with_memory_to_spare_nothing_leaves_the_device_and_the_host_never_waits():
    reading, untiled = on_sim(None)
    assert not reading.copies
    assert reading.waits is not None
    assert reading.waits.total == 0
    assert peak_of(reading) < untiled


def test_planes_that_do_not_fit_travel_pinned_beside_the_computing_and_in_order():
    reading, untiled = on_sim(0.4)
    assert 0.3 * untiled < peak_of(reading) <= 0.4 * untiled
    assert reading.copies
    assert all(copies.pinned and not copies.blocking for copies in reading.copies)
    assert not any(copies.strided for copies in reading.copies)
    assert reading.waits is not None
    assert reading.waits.total == 0
    assert not reading.races


def test_too_small_a_budget_names_the_smallest_that_works():
    net, z = shared("sd").decoder, given("sd", True, 6, 5)
    with torch.no_grad():
        with pytest.raises(TilingError, match=r"needs ([\d.]+) MiB even in bands of") as said:
            VAEHook(net, None, True, method="bands", max_vram=1000)(z)
        words = str(said.value).split("needs ")[1].split(" MiB")[0]
        hook = VAEHook(net, None, True, method="bands", max_vram=f"{float(words) + 0.1}MiB")
        assert noise(hook(z), net(z).double()) < 1e-5
    assert not hook.reasons


def clip(family: str, frames: int, is_decoder: bool) -> Tensor:
    facts = FAMILIES[family]
    generator = torch.Generator().manual_seed(frames)
    if is_decoder:
        size = (1, facts.latent_channels, frames, 5, 4)
    else:
        size = (1, 3, 1 + (frames - 1) * facts.temporal_ratio, 3 * facts.ratio, 4 * facts.ratio)
    return torch.randn(size, generator=generator)


@pytest.mark.parametrize(
    ("family", "frames", "is_decoder"),
    [
        ("qwen", 1, True),
        ("wan21", 3, True),
        ("wan21", 3, False),
        ("wan22", 2, True),
        ("wan22", 2, False),
    ],
)
def test_clips_run_as_a_whole_are_exact(family, frames, is_decoder):
    vae, x, tiles = shared(family), clip(family, frames, is_decoder), list[int]()

    def run(vae: nn.Module, x: Tensor) -> Tensor:
        return vae.decode(x).sample if is_decoder else vae.encode(x).latent_dist.parameters

    with torch.no_grad():
        plain, right = run(vae, x), run(exact(family), x.double())
        left = [*vae.__dict__]
        with tiled(vae, 16, method="bands", progress=lambda done, _: tiles.append(done)) as hooks:
            got = run(vae, x)
    assert not any(hook.reasons for hook in hooks)
    assert len(tiles) > 2
    assert [*vae.__dict__] == left
    assert vae._feat_map == [None] * len(vae._feat_map)
    assert (got.shape, got.dtype) == (plain.shape, plain.dtype)
    assert noise(got, right) <= 2 * noise(plain, right)


@pytest.mark.parametrize(
    ("size", "most", "borders"), [(12, 5, [0, 4, 8, 12]), (7, 3, [0, 2, 4, 7])]
)
def test_bands_are_equal_where_that_takes_few_more(size, most, borders):
    assert even(size, most) == borders


def test_moments_of_tiles_that_were_merged_and_of_more_are_those_of_all():
    plane = torch.randn(1, 8, 6, 3, dtype=torch.float64)
    moments = Moments(4)
    for rows in (slice(0, 2), slice(2, 4), slice(4, 5), slice(5, 6)):
        moments.add(plane[:, :, rows])
        mean, variance = moments.summary()
    groups = plane.reshape(1, 4, -1)
    torch.testing.assert_close(mean, groups.mean(-1))
    torch.testing.assert_close(variance, groups.var(-1, correction=0))
