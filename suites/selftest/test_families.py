"""The published facts, checked against the classes they describe."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale
from vae_compat.families import FAMILIES
from vae_compat.fixtures.inputs import make_input
from vae_compat.fixtures.vaes import build
from vae_compat.fixtures.vaes.building import skeleton

VIDEO = [name for name, family in FAMILIES.items() if family.frame_axis]
GROUPED = [name for name, family in FAMILIES.items() if not family.local_norms]


def case(family: str, **changes: Any) -> Case:
    made = Case(family, Scale.MOCK, Layout.DIFFUSERS, Direction.DECODE, Mode.EXACT, 6, 8, 4)
    return replace(made, **changes)


def test_the_families_are_those_that_were_promised():
    assert list(FAMILIES) == ["sd", "sdxl", "sd3", "flux", "flux2", "qwen", "wan21", "wan22"]
    assert all(name == family.name for name, family in FAMILIES.items())
    assert all(family.source for family in FAMILIES.values())


def test_the_facts_cannot_be_changed_by_accident():
    with pytest.raises(TypeError):
        FAMILIES["sd"] = FAMILIES["flux"]  # type: ignore[index]
    with pytest.raises(TypeError):
        FAMILIES["sd"].real["latent_channels"] = 5  # type: ignore[index]


def test_reading_the_facts_imports_neither_torch_nor_diffusers():
    code = (
        "import sys, vae_compat.families; "
        "sys.exit(bool({'torch', 'diffusers', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("scale", ["real", "mock"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_published_setting_is_a_parameter_of_the_class(family, scale):
    facts = FAMILIES[family]
    parameters = inspect.signature(getattr(diffusers, facts.model_class).__init__).parameters
    assert set(getattr(facts, scale)) <= set(parameters)


@pytest.mark.parametrize(
    ("family", "count"),
    [
        ("sd", 83_653_863),
        ("sdxl", 83_653_863),
        ("sd3", 83_819_683),
        ("flux", 83_819_683),
        ("flux2", 84_046_115),
        ("qwen", 126_892_531),
        ("wan21", 126_892_531),
        ("wan22", 704_688_668),
    ],
)
def test_the_real_net_has_the_published_number_of_parameters(family, count):
    facts = FAMILIES[family]
    assert sum(p.numel() for p in skeleton(facts, facts.real).parameters()) == count


@pytest.mark.parametrize("family", ["qwen", "wan21"])
def test_the_real_configuration_is_the_class_default_where_that_is_the_published_one(family):
    facts = FAMILIES[family]
    defaults = inspect.signature(getattr(diffusers, facts.model_class).__init__).parameters
    for key, value in facts.real.items():
        default = defaults[key].default
        assert (tuple(default) if isinstance(default, list) else default) == value, key


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mock_keeps_every_kind_of_module_of_the_real_net(family):
    facts = FAMILIES[family]
    mock, real = skeleton(facts, facts.mock), skeleton(facts, facts.real)
    assert {type(m) for m in mock.modules()} == {type(m) for m in real.modules()}
    for vae in (mock, real):
        names = [name for name, _ in vae.named_modules()]
        assert sum(name.endswith("conv_shortcut") for name in names) >= 2
        assert sum(name.endswith("attentions.0") for name in names) == 2
    assert {n for n, _ in mock.named_children()} == {n for n, _ in real.named_children()}
    for name in ("quant_conv", "post_quant_conv"):
        assert (getattr(mock, name) is None) == (getattr(real, name) is None)


@pytest.mark.parametrize("family", GROUPED)
def test_mock_group_norms_have_32_groups_and_some_hold_several_channels(family):
    facts = FAMILIES[family]
    norms = [m for m in skeleton(facts, facts.mock).modules() if isinstance(m, nn.GroupNorm)]
    assert {m.num_groups for m in norms} == {32}
    assert {m.num_channels // 32 for m in norms} >= {1, 2}


@pytest.mark.parametrize("family", VIDEO)
def test_mock_kernels_in_time_are_those_of_the_real_net(family):
    facts = FAMILIES[family]
    kinds = [
        {
            (m.kernel_size, m.stride)
            for m in skeleton(facts, config).modules()
            if isinstance(m, nn.Conv3d)
        }
        for config in (facts.mock, facts.real)
    ]
    assert kinds[0] == kinds[1]
    assert ((3, 1, 1), (2, 1, 1)) in kinds[0]


@pytest.mark.parametrize(("family", "frames"), [(n, 1) for n in FAMILIES] + [(n, 2) for n in VIDEO])
def test_ratios_and_channels_are_what_the_net_does(family, frames):
    one = case(family, frames=frames)
    vae = build(family, Scale.MOCK)
    with torch.inference_mode():
        assert vae.decode(make_input(one)).sample.shape == one.image_shape
        image = make_input(replace(one, direction=Direction.ENCODE))
        assert vae.encode(image).latent_dist.mean.shape == one.latent_shape
