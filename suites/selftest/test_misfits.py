"""A kind or a layout that does not fit is told as that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from vae_compat.contracts.cases import Layout
from vae_compat.errors import UsageError
from vae_compat.families import FAMILIES
from vae_compat.fixtures.layouts import view
from vae_compat.fixtures.probes import build
from vae_compat.measure.failing import failure_of
from vae_compat.measure.misfit import MODULES
from vae_compat.subject.profile import HookSpec, Kind
from vae_compat.subject.settings import read_signature


def function(vae: Any, x: Any, direction: Any, tile_size: int = 8) -> None: ...


def for_a_vae(vae: Any, tile_size: int = 8) -> None: ...


class Forward:
    def __init__(self, net: Any, tile_size: int, is_decoder: bool) -> None: ...


def spec(kind: str) -> HookSpec:
    return HookSpec("hook", "hook.py:Hook", Kind(kind), Layout.LDM)


@pytest.mark.parametrize(
    ("kind", "entry", "told"),
    [
        ("forward", function, "is of kind 'function'"),
        ("vae", function, "is of kind 'function'"),
        ("function", Forward, "is it of kind 'forward' or 'vae'"),
        ("function", for_a_vae, "is it of kind 'forward' or 'vae'"),
    ],
)
def test_a_kind_that_does_not_fit_is_wrong_use(
    kind: str, entry: Callable[..., Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        read_signature(spec(kind), entry)


@pytest.mark.parametrize(
    ("kind", "entry"), [("function", function), ("vae", for_a_vae), ("forward", Forward)]
)
def test_a_kind_that_fits_is_taken(kind: str, entry: Callable[..., Any]) -> None:
    assert read_signature(spec(kind), entry).accepted


def asked(net: nn.Module, name: str) -> str:
    try:
        getattr(net, name)
    except AttributeError as error:
        return failure_of(error, "run").message
    raise AssertionError("it has that")


def decoder(family: str, layout: Layout) -> nn.Module:
    vae = build(family, "stub", seed=0)
    return view(vae, layout, FAMILIES[family]).decoder


def test_a_module_of_another_layout_is_told_as_that() -> None:
    diffusers, ldm = decoder("sd", Layout.DIFFUSERS), decoder("sd", Layout.LDM)
    assert "is its layout `ldm`? the hook asked for `mid`" in asked(diffusers, "mid")
    assert "which `diffusers` coders don't have" in asked(diffusers, "mid")
    assert "is its layout `diffusers`?" in asked(ldm, "mid_block")
    assert "layout" not in asked(ldm, "tile_size")
    assert "layout" not in asked(nn.Linear(2, 2), "mid")


def test_a_hook_for_ldm_that_meets_wan_is_not_asked_whether_it_is_for_ldm() -> None:
    told = asked(decoder("qwen", Layout.WAN), "mid")
    assert "is its layout" not in told
    assert "what qwen and wan have for a hook of layout `ldm`" in told


def test_every_layout_has_the_names_that_it_is_known_by() -> None:
    for family, layout in (("sd", Layout.DIFFUSERS), ("sd", Layout.LDM), ("qwen", Layout.WAN)):
        names = {name for name, _ in decoder(family, layout).named_children()}
        assert names & MODULES[layout]
        assert not any(names & MODULES[other] for other in MODULES if other != layout)
