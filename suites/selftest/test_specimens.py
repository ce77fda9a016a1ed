"""Every specimen runs, and has its own defect and no other."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from vae_compat.contracts.cases import Direction, Mechanism
from vae_compat.contracts.coders import coder_of
from vae_compat.contracts.finding import Grade
from vae_compat.families import FAMILIES
from vae_compat.fixtures import probes
from vae_compat.fixtures.layouts import view
from vae_compat.fixtures.specimens import SOUND, SPECIMENS
from vae_compat.fixtures.specimens.pieces import untiled_function
from vae_compat.fixtures.specimens.switches import leaves_hook_on
from vae_compat.fixtures.specimens.whole import blending
from vae_compat.fixtures.vaes import build, truth
from vae_compat.front.selection.subjects import load_subject
from vae_compat.matrix import applies

pytestmark = pytest.mark.slow

TILE = 8
PLANE = (9, 12)


def load(name: str) -> Any:
    module, attribute = SPECIMENS[name].entry.split(":")
    return getattr(importlib.import_module(module), attribute)


@contextmanager
def hooked(name: str, net: Any, direction: Direction, **settings: Any) -> Iterator[Any]:
    """Puts a hook of kind ``forward`` on a coder."""
    original = net.original_forward = net.forward
    decoding = direction is Direction.DECODE
    tile = settings.pop("tile", TILE)
    given = {"net": net, "tile_size": tile * (1 if decoding else 8), **settings}
    if name not in ("fallback-only", "swallows-cache"):
        given["is_decoder"] = decoding
    net.forward = hook = load(name)(**given)
    try:
        yield hook
    finally:
        del net.original_forward
        net.forward = original


@cache
def subject(
    mechanism: Mechanism | None, direction: Direction
) -> tuple[Any, Tensor, Tensor, Tensor, float]:
    """A view of an SD mock or probe; an input, its untiled result, the truth, the noise floor."""
    family = FAMILIES["sd"]
    vae = build("sd", "mock") if mechanism is None else probes.build("sd", mechanism)
    seen, exact = (view(v, "ldm", family) for v in (vae, truth(vae)))
    x = noise(direction, PLANE)
    with torch.no_grad():
        untiled, true = seen.run(direction, x), exact.run(direction, x.double())
    return seen, x, untiled, true, rms(untiled - true)


def noise(direction: Direction, plane: tuple[int, int]) -> Tensor:
    channels, scale = (4, 1) if direction is Direction.DECODE else (3, 8)
    shape = (1, channels, plane[0] * scale, plane[1] * scale)
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) * 2 - 1


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


@torch.no_grad()
def error(name: str, mechanism: Mechanism | None, direction: Direction, **settings: Any) -> float:
    """Distance from the truth with the hook on, in noise floors."""
    seen, x, _, true, floor = subject(mechanism, direction)
    net = coder_of(seen, direction)
    with hooked(name, net, direction, **settings):
        return rms(seen.run(direction, x) - true) / floor


def convolutions(run: Callable[[], Any]) -> list[int]:
    """The areas of the planes that convolutions get."""
    areas: list[int] = []
    original = torch.nn.functional.conv2d

    class Listen(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if function is original:
                areas.append(args[0].shape[-1] * args[0].shape[-2])
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Listen():
        run()
    return areas


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("name", ["resting", "rows-only"])
def test_sound_base_equals_the_untiled_coder(name: str, direction: Direction) -> None:
    assert error(name, None, direction) < 2


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("name", ["resting", "rows-only", "as-reported"])
def test_sound_base_and_reported_hook_cut_the_plane(name: str, direction: Direction) -> None:
    seen, *_ = subject(None, direction)
    x = noise(direction, (40, 8))
    net = coder_of(seen, direction)
    whole = convolutions(lambda: seen.run(direction, x))
    with hooked(name, net, direction):
        tiled = convolutions(lambda: seen.run(direction, x))
    assert max(tiled) < 0.8 * max(whole)
    assert len(tiled) > len(whole)


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("name", ["per-tile-statistics", "attention-per-tile", "short-halo"])
def test_broken_mechanism_shows_on_its_probe_and_on_no_other(
    name: str, direction: Direction
) -> None:
    broken = SPECIMENS[name].mechanism
    for mechanism in Mechanism:
        if applies(FAMILIES["sd"], mechanism, direction):
            found = error(name, mechanism, direction)
            if mechanism is broken:
                assert found > 100
            else:
                assert found < 2, mechanism


@pytest.mark.parametrize(
    ("name", "tile"),
    [
        ("averages-tiles", 3),  # no tile is a sliver
        ("saves-when-short", TILE),
        ("shared-leaves", TILE),
        ("batch-statistics", TILE),
        ("piles-up", TILE),
        ("uses-input-up", TILE),
        ("leaves-on-host", TILE),
        ("reflects-edges", 12),  # no tile has a neighbour
    ],
)
def test_defect_in_one_thing_leaves_all_else_right(name: str, tile: int) -> None:
    assert error(name, None, Direction.DECODE, tile=tile) < 2


@pytest.mark.parametrize("direction", Direction)
def test_dropped_column_shows_on_the_stub(direction: Direction) -> None:
    assert error("drops-last-column", Mechanism.STUB, direction) > 100


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("direction", Direction)
def test_reported_hook_degrades_but_runs(direction: Direction, fast: bool) -> None:
    seen, *_ = subject(None, direction)
    x = noise(direction, (20, 40))
    net = coder_of(seen, direction)
    keyword = "fast_decoder" if direction is Direction.DECODE else "fast_encoder"
    with torch.no_grad():
        untiled = seen.run(direction, x)
        with hooked("as-reported", net, direction, tile=16, **{keyword: fast}):
            result = seen.run(direction, x)
    assert result.shape == untiled.shape
    assert result.isfinite().all()
    distance = rms(result - untiled) / rms(untiled)
    assert 1e-4 < distance < 1


@pytest.mark.parametrize("direction", Direction)
def test_reported_hook_places_its_tiles_right(direction: Direction) -> None:
    seen, *_, floor = subject(Mechanism.STUB, direction)
    x = noise(direction, (4, 40))
    net = coder_of(seen, direction)
    with torch.no_grad():
        untiled = seen.run(direction, x)
        with hooked("as-reported", net, direction):
            assert rms(seen.run(direction, x) - untiled) < 2 * floor


@pytest.mark.parametrize("family", ["qwen", "wan21"])
@pytest.mark.parametrize("direction", Direction)
def test_reported_hook_cannot_be_called_with_a_cache(family: str, direction: Direction) -> None:
    facts = FAMILIES[family]
    seen = view(build(family, "mock"), "wan", facts)
    net = coder_of(seen, direction)
    x = torch.zeros(1, 16, 1, 4, 4) if direction is Direction.DECODE else torch.zeros(1, 3, 1, 8, 8)
    with hooked("as-reported", net, direction), pytest.raises(TypeError):
        seen.run(direction, x)


def test_embedded_profile_says_what_the_registry_says() -> None:
    profile, specimen = load_subject("as-reported"), SPECIMENS["as-reported"]
    assert profile.hook.entry == specimen.entry
    assert profile.claims.families == specimen.families
    assert profile.claims.modes == specimen.modes
    assert set(profile.claims.grade.values()) == {Grade.DEGRADED}


@pytest.mark.parametrize("name", ["ignores-tiling", "secretly-untiled"])
def test_untiled_result_comes_from_a_hook_that_does_not_tile(name: str) -> None:
    seen, x, untiled, *_ = subject(None, Direction.DECODE)
    whole = convolutions(lambda: seen.run(Direction.DECODE, x))
    with torch.no_grad(), hooked(name, seen.decoder, Direction.DECODE):
        assert torch.equal(seen.run(Direction.DECODE, x), untiled)
        tiled = convolutions(lambda: seen.run(Direction.DECODE, x))
    assert max(tiled) == max(whole)
    assert (len(tiled) > len(whole)) is (name == "secretly-untiled")


@torch.no_grad()
def test_small_defects() -> None:
    seen, x, untiled, *_ = subject(None, Direction.DECODE)
    with hooked("returns-none", seen.decoder, Direction.DECODE):
        assert seen.run(Direction.DECODE, x) is None
    with hooked("wrong-dtype", seen.decoder, Direction.DECODE):
        assert seen.run(Direction.DECODE, x).dtype is torch.float16
    with hooked("eats-memory", seen.decoder, Direction.DECODE) as hook:
        seen.run(Direction.DECODE, x)
        assert hook.work_buffers[0].shape == untiled.shape
    try:
        with hooked("changes-globals", seen.decoder, Direction.DECODE):
            seen.run(Direction.DECODE, x)
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("name", "signal"), [("crashes-process", "-9"), ("hangs", "still running")]
)
def test_deadly_specimens_are_deadly(name: str, signal: str) -> None:
    module, attribute = SPECIMENS[name].entry.split(":")
    code = f"from {module} import {attribute} as hook; hook(None, 8, True)(None)"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        ended = str(process.wait(timeout=20 if name == "crashes-process" else 4))
    except subprocess.TimeoutExpired:
        ended = "still running"
    finally:
        process.kill()
        process.wait()
    assert ended == signal


@pytest.mark.parametrize("family", ["qwen", "wan21"])
@torch.no_grad()
def test_cache_passed_on_keeps_a_clip_and_a_swallowed_one_does_not(family: str) -> None:
    facts = FAMILIES[family]
    seen = view(build(family, "mock"), "wan", facts)
    z = torch.rand(1, facts.latent_channels, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    untiled, first = (seen.run(Direction.DECODE, part) for part in (z, z[:, :, :1]))
    with hooked("fallback-only", seen.decoder, Direction.DECODE):
        assert torch.equal(seen.run(Direction.DECODE, z), untiled)
    with hooked("swallows-cache", seen.decoder, Direction.DECODE):
        assert torch.equal(seen.run(Direction.DECODE, z[:, :, :1]), first)
        assert seen.run(Direction.DECODE, z).shape != untiled.shape


@torch.no_grad()
def test_blending_tiler_is_close_on_a_stub_and_undone() -> None:
    vae = probes.build("sd", Mechanism.STUB)
    z = torch.rand(1, 4, 10, 18, generator=torch.Generator().manual_seed(1))
    x = torch.rand(1, 3, 88, 136, generator=torch.Generator().manual_seed(1))
    for direction, given in ((Direction.DECODE, z), (Direction.ENCODE, x)):
        untiled = untiled_function(vae, given, direction)
        undo = blending(vae, 64)
        tiled = untiled_function(vae, given, direction)
        undo()
        assert not torch.equal(tiled, untiled)
        assert rms(tiled - untiled) < 1e-3 * rms(untiled)
        assert torch.equal(untiled_function(vae, given, direction), untiled)


def test_forgetful_undo_leaves_the_encoder_hooked() -> None:
    vae = build("sd", "mock")
    leaves_hook_on(vae, 64)()
    assert "forward" in vae.encoder.__dict__
    assert "forward" not in vae.decoder.__dict__


REPORTED = [
    "batch-at-once",
    "batch-loop-scale",
    "dead-attribute",
    "gc-per-tile",
    "host-accumulators",
    "ranks-remainder",
    "second-patch",
    "slice-encode",
    "slices-kept",
    "static-buffer",
    "stride-no-multiple",
    "threshold-variable",
    "tile-without-need",
    "time-flash",
    "tone-per-tile",
    "wrong-peer",
]
"""Published defects of 2025 and 2026 that a hook can have."""


@pytest.mark.parametrize("row", REPORTED)
def test_every_reported_defect_is_that_of_a_known_bad_hook(row: str) -> None:
    assert any(row in specimen.field_bugs and not specimen.sound for specimen in SPECIMENS.values())


def test_false_alarms_are_looked_for_on_many_sound_hooks() -> None:
    assert len(SOUND) >= 25


@pytest.mark.parametrize("name", SPECIMENS)
def test_registry_entry_can_be_loaded_and_is_explained(name: str) -> None:
    specimen = SPECIMENS[name]
    assert callable(load(name))
    assert load(name).__doc__
    assert specimen.sound is (name in SOUND)
    assert set(specimen.grade) == set(specimen.modes)
    assert set(specimen.families) <= set(FAMILIES)
