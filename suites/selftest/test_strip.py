"""Tiles of the size that was asked for run, along each axis that the hook says it cuts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from vae_compat.checks.tiles import check_requested_tile
from vae_compat.contracts.cases import Case, Direction, Scenario
from vae_compat.contracts.finding import Status
from vae_compat.contracts.promise import Promise
from vae_compat.device.meter import Convolution, Reading
from vae_compat.families import FAMILIES
from vae_compat.matrix import STRIPS, generate
from vae_compat.measure.observation import untold
from vae_compat.scenarios.performed import Called, Played
from vae_compat.scenarios.stage import Stage
from vae_compat.scenarios.strip import Strip, StripObserved
from vae_compat.subject.profile import Axes
from vae_compat.suites.mutation.trial import reference
from vae_compat.suites.selftest.measure_fakes import FakeHook, TinyModels, a_case, raised

WIDE = a_case(height=4, width=60, tile=8, scenario=Scenario.STRIP)
HIGH = a_case(height=60, width=4, tile=8, scenario=Scenario.STRIP)


def ran(*planes: tuple[int, int], case: Case = WIDE, **promised: Any) -> StripObserved:
    """What is seen of calls whose convolutions wrote these planes, each in a net of its own."""
    calls = [
        Called(reading=Reading(convolutions={Convolution((8, 8, 3, 3), plane): 9}))
        for plane in planes
    ]
    promise = Promise(**promised)
    return Strip().examine(case, promise, Played(calls=tuple(calls)), SimpleNamespace())


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (64, 128, ""),  # tiles alone
        (64 + 22 * 8, 128 + 22 * 8, ""),  # with the halo of published hooks
        (56, 120, ""),  # evened out
        (480, 480, "at most 56"),  # untiled
        (128, 128, "grow with the tile"),  # a size of its own
        (128, 64, "grow with the tile"),
        (128, 256, "at most 28"),  # tiles of twice the size
    ],
)
@pytest.mark.parametrize("case", [WIDE, HIGH], ids=["wide", "high"])
def test_tiles_of_the_size_asked_for_and_of_another(
    case: Case, first: int, second: int, told: str
) -> None:
    planes = [(32, side) if case is WIDE else (side, 32) for side in (first, second)]
    finding = check_requested_tile(ran(*planes, case=case))
    assert finding.status is (Status.FAILED if told else Status.PASSED)
    assert told in finding.message


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (1000, 1900, ""),
        (1000, 1000, "or memory that does"),  # never reads the size
        (1000, 1050, "or memory that does"),
        (1900, 1000, "or memory that does"),  # mistakes one side for the other
        (None, None, "or memory that does"),  # the CPU has no meter
    ],
)
def test_tiles_computed_piece_by_piece_are_told_by_their_memory(
    first: int | None, second: int | None, told: str
) -> None:
    piece = {Convolution((8, 8, 3, 3), (32, 32)): 9}
    peaks = [None if taken is None else 70 + taken for taken in (first, second)]
    calls = [
        Called(reading=Reading(convolutions=piece, peak_bytes=peak, live_before=70))
        for peak in peaks
    ]
    observed = Strip().examine(WIDE, Promise(), Played(calls=tuple(calls)), SimpleNamespace())
    finding = check_requested_tile(observed)
    assert finding.status is (Status.FAILED if told else Status.PASSED)
    assert told in finding.message


@pytest.mark.parametrize(
    ("first", "longer", "told"),
    [
        (64 + 48 * 8, 128 + 48 * 8, ""),  # with the widest halo that is of use
        (7 * 64, 7 * 128, "at most 68"),
    ],
)
def test_a_larger_tile_that_covers_the_strip_is_seen_on_a_longer_one(
    first: int, longer: int, told: str
) -> None:
    finding = check_requested_tile(ran((32, first), (32, 480), (32, longer)))
    assert finding.status is (Status.FAILED if told else Status.PASSED)
    assert told in finding.message
    assert check_requested_tile(ran((32, first), (32, 480))).status is Status.NOT_JUDGED


@pytest.mark.parametrize(
    ("along", "largest", "told"),
    [
        ((128, 256), (32, 128), ""),  # half as high, twice as wide
        ((128, 256), (128, 32), ""),  # the other way round as well, and as large
        ((128 + 176, 256 + 176), (32 + 176, 128 + 176), ""),  # with a halo
        ((128, 448), (24, 192), ""),  # bands of so many rows that they have the area
        ((128, 256), (64, 128), "at most 1.5 x the area"),  # twice as wide
        ((128 + 176, 256 + 176), (128 + 176, 128 + 176), "at most 1.5 x the area"),
        ((128, 128), (32, 128), "tile_multiple"),  # it does not grow
    ],
)
@pytest.mark.parametrize("case", [WIDE, HIGH], ids=["wide", "high"])
def test_tiles_of_another_shape_may_be_longer_if_they_are_shorter_across(
    case: Case, along: tuple[int, int], largest: tuple[int, int], told: str
) -> None:
    strips = [(32, side) if case is WIDE else (side, 32) for side in along]
    finding = check_requested_tile(ran(*strips, largest, case=case))
    if told == "tile_multiple":
        finding = check_requested_tile(ran(*strips, case=case))
    assert finding.status is (Status.FAILED if told else Status.PASSED)
    assert told in finding.message


class Shaped(FakeHook):
    """Cuts tiles of a shape of its own choice."""

    def __init__(self, shape: Callable[[int], tuple[int, int]]) -> None:
        super().__init__(self.run)
        self.shape = shape

    def put_on(self, view: Any, case: Case, **more: Any) -> Any:
        self.tile = case.tile
        return super().put_on(view, case, **more)

    def run(self, original: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        height, width = self.shape(self.tile)
        bands = (band.split(width, -1) for band in x.split(height, -2))
        return torch.cat([torch.cat(list(map(original, band)), -1) for band in bands], -2)


@pytest.mark.parametrize(
    ("shape", "calls", "sides", "status"),
    [
        (lambda tile: (tile, tile), 2, None, Status.PASSED),
        (lambda tile: (tile // 2, 2 * tile), 3, (4, 16), Status.PASSED),
        (lambda tile: (tile, 2 * tile), 3, (8, 16), Status.FAILED),
        (lambda tile: (2 * tile, 2 * tile), 3, (16, 16), Status.FAILED),
        (lambda _: (16, 16), 2, None, Status.FAILED),
        (lambda tile: (tile + 48, tile + 48), 3, None, Status.PASSED),
        (lambda tile: (7 * tile, 7 * tile), 4, (56, 56), Status.FAILED),
    ],
)
@pytest.mark.parametrize("case", [WIDE, HIGH], ids=["wide", "high"])
def test_where_tiles_are_longer_than_was_asked_their_other_side_is_looked_at(
    case: Case, shape: Callable[[int], tuple[int, int]], calls: int, sides: Any, status: Status
) -> None:
    along = shape if case is WIDE else lambda tile: shape(tile)[::-1]
    models = TinyModels(torch.zeros(case.latent_shape))
    played = Strip().perform(Stage(case, Promise(), Shaped(along), models, 20.0))
    assert len(played.calls) == calls
    observed = Strip().examine(case, Promise(), played, SimpleNamespace())
    assert observed.sides == (sides if case is WIDE or sides is None else sides[::-1])
    assert check_requested_tile(observed).status is status


def test_sizes_that_are_asked_for_are_multiples_of_what_a_profile_says() -> None:
    claims = replace(reference().claims, tile_multiple=128)
    cases = generate(claims, reference().hook.layout, "sim", ["float32"])
    strips = [case for case in cases if case.scenario is Scenario.STRIP]
    assert {case.tile * case.facts.ratio for case in strips} == {128}
    for case in strips:
        assert case.tile + 2 * case.facts.widest_halo < max(case.height, case.width)
    assert Promise(tile_multiple=96).rounded(8, 8) == 12
    assert Promise(tile_multiple=24).rounded(8, 16) == 9  # 144 image pixels
    assert Promise().rounded(8, 8) == 8


def test_a_patch_of_image_pixels_is_one_pixel_of_a_coder() -> None:
    case = replace(WIDE, family="wan22", direction=Direction.ENCODE)
    assert ran((32, 64), (32, 128), case=case).reached == (8, 16)


def test_only_the_axes_that_a_hook_says_it_cuts_are_judged() -> None:
    for axes, judged in (("both", (WIDE, HIGH)), ("height", (HIGH,)), ("width", (WIDE,))):
        promise = Promise(axes=axes)
        applies = [case for case in (WIDE, HIGH) if check_requested_tile.applies(case, promise)]
        assert applies == list(judged)
    assert {"both", "height", "width"} == set(Axes)


def test_what_was_not_seen_is_no_pass() -> None:
    assert check_requested_tile(ran((32, 64))).status is Status.NOT_JUDGED
    assert check_requested_tile(ran((0, 0), (0, 0))).status is Status.NOT_JUDGED
    failure = untold("its process ended")
    seen = Strip().examine(WIDE, Promise(), Played(calls=(Called(failure=failure),)), None)
    finding = check_requested_tile(seen)
    assert finding.status is Status.NOT_JUDGED
    assert "its process ended" in finding.message


def test_a_crash_fails_and_is_told_with_its_words_its_place_and_the_call() -> None:
    failure = raised().failure
    assert failure is not None
    made = Called(what="tiles of 8 latent pixels", failure=failure)
    finding = check_requested_tile(
        Strip().examine(WIDE, Promise(), Played(calls=(made,)), SimpleNamespace())
    )
    assert finding.status is Status.FAILED
    assert f"{failure.kind}: {failure.message}" in finding.message
    assert finding.message.endswith("; should be a result; in: tiles of 8 latent pixels")


def test_every_family_and_direction_has_a_strip_along_each_axis() -> None:
    cases = generate(reference().claims, reference().hook.layout, "sim", ["float32"])
    found = {(c.family, c.direction, c.height) for c in cases if c.scenario is Scenario.STRIP}
    assert found == {(f, d, size.height) for f in FAMILIES for d in Direction for size in STRIPS}


def test_strips_are_longer_than_any_tile_with_its_halo() -> None:
    for family in FAMILIES.values():
        for size in STRIPS:
            long, short = max(size.height, size.width), min(size.height, size.width)
            assert size.tile + 2 * family.widest_halo < long
            assert short <= size.tile  # cut along one axis only, or not at all
