"""Coders of a view take the calls and have the names that published code uses."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_vae_checkpoint,
    convert_wan_vae_to_diffusers,
)
from torch import Tensor, nn

from vae_compat.contracts.cases import Direction
from vae_compat.contracts.coders import LayoutVAE, coder_of
from vae_compat.families import FAMILIES
from vae_compat.fixtures.layouts import VARIANTS, view
from vae_compat.fixtures.layouts.conventions import Chunk, chunks, count_slots, joined
from vae_compat.fixtures.vaes import build

IMAGE = [name for name, family in FAMILIES.items() if not family.frame_axis]
VIDEO = [name for name, family in FAMILIES.items() if family.frame_axis]
ALL_VIEWS = [
    *((name, "diffusers", "original") for name in FAMILIES),
    *((name, "ldm", "original") for name in IMAGE),
    *((name, "wan", variant) for name in VIDEO for variant in VARIANTS),
]


@cache
def vae_of(family: str) -> nn.Module:
    return build(family, "mock")


@cache
def view_of(family: str, layout: str, variant: str = "original") -> LayoutVAE:
    return view(vae_of(family), layout, FAMILIES[family], variant=variant)


def coder_input(family: str, direction: Direction, frames: int) -> Tensor:
    decode = direction is Direction.DECODE
    coder = vae_of(family).decoder if decode else vae_of(family).encoder
    scale = 1 if decode else 8
    time = ()
    if FAMILIES[family].frame_axis:
        time = (frames if decode else 1 + 4 * (frames - 1),)
    shape = (1, coder.conv_in.in_channels, *time, 3 * scale, 2 * scale)
    return torch.randn(shape, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize(("family", "layout", "variant"), ALL_VIEWS)
def test_every_convention_agrees_with_the_layouts_own(family, layout, variant, direction):
    seen = view_of(family, layout, variant)
    coder, x = coder_of(seen, direction), coder_input(family, direction, 3)
    own, *others = seen.conventions(direction)
    with torch.no_grad():
        wanted = own.call(coder, x)
        for convention in others:
            given = convention.call(coder, x)
            alone = convention.name.startswith("no cache")
            assert given.shape[2] == (1 if alone else wanted.shape[2]), convention.name
            same = wanted[:, :, :1] if alone else wanted
            torch.testing.assert_close(given, same, rtol=1e-4, atol=1e-5, msg=convention.name)


@pytest.mark.parametrize(("family", "layout", "variant"), ALL_VIEWS)
def test_own_convention_is_what_the_vae_does_itself(family, layout, variant):
    """Decoding a clip through the bare coder gives the picture of the whole VAE."""
    seen, facts = view_of(family, layout, variant), FAMILIES[family]
    z = torch.randn(1, facts.latent_channels, *((2,) if facts.frame_axis else ()), 3, 2)
    with torch.no_grad():
        bare = seen.conventions(Direction.DECODE)[0].call(
            seen.decoder, seen.coder_input(Direction.DECODE, z)
        )
        whole = seen.run(Direction.DECODE, z)
    if family == "wan22":
        bare = nn.functional.pixel_shuffle(bare.transpose(1, 2).transpose(-1, -2), 2)
        bare = bare.transpose(-1, -2).transpose(1, 2)
    torch.testing.assert_close(bare.clamp(-1, 1) if facts.frame_axis else bare, whole)


@pytest.mark.parametrize(("family", "layout", "variant"), ALL_VIEWS)
def test_conventions_have_names_of_their_own(family, layout, variant):
    for direction in Direction:
        names = [each.name for each in view_of(family, layout, variant).conventions(direction)]
        assert len(set(names)) == len(names) >= (3 if FAMILIES[family].frame_axis else 1)


@pytest.mark.parametrize("family", IMAGE)
def test_ldm_view_has_the_key_names_of_ldm_checkpoints(family):
    weights = view_of(family, "ldm").vae.state_dict()
    assert "decoder.up.3.block.0.conv1.weight" in weights
    assert "encoder.down.0.downsample.conv.weight" in weights
    assert ("quant_conv.weight" in weights) is vae_of(family).config["use_quant_conv"]
    expected = {k: v for k, v in vae_of(family).state_dict().items() if not k.startswith("bn.")}
    expect_same(convert_ldm_vae_checkpoint(weights, vae_of(family).config), expected)


@cache
def as_deep_as_published(family: str) -> nn.Module:
    """A narrow VAE with as many blocks as the published one, because key names number them."""
    facts = FAMILIES[family]
    config = {**facts.mock, "num_res_blocks": 2}
    lists = {key: list(value) for key, value in config.items() if isinstance(value, tuple)}
    return type(vae_of(family))(**{**config, **lists})


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["qwen", "wan21"])
def test_wan_view_has_the_key_names_of_wan_checkpoints(family, variant):
    vae = as_deep_as_published(family)
    weights = view(vae, "wan", FAMILIES[family], variant=variant).vae.state_dict()
    assert "decoder.middle.0.residual.2.weight" in weights
    assert "decoder.upsamples.3.resample.1.weight" in weights
    expect_same(convert_wan_vae_to_diffusers(dict(weights)), vae.state_dict())


@pytest.mark.parametrize("variant", VARIANTS)
def test_wan22_view_has_the_key_names_of_wan22_checkpoints(variant):
    vae = as_deep_as_published("wan22")
    weights = view(vae, "wan", FAMILIES["wan22"], variant=variant).vae.state_dict()
    for name, twin in {
        "conv1.weight": "quant_conv.weight",
        "encoder.downsamples.1.downsamples.0.shortcut.weight": (
            "encoder.down_blocks.1.resnets.0.conv_shortcut.weight"
        ),
        "encoder.downsamples.1.downsamples.2.time_conv.weight": (
            "encoder.down_blocks.1.downsampler.time_conv.weight"
        ),
        "decoder.upsamples.0.upsamples.3.resample.1.weight": (
            "decoder.up_blocks.0.upsampler.resample.1.weight"
        ),
        "decoder.upsamples.3.upsamples.2.residual.6.bias": (
            "decoder.up_blocks.3.resnets.2.conv2.bias"
        ),
        "decoder.middle.1.to_qkv.weight": "decoder.mid_block.attentions.0.to_qkv.weight",
        "decoder.head.2.weight": "decoder.conv_out.weight",
    }.items():
        assert torch.equal(weights[name], vae.state_dict()[twin]), name


def expect_same(given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert given.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(given[name].reshape(weight.shape), weight), name


@pytest.mark.parametrize("family", IMAGE)
def test_ldm_coders_can_be_taken_apart_as_published_hooks_do(family):
    """Walks the layers as multidiffusion-upscaler and its descendants do."""
    seen = view_of(family, "ldm")
    z = coder_input(family, Direction.DECODE, 1)
    with torch.no_grad():
        whole = seen.decoder(z)
        assert seen.decoder.last_z_shape == z.shape
        assert torch.allclose(walk(seen.decoder, z, decode=True), whole, atol=1e-6)
        image = coder_input(family, Direction.ENCODE, 1)
        whole = seen.encoder(image)
        assert torch.allclose(walk(seen.encoder, image, decode=False), whole, atol=1e-5)


def walk(net: nn.Module, h: Tensor, *, decode: bool) -> Tensor:
    def resnet(block: nn.Module, x: Tensor) -> Tensor:
        beside = x
        if block.in_channels != block.out_channels:
            beside = block.conv_shortcut(x) if block.use_conv_shortcut else block.nin_shortcut(x)
        x = block.conv1(nn.functional.silu(block.norm1(x)))
        return block.conv2(nn.functional.silu(block.norm2(x))) + beside

    def middle(x: Tensor) -> Tensor:
        x = resnet(net.mid.block_1, x)
        attn = net.mid.attn_1
        n = attn.norm(x)
        x = x + attn.proj_out(attn.optimized_attention(attn.q(n), attn.k(n), attn.v(n)))
        return resnet(net.mid.block_2, x)

    h = net.conv_in(h)
    levels = range(net.num_resolutions)
    if decode:
        h = middle(h)
        for level in reversed(levels):
            for number in range(net.num_res_blocks + 1):
                h = resnet(net.up[level].block[number], h)
            h = net.up[level].upsample(h) if level else h
        assert not net.give_pre_end
        assert not net.tanh_out
    else:
        for level in levels:
            for number in range(net.num_res_blocks):
                h = resnet(net.down[level].block[number], h)
            h = net.down[level].downsample(h) if level < levels[-1] else h
        h = middle(h)
    assert net.norm_out.num_groups == 32
    return net.conv_out(nn.functional.silu(net.norm_out(h)))


def test_ldm_coders_tell_their_geometry():
    seen = view_of("sd", "ldm")
    assert (seen.encoder.ch, seen.encoder.temb_ch, seen.encoder.in_channels) == (32, 0, 3)
    assert seen.encoder.in_ch_mult == (1, 1, 1, 2, 2)
    assert seen.decoder.z_shape == (1, 4, 16, 16)
    assert len(seen.decoder.up[0].attn) == 0
    assert not hasattr(seen.decoder.up[0], "upsample")
    assert seen.decoder.up[0].block[-1].out_channels == 32


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", VIDEO)
def test_wan_modules_carry_the_original_class_names(family, variant):
    seen = view_of(family, "wan", variant)
    assert type(seen.encoder).__name__ == "Encoder3d"
    assert type(seen.decoder).__name__ == "Decoder3d"
    names = {type(part).__name__ for part in seen.vae.modules()}
    levels = {"Down_ResidualBlock", "Up_ResidualBlock", "AvgDown3D", "DupUp3D"}
    everywhere = {
        *("WanVAE", "Encoder3d", "Decoder3d", "CausalConv3d", "RMS_norm"),
        *("Resample", "ResidualBlock", "AttentionBlock"),
    }
    assert "Upsample" in names
    assert names - set(dir(nn)) == everywhere | (levels if family == "wan22" else set())


def send(seen: LayoutVAE, direction: Direction, clip: list[Chunk]) -> tuple[list[object], list]:
    """The result of each chunk, and the cache after the last one."""
    deferring = getattr(seen, "variant", "") == "comfyui" and direction is Direction.ENCODE
    coder = coder_of(seen, direction)
    takes_first = "first_chunk" in seen.conventions(direction)[0].name
    cache = [None] * count_slots(coder, deferring)
    returned = []
    with torch.no_grad():
        for chunk in clip:
            index = [0]
            first = {"first_chunk": True} if takes_first and chunk.first else {}
            returned.append(coder(chunk.frames, feat_cache=cache, feat_idx=index, **first))
            assert index[0] <= len(cache)
    return returned, cache


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["qwen", "wan21"])
def test_first_chunk_leaves_a_sentinel_where_time_is_upsampled(family, variant):
    seen = view_of(family, "wan", variant)
    _, slots = send(
        seen, Direction.DECODE, list(chunks(coder_input(family, Direction.DECODE, 1), 1))
    )
    assert slots.count("Rep") == 2
    shortcuts = sum(
        name.endswith("shortcut") and type(part).__name__ == "CausalConv3d"
        for name, part in seen.decoder.named_modules()
    )
    assert slots.count(None) == shortcuts, "a shortcut has a slot and never uses it"


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("family", VIDEO)
def test_original_coder_keeps_the_caches_that_diffusers_keeps(family, direction):
    clip = list(chunks(coder_input(family, direction, 3), 4 if direction == "encode" else 1))
    _, wanted = send(view_of(family, "diffusers"), direction, clip)
    _, given = send(view_of(family, "wan"), direction, clip)
    assert len(given) == len(wanted) > 10
    for ours, theirs in zip(given, wanted, strict=True):
        assert type(ours) is type(theirs)
        if isinstance(theirs, Tensor):
            torch.testing.assert_close(ours, theirs)


def test_comfyui_encoder_defers_a_lone_frame_unless_it_is_the_last():
    seen = view_of("qwen", "wan", "comfyui")
    clip = list(chunks(coder_input("qwen", Direction.ENCODE, 2), 2, 4))
    returned, _ = send(seen, Direction.ENCODE, clip)
    assert returned[0].shape[2] == 1
    assert returned[1:] == [None, None]
    slots = [None] * count_slots(seen.encoder, deferring=True)
    with torch.no_grad():
        parts = [seen.encoder(c.frames, slots, [0], final=c.last) for c in clip]
    assert parts[1] is None
    assert joined(parts).shape[2] == 2


@pytest.mark.parametrize("family", ["qwen", "wan21"])
def test_deferring_encoder_has_two_more_slots(family):
    """Each of its temporal downsamples has a slot beside that of its convolution."""
    encoder = view_of(family, "wan", "comfyui").encoder
    assert count_slots(encoder, deferring=True) == count_slots(encoder) + 2
    plain = view_of(family, "wan").encoder
    assert count_slots(encoder) == count_slots(plain) == len(list(causal_convolutions(plain)))


def causal_convolutions(coder: nn.Module) -> Iterator[nn.Module]:
    return (part for part in coder.modules() if isinstance(part, nn.Conv3d))


def test_comfyui_decoder_returns_a_list_of_chunks():
    seen = view_of("qwen", "wan", "comfyui")
    clip = list(chunks(coder_input("qwen", Direction.DECODE, 3), 2))
    returned, _ = send(seen, Direction.DECODE, clip)
    assert [[part.shape[2] for part in parts] for parts in returned] == [[1], [2, 2, 2, 2]]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", VIDEO)
def test_whole_vae_forgets_a_clip_when_it_is_done(family, variant):
    vae = view_of(family, "wan", variant).vae
    with torch.no_grad():
        vae.decode(torch.randn(1, FAMILIES[family].latent_channels, 2, 2, 2))
    assert set(vae._feat_map) == {None}
    assert set(vae._enc_feat_map) == {None}
    assert vae._conv_idx == [0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_streams_do_not_mix(variant):
    """State is only in the caller's list, so interleaved clips give the results of single ones."""
    seen = view_of("qwen", "wan", variant)
    step = 1 if variant == "original" else 2
    clips = [torch.randn(1, 16, 3, 2, 2), torch.randn(1, 16, 3, 2, 2)]
    caches = [[None] * count_slots(seen.decoder) for _ in clips]
    with torch.no_grad():
        alone = [seen.conventions(Direction.DECODE)[0].call(seen.decoder, clip) for clip in clips]
        mixed: list[list[object]] = [[], []]
        for pair in zip(*(chunks(clip, step) for clip in clips), strict=True):
            for number, chunk in enumerate(pair):
                mixed[number].append(seen.decoder(chunk.frames, caches[number], [0]))
    for given, wanted in zip(mixed, alone, strict=True):
        assert torch.equal(joined(given), wanted)


def test_chunks_leave_out_frames_beyond_a_multiple_of_four():
    x = torch.zeros(1, 3, 12, 2, 2)
    assert [c.frames.shape[2] for c in chunks(x, 4, 4)] == [1, 4, 4]
    assert [c.frames.shape[2] for c in chunks(x, 2, 4)] == [1, 2, 2, 2, 2]
    assert [(c.first, c.last) for c in chunks(x[:, :, :1], 4, 4)] == [(True, True)]
