"""Known-bad hooks of the kinds ``vae`` and ``function`` are right except for one defect."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from vae_compat.checks.registry import CHECKS
from vae_compat.contracts.cases import Direction, Layout, Mechanism
from vae_compat.families import FAMILIES
from vae_compat.fixtures import probes
from vae_compat.fixtures.layouts import view
from vae_compat.fixtures.specimens import SPECIMENS
from vae_compat.fixtures.specimens.overlapping import full_overlap
from vae_compat.fixtures.specimens.pieces import crossfading, pixels_per_latent
from vae_compat.fixtures.specimens.whole import blending
from vae_compat.fixtures.vaes import build
from vae_compat.matrix import generate
from vae_compat.suites.mutation.trial import profile_of

TILE = 8
"""Latent pixels."""


def load(name: str) -> Any:
    module, attribute = SPECIMENS[name].entry.split(":")
    return getattr(importlib.import_module(module), attribute)


@cache
def vae_of(family: str, mechanism: Mechanism | None = None) -> Any:
    return build(family, "mock") if mechanism is None else probes.build(family, mechanism)


def given(family: str, direction: Direction, plane: tuple[int, int], frames: int = 1) -> Tensor:
    """A latent or an image."""
    facts = FAMILIES[family]
    decoding, ratio = direction is Direction.DECODE, facts.ratio
    channels = facts.latent_channels if decoding else facts.image_channels
    size = plane if decoding else tuple(side * ratio for side in plane)
    time = (frames if decoding else 1 + 4 * (frames - 1),) if facts.frame_axis else ()
    shape = (1, channels, *time, *size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(5)) * 2 - 1


@torch.no_grad()
def run(hook: Any, vae: Any, direction: Direction, x: Tensor, kind: str = "function") -> Tensor:
    """The result of one call with a hook of either kind, in tiles of ``TILE``."""
    side = TILE * pixels_per_latent(vae)
    if kind == "function":
        return hook(vae, x, str(direction), side)
    switches = hook.__code__.co_varnames[: hook.__code__.co_argcount]
    told = {"is_decoder": direction is Direction.DECODE} if "is_decoder" in switches else {}
    undo = hook(vae, side, **told)
    try:
        return untiled(vae, direction, x)
    finally:
        undo()
        for coder in (vae.encoder, vae.decoder):
            vars(coder).pop("forward", None)


@torch.no_grad()
def untiled(vae: Any, direction: Direction, x: Tensor) -> Tensor:
    family = next(f for f in FAMILIES.values() if f.model_class == type(vae).__name__)
    return view(vae, "diffusers", family).run(direction, x)


def apart(one: Tensor, other: Tensor) -> float:
    """Rms difference, as a share of the second."""
    return float((one - other).square().mean().sqrt() / other.square().mean().sqrt())


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("family", ["sd", "qwen", "wan22"])
def test_pieces_that_fade_are_right_on_a_stub(family: str, direction: Direction) -> None:
    vae, x = vae_of(family, Mechanism.STUB), given(family, direction, (9, 13))
    assert apart(run(crossfading, vae, direction, x), untiled(vae, direction, x)) < 1e-3


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("family", ["qwen", "wan22"])
def test_pieces_that_overlap_by_the_receptive_field_are_exact(
    family: str, direction: Direction
) -> None:
    vae, x = vae_of(family), given(family, direction, (4, 26), frames=2)
    assert apart(run(full_overlap, vae, direction, x), untiled(vae, direction, x)) < 1e-5


SHOWN: tuple[tuple[str, str, Direction, tuple[int, int], int, str], ...] = (
    ("min-lt-stride", "sd", Direction.DECODE, (4, 20), 1, "shape"),
    ("mixed-spaces", "sd", Direction.ENCODE, (4, 14), 1, "shape"),
    ("odd-size-assert", "sd", Direction.DECODE, (4, 13), 1, "AssertionError"),
    ("ceil-floor-boxes", "sd", Direction.ENCODE, (4, 21), 1, "shape"),
    ("blend-window-misaligned", "sd", Direction.DECODE, (4, 9), 1, "values"),
    ("blend-out-of-bounds", "sd", Direction.DECODE, (4, 9), 1, "RuntimeError"),
    ("no-quant-conv", "sd3", Direction.DECODE, (4, 9), 1, "TypeError"),
    ("scale-8", "wan22", Direction.DECODE, (4, 20), 1, "shape"),
    ("qwen-layout", "qwen", Direction.DECODE, (4, 9), 1, "shape"),
    ("short-video", "qwen", Direction.DECODE, (4, 9), 2, "ValueError"),
    ("single-frame", "qwen", Direction.DECODE, (4, 9), 1, "ValueError"),
    ("first-chunk-dropped", "wan22", Direction.DECODE, (4, 9), 1, "RuntimeError"),
    ("final-clamp-missing", "qwen", Direction.DECODE, (4, 9), 1, "values"),
    ("missing-attrs", "qwen", Direction.DECODE, (4, 9), 1, "AttributeError"),
    ("enc-attr", "sd", Direction.ENCODE, (4, 9), 1, "AttributeError"),
    ("corner-blend", "sd", Direction.DECODE, (13, 13), 1, "values"),
    ("threshold-from-stride", "sd", Direction.DECODE, (4, 7), 1, "values"),
)
"""Specimen, family, direction, plane, frames, and how its defect shows."""
ON_WHOLE_NETS = frozenset({"no-quant-conv", "final-clamp-missing", "threshold-from-stride"})
"""Specimens whose defect does not show on a stub."""

HIDDEN: tuple[tuple[str, str, Direction, tuple[int, int], int], ...] = (
    ("min-lt-stride", "sd", Direction.DECODE, (4, 8), 1),
    ("mixed-spaces", "sd", Direction.DECODE, (4, 13), 1),
    ("odd-size-assert", "sd", Direction.DECODE, (4, 14), 1),
    ("ceil-floor-boxes", "sd", Direction.DECODE, (4, 13), 1),
    ("blend-window-misaligned", "sd", Direction.DECODE, (4, 12), 1),
    ("blend-out-of-bounds", "sd", Direction.DECODE, (4, 12), 1),
    ("no-quant-conv", "sd", Direction.DECODE, (4, 9), 1),
    ("scale-8", "sd", Direction.DECODE, (4, 13), 1),
    ("qwen-layout", "qwen", Direction.DECODE, (4, 9), 2),
    ("short-video", "qwen", Direction.DECODE, (4, 9), 1),
    ("single-frame", "qwen", Direction.DECODE, (4, 9), 3),
    ("first-chunk-dropped", "wan22", Direction.ENCODE, (4, 9), 1),
    ("final-clamp-missing", "qwen", Direction.ENCODE, (4, 9), 1),
    ("missing-attrs", "sd", Direction.DECODE, (4, 9), 1),
    ("enc-attr", "sd", Direction.DECODE, (4, 9), 1),
    ("corner-blend", "sd", Direction.DECODE, (4, 13), 1),
    ("threshold-from-stride", "sd", Direction.DECODE, (4, 4), 1),
)
"""Cases in which the same specimens are as right as their base."""


@pytest.mark.parametrize(("name", "family", "direction", "plane", "frames", "what"), SHOWN)
def test_defect_shows(
    name: str, family: str, direction: Direction, plane: tuple[int, int], frames: int, what: str
) -> None:
    vae = vae_of(family, None if name in ON_WHOLE_NETS else Mechanism.STUB)
    x, kind = given(family, direction, plane, frames), SPECIMENS[name].kind
    if what.endswith("Error"):
        with pytest.raises(Exception) as raised:  # noqa: PT011 (its kind is what is looked at)
            run(load(name), vae, direction, x, kind)
        assert raised.typename == what
        return
    result, right = run(load(name), vae, direction, x, kind), untiled(vae, direction, x)
    assert (result.shape != right.shape) is (what == "shape")
    assert what == "shape" or apart(result, right) > 1e-3


@pytest.mark.parametrize(("name", "family", "direction", "plane", "frames"), HIDDEN)
def test_all_else_is_right(
    name: str, family: str, direction: Direction, plane: tuple[int, int], frames: int
) -> None:
    vae, kind = vae_of(family, Mechanism.STUB), SPECIMENS[name].kind
    x = given(family, direction, plane, frames)
    result, right = run(load(name), vae, direction, x, kind), untiled(vae, direction, x)
    assert result.shape == right.shape
    assert apart(result, right) < 1e-3


def test_blending_tiler_takes_tiles_of_any_side() -> None:
    vae, x = vae_of("sd", Mechanism.STUB), given("sd", Direction.DECODE, (3, 5))
    right = untiled(vae, Direction.DECODE, x)
    for tile in (1, 2, 3):
        undo = blending(vae, tile * 8)
        with torch.no_grad():
            result = untiled(vae, Direction.DECODE, x)
        undo()
        assert apart(result, right) < 1e-3


@pytest.mark.parametrize("name", [n for n, s in SPECIMENS.items() if s.shows_on])
def test_case_that_shows_a_defect_is_one_of_its_matrix(name: str) -> None:
    specimen = SPECIMENS[name]
    profile = profile_of(specimen)
    dtypes = ("float32", "bfloat16", "float16")
    cases = generate(profile.claims, Layout(specimen.layout), "sim", dtypes)
    shown = [case for case in cases if case.id == specimen.shows_on]
    assert len(shown) == 1
    check = next(check for check in CHECKS if check.name == specimen.killed_by)
    assert check.applies(shown[0], profile.promise(shown[0]))
