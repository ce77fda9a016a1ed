"""The reference hook gives the result of the untiled VAE, however it is called."""

import copy
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from vae_compat.contracts.cases import Direction
from vae_compat.families import FAMILIES
from vae_compat.fixtures.layouts import view
from vae_compat.fixtures.vaes.precision import truth
from vae_compat.suites.selftest.coders import shared
from vae_compat.tiled_vae import TilingError, VAEHook, tiled

pytestmark = pytest.mark.slow

DECODE, ENCODE = Direction.DECODE, Direction.ENCODE
GROUP = ["sd", "flux2"]
CAUSAL = ["qwen", "wan22"]


@cache
def truth_of(family: str) -> nn.Module:
    return truth(shared(family))


def seen(vae: nn.Module, family: str, layout: str, variant: str = "original"):
    return view(vae, layout, FAMILIES[family], variant=variant)


def random_input(family, direction, size, frames=1, batch=1, dtype=torch.float32) -> Tensor:
    facts = FAMILIES[family]
    generator = torch.Generator().manual_seed(sum(size) + 31 * frames + 7 * batch)
    if direction is DECODE:
        channels, count, scale = facts.latent_channels, frames, 1
    else:
        channels, count, scale = 3, 1 + (frames - 1) * facts.temporal_ratio, facts.ratio
    time = (count,) if facts.frame_axis else ()
    shape = (batch, channels, *time, *(side * scale for side in size))
    return torch.randn(shape, generator=generator).to(dtype)


@contextmanager
def hooked(net: nn.Module, direction: Direction, tile: int, family: str, **settings):
    """Puts the hook on as installers of published hooks do."""
    ratio = FAMILIES[family].ratio if direction is ENCODE else 1
    if "min_tile_size" in settings:
        settings["min_tile_size"] *= ratio
    hook = VAEHook(net, tile_size=tile * ratio, is_decoder=direction is DECODE, **settings)
    net.original_forward = net.forward
    net.forward = hook
    try:
        yield hook
    finally:
        del net.forward, net.original_forward


def coder(vae_view, direction: Direction) -> nn.Module:
    return vae_view.decoder if direction is DECODE else vae_view.encoder


class Tiles:
    """Counts tiles, so that no test passes without any."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, done: int, total: int) -> None:
        assert done <= total
        self.count = max(self.count, done)


def noise(a: Tensor, exact: Tensor) -> tuple[float, float]:
    difference = a.double() - exact
    return float(difference.square().mean().sqrt()), float(difference.abs().max())


@cache
def untiled(family, direction, size, frames, batch) -> tuple[Tensor, Tensor]:
    """The results in float32 and float64. Layouts share weights, so one layout is enough."""
    x = random_input(family, direction, size, frames, batch)
    with torch.no_grad():
        exact = seen(truth_of(family), family, "diffusers").run(direction, x.double())
        return seen(shared(family), family, "diffusers").run(direction, x), exact


def assert_exact(family, layout, direction, size, *, tile=5, frames=1, batch=1, **settings):
    """The rms error is at most twice the untiled one, the worst element at most eight times."""
    x = random_input(family, direction, size, frames, batch)
    plain, exact = untiled(family, direction, size, frames, batch)
    with torch.no_grad():
        ours = seen(shared(family), family, layout)
        tiles = Tiles()
        with hooked(
            coder(ours, direction), direction, tile, family, progress=tiles, **settings
        ) as h:
            got = ours.run(direction, x)
        assert not h.reasons
    assert tiles.count > 2
    assert (got.shape, got.dtype, got.device) == (plain.shape, plain.dtype, plain.device)
    (floor, floor_worst), (error, worst) = noise(plain, exact), noise(got, exact)
    assert error <= 2 * floor
    assert worst <= 8 * floor_worst


@pytest.mark.parametrize("direction", [DECODE, ENCODE])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_every_family_layout_and_direction_is_exact(family, layout, direction):
    layout = FAMILIES[family].coder_layout if layout == "original" else layout
    assert_exact(family, layout, direction, (5, 4), tile=3, frames=1 + FAMILIES[family].frame_axis)


@pytest.mark.parametrize("size", [(5, 5), (3, 11), (1, 6), (9, 4)])
@pytest.mark.parametrize("direction", [DECODE, ENCODE])
@pytest.mark.parametrize("family", [*GROUP, *CAUSAL])
def test_every_size_is_exact(family, direction, size):
    assert_exact(family, "diffusers", direction, size, tile=4)


@pytest.mark.parametrize("size", [(61, 75), (33, 90)])
def test_images_that_are_no_multiple_of_the_ratio_are_exact(size):
    vae, exact = shared("sd"), truth_of("sd")
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain, true = vae.encoder(x), exact.encoder(x.double())
        with hooked(vae.encoder, ENCODE, 3, "sd") as hook:
            got = vae.encoder(x)
    assert not hook.reasons
    assert noise(got, true)[0] <= 2 * noise(plain, true)[0]


@pytest.mark.parametrize("direction", [DECODE, ENCODE])
@pytest.mark.parametrize("tile", [1, 3, 6])
@pytest.mark.parametrize("family", ["sd", "qwen", "wan22"])
def test_no_tile_size_matters(family, direction, tile):
    assert_exact(family, "diffusers", direction, (7, 8), tile=tile)


@pytest.mark.parametrize("method", ["rest", "carry"])
@pytest.mark.parametrize("direction", [DECODE, ENCODE])
@pytest.mark.parametrize("family", ["sd", "qwen", "wan22"])
def test_both_ways_of_running_are_exact(family, direction, method):
    frames = 2 if FAMILIES[family].frame_axis else 1
    assert_exact(family, "diffusers", direction, (7, 6), frames=frames, method=method)


@pytest.mark.parametrize("direction", [DECODE, ENCODE])
@pytest.mark.parametrize("family", ["sd", "wan21"])
def test_every_item_of_a_batch_is_exact(family, direction):
    assert_exact(family, "diffusers", direction, (6, 7), batch=3)


@pytest.mark.parametrize("direction", [DECODE, ENCODE])
@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("family", ["qwen", "wan22"])
def test_every_number_of_frames_is_exact(family, direction, frames):
    assert_exact(
        family, "wan", direction, (4, 6), tile=3, frames=frames, batch=2 if frames == 2 else 1
    )


@pytest.mark.parametrize("direction", [DECODE, ENCODE])
@pytest.mark.parametrize("family", ["sd", "qwen", "wan22"])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 9.0])
def test_the_partition_does_not_matter(family, direction, threshold):
    assert_exact(
        family,
        "diffusers",
        direction,
        (7, 8),
        tile=6,
        use_quadtree=True,
        content_threshold=threshold,
        min_tile_size=2,
    )


@pytest.mark.parametrize("direction", [DECODE, ENCODE])
@pytest.mark.parametrize("family", CAUSAL)
def test_fast_modes_are_exact_where_norms_know_no_plane(family, direction):
    assert_exact(family, "diffusers", direction, (7, 8), fast_decoder=True, fast_encoder=True)


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("direction", [DECODE, ENCODE])
def test_leaving_out_padded_frames_is_exact(family, direction):
    assert_exact(family, "diffusers", direction, (7, 6), frames=2, skip_zeros=True)


def psnr(a: Tensor, b: Tensor) -> float:
    span = float(b.max() - b.min())
    return float(10 * torch.log10(span**2 / (a - b).square().mean()))


def test_fast_modes_come_close_and_a_colour_fix_comes_closer():
    vae = shared("sd")
    soft = torch.nn.functional.interpolate(
        random_input("sd", ENCODE, (2, 3)), scale_factor=16, mode="bicubic"
    )
    x = soft[..., :256, :320]
    distances = {}
    with torch.no_grad():
        plain = vae.encoder(x)
        for name, settings in {
            "exact": {},
            "fix": {"fast_encoder": True, "color_fix": True},
            "fast": {"fast_encoder": True},
        }.items():
            with hooked(vae.encoder, ENCODE, 16, "sd", **settings):
                distances[name] = psnr(vae.encoder(x), plain)
    assert distances["exact"] > 100 > distances["fix"] > distances["fast"] > 15


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("direction", [DECODE, ENCODE])
@pytest.mark.parametrize("family", ["sd", "qwen"])
def test_half_precision_is_as_good_as_untiled(family, direction, dtype):
    half = copy.deepcopy(shared(family)).to(dtype)
    x = random_input(family, direction, (5, 6), dtype=dtype)
    exact = truth(half)
    ours = seen(half, family, "diffusers")
    with torch.no_grad():
        true = seen(exact, family, "diffusers").run(direction, x.double())
        plain = ours.run(direction, x)
        with hooked(coder(ours, direction), direction, 4, family) as hook:
            got = ours.run(direction, x)
    assert not hook.reasons
    assert got.dtype == plain.dtype
    assert noise(got, true)[0] <= 2 * noise(plain, true)[0]


VIEWS = [
    (family, layout, variant)
    for family in ("sd", "qwen", "wan22")
    for layout, variant in (
        ("diffusers", "original"),
        (FAMILIES[family].coder_layout, "original"),
        *([("wan", "comfyui")] if FAMILIES[family].frame_axis else []),
    )
]


@pytest.mark.parametrize("direction", [DECODE, ENCODE])
@pytest.mark.parametrize(("family", "layout", "variant"), VIEWS)
def test_every_way_to_call_a_coder_is_taken(family, layout, variant, direction):
    frames = 3 if FAMILIES[family].frame_axis else 1
    ours = seen(shared(family), family, layout, variant)
    net = coder(ours, direction)
    with torch.no_grad():
        x = ours.coder_input(direction, random_input(family, direction, (5, 6), frames))
        for convention in ours.conventions(direction):
            plain = convention.call(net, x)
            with hooked(net, direction, 4, family) as hook:
                got = convention.call(net, x)
            assert not hook.reasons
            assert got.shape == plain.shape, convention.name
            assert torch.allclose(got, plain, rtol=1e-3, atol=1e-4), convention.name


@pytest.mark.parametrize("family", ["sd", "wan22"])
def test_a_whole_vae_is_tiled_in_two_lines(family):
    vae, x = shared(family), random_input(family, DECODE, (6, 7))
    before = [dict(net.__dict__) for net in (vae.encoder, vae.decoder)]
    with torch.no_grad():
        plain = vae.decode(x).sample
        mean = vae.encode(plain).latent_dist.mean
        tiles = Tiles()
        with tiled(vae, tile_size=5 * FAMILIES[family].ratio, progress=tiles):
            got = vae.decode(x).sample
            assert tiles.count > 2
            tiles.count = 0
            again = vae.encode(plain).latent_dist.mean
            assert tiles.count > 2
    assert torch.allclose(got, plain, atol=1e-4)
    assert torch.allclose(again, mean, atol=1e-4)
    assert [dict(net.__dict__) for net in (vae.encoder, vae.decoder)] == before


def test_what_is_no_vae_is_refused():
    with (
        pytest.raises(TilingError, match="neither an encoder nor a decoder"),
        tiled(nn.Linear(1, 1)),
    ):
        pass
