"""Capabilities of families are those of the nets, and a new family needs only a description."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from torch import nn

from vae_compat import families
from vae_compat.contracts.cases import Case, Direction, Layout, Mechanism, Mode, Scale
from vae_compat.contracts.finding import Status
from vae_compat.families import FAMILIES, Family
from vae_compat.families.installed import installed_families, left_out
from vae_compat.fixtures.vaes.building import skeleton
from vae_compat.front.selection.listing import render
from vae_compat.front.selection.options import Options
from vae_compat.matrix import generate
from vae_compat.subject.profile import Claims, profile_from_flags
from vae_compat.suites.selftest.playing import Stand

pytestmark = pytest.mark.slow

BOTH = (Direction.ENCODE, Direction.DECODE)


def reach(coder: Any, ratio: int, *, decoding: bool) -> float:
    """Latent pixels to one side that a pixel depends on through convolutions alone."""
    levels = [coder.mid_block, *coder.up_blocks] if decoding else [*coder.down_blocks]
    levels += [] if decoding else [coder.mid_block]
    total, size = 0.0, 1.0 if decoding else 1 / ratio
    for part in (coder.conv_in, *levels, coder.conv_out):
        for module in part.modules():
            if isinstance(module, nn.Upsample) or type(module).__name__ == "Upsample2D":
                size /= 2
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                kernel, stride = module.kernel_size[-1], module.stride[-1]
                total += (kernel - 1) / (2 if stride == 1 else 1) * size
                size *= stride
    return total


@pytest.mark.parametrize("scale", ["real", "mock"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_receptive_field_is_that_of_the_real_decoder_and_no_coder_reads_further(
    family: str, scale: str
) -> None:
    facts = FAMILIES[family]
    vae: Any = skeleton(facts, getattr(facts, scale))
    # Folded pixels are unfolded after the decoder: its output is smaller than the picture.
    ratio = facts.ratio // facts.patch
    decoder = reach(vae.decoder, ratio, decoding=True)
    encoder = reach(vae.encoder, ratio, decoding=False)
    assert max(encoder, decoder) <= facts.receptive_field
    if scale == "real":
        assert math.ceil(decoder) == facts.receptive_field


def test_a_useful_halo_is_the_receptive_field_in_whole_steps() -> None:
    assert {family.widest_halo for family in FAMILIES.values()} == {24}
    assert replace(FAMILIES["sd"], receptive_field=24).widest_halo == 24
    assert replace(FAMILIES["sd"], receptive_field=25).widest_halo == 32


@pytest.mark.parametrize("family", FAMILIES)
def test_capabilities_are_those_of_the_net(family: str) -> None:
    facts = FAMILIES[family]
    vae: Any = skeleton(facts, facts.mock)
    kinds = {type(module).__name__ for module in vae.modules()}
    assert ("group" in {norm.kind for norm in facts.norms}) is ("GroupNorm" in kinds)
    assert ("rms" in {norm.kind for norm in facts.norms}) is any("RMS" in kind for kind in kinds)
    assert facts.local_norms is ("GroupNorm" not in kinds)
    assert facts.frame_axis is any(isinstance(module, nn.Conv3d) for module in vae.modules())
    assert facts.feature_cache is hasattr(vae, "clear_cache")
    assert (facts.chunking is not None) is facts.feature_cache
    assert facts.image_channels * facts.patch**2 == facts.real.get("in_channels", 3)
    assert (facts.blocks == "wan-residual") is bool(facts.real.get("is_residual"))


def test_families_that_the_installed_diffusers_lacks_are_left_out_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left_out.cache_clear()
    assert not left_out()
    monkeypatch.setattr(metadata, "version", lambda _name: "0.34.1")
    left_out.cache_clear()
    try:
        assert installed_families() == ("sd", "sdxl", "sd3", "flux", "wan21")
        sentence = "qwen is left out: it needs diffusers 0.35 or later, and 0.34.1 is installed"
        assert left_out()["qwen"] == sentence
        assert sentence in render(Options(), "families")
        claims = Claims(tuple(FAMILIES), BOTH, (Mode.EXACT,))
        cases = generate(claims, Layout.LDM, "sim", ["float32"])
        assert {case.family for case in cases} == set(installed_families())
        # Probes of the build are those of the family that is there.
        assert {c.family for c in cases if c.mechanism is Mechanism.CAUSAL_CACHE} == {"wan21"}
        whole = generate(claims, Layout.LDM, "sim", ["float32"], families=FAMILIES)
        assert {case.family for case in whole} == set(FAMILIES)
    finally:
        monkeypatch.undo()
        left_out.cache_clear()


def test_a_release_between_two_counts_as_the_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda _name: "0.36.0.dev0")
    left_out.cache_clear()
    try:
        assert not left_out()
    finally:
        monkeypatch.undo()
        left_out.cache_clear()


# A family that nothing but its own description knows ---------------------------------------------


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[Family]:
    """An image family unlike all others: one level fewer, 6 latent channels, grey pictures."""
    like = FAMILIES["sd"]
    levels = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "latent_channels": 6,
        "in_channels": 1,
        "out_channels": 1,
    }
    family = replace(
        like,
        name="madeup",
        real=MappingProxyType({**like.real, **levels, "block_out_channels": (64, 64, 128)}),
        mock=MappingProxyType({**like.mock, **levels, "block_out_channels": (32, 32, 64)}),
        ratio=4,
        latent_channels=6,
        image_channels=1,
        receptive_field=17,
        real_by_default=False,
    )
    known = families._KNOWN
    monkeypatch.setitem(known, family.name, family)
    left_out.cache_clear()
    yield family
    left_out.cache_clear()


def test_a_new_family_is_in_the_matrix_and_is_a_build_of_its_own(made_up: Family) -> None:
    claims = Claims((made_up.name,), BOTH, (Mode.EXACT,))
    cases = [c for c in generate(claims, Layout.LDM, "sim", ["float32"]) if c.family == "madeup"]
    assert {case.direction for case in cases} == set(BOTH)
    assert {case.layout for case in cases} == {Layout.LDM}
    assert {Mechanism.GROUP_NORM, Mechanism.HALO} <= {case.mechanism for case in cases}
    assert Mechanism.CAUSAL_CACHE not in {case.mechanism for case in cases}
    assert not any(case.scale is Scale.REAL and case.scenario is None for case in cases)


@pytest.mark.parametrize("direction", BOTH)
@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_a_new_family_is_run_and_judged_by_what_its_description_says(
    made_up: Family, layout: str, direction: Direction, tmp_path: Path
) -> None:
    stand = Stand(tmp_path)
    stand.add(
        profile_from_flags(
            "vae_compat.tiled_vae:VAEHook",
            layout=layout,
            name="hook",
            families=[made_up.name],
            modes=["exact"],
            grade={"exact": "exact"},
        )
    )
    found = stand.findings("hook", None, direction=direction, width=29)
    assert found["parity"].status is Status.PASSED
    assert found["parity"].grade == "exact"
    assert {finding.status for finding in found.values()} == {Status.PASSED}


def test_a_wrong_hook_fails_on_a_new_family(made_up: Family, tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    stand.add(
        profile_from_flags(
            "vae_compat.fixtures.specimens.forward:ShortHalo",
            layout="ldm",
            name="short",
            families=[made_up.name],
            modes=["exact"],
            grade={"exact": "exact"},
        )
    )
    found = stand.findings("short", None, width=29)
    assert found["parity"].status is Status.FAILED


def test_shapes_of_a_new_family_follow_its_description(made_up: Family) -> None:
    case = Case("madeup", Scale.MOCK, Layout.LDM, Direction.DECODE, Mode.EXACT, 6, 7, 4)
    assert (case.latent_shape, case.image_shape) == ((1, 6, 6, 7), (1, 1, 24, 28))
    clip = replace(made_up, frame_axis=True, temporal_ratio=2)
    families._KNOWN["madeup"] = clip
    assert replace(case, frames=3).image_shape == (1, 1, 5, 24, 28)
