"""The matrix has the cases that follow from a profile, each once and with its own id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest

from vae_compat import matrix
from vae_compat.contracts.caseid import parse_case_id
from vae_compat.contracts.cases import (
    Case,
    Direction,
    Given,
    Layout,
    Mechanism,
    Mode,
    Scale,
    Scenario,
)
from vae_compat.families import FAMILIES
from vae_compat.front.explaining.explain import parse_case
from vae_compat.front.selection.subjects import load_subject, subject_folders
from vae_compat.matrix import (
    COHERENCE_FRAMES,
    HALF_SIZE,
    REAL_CUDA_SIZE,
    SIZES,
    SIZES_OF_CLIPS,
    Geometry,
    Selection,
    applies,
    cost,
    generate,
    is_claimed,
)
from vae_compat.subject.profile import embedded_names

DTYPES = ("float16", "float32", "bfloat16")
DEVICES = ("sim", "cuda", "cpu")
SMALL = {(17, 17), (10, 10)}


@dataclass(frozen=True)
class Claimed:
    families: tuple[str, ...] = tuple(FAMILIES)
    directions: tuple[str, ...] = ("encode", "decode")
    modes: tuple[str, ...] = ("exact",)
    overlap: bool = False
    when: str = "always"
    context: str | None = None
    coders: tuple[str, ...] = ()
    temporal: bool = False
    tile_multiple: int = 1


EVERYTHING = Claimed(modes=tuple(Mode))


def cases(
    claims: Claimed = EVERYTHING,
    layout: Layout = Layout.LDM,
    device: str = "sim",
    dtypes: Iterable[str] = DTYPES,
    *,
    full: bool = False,
    modes: Iterable[Mode] = (),
) -> tuple[Case, ...]:
    return generate(claims, layout, device, dtypes, full=full, unclaimed_modes=modes)


def mocks(found: Iterable[Case], family: str, direction: Direction, mode: Mode) -> list[Case]:
    """Those of the sizes and their variations, without the long clip and the plane of float16."""
    return [
        case
        for case in found
        if (case.scale, case.family, case.direction, case.mode, case.scenario)
        == (Scale.MOCK, family, direction, mode, None)
        and case.frames < COHERENCE_FRAMES
        and case.dtype != "float16"
        and case.given is None
    ]


def kind_of(case: Case) -> str:
    """Which of the sizes a case has."""
    (name,) = {
        name
        for sizes in (SIZES, SIZES_OF_CLIPS)
        for name, size in sizes.items()
        if (case.height, case.width, case.tile) == (size.height, size.width, size.tile)
    }
    return name


FIRST_OF_BUILDS = ("sd", "qwen", "wan22")


@pytest.mark.parametrize("full", [False, True])
def test_a_further_family_changes_no_case_of_the_others(
    monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    before = cases(full=full)
    further = {"further": replace(FAMILIES["sd"], name="further")}
    for known in (FAMILIES | further, further | dict(FAMILIES)):
        monkeypatch.setattr(matrix, "FAMILIES", known)
        assert cases(full=full) == before


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_selection_covers_every_factor_of_every_family_and_direction(
    family: str, direction: Direction, device: str
) -> None:
    found = mocks(cases(Claimed(), device=device), family, direction, Mode.EXACT)
    kinds = [kind_of(case) for case in found]
    assert len(kinds) == len(set(kinds))
    if family in FIRST_OF_BUILDS:
        assert set(kinds) == set(SIZES)
    else:
        assert {"narrow"} < set(kinds) & {"multiple", "ragged", "odd", "tall", "narrow"}
    assert {case.batch for case in found} == {1, 2}
    assert {case.dtype for case in found} == {"float32", "bfloat16"}
    assert {case.frames for case in found} == ({1, 3} if FAMILIES[family].frame_axis else {1})


@pytest.mark.parametrize("device", DEVICES)
def test_other_families_of_a_build_meet_every_size_between_them(device: str) -> None:
    found = cases(Claimed(), device=device)
    kin: dict[object, set[str]] = {}
    for family, direction in product(set(FAMILIES) - set(FIRST_OF_BUILDS), Direction):
        exact = mocks(found, family, direction, Mode.EXACT)
        kin.setdefault(FAMILIES[family].build, set()).update(map(kind_of, exact))
    assert len(kin) == 2
    assert all(kinds == set(SIZES) for kinds in kin.values())


@pytest.mark.parametrize("device", DEVICES)
def test_float16_is_for_one_plane_that_any_hook_must_tile(device: str) -> None:
    found = [case for case in cases(device=device) if case.dtype == "float16"]
    assert {(case.height, case.width, case.tile) for case in found} == {
        (HALF_SIZE.height, HALF_SIZE.width, HALF_SIZE.tile)
    }
    assert all(case.must_tile for case in found)
    assert {(case.family, case.direction) for case in found} == set(product(FAMILIES, Direction))
    assert {case.mode for case in found} == {Mode.EXACT}
    assert not any(case.dtype == "float16" for case in cases(dtypes=["float32"]))


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_two_of_a_batch_a_clip_and_a_half_dtype_meet_and_no_mode_lacks_one(
    family: str, direction: Direction
) -> None:
    found = cases()
    frames = (1, 3) if FAMILIES[family].frame_axis else (1,)
    exact = [case for case in mocks(found, family, direction, Mode.EXACT) if case.must_tile]
    assert {(max(frames), "float32"), (max(frames), "bfloat16")} <= {
        (case.frames, case.dtype) for case in exact
    }
    assert max(case.batch for case in exact) == 2
    if family in FIRST_OF_BUILDS:
        assert {(case.batch, case.frames) for case in exact} == set(product((1, 2), frames))
        for dtype in ("float32", "bfloat16"):
            alike = [case for case in exact if case.dtype == dtype]
            assert {case.batch for case in alike} == {1, 2}
            assert {case.frames for case in alike} == set(frames)
    for mode in (Mode.FAST, Mode.COLOR_FIX, Mode.QUADTREE):
        some = mocks(found, family, direction, mode)
        if mode is Mode.COLOR_FIX and direction is Direction.DECODE:
            continue
        if family not in FIRST_OF_BUILDS:
            assert [kind_of(case) for case in some] == ["narrow"]
            continue
        assert max(case.batch for case in some) == 2
        assert max(case.frames for case in some) == max(frames)
        assert {case.dtype for case in some} == {"float32", "bfloat16"}


def test_every_mode_meets_every_size_in_some_family() -> None:
    found = cases()
    for mode, direction in product(Mode, Direction):
        some = [case for family in FAMILIES for case in mocks(found, family, direction, mode)]
        assert not some or {kind_of(case) for case in some} == set(SIZES)


TRAITS: dict[str, Callable[[int, int, int], bool]] = {
    "multiple": lambda height, width, tile: height % tile == width % tile == 0,
    "ragged": lambda height, width, tile: height % tile > 0 and width % tile > 0,
    "odd": lambda height, width, tile: height % 2 == width % 2 == 1,
    "tall": lambda height, width, tile: height > 2 * width > 2 * tile,
    "plus_one": lambda height, width, tile: height == width == tile + 1,
    "small": lambda height, width, tile: height < tile and width < tile,
    "narrow": lambda height, width, tile: height > 2 * tile and width < tile,
}


@pytest.mark.parametrize("sizes", [SIZES, SIZES_OF_CLIPS])
def test_the_sizes_are_those_that_tilings_get_wrong(sizes: dict[str, Geometry]) -> None:
    assert sizes.keys() == TRAITS.keys()
    for name, plane in sizes.items():
        assert TRAITS[name](plane.height, plane.width, plane.tile), name
        largest_untiled = plane.tile + 22  # with the widest halo of a published hook around it
        assert (max(plane.height, plane.width) > largest_untiled) is (
            (plane.height, plane.width) not in SMALL
        )


def test_a_single_dtype_still_meets_both_batches() -> None:
    for family, direction in product(FAMILIES, Direction):
        found = mocks(cases(Claimed(), dtypes=["float32"]), family, direction, Mode.EXACT)
        assert {case.batch for case in found} == {1, 2}
        assert {case.dtype for case in found} == {"float32"}


def test_every_claimed_mode_is_run_and_has_no_baseline_of_its_own() -> None:
    found = cases()
    for family, direction in product(FAMILIES, Direction):
        exact = {case.baseline_id for case in mocks(found, family, direction, Mode.EXACT)}
        for mode in Mode:
            some = mocks(found, family, direction, mode)
            if mode is Mode.COLOR_FIX and direction is Direction.DECODE:
                assert not some
                continue
            assert some
            assert any(case.must_tile for case in some)
            assert {case.baseline_id for case in some} <= exact


def test_what_is_claimed_first_runs_all_of_the_selection() -> None:
    found = cases(Claimed(("sd",), ("decode",), ("fast", "quadtree")))
    assert len(mocks(found, "sd", Direction.DECODE, Mode.FAST)) == len(SIZES)
    assert 0 < len(mocks(found, "sd", Direction.DECODE, Mode.QUADTREE)) < len(SIZES)
    assert not mocks(found, "sd", Direction.DECODE, Mode.EXACT)


def test_what_is_not_claimed_appears_once_each() -> None:
    claims = Claimed(("sd", "qwen"), ("decode",), ("exact",))
    found = cases(claims, modes=[Mode.EXACT, Mode.FAST, Mode.COLOR_FIX])
    unclaimed = [case for case in found if not is_claimed(claims, case)]
    cells = Counter((case.family, case.direction, case.mode) for case in unclaimed)
    expected = {
        (family, direction, mode)
        for family, direction, mode in product(FAMILIES, Direction, Mode)
        if mode is not Mode.QUADTREE
        and (mode is not Mode.COLOR_FIX or direction is Direction.ENCODE)
        and not (family in claims.families and direction == "decode" and mode == "exact")
    }
    assert cells == Counter(expected)
    assert all(case.must_tile and case.scale is Scale.MOCK for case in unclaimed)


def test_a_hook_that_claims_nothing_is_asked_for_every_family() -> None:
    found = cases(Claimed((), (), ()))
    assert {(case.family, case.direction) for case in found} == set(product(FAMILIES, Direction))
    assert {case.mode for case in found} == {Mode.EXACT}


@pytest.mark.parametrize("device", DEVICES)
def test_the_whole_matrix_holds_the_selection(device: str) -> None:
    claims = Claimed(("sd", "qwen", "wan22"), ("encode", "decode"), ("exact", "fast"))
    some, whole = (cases(claims, device=device, full=full) for full in (False, True))
    assert set(some) < set(whole)
    factors = ("scale", "height", "width", "tile", "batch", "frames", "dtype", "mechanism", "mode")
    for family, direction in product(claims.families, Direction):
        for factor in factors:
            values = [
                {
                    getattr(case, factor)
                    for case in found
                    if case.family == family and case.direction == direction
                }
                for found in (some, whole)
            ]
            assert values[0] <= values[1], factor
    in_modes = mocks(whole, "qwen", Direction.DECODE, Mode.FAST)
    half = {(case.height, case.width) for case in whole if case.dtype == "float16"}
    every_size = (*SIZES.values(), *SIZES_OF_CLIPS.values())
    everywhere = {(size.height, size.width) for size in every_size}
    assert half - {(HALF_SIZE.height, HALF_SIZE.width)} == (
        everywhere if device == "cuda" else SMALL
    )
    combined = {(case.batch, case.frames) for case in in_modes}
    assert combined == set(product((1, 2), (1, 3)))
    assert {c.family for c in whole if c.scale is Scale.REAL} == set(claims.families)


def test_probes_are_of_every_build_and_of_mechanisms_that_it_has() -> None:
    found = [case for case in cases(Claimed()) if case.scale is Scale.PROBE]
    assert {FAMILIES[case.family].build for case in found} == {f.build for f in FAMILIES.values()}
    for case in found:
        assert case.mechanism is not None
        assert applies(case.facts, case.mechanism, case.direction)
        assert case.must_tile or case.frames == COHERENCE_FRAMES
        assert (case.frames > 1) is (case.mechanism is Mechanism.CAUSAL_CACHE)
    assert {case.mechanism for case in found} == set(Mechanism)


def test_a_long_clip_is_run_in_every_family_that_has_frames_and_in_one_tile_in_a_build() -> None:
    found = [case for case in cases() if case.scenario is None and case.frames == COHERENCE_FRAMES]
    videos = [name for name, family in FAMILIES.items() if family.frame_axis]
    mock = [case for case in found if case.scale is Scale.MOCK]
    whole = [(c.family, c.direction, c.mode, c.fits_one_tile) for c in mock]
    first = [name for name in videos if name in FIRST_OF_BUILDS]
    assert Counter(whole) == Counter(
        [
            *product(videos, Direction, [Mode.EXACT], [False]),
            *product(first, Direction, [Mode.EXACT], [True]),
        ]
    )
    probes = {(c.facts.build, c.direction) for c in found if c.scale is Scale.PROBE}
    assert probes == {(FAMILIES[name].build, d) for name in videos for d in Direction}
    for case in found:
        assert case.image_frames > 64
        assert min(case.height, case.width) <= case.tile
        assert max(case.height, case.width) < 2 * case.tile


@pytest.mark.parametrize("device", DEVICES)
def test_unusual_inputs_are_for_one_family_of_each_lineage_and_both_directions(device: str) -> None:
    found = [case for case in cases(device=device) if case.given is not None]
    pictures = set(Given) - {Given.LOUD}
    assert Counter((case.family, case.direction, case.given) for case in found) == Counter(
        [
            *product(("sd", "qwen"), [Direction.ENCODE], pictures),
            *product(("sd", "qwen"), [Direction.DECODE], Given),
        ]
    )
    assert all(case.must_tile and case.mode is Mode.EXACT for case in found)
    alone = cases(Claimed(("flux", "wan22"), modes=("quadtree", "fast")), device=device)
    assert {(case.family, case.mode) for case in alone if case.given} == {
        ("flux", Mode.QUADTREE),
        ("wan22", Mode.QUADTREE),
    }
    assert not any(case.given for case in cases(Claimed(modes=("fast",)), device=device))
    whole = [case for case in cases(device=device, full=True) if case.given is not None]
    assert set(found) < set(whole)
    assert {case.family for case in whole} == set(FAMILIES)


@pytest.mark.parametrize("given", Given)
def test_an_input_that_lies_elsewhere_in_memory_has_the_usual_truth(given: Given) -> None:
    (case, *_) = [case for case in cases() if case.given is given]
    usual = replace(case, given=None)
    same = given in (Given.CHANNELS_LAST, Given.SLICE)
    for name in ("truth_id", "baseline_id", "tiles_id"):
        assert (getattr(case, name) == getattr(usual, name)) is same


@pytest.mark.parametrize(
    ("family", "mechanism", "direction", "has"),
    [
        ("sd", Mechanism.GROUP_NORM, Direction.DECODE, True),
        ("qwen", Mechanism.GROUP_NORM, Direction.DECODE, False),
        ("qwen", Mechanism.CAUSAL_CACHE, Direction.ENCODE, True),
        ("flux", Mechanism.CAUSAL_CACHE, Direction.ENCODE, False),
        ("sd", Mechanism.DOWNSAMPLE, Direction.DECODE, False),
        ("sd", Mechanism.DOWNSAMPLE, Direction.ENCODE, True),
        ("sd", Mechanism.UPSAMPLE, Direction.ENCODE, False),
        ("wan22", Mechanism.ATTENTION, Direction.DECODE, True),
    ],
)
def test_a_mechanism_is_looked_for_where_it_is(
    family: str, mechanism: Mechanism, direction: Direction, has: bool
) -> None:
    assert applies(FAMILIES[family], mechanism, direction) is has


@pytest.mark.parametrize("full", [False, True])
def test_ids_are_unique_and_tell_the_case(full: bool) -> None:
    found = cases(full=full)
    assert len({case.id for case in found}) == len(found)
    for case in found:
        assert parse_case(case.id) == parse_case(f"parity[{case.id}]") == case


@pytest.mark.parametrize(
    "text", ["", "parity", "sd-mock-ldm-decode-exact-40x40-b1-f1-float32-sim", "parity[sd]"]
)
def test_what_is_no_case_id_has_no_parts(text: str) -> None:
    assert parse_case_id(text) is None


def test_the_same_claims_give_the_same_cases_in_the_same_order() -> None:
    assert cases() == cases()
    assert cases(dtypes=reversed(DTYPES)) == cases(dtypes=set(DTYPES))


def test_hooks_meet_on_the_same_baselines_whatever_else_they_claim() -> None:
    wide = cases(Claimed(modes=("exact", "fast")))
    for family in FAMILIES:
        alone = cases(Claimed((family,), ("decode",), ("quadtree",)))
        for scale in (Scale.MOCK, Scale.REAL):
            mine, theirs = (
                {
                    case.baseline_id
                    for case in found
                    if (case.family, case.direction, case.scale, case.scenario, case.given)
                    == (family, Direction.DECODE, scale, None, None)
                }
                for found in (alone, wide)
            )
            # Alone it is the first of its build, of which more is run.
            assert mine >= theirs
            assert mine == theirs or family not in FIRST_OF_BUILDS
    in_another = {case.truth_id for case in cases(Claimed(), Layout.DIFFUSERS)}
    assert in_another == {case.truth_id for case in cases(Claimed(), Layout.WAN)}


@pytest.mark.parametrize("name", embedded_names(*subject_folders()))
def test_every_case_of_an_embedded_hook_is_in_the_layout_it_expects(name: str) -> None:
    profile = load_subject(name)
    layout = Layout(profile.hook.layout)
    for case in generate(profile.claims, layout, "sim", DTYPES):
        if layout is Layout.DIFFUSERS:
            assert case.layout is Layout.DIFFUSERS
        else:
            assert case.layout is (Layout.WAN if case.facts.frame_axis else Layout.LDM)


def test_a_selection_filters() -> None:
    found = cases()
    narrow = Selection(
        scales=frozenset({Scale.MOCK}),
        families=frozenset({"qwen"}),
        directions=frozenset({Direction.ENCODE}),
        modes=frozenset({Mode.COLOR_FIX}),
    )
    assert list(filter(narrow.admits, found)) == mocks(
        found, "qwen", Direction.ENCODE, Mode.COLOR_FIX
    )
    assert all(map(Selection().admits, found))


def test_a_real_gpu_runs_planes_that_vram_is_judged_by_in_every_mode() -> None:
    assert all(case.vram_tells for case in cases())
    found = [case for case in cases(device="cuda") if case.vram_tells]
    whole = [case for case in cases(device="cuda", full=True) if case.vram_tells]
    claimed = {
        (family, direction, mode)
        for family, direction, mode in product(FAMILIES, Direction, Mode)
        if mode is not Mode.COLOR_FIX or direction is Direction.ENCODE
    }
    cells = {(case.family, case.direction, case.mode) for case in found}
    assert cells == {cell for cell in claimed if FAMILIES[cell[0]].real_by_default}
    assert {(case.family, case.direction, case.mode) for case in whole} == claimed
    assert {case.dtype for case in found} == {"float32", "bfloat16"}
    for case in whole:
        assert case.scale is Scale.REAL
        assert case.must_tile
        if case.width == REAL_CUDA_SIZE.width:
            # A sound hook with the whole receptive field around its tiles takes less than untiled.
            assert case.tile + 2 * case.facts.widest_halo < case.width


def test_larger_nets_planes_and_clips_cost_more() -> None:
    clips = mocks(cases(full=True), "qwen", Direction.DECODE, Mode.EXACT)
    found = {(kind_of(c), c.batch, c.frames): c for c in clips if c.dtype == "float32"}
    small, plus_one, ragged = (found[name, 1, 1] for name in ("small", "plus_one", "ragged"))
    assert cost(small) < cost(plus_one) < cost(ragged)
    assert cost(found["ragged", 2, 1]) < cost(found["ragged", 2, 3])
    real = [case for case in cases() if case.scale is Scale.REAL]
    computed = [case for case in real if case.scenario is not Scenario.ESTIMATE]
    assert min(map(cost, computed)) > cost(found["ragged", 2, 3])


def test_what_is_claimed_of_hosts_has_cases_and_nothing_else_has() -> None:
    def scenarios(**claimed: Any) -> set[str]:
        return {str(case.scenario) for case in cases(Claimed(**claimed)) if case.scenario}

    special = {"overlaps", "offloaded", "static", "patched", "plenty", "inference_mode", "temporal"}
    assert scenarios() & special == {"inference_mode"}
    coders = ("offloaded", "static", "patched")
    cuts = {"overlap": True, "temporal": True}
    every = scenarios(**cuts, when="memory", context="no_grad", coders=coders)
    assert "temporal" not in scenarios(families=("sd",), temporal=True)
    assert every & special == special - {"inference_mode"}
