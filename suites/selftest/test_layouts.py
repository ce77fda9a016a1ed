"""A view is the VAE itself under other names, with the same numbers and weights."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from vae_compat.contracts.cases import Direction, Layout
from vae_compat.contracts.coders import LayoutVAE
from vae_compat.errors import UsageError
from vae_compat.families import FAMILIES
from vae_compat.fixtures.layouts import VARIANTS, view
from vae_compat.fixtures.vaes import build, truth

pytestmark = pytest.mark.slow

ORIGINAL_LAYOUTS = [
    (name, variant)
    for name, family in FAMILIES.items()
    for variant in (VARIANTS if family.coder_layout == "wan" else VARIANTS[:1])
]
CLIPS = [
    (name, variant, frames)
    for name, variant in ORIGINAL_LAYOUTS
    for frames in ((1, 2, 3, 4) if FAMILIES[name].frame_axis else (1,))
]
DIRECTIONS = list(Direction)


@cache
def vae_of(family: str) -> nn.Module:
    return build(family, "mock")


@cache
def truth_of(family: str) -> nn.Module:
    return truth(vae_of(family))


@cache
def original_of(family: str, variant: str) -> LayoutVAE:
    facts = FAMILIES[family]
    return view(vae_of(family), facts.coder_layout, facts, variant=variant)


def input_of(family: str, direction: Direction, frames: int) -> Tensor:
    """A batch of two, 3 x 5 latent pixels: both sides are odd."""
    facts = FAMILIES[family]
    height, width, channels = 3, 5, facts.latent_channels
    if direction is Direction.ENCODE:
        height, width, channels = 3 * facts.ratio, 5 * facts.ratio, facts.image_channels
        frames = 1 + (frames - 1) * facts.temporal_ratio
    time = (frames,) if facts.frame_axis else ()
    seed = torch.Generator().manual_seed(frames)
    return torch.randn(2, channels, *time, height, width, generator=seed).clamp(-2, 2)


@cache
def untiled(family: str, direction: Direction, frames: int) -> tuple[Tensor, Tensor]:
    """The result of diffusers, and the truth."""
    facts = FAMILIES[family]
    x = input_of(family, direction, frames)
    with torch.no_grad():
        given = view(vae_of(family), "diffusers", facts).run(direction, x)
        exact = view(truth_of(family), "diffusers", facts).run(direction, x.double())
    return given, exact


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("family", "variant", "frames"), CLIPS)
def test_original_layout_equals_diffusers_within_its_own_noise(family, variant, frames, direction):
    given, exact = untiled(family, direction, frames)
    with torch.no_grad():
        out = original_of(family, variant).run(direction, input_of(family, direction, frames))
    assert out.shape == given.shape
    assert out.dtype == given.dtype
    assert rms(out - exact) <= 2 * rms(given - exact)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("family", "variant"), ORIGINAL_LAYOUTS)
def test_original_layout_is_a_truth_in_float64(family, variant, direction):
    frames = 3 if FAMILIES[family].frame_axis else 1
    _, exact = untiled(family, direction, frames)
    seen = view(truth_of(family), FAMILIES[family].coder_layout, FAMILIES[family], variant=variant)
    with torch.no_grad():
        out = seen.run(direction, input_of(family, direction, frames).double())
    assert out.dtype == torch.float64
    assert rms(out - exact) <= 1e-13 * rms(exact) + 1e-14


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("family", "variant"), ORIGINAL_LAYOUTS)
def test_original_layout_is_as_good_as_diffusers_in_bfloat16(family, variant, direction):
    facts = FAMILIES[family]
    frames = 2 if facts.frame_axis else 1
    half = build(family, "mock").to(torch.bfloat16)
    x = input_of(family, direction, frames).to(torch.bfloat16)
    with torch.no_grad():
        exact = view(truth(half), "diffusers", facts).run(direction, x.double())
        given = view(half, "diffusers", facts).run(direction, x)
        out = view(half, facts.coder_layout, facts, variant=variant).run(direction, x)
    assert out.dtype == torch.bfloat16
    assert rms(out - exact) <= 2 * rms(given - exact)


@pytest.mark.parametrize(("family", "variant"), ORIGINAL_LAYOUTS)
def test_view_holds_every_weight_of_the_vae_and_no_other(family, variant):
    seen = original_of(family, variant).vae
    places = {parameter.data_ptr() for parameter in vae_of(family).parameters()}
    assert {parameter.data_ptr() for parameter in seen.parameters()} == places
    count = sum(parameter.numel() for parameter in vae_of(family).parameters())
    assert sum(parameter.numel() for parameter in seen.parameters()) == count


@pytest.mark.parametrize("part", ["convolution", "attention"])
@pytest.mark.parametrize("family", ["sd", "qwen"])
def test_changing_a_weight_shows_in_both(family, part):
    vae, facts = build(family, "mock"), FAMILIES[family]
    seen = view(vae, facts.coder_layout, facts)
    middle = seen.decoder.mid.attn_1 if family == "sd" else seen.decoder.middle[1]
    last = middle.proj_out if family == "sd" else middle.proj
    source = vae.decoder.mid_block.attentions[0]
    twin = source.to_out[0] if family == "sd" else source.proj
    with torch.no_grad():
        if part == "attention":
            last.weight.fill_(0.5)
            assert (twin.weight == 0.5).all()
            return
        vae.decoder.conv_out.bias.fill_(0.25)
    tail = seen.decoder.conv_out if family == "sd" else seen.decoder.head[2]
    assert tail.bias is vae.decoder.conv_out.bias
    assert (tail.bias == 0.25).all()


@pytest.mark.parametrize(("family", "variant"), ORIGINAL_LAYOUTS)
def test_parameters_can_be_swapped_module_by_module_without_touching_the_vae(family, variant):
    facts = FAMILIES[family]
    seen = view(vae_of(family), facts.coder_layout, facts, variant=variant)
    z = input_of(family, Direction.DECODE, 1)
    before, _ = untiled(family, Direction.DECODE, 1)
    for module in seen.vae.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(torch.zeros_like(parameter))
    with torch.no_grad():
        assert rms(seen.run(Direction.DECODE, z)) == 0.0
        again = view(vae_of(family), "diffusers", facts).run(Direction.DECODE, z)
    assert torch.equal(again, before)


def test_diffusers_layout_is_the_vae_itself():
    vae = vae_of("sd")
    seen = view(vae, Layout.DIFFUSERS, FAMILIES["sd"])
    assert seen.vae is vae
    assert seen.encoder is vae.encoder
    assert seen.decoder is vae.decoder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_coder_input_is_what_reaches_the_coder_of_diffusers(family, direction):
    x = input_of(family, direction, 2)
    in_diffusers = view(vae_of(family), "diffusers", FAMILIES[family])
    coder = in_diffusers.encoder if direction is Direction.ENCODE else in_diffusers.decoder
    arrived: list[Tensor] = []
    spy = coder.register_forward_pre_hook(lambda _, given: arrived.append(given[0]))
    with torch.no_grad():
        in_diffusers.run(direction, x)
        spy.remove()
        wanted = torch.cat(arrived, dim=2)
        assert torch.equal(in_diffusers.coder_input(direction, x), wanted)
        assert torch.equal(original_of(family, "original").coder_input(direction, x), wanted)


@pytest.mark.parametrize(("family", "layout"), [("sd", "wan"), ("qwen", "ldm"), ("sd", "a1111")])
def test_layout_of_another_architecture_is_refused(family, layout):
    with pytest.raises(UsageError, match=f"family '{family}' has no layout '{layout}'"):
        view(vae_of(family), layout, FAMILIES[family])


def test_unknown_variant_is_refused():
    with pytest.raises(UsageError, match="unknown variant 'wan3'"):
        view(vae_of("qwen"), "wan", FAMILIES["qwen"], variant="wan3")


def test_weight_without_a_place_in_the_layout_is_refused():
    vae = build("sd", "mock")
    vae.decoder.extra = nn.Linear(2, 2)
    with pytest.raises(UsageError, match=r"decoder\.extra\.weight"):
        view(vae, "ldm", FAMILIES["sd"])


def test_missing_middle_attention_is_refused():
    vae = build("sd", "mock")
    vae.encoder.mid_block.attentions[0] = None
    with pytest.raises(UsageError, match="needs attention in the middle"):
        view(vae, "ldm", FAMILIES["sd"])
