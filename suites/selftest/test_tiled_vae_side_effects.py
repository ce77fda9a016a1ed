"""Side effects of the reference hook: memory, errors, fallbacks and hooks by others."""

import gc
import re
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vae_compat.device import open_device
from vae_compat.families import FAMILIES
from vae_compat.fixtures.layouts import view
from vae_compat.fixtures.vaes import build
from vae_compat.suites.selftest.coders import latent, shared, tiling
from vae_compat.tiled_vae import TilingError, VAEHook, tiled

pytestmark = pytest.mark.slow


def peak_over_weights(family: str, side: int, **settings: Any) -> tuple[int, int, int]:
    """Of one decode: peak over the bytes live before, bytes to the device, and FLOPs."""
    vae = build(family, "mock")
    with open_device("sim") as device, torch.no_grad():
        net = vae.to(device.torch_device).decoder
        z = latent(family, side, side).to(device.torch_device)
        if settings.pop("untiled", False):
            with device.metered() as reading:
                net(z)
        else:
            with tiling(net, **settings), device.metered() as reading:
                net(z)
        assert reading.peak_bytes is not None
        assert reading.host_to_device is not None
        assert reading.flops is not None
        return reading.peak_bytes - reading.live_before, reading.host_to_device, reading.flops


@pytest.mark.parametrize(("family", "share"), [("sd", 0.1), ("qwen", 0.2)])
def test_the_peak_is_set_by_the_tile_and_nothing_is_computed_twice(family, share):
    plain, _, work = peak_over_weights(family, 24, untiled=True)
    ours, _, same_work = peak_over_weights(family, 24, tile=6, residency="host")
    assert ours < 0.25 * plain
    assert same_work <= 1.001 * work
    larger, _, _ = peak_over_weights(family, 36, tile=6, residency="host")
    assert larger - ours < share * plain * ((36 / 24) ** 2 - 1)


def test_nothing_is_transferred_where_nothing_rests_on_the_host():
    assert peak_over_weights("qwen", 12, tile=6)[1] == 0
    assert peak_over_weights("sd", 12, tile=3, residency="host")[1] > 0
    assert peak_over_weights("sd", 12, tile=6)[1] == 0
    assert peak_over_weights("sd", 12, tile=6, fast_decoder=True)[1] == 0


@pytest.mark.parametrize(("family", "mebibytes"), [("sd", 4), ("sd", 8), ("qwen", 1), ("qwen", 3)])
def test_a_budget_is_kept_and_used(family, mebibytes):
    peak, _, _ = peak_over_weights(family, 24, tile=None, max_vram=mebibytes << 20)
    assert (mebibytes << 20) * 0.3 < peak <= mebibytes << 20


def test_a_budget_that_cannot_be_kept_is_refused_in_words():
    with (
        tiling(shared("sd").decoder, tile=None, max_vram=1000),
        torch.no_grad(),
        pytest.raises(TilingError, match=r"max_vram is .* needs .* MiB even in tiles of 1 latent"),
    ):
        shared("sd").decode(latent("sd"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tile": 0}, "tile_size is 0"),
        ({"tile": None}, "neither tile_size nor max_vram"),
        ({"min_tile_size": -1}, "min_tile_size is -1"),
        ({"max_depth": -1}, "max_depth is -1"),
        ({"method": "magic"}, "method is .magic."),
        ({"residency": "moon"}, "residency is .moon."),
        ({"max_vram": 0}, "max_vram is 0"),
        ({"fast_decoder": "yes"}, "fast_decoder is 'yes': give True or False"),
        ({"use_quadtree": None}, "use_quadtree is None"),
        ({"to_gpu": 2}, "to_gpu is 2"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(settings, words):
    with pytest.raises(TilingError, match=words):
        VAEHook(
            shared("sd").decoder,
            settings.pop("tile", 4),
            is_decoder=True,
            **settings,
        )


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        (
            {"tilesize": 256},
            TypeError,
            "has no setting 'tilesize': did you mean 'tile_size'",
        ),
        ({"zzz": 1}, TypeError, "has no setting 'zzz': it has tile_size, encode, decode, fast"),
        ({"fast_decoder": True}, TypeError, "takes no 'fast_decoder': give fast"),
        ({"is_decoder": True}, TypeError, "give encode=False or decode=False"),
        ({"fast": "yes"}, TilingError, "fast is 'yes': give True or False"),
        ({"encode": "no"}, TilingError, "encode is 'no'"),
        ({"color_fix": True}, TilingError, "give fast=True as well, or leave color_fix out"),
        ({"color_fix": 1.0, "fast": True}, TilingError, "color_fix is 1.0"),
    ],
)
def test_settings_that_a_context_does_not_have_are_refused_at_once(settings, error, words):
    with pytest.raises(error, match=words), tiled(shared("sd"), **settings):
        pass


def test_settings_may_be_numbers_and_flags_of_numpy():
    with tiled(build("sd", "mock"), 64, fast=np.True_, color_fix=1, encode=0) as hooks:
        assert len(hooks) == 1


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (nn.Linear(2, 2), "Linear is a single layer: give a VAE's encoder or decoder"),
        (None, "NoneType is no module"),
        (shared("sd"), "has an encoder and a decoder: hook one of them, or use tiled"),
    ],
)
def test_what_cannot_be_a_coder_is_refused_at_once(net, words):
    with pytest.raises(TilingError, match=words):
        VAEHook(net, 64, is_decoder=True)


def test_a_coder_of_another_make_is_taken_and_runs_untiled():
    class Engine(nn.Module):
        def forward(self, x):
            return x + 1

    z = torch.zeros(1, 4, 32, 32)
    for net in (Engine(), nn.Sequential(nn.Conv2d(4, 3, 1))):
        with tiling(net) as hook, torch.no_grad():
            net(z)
        assert hook.reasons


@pytest.mark.parametrize("wanting", ["input", "weight", "nothing"])
def test_where_a_gradient_is_wanted_the_result_has_it_and_is_untiled(wanting):
    decoder, z = build("sd", "mock").decoder, latent("sd")
    weight = decoder.conv_in.weight
    (z if wanting == "input" else weight).requires_grad_(wanting != "nothing")
    with tiling(decoder) as hook:
        result = decoder(z)
    assert result.requires_grad == bool(hook.reasons) == (wanting != "nothing")
    if wanting != "nothing":
        assert "under torch.no_grad() to tile" in next(iter(hook.reasons))
        result.sum().backward()
        assert (z if wanting == "input" else weight).grad is not None


@pytest.mark.parametrize("size", [0, -5, True, 64.5, "256"])
def test_sizes_that_are_no_pixels_are_refused_in_the_same_words(size):
    words = f"tile_size is {size!r}: give a whole number of pixels, at least one"
    with pytest.raises(TilingError, match=re.escape(words)), tiled(shared("sd"), size):
        pass
    with pytest.raises(TilingError, match=re.escape(words)):
        VAEHook(shared("sd").decoder, size, is_decoder=True)


@pytest.mark.parametrize(
    ("told", "nbytes"), [("4GiB", 2**32), ("800 MB", 800 * 10**6), (1000, 1000), ("1.5kib", 1536)]
)
def test_a_budget_is_a_number_of_bytes_or_words(told, nbytes):
    assert VAEHook(shared("sd").decoder, 4, is_decoder=True, max_vram=told).max_vram == nbytes


@pytest.mark.parametrize("told", ["much", "", "-1GiB", "4 GiB of it", 0, True, float("nan"), []])
def test_a_budget_that_means_nothing_is_refused(told):
    with pytest.raises(TilingError, match="words such as '4GiB'"):
        VAEHook(shared("sd").decoder, 4, is_decoder=True, max_vram=told)


def test_a_vae_is_found_in_what_holds_it_and_its_own_tiling_is_off_meanwhile():
    vae, x = build("sd", "mock"), torch.zeros(1, 4, 12, 12)
    vae.enable_tiling()
    wrappers = [SimpleNamespace(vae=vae), SimpleNamespace(first_stage_model=vae)]
    wrappers += [SimpleNamespace(vae=SimpleNamespace(module=vae)), nn.DataParallel(vae)]
    with torch.no_grad():
        vae.use_tiling = False
        plain = vae.decode(x).sample
        vae.use_tiling = True
        for wrapper in wrappers:
            with tiled(wrapper, 32):
                assert not vae.use_tiling
                assert torch.allclose(vae.decode(x).sample, plain, atol=1e-4)
            assert vae.use_tiling
    with pytest.raises(TilingError, match="neither an encoder nor a decoder"), tiled(object()):
        pass


@pytest.mark.parametrize("family", ["sd", "qwen"])
def test_inference_mode_and_channels_last(family):
    decoder, z = shared(family).decoder, latent(family)
    with torch.no_grad():
        plain = decoder(z)
    with torch.inference_mode(), tiling(decoder):
        got = decoder(z)
    assert torch.allclose(got, plain, atol=1e-4)
    if z.dim() == 4:
        with torch.no_grad(), tiling(decoder):
            got = decoder(z.to(memory_format=torch.channels_last))
        assert torch.allclose(got, plain, atol=1e-4)


@pytest.mark.parametrize("family", ["sd", "qwen"])
def test_autocast_is_as_good_as_untiled(family):
    decoder, z = shared(family).decoder, latent(family)
    with torch.no_grad():
        exact = decoder(z)
        with torch.autocast("cpu", torch.bfloat16):
            plain = decoder(z)
            with tiling(decoder) as hook:
                got = decoder(z)
    assert not hook.reasons
    assert got.dtype == plain.dtype
    noise = (plain.float() - exact).square().mean()
    assert (got.float() - exact).square().mean() <= 4 * noise


def test_the_input_is_not_written_to_and_nothing_is_kept_alive():
    decoder, z = shared("sd").decoder, latent("sd")
    copy = z.clone()
    with torch.no_grad(), tiling(decoder):
        out = decoder(z)
        assert torch.equal(z, copy)
        refs = [weakref.ref(z), weakref.ref(out)]
        del z, out
        gc.collect()
        assert all(ref() is None for ref in refs)


@pytest.mark.parametrize("family", ["sd", "qwen"])
def test_device_memory_is_free_afterwards_and_after_an_interrupt(family):
    vae = build(family, "mock")

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with open_device("sim") as device, torch.no_grad():
        net = vae.to(device.torch_device).decoder
        z = latent(family, 12, 12).to(device.torch_device)
        with tiling(net), device.metered() as reading:
            net(z)
        assert reading.live_after == reading.live_before
        with device.metered() as reading:
            with tiling(net, progress=stop), pytest.raises(KeyboardInterrupt):
                net(z)
            gc.collect()
        assert reading.live_after == reading.live_before


def test_the_vae_is_as_before_after_an_exception():
    vae = shared("sd")

    def stop(done: int, total: int) -> None:
        raise RuntimeError(f"stop after {done}")

    with (
        torch.no_grad(),
        pytest.raises(RuntimeError, match="stop after 1"),
        tiled(vae, tile_size=32, progress=stop),
    ):
        vae.decode(latent("sd"))
    assert "forward" not in vae.decoder.__dict__
    assert "original_forward" not in vae.decoder.__dict__


def test_tiling_twice_is_refused():
    vae = shared("sd")
    with tiled(vae), pytest.raises(TilingError, match="tiled already"), tiled(vae):
        pass
    assert "forward" not in vae.decoder.__dict__


class Unknown(nn.Module):
    """A block that reads pixels far away."""

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        del temb
        return x - x.roll(3, dims=-1)


def test_an_unknown_block_runs_untiled_says_so_once_and_is_right(caplog):
    vae = build("sd", "mock")
    vae.decoder.up_blocks[0].resnets[0] = Unknown()
    with torch.no_grad():
        plain = vae.decode(latent("sd")).sample
        with tiling(vae.decoder):
            for _ in range(2):
                assert torch.equal(vae.decode(latent("sd")).sample, plain)
    assert caplog.text.count("runs untiled") == 1
    assert "Unknown" in caplog.text


@pytest.mark.parametrize("family", ["sd", "qwen"])
def test_a_block_added_where_none_is_looked_for_is_noticed(family):
    vae = build(family, "mock")
    vae.decoder.extra = nn.Conv2d(1, 1, 1)
    with torch.no_grad(), tiling(vae.decoder) as hook:
        vae.decoder(latent(family))
    assert any("no known place" in reason for reason in hook.reasons)


def test_hooks_on_whole_blocks_are_not_bypassed():
    vae, ran = build("sd", "mock"), []
    vae.decoder.mid_block.register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad(), tiling(vae.decoder) as hook:
        vae.decoder(latent("sd"))
    assert ran == [1]
    assert any("carries hooks" in reason for reason in hook.reasons)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
@pytest.mark.parametrize("family", ["sd", "qwen"])
def test_weights_that_hooks_bring_and_take_are_used_through_their_modules(family, name):
    vae = build(family, "mock")
    net = getattr(vae, name)
    x = latent(family)
    if name == "encoder":
        x = torch.randn(1, 3, *x.shape[2:-2], 56, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = net(x)
        for module in net.modules():
            parts = dict(module.named_parameters(recurse=False))
            if parts:
                bring_weights_only_while_called(module, parts)
        with tiling(net, 4 if name == "decoder" else 32, name == "decoder") as hook:
            got = net(x)
    assert not hook.reasons
    assert torch.allclose(got, plain, rtol=1e-3, atol=1e-4)


def bring_weights_only_while_called(module: nn.Module, parts: dict[str, nn.Parameter]) -> None:
    """Make the weights zero except during a call of the module."""
    whole = {key: part.detach().clone() for key, part in parts.items()}

    def fill(*_: Any) -> None:
        for key, part in parts.items():
            part.data.copy_(whole[key])

    def empty(*_: Any) -> None:
        for part in parts.values():
            part.data.zero_()

    empty()
    module.register_forward_pre_hook(fill)
    module.register_forward_hook(empty)


def test_latents_on_the_host_are_decoded_on_the_device_of_the_coder():
    vae = build("sd", "mock")
    with torch.no_grad():
        plain = vae.decoder(latent("sd"))
    with open_device("sim") as device, torch.no_grad():
        net = vae.to(device.torch_device).decoder
        with tiling(net):
            got = net(latent("sd"))
    assert got.device.type == "cpu"
    assert torch.allclose(got, plain, atol=1e-4)


def test_unknown_arguments_are_left_to_the_original():
    decoder = shared("sd").decoder
    with torch.no_grad(), tiling(decoder) as hook, pytest.raises(TypeError, match="nonsense"):
        decoder(latent("sd"), nonsense=1)
    assert len(hook.reasons) == 1


def test_a_single_tile_is_the_original_itself():
    decoder, z = shared("sd").decoder, latent("sd")
    with torch.no_grad():
        plain = decoder(z)
        with tiling(decoder, tile=7) as hook:
            assert torch.equal(decoder(z), plain)
    assert not hook.reasons


def test_the_ldm_layout_takes_the_place_of_a_published_hook():
    """It takes its arguments by position, as published installers give them."""
    vae = shared("sd")
    net = view(vae, "ldm", FAMILIES["sd"]).decoder
    with torch.no_grad():
        plain = net(latent("sd"))
        net.original_forward = net.forward
        net.forward = VAEHook(net, 4, True, False, False, False, True, False, 0.03, 4, 128)
        got = net(latent("sd"))
        del net.forward, net.original_forward
    assert torch.allclose(got, plain, atol=1e-4)


def test_a_coder_on_the_host_is_lent_to_the_accelerator_where_asked():
    vae, z = build("sd", "mock"), latent("sd")
    with torch.no_grad():
        plain = vae.decoder(z)
        with open_device("sim") as dev, tiling(vae.decoder, to_gpu=True), dev.metered() as reading:
            got = vae.decoder(z)
        assert reading.peak_bytes > 0
        assert {part.device.type for part in vae.decoder.parameters()} == {"cpu"}
    assert got.device.type == "cpu"
    assert torch.allclose(got, plain, atol=1e-4)


class CastConv2d(nn.Conv2d):
    """A convolution of a user interface, which casts its weights to the input at each call."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x), None if self.bias is None else self.bias.to(x)
        return self._conv_forward(x, weight, bias)


def test_convolutions_of_another_class_cost_nothing_more():
    work = []
    for changed in (False, True):
        vae = build("sd", "mock")
        if changed:
            for module in vae.decoder.modules():
                if type(module) is nn.Conv2d:
                    module.__class__ = CastConv2d
        with open_device("sim") as device, torch.no_grad():
            net = vae.to(device.torch_device).decoder
            with tiling(net) as hook, device.metered() as reading:
                out = net(latent("sd").to(device.torch_device)).cpu()
            assert not hook.reasons
            work.append((reading.flops, out))
    assert work[0][0] == work[1][0]
    assert torch.allclose(work[0][1], work[1][1], atol=1e-4)


@pytest.mark.parametrize(("family", "shape"), [("sd", (1, 4, 1, 6, 6)), ("qwen", (1, 16, 6, 6))])
def test_a_clip_for_an_image_coder_and_the_other_way_round_fail_as_untiled(family, shape):
    decoder, z = shared(family).decoder, torch.zeros(shape)
    with torch.no_grad():
        with pytest.raises((RuntimeError, ValueError)) as plain:
            decoder(z)
        with tiling(decoder) as hook, pytest.raises(type(plain.value)) as ours:
            decoder(z)
    assert str(ours.value) == str(plain.value)
    assert len(hook.reasons) == 1


def test_a_budget_shrinks_the_tiles_of_a_quadtree_too():
    counts = []
    for budget in (40 << 20, 4 << 20):
        tiles: list[int] = []
        settings = {
            "max_vram": budget,
            "use_quadtree": True,
            "progress": lambda done, _, tiles=tiles: tiles.append(done),
        }
        with torch.no_grad(), tiling(shared("sd").decoder, None, **settings) as hook:
            shared("sd").decoder(latent("sd", 16, 16))
        assert not hook.reasons
        counts.append(len(tiles))
    assert counts[1] > counts[0]
