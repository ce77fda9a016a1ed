"""Tiles of the size that was asked for run, along each axis that the hook says it cuts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from vae_compat.checks.tiles import check_requested_tile
from vae_compat.contracts.cases import Case, Direction, Scenario
from vae_compat.contracts.finding import Status
from vae_compat.contracts.promise import Promise
from vae_compat.device.meter import Convolution, Reading
from vae_compat.families import FAMILIES
from vae_compat.matrix import STRIPS, generate
from vae_compat.scenarios.performed import Called, Played
from vae_compat.scenarios.strip import Strip, StripObserved
from vae_compat.subject.profile import Axes
from vae_compat.suites.mutation.trial import reference
from vae_compat.suites.selftest.measure_fakes import a_case, raised

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
        (64 + 48 * 8, 480, ""),  # with the widest that is of use
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
    failure = raised().failure
    seen = Strip().examine(WIDE, Promise(), Played(calls=(Called(failure=failure),)), None)
    assert check_requested_tile(seen).status is Status.NOT_JUDGED


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
