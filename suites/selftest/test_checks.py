"""Every check passes where it should, fails where it should, and says what it cannot judge."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vae_compat.checks.conditions import claimed, decode, may_run_untiled, probe
from vae_compat.checks.cost import work_bound
from vae_compat.checks.declaring import Answer, not_judged
from vae_compat.checks.declaring import check as declared
from vae_compat.checks.metrics import METRICS
from vae_compat.checks.parity import grade_of
from vae_compat.checks.registry import BY_NAME, CHECKS
from vae_compat.checks.wording import apart, mebibytes_apart
from vae_compat.contracts.cases import Direction, Mechanism, Mode, Scale
from vae_compat.contracts.finding import Finding, Grade, Status, Tier
from vae_compat.contracts.mechanisms import EXPLANATION
from vae_compat.contracts.promise import Bounds, Promise
from vae_compat.device.meter import Convolution, Copies, HostMemory, Reading, Waits
from vae_compat.measure.observation import (
    ConventionResult,
    Held,
    Noise,
    Observation,
    Observed,
    Origin,
    Times,
)
from vae_compat.suites.selftest.measure_fakes import (
    CASE,
    a_baseline,
    a_case,
    an_observation,
    raised,
    tiled_reading,
)

LEVEL = 2 / 255
PROBE = a_case(scale=Scale.PROBE, mechanism=Mechanism.HALO, height=40, width=40)
STUB = replace(PROBE, mechanism=Mechanism.STUB)
TWO = a_case(batch=2)
SMALL = a_case(height=16, width=16)
QWEN = a_case(family="qwen", frames=1)
NAMES = [
    one.name
    for one in CHECKS
    if any(
        one.applies(case, Promise(claimed=claimed, bounds=Bounds(), waits_per_tile=1))
        for case in (CASE, PROBE, TWO, SMALL, QWEN)
        for claimed in (True, False)
    )
]
"""Checks of single runs. Those of scenarios have tests of their own."""

REFUSED = "VAEHook.__call__() got an unexpected keyword argument 'feat_cache'"


def check(name: str, observation: Observation) -> Finding:
    return BY_NAME[name](observation)


def way(**changes: Any) -> ConventionResult:
    return replace(ConventionResult("by keyword", None, (1, 3), (1, 3), True), **changes)


def flip(output: Tensor) -> Tensor:
    return output.flip(0)


def poisoned(output: Tensor) -> Tensor:
    output[0, 1, 130, 5] = torch.nan
    return output


def seamed(output: Tensor) -> Tensor:
    output[..., 128:] += 4 * LEVEL
    return output


def faintly_seamed(output: Tensor) -> Tensor:
    """A PSNR of 41 dB, which would be close without the seam."""
    output[..., 128:] += 2.5 * LEVEL
    return output


def hole(output: Tensor) -> Tensor:
    output[..., :128, 120:136] = 0
    return output


def one_item(output: Tensor) -> Tensor:
    output[1] += 1e-5
    return output


def one_item_visibly(output: Tensor) -> Tensor:
    output[1] += 0.01
    return output


def plus(value: float) -> Callable[[Tensor], Tensor]:
    return lambda output: output + value


def corner(output: Tensor) -> Tensor:
    """One half of a tile is brighter by three levels."""
    output[..., 320:, :64] += 3 * LEVEL
    return output


def bounded(change: Callable[[Tensor], Tensor] | None, **bounds: Any) -> Observation:
    seen = an_observation(change=change, grade="degraded")
    return replace(seen, promise=replace(seen.promise, bounds=Bounds(**bounds)))


def thrifty(reading: Reading, **promised: float) -> Observation:
    """A hook that promises what the host has to do, on a plane of nine tiles."""
    seen = an_observation(reading=reading)
    return replace(seen, promise=replace(seen.promise, **promised))


def on_host(*, waits: int = 0, held: int = 0) -> Reading:
    return tiled_reading(waits=Waits(read=waits), host=HostMemory(held // 2, held - held // 2))


RESULT = an_observation().output
RESULT_BYTES = 0 if RESULT is None else RESULT.nbytes
FULL = {Convolution((8, 8, 3, 3), (384, 384)): 2}
OFTEN = {Convolution((8, 8, 3, 3), (384, 384)): 18}
CROP = {Convolution((8, 8, 3, 3), (150, 150)): 2}


def keeping(shape: tuple[int, ...], left: int) -> Observation:
    """A hook that leaves a tensor on the device, and so many bytes."""
    kept = Held(shape, "float32", 4 * math.prod(shape))
    return an_observation(reading=tiled_reading(live_after=110 + left), held=(kept,))


def passing(passes: int, **counted: Any) -> Observation:
    """A hook that says that it cuts planes in so many ways."""
    seen = an_observation(reading=tiled_reading(**counted))
    return replace(seen, promise=replace(seen.promise, passes=passes))


PASSES: list[tuple[str, Callable[[], Observation]]] = [
    ("call_contract", an_observation),
    ("call_contract", lambda: an_observation(conventions=(way(), way()))),
    ("completes", an_observation),
    ("output_shape", an_observation),
    ("output_dtype", an_observation),
    ("output_device", an_observation),
    ("finite", an_observation),
    ("tiles_ran", an_observation),
    ("tiles_ran", lambda: an_observation(SMALL, reading=tiled_reading(convolutions=FULL))),
    (
        "tiles_ran",
        lambda: an_observation(QWEN, cache="fallback", reading=tiled_reading(convolutions=FULL)),
    ),
    ("single_tile", lambda: an_observation(SMALL, reading=tiled_reading(convolutions=FULL))),
    ("parity", an_observation),
    ("parity", lambda: an_observation(change=plus(0.2), grade="degraded")),
    ("seams", an_observation),
    ("seams", lambda: an_observation(change=seamed, grade="degraded")),
    ("seams", lambda: an_observation(change=plus(0.1))),
    ("bounds", lambda: bounded(None, psnr=40.0, levels=2.0, seams=True)),
    ("bounds", lambda: bounded(corner, psnr=30.0, levels=4.0)),
    ("bounds", lambda: bounded(seamed, psnr=30.0, levels=5.0)),
    ("value_range", an_observation),
    ("colour_shift", an_observation),
    ("colour_shift", lambda: an_observation(change=plus(0.1), grade="degraded")),
    ("batch_items", lambda: an_observation(TWO)),
    ("batch_items", lambda: an_observation(TWO, change=one_item, grade="close")),
    ("batch_items", lambda: an_observation(TWO, change=plus(0.01), grade="degraded")),
    (
        "batch_items",
        lambda: an_observation(
            replace(TWO, mode=Mode.QUADTREE), change=one_item_visibly, grade="degraded"
        ),
    ),
    ("peak_vram", an_observation),
    ("peak_vram", lambda: an_observation(SMALL, reading=tiled_reading(peak_bytes=5000))),
    (
        "peak_vram",
        lambda: an_observation(QWEN, cache="fallback", reading=tiled_reading(peak_bytes=1100)),
    ),
    ("work", an_observation),
    ("work", lambda: passing(3, flops=7200)),
    (
        "work",
        lambda: an_observation(a_case(mode=Mode.QUADTREE), reading=tiled_reading(flops=10**6)),
    ),
    ("transfers", an_observation),
    ("host_cost", lambda: thrifty(on_host(waits=9), waits_per_tile=1, host_memory=0)),
    ("host_cost", lambda: thrifty(on_host(held=2 * RESULT_BYTES), host_memory=2)),
    ("stream_order", an_observation),
    ("live_bytes", an_observation),
    ("live_bytes", lambda: keeping((1, 1, 64, 1), 512)),
    ("left_behind", an_observation),
    ("input_untouched", an_observation),
    ("refusal", lambda: an_observation(claimed=False)),
    ("refusal", lambda: raised("only 4-D latents", deliberate=True, claimed=False)),
    ("mechanism", lambda: an_observation(PROBE)),
    ("mechanism", lambda: an_observation(PROBE, change=plus(0.01), grade="degraded")),
    ("mechanism", lambda: an_observation(STUB, grade="degraded")),
]

FAILS: list[tuple[str, Callable[[], Observation], str]] = [
    ("host_cost", lambda: thrifty(on_host(waits=10), waits_per_tile=1), "1.11 times a tile"),
    ("host_cost", lambda: thrifty(on_host(waits=1), waits_per_tile=0), "1 x read"),
    (
        "host_cost",
        lambda: thrifty(on_host(held=2 * RESULT_BYTES + 2), host_memory=2),
        "2 x the bytes of the result, as claimed",
    ),
    (
        "stream_order",
        lambda: an_observation(reading=tiled_reading(races=("stream 1 reads x", "y", "z"))),
        "stream 1 reads x; and 2 more; should be every two uses of memory in order",
    ),
    ("call_contract", lambda: raised(REFUSED, kind="TypeError", refuses_call=True), "'feat_cache'"),
    (
        "call_contract",
        lambda: an_observation(conventions=(way(), way(convention="by position", shape=(1, 2)))),
        "by position",
    ),
    ("call_contract", lambda: an_observation(conventions=(way(finite=False),)), "NaN"),
    (
        "call_contract",
        lambda: an_observation(conventions=(way(index=((0,),), expected_index=((24,),)),)),
        "feat_idx at (0,) instead of (24,) after call 0",
    ),
    ("completes", raised, "ValueError: boom"),
    ("completes", lambda: raised(kind="TimeoutError", phase="take_off"), "taken off"),
    ("output_shape", lambda: an_observation(change=lambda y: y[..., :-8]), "1x3x384x376"),
    ("output_shape", lambda: an_observation(output=None, returned="list of 2 Tensor"), "list of 2"),
    ("output_dtype", lambda: an_observation(change=Tensor.half), "dtype float16"),
    ("output_device", lambda: an_observation(output_device="cpu"), "on cpu"),
    ("finite", lambda: an_observation(change=poisoned), "y 130, x 5"),
    ("single_tile", lambda: an_observation(SMALL), "18 convolutions"),
    ("parity", lambda: an_observation(change=plus(1e-5)), "x floor"),
    ("parity", lambda: an_observation(change=poisoned, grade="degraded"), "NaN"),
    ("parity", lambda: an_observation(change=hole, grade="degraded"), "no tile wrote"),
    ("parity", lambda: an_observation(change=seamed, grade="close"), "seam at x 128"),
    ("parity", lambda: an_observation(change=Tensor.half, grade="degraded"), "float16"),
    (
        "parity",
        lambda: an_observation(output_device="cpu", grade="degraded"),
        "device cpu",
    ),
    ("seams", lambda: an_observation(change=seamed, grade="close"), "a tile border"),
    ("bounds", lambda: bounded(plus(0.1), psnr=30.0), "at least 30.0 dB"),
    ("bounds", lambda: bounded(corner, levels=2.0), "y 320 to 384, x 0 to 64"),
    ("bounds", lambda: bounded(seamed, seams=True), "a tile border"),
    ("value_range", lambda: an_observation(change=lambda y: y * 1.5), "clamp"),
    ("colour_shift", lambda: an_observation(change=plus(0.02)), "+2.55 8-bit levels"),
    ("batch_items", lambda: an_observation(TWO, change=flip, grade="degraded"), "mixed up"),
    ("batch_items", lambda: an_observation(TWO, change=one_item), "batch item 1"),
    (
        "batch_items",
        lambda: an_observation(TWO, change=one_item_visibly, grade="degraded"),
        "tiles for every item",
    ),
    ("peak_vram", lambda: an_observation(reading=tiled_reading(peak_bytes=1100)), "1.00 x"),
    ("work", lambda: an_observation(reading=tiled_reading(flops=7200)), "7.20 x the FLOPs"),
    ("live_bytes", lambda: an_observation(reading=tiled_reading(live_after=111)), "1 bytes"),
    ("live_bytes", lambda: keeping((64, 2), 512), "512 bytes"),
    ("live_bytes", lambda: keeping((5000,), 20480), "bytes) still allocated"),
    ("live_bytes", lambda: keeping((64,), 1024), "512 bytes"),
    ("work", lambda: passing(3, flops=9200 * 3), "27.60 x the FLOPs"),
    ("live_bytes", lambda: an_observation(reading=tiled_reading(live_after=99)), "fewer"),
    ("left_behind", lambda: an_observation(residue=("decoder.forward was added",)), "forward"),
    ("input_untouched", lambda: an_observation(input_changed=True), "in place"),
    ("refusal", lambda: an_observation(change=plus(0.1), claimed=False), "wrong picture"),
    ("refusal", lambda: an_observation(change=lambda y: y[..., 8:], claimed=False), "shape"),
    ("refusal", lambda: an_observation(output=None, returned="None", claimed=False), "None"),
    ("refusal", lambda: raised(kind="AttributeError", claimed=False), "on purpose"),
    ("refusal", lambda: raised(origin=Origin.DEATH, claimed=False), "on purpose"),
    (
        "refusal",
        lambda: raised(REFUSED, kind="TypeError", refuses_call=True, claimed=False),
        "not claimed",
    ),
    ("mechanism", lambda: an_observation(PROBE, change=plus(0.1)), "neighbourhood"),
    (
        "mechanism",
        lambda: an_observation(STUB, change=plus(1e-6), grade="degraded"),
        "should be exact",
    ),
]

UNKNOWN: list[tuple[str, Callable[[], Observation]]] = [
    ("tiles_ran", lambda: an_observation(reading=tiled_reading(convolutions=FULL))),
    ("tiles_ran", lambda: an_observation(reading=tiled_reading(convolutions=CROP))),
    ("tiles_ran", lambda: an_observation(reading=tiled_reading(convolutions=OFTEN))),
    ("tiles_ran", lambda: an_observation(reading=tiled_reading(convolutions={}))),
    ("tiles_ran", lambda: an_observation(cache="fallback", reading=Reading(convolutions=FULL))),
    ("single_tile", lambda: an_observation(SMALL, reading=Reading())),
    ("peak_vram", lambda: an_observation(reading=tiled_reading(peak_bytes=None))),
    ("work", lambda: an_observation(reading=tiled_reading(flops=None))),
    ("transfers", lambda: an_observation(reading=tiled_reading(host_to_device=None))),
    ("host_cost", lambda: thrifty(tiled_reading(host=HostMemory()), waits_per_tile=1)),
    ("stream_order", lambda: an_observation(output=None)),
    ("live_bytes", lambda: an_observation(reading=tiled_reading(live_after=None))),
    ("output_device", lambda: an_observation(output_device=None)),
    ("mechanism", an_observation),
]


def numbered(table: list[Any]) -> list[str]:
    return [f"{row[0]}-{number}" for number, row in enumerate(table)]


@pytest.mark.parametrize(("name", "make"), PASSES, ids=numbered(PASSES))
def test_passes(name: str, make: Callable[[], Observation]):
    found = check(name, make())
    assert found.status is Status.PASSED, found.message
    assert found.message == ""


@pytest.mark.parametrize(("name", "make", "said"), FAILS, ids=numbered(FAILS))
def test_fails_and_says_why(name: str, make: Callable[[], Observation], said: str):
    found = check(name, make())
    assert found.status is Status.FAILED, found
    assert said in found.message
    assert " got " in found.message
    assert "; should be " in found.message
    assert found.message.endswith("repeat: vae-compat run --case it")


@pytest.mark.parametrize(("name", "make"), UNKNOWN, ids=numbered(UNKNOWN))
def test_what_cannot_be_judged_is_said_so(name: str, make: Callable[[], Observation]):
    found = check(name, make())
    assert found.status is Status.NOT_JUDGED
    assert found.message.startswith("not judged: ")


ELSEWHERE = {Convolution((1, 1, 3, 3), (2, 2)): 300}
HALF = {Convolution((8, 8, 3, 3), (128, 128)): 9}


def test_ranks_that_all_compute_the_whole_plane_are_not_told_of_tiles():
    seen = an_observation(reading=tiled_reading(convolutions=FULL))
    shared = replace(seen, promise=replace(seen.promise, kind="ranks"))
    found = check("tiles_ran", shared)
    assert found.status is Status.NOT_JUDGED
    assert "the plane was not shared among the ranks: the largest plane" in found.message
    assert "tiles" not in found.message


@pytest.mark.parametrize(
    ("case", "ran", "share"),
    [(CASE, ELSEWHERE, "0.00 %"), (CASE, HALF, "50.00 %"), (SMALL, ELSEWHERE, "0.00 %")],
)
def test_work_that_no_meter_saw_is_not_judged(case: Any, ran: Any, share: str):
    found = check("tiles_ran", an_observation(case, reading=tiled_reading(convolutions=ran)))
    assert found.status is Status.NOT_JUDGED
    assert "was not done on the device" in found.message
    assert f"8x8x3x3 wrote {share}" in found.message


def test_layers_that_run_by_parts_are_work_done():
    def seen(convolutions: Any) -> bool:
        found = check("tiles_ran", an_observation(reading=tiled_reading(convolutions=convolutions)))
        return "was not done on the device" not in found.message

    for parts, kernel in (
        (2, (4, 8, 3, 3)),
        (2, (8, 4, 3, 3)),
        (3, (8, 8, 1, 3)),
        (1, (9, 9, 3, 3)),
    ):
        of_nine_tiles = {Convolution(kernel, (128, 128)): 9 * 2 * parts}
        assert seen(of_nine_tiles)
        assert not seen({ran: count // 3 for ran, count in of_nine_tiles.items()})


@pytest.mark.parametrize(
    ("kernel", "plane", "calls"),
    [
        ((8, 8, 2, 2), (64, 64), 4),  # a convolution for each phase
        ((32, 8, 2, 2), (64, 64), 1),  # all phases in one
        ((4, 8, 2, 2), (64, 64), 8),
        ((8, 8, 2, 3), (64, 128), 2),  # phases of rows alone
    ],
)
def test_layers_that_run_by_phases_of_upsampled_planes_are_work_done(kernel, plane, calls):
    def said(count: int) -> str:
        reading = tiled_reading(convolutions={Convolution(kernel, plane): count})
        return check("tiles_ran", an_observation(reading=reading)).message

    assert "was not done on the device" not in said(9 * 2 * calls)
    assert "was not done on the device" in said(9 * 2 * calls - 1)


def test_tiles_that_run_as_one_batch_are_no_work_left_out():
    def of(items: int, count: int) -> Any:
        return {Convolution((8, 8, 3, 3), (128, 128), items): count}

    for items, count, share in ((9, 2, ""), (3, 6, ""), (1, 9, "50.00 %"), (3, 5, "83.33 %")):
        found = check(
            "tiles_ran", an_observation(reading=tiled_reading(convolutions=of(items, count)))
        )
        assert ("was not done on the device" in found.message) is bool(share)
        assert share in found.message


def test_whole_clips_and_kernels_of_another_form_are_no_work_left_out():
    case = a_case(family="qwen", frames=3)
    base = a_baseline(case)
    untiled = {
        Convolution((8, 8, 3, 3, 3), (384, 384)): 3,
        Convolution((8, 8, 3, 1, 1), (384, 384)): 3,
        Convolution((8, 8, 1, 1), (384, 384)): 3,
    }
    base = replace(base, reading=replace(base.reading, convolutions=untiled))
    once = tiled_reading(convolutions={Convolution((8, 8, 3, 3), (128, 128)): 10})
    found = check("tiles_ran", an_observation(case, baseline=base, reading=once))
    assert found.status is Status.PASSED, found.message


def test_every_check_is_seen_to_pass_and_to_go_wrong():
    wrong = {name for name, *_ in FAILS} | {name for name, _ in UNKNOWN}
    assert {name for name, _ in PASSES} == set(NAMES) == wrong
    assert len(set(NAMES)) == len(NAMES)


INDEPENDENT = {
    "call_contract", "completes", "live_bytes", "left_behind", "input_untouched", "refusal",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(NAMES) - INDEPENDENT))
@pytest.mark.parametrize("batch", [1, 2])
def test_without_output_nothing_passes(name: str, batch: int):
    case = replace(PROBE if name == "mechanism" else CASE, batch=batch)
    found = check(name, raised(case=case))
    assert found.status is Status.NOT_JUDGED
    assert found.message.startswith("not judged: ")
    assert found.blocked_by == "completes" or name == "output_shape"


VALUES = sorted({"parity", "seams", "value_range", "colour_shift", "batch_items"})


@pytest.mark.parametrize("name", VALUES)
def test_values_of_a_wrong_shape_are_not_judged(name: str):
    found = check(name, an_observation(TWO, change=lambda y: y[..., :-1]))
    assert found.status is Status.NOT_JUDGED
    assert found.blocked_by == "output_shape"


@pytest.mark.parametrize("name", [*VALUES, "finite"])
def test_a_baseline_that_is_not_finite_judges_nothing(name: str):
    baseline = a_baseline(TWO)
    baseline.output[0, 0, 0, 0] = torch.inf
    found = check(name, an_observation(TWO, baseline=baseline))
    assert found.status is Status.NOT_JUDGED
    assert "untiled" in found.message


def test_a_crash_is_graded_broken():
    assert check("parity", raised()).grade is Grade.BROKEN


def scaled(ratio: float, worst: float = 0.0) -> Observation:
    """An output at a multiple of the floor, with one element at a multiple of the floor's worst."""
    base = a_baseline()
    output = base.output.double() * 0 + base.truth
    generator = torch.Generator().manual_seed(5)
    output += 1e-3 * ratio * torch.randn(output.shape, generator=generator, dtype=torch.float64)
    if worst:
        output[0, 0, 0, 0] = base.truth[0, 0, 0, 0] + worst * 5e-3
    baseline = replace(base, floor=Noise(1e-3, 5e-3))
    noise = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    untiled = base.truth + 1e-3 * noise.clamp(-5, 5)
    return an_observation(
        baseline=replace(baseline, output=untiled.float()), change=lambda _: output.float()
    )


@pytest.mark.parametrize(
    ("ratio", "worst", "exact"),
    [(1, 0, True), (1.95, 0, True), (2.05, 0, False), (1, 7, True), (1, 8.5, False)],
)
def test_the_bounds_of_exact(ratio: float, worst: float, exact: bool):
    assert (grade_of(scaled(ratio, worst)) is Grade.EXACT) == exact


@pytest.mark.parametrize(
    ("change", "grade"),
    [
        (plus(0), Grade.EXACT),
        (plus(1e-5), Grade.LOSSLESS),
        (plus(0.99 * LEVEL), Grade.LOSSLESS),
        (plus(2 * LEVEL), Grade.CLOSE),
        (plus(0.0179), Grade.CLOSE),
        (plus(0.0181), Grade.DEGRADED),
        (seamed, Grade.DEGRADED),
        (faintly_seamed, Grade.DEGRADED),
        (plus(1), Grade.DEGRADED),
        (poisoned, Grade.BROKEN),
        (hole, Grade.BROKEN),
        (Tensor.half, Grade.BROKEN),
    ],
    ids=[f"change-{number}" for number in range(12)],
)
def test_grades(change: Callable[[Tensor], Tensor], grade: Grade):
    assert grade_of(an_observation(change=change)) is grade


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y * 0 + 7,
        lambda y: y * 0 + 0.1,
        lambda y: y.flip(-1),
        lambda y: -y,
        lambda y: y + 4 * torch.randn(y.shape, generator=torch.Generator().manual_seed(1)),
    ],
    ids=["seven", "grey", "mirrored", "negative", "noise"],
)
def test_a_picture_of_something_else_is_broken(change: Callable[[Tensor], Tensor]):
    found = check("parity", an_observation(change=change, grade="degraded"))
    assert found.grade is Grade.BROKEN
    assert found.status is Status.FAILED
    assert "correlation" in found.message


def test_constant_moments_are_broken_half_by_half():
    case = a_case(direction=Direction.ENCODE)
    channels = case.facts.latent_channels

    def flat(output: Tensor) -> Tensor:
        output[:, channels:] = 0.5
        return output

    assert grade_of(an_observation(case, change=flat)) is Grade.BROKEN


def test_a_truth_without_structure_has_no_correlation_to_miss():
    truth = torch.full(CASE.image_shape, 0.25, dtype=torch.float64)
    seen = an_observation(baseline=a_baseline(truth=truth), change=plus(0.2))
    assert grade_of(seen) is Grade.DEGRADED


def test_moments_are_never_lossless():
    case = a_case(direction=Direction.ENCODE)
    assert grade_of(an_observation(case, change=plus(1e-5))) is Grade.CLOSE
    found = check("parity", an_observation(case, change=plus(1e-5), grade="lossless"))
    assert "x floor" in found.message


def test_metrics_of_parity_are_complete_and_plain():
    metrics = check("parity", an_observation()).metrics
    assert {"error_rms", "floor_rms", "ratio", "psnr", "level_change", "worst_at"} <= set(metrics)
    assert None not in metrics.values()


def test_vram_ratio_is_over_the_weights():
    assert check("peak_vram", an_observation()).metrics["vram_ratio"] == 0.5
    assert check("peak_vram", raised()).metrics["vram_ratio"] is None


def test_work_bound_is_the_cost_of_full_halos():
    assert work_bound(a_case(height=16, width=16)) == 1
    assert work_bound(a_case(height=160, width=16)) == pytest.approx(
        (2 * 40 + 2 * 56 + 6 * 64) / 160
    )
    assert work_bound(a_case(height=16, width=16, mode=Mode.FAST)) == 2
    assert work_bound(a_case(height=16, width=16), passes=3) == 3 * 2


def test_a_refused_call_is_told_once():
    seen = raised(REFUSED, kind="TypeError", refuses_call=True)
    found = check("completes", seen)
    assert found.status is Status.NOT_JUDGED
    assert found.blocked_by == "call_contract"
    assert check("parity", seen).blocked_by == "call_contract"


@pytest.mark.parametrize("origin", [Origin.DEATH, Origin.NOT_RUN])
@pytest.mark.parametrize("name", ["left_behind", "input_untouched"])
def test_nothing_is_known_of_a_run_that_nobody_saw_end(name: str, origin: Origin):
    assert check(name, raised(origin=origin)).status is Status.NOT_JUDGED
    assert check(name, raised(origin=Origin.LIMIT)).status is Status.PASSED


def applying(case: Any, promise: Promise) -> set[str]:
    return {one.name for one in CHECKS if one.applies(case, promise)}


def test_what_asks_for_its_condition_decides():
    sd, qwen = (CASE, Promise()), (QWEN, Promise(claimed=False, cache="fallback"))
    assert (claimed & decode)(*sd)
    assert not (claimed & ~decode)(*sd)
    assert not (claimed & decode)(*qwen)
    assert (claimed | may_run_untiled)(*qwen)
    assert not (claimed | may_run_untiled)(replace(QWEN, family="sd"), qwen[1])
    assert (claimed & ~(decode | probe)).name == "claimed & ~((decode | ~(whole_net)))"


def test_a_declared_check_stamps_its_name_and_tier():
    @declared(tier=Tier.ADVANCED, when=claimed & decode)
    def check_depth(observed: Observed) -> Answer:
        """Deep enough."""
        return not_judged("too dark", blocked_by="parity", metrics={"depth": None})

    found = check_depth(an_observation())
    assert (found.check, found.tier, found.status) == ("depth", "advanced", Status.NOT_JUDGED)
    assert (found.blocked_by, found.metrics) == ("parity", {"depth": None})
    assert found.message == "not judged: too dark (see parity); repeat: vae-compat run --case it"
    assert check_depth.description == "Deep enough."
    assert check_depth.applies(CASE, Promise())
    assert not check_depth.applies(CASE.turned, Promise())


def test_checks_are_told_by_tier_and_in_a_fixed_order():
    names, tiers = [one.name for one in CHECKS], [list(Tier).index(one.tier) for one in CHECKS]
    assert tiers == sorted(tiers)
    order = ["completes", "output_shape", "finite", "parity", "seams", "work", "left_behind"]
    assert sorted(order, key=names.index) == order
    assert len(set(names)) == len(names)
    assert all(one.description for one in CHECKS)


def test_who_says_more_is_itself_asked_of_the_case():
    """The check that blocks a finding must be among the findings of the same case."""
    for seen in (
        raised(),
        raised(refuses_call=True),
        raised(case=PROBE),
        raised(claimed=False, origin=Origin.DEATH),
        an_observation(output=None, returned="None"),
        an_observation(change=lambda y: y[..., :-1]),
        an_observation(change=poisoned),
    ):
        asked = [one for one in CHECKS if one.applies(seen.case, seen.promise)]
        found = {one.name: one(seen) for one in asked}
        blocked = {each.blocked_by for each in found.values()} - {None}
        assert blocked
        assert {found[str(name)].status for name in blocked} == {Status.FAILED}


@pytest.mark.parametrize(
    ("value", "bound", "form", "told"),
    [
        (2.5, 2.0, ".3g", ("2.5", "2")),
        (2.0004, 2.0, ".3g", ("2.0004", "2")),
        (2.0, 2.0, ".3g", ("2", "2")),
        (1.000002, 1.0, ".2f", ("1.000002", "1.000000")),
        (7.2, 7.1, ".2f", ("7.20", "7.10")),
        (39.97, 40.0, ".1f", ("39.97", "40.00")),
        (float("nan"), 1.0, ".3g", ("nan", "1")),
        (float("inf"), 1.0, ".3g", ("inf", "1")),
    ],
)
def test_a_number_is_never_shown_as_its_bound(
    value: float, bound: float, form: str, told: tuple[str, str]
):
    assert apart(value, bound, form) == told


def test_sizes_that_differ_by_a_byte_are_told_apart():
    ours, theirs = mebibytes_apart(2**30 + 1, 2**30)
    assert ours != theirs
    assert float(ours.split()[0]) > float(theirs.split()[0])


@pytest.mark.parametrize(
    ("name", "flops", "status"),
    [
        ("two in a million", 1_000_002, Status.PASSED),
        ("the slack", 1_000_100, Status.PASSED),
        ("more than the slack", 1_000_101, Status.FAILED),
    ],
)
def test_a_few_flops_more_than_the_bound_are_no_waste(name: str, flops: int, status: Status):
    base = a_baseline(SMALL)  # one tile: the bound is 1
    untiled = replace(base, reading=replace(base.reading, flops=1_000_000))
    seen = an_observation(SMALL, baseline=untiled, reading=tiled_reading(flops=flops))
    found = check("work", seen)
    assert found.status is status
    if status is Status.FAILED:
        assert "got 1.0001 x the FLOPs of untiled; should be at most 1.0000 x" in found.message


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("parity", lambda: an_observation(change=plus(0.018001), grade="close"), "PSNR 39.9"),
        ("peak_vram", lambda: an_observation(reading=tiled_reading(peak_bytes=1101)), "1.001 x"),
        ("colour_shift", lambda: an_observation(change=plus(LEVEL * 1.001)), "+1.001 8-bit"),
    ],
)
def test_numbers_that_round_to_their_bound_get_more_digits(
    name: str, make: Callable[[], Observation], said: str
):
    found = check(name, make())
    assert found.status is Status.FAILED
    assert said in found.message


def test_checks_apply_where_they_mean_something():
    claimed, unclaimed = Promise(), Promise(claimed=False)
    assert applying(CASE, unclaimed) == {"refusal", "left_behind", "input_untouched"}
    minimum = {one.name for one in CHECKS if one.tier is Tier.MINIMUM}
    assert applying(PROBE, claimed) == minimum | {"mechanism"}
    assert applying(PROBE, unclaimed) == set()
    plain = applying(CASE, claimed)
    assert plain == set(NAMES) - {
        "refusal", "mechanism", "batch_items", "single_tile", "bounds", "host_cost", "value_range",
    }  # fmt: skip
    assert applying(TWO, claimed) - plain == {"batch_items"}
    assert applying(SMALL, claimed) - plain == {"single_tile"}
    assert plain == applying(a_case(direction=Direction.ENCODE), claimed)
    for direction in Direction:  # a VAE that clamps
        found = applying(a_case(family="qwen", layout="wan", direction=direction), claimed)
        assert ("value_range" in found) is (direction is Direction.DECODE)
    assert plain - applying(a_case(device="cpu"), claimed) == {
        "peak_vram", "transfers", "stream_order", "live_bytes",
    }  # fmt: skip


def test_on_a_real_gpu_vram_and_time_are_told_by_large_planes_of_real_nets_alone():
    plain, small = applying(CASE, Promise()), applying(a_case(device="cuda"), Promise())
    assert plain ^ small == {"transfers", "stream_order", "peak_vram", "allocator"}
    large = a_case(device="cuda", scale=Scale.REAL, height=48, width=80)
    assert applying(large, Promise()) - small == {"peak_vram", "time"}
    assert "peak_vram" not in applying(replace(large, width=79), Promise())
    assert "peak_vram" in applying(replace(large, family="wan22", height=24, width=40), Promise())


def test_what_a_gpu_pays_for_is_in_the_record():
    copies = (
        Copies("device_to_host", False, True, True, 2, 300),
        Copies("device_to_host", False, True, False, 1, 50),
        Copies("host_to_device", True, False, False, 4, 7),
    )
    reading = tiled_reading(
        kernels=12,
        bytes_read=100,
        bytes_written=40,
        copies=copies,
        waits=Waits(read=1, copy=3, synchronize=2),
        collections=4,
        cache_clears=5,
        host=HostMemory(1000, 7, 3, 1007),
    )
    told = check("transfers", an_observation(reading=reading)).metrics
    expected = {
        "kernels": 12,
        "kernel_bytes_read": 100,
        "kernel_bytes_written": 40,
        "pageable_bytes": 350,
        "blocking_bytes": 350,
        "strided_bytes": 300,
        "copied_pageable_blocking_strided": 300,
        "copied_pageable_blocking_contiguous": 50,
        "copied_pinned_async_contiguous": 7,
        "copied_pinned_blocking_strided": 0,
        "waits": 6,
        "waits_read": 1,
        "waits_copy": 3,
        "waits_nonzero": 0,
        "waits_synchronize": 2,
        "collections": 4,
        "cache_clears": 5,
        "host_peak_pageable": 1000,
        "host_peak_pinned": 7,
        "host_allocations": 3,
        "host_allocated": 1007,
    }
    assert {name: told[name] for name in expected} == expected
    assert set(told) <= set(METRICS)


def test_the_allocator_of_a_real_gpu_is_recorded():
    reading = tiled_reading(peak_reserved=700)
    found = check("allocator", an_observation(a_case(device="cuda"), reading=reading))
    assert found.status is Status.PASSED
    assert found.metrics["peak_allocated"] == 600
    assert found.metrics["peak_reserved"] == 700
    assert found.metrics["untiled_peak_allocated"] == 1100
    unread = an_observation(a_case(device="cuda"), reading=tiled_reading(peak_bytes=None))
    assert check("allocator", unread).status is Status.NOT_JUDGED


@pytest.mark.parametrize(
    ("times", "ratio"),
    [
        (Times((2.0, 4.0, 3.0), (1.0, 1.5, 1.0)), 3.0),
        (Times((1e9,), (1.0,)), 1e9),
        (Times((), (1.0,)), None),
        (Times((1.0,), (0.0,)), None),
        (Times((-1.0,), (1.0,)), None),
        (None, None),
    ],
)
def test_time_is_recorded_and_never_fails(times: Times | None, ratio: float | None):
    case = a_case(device="cuda", scale=Scale.REAL)
    found = check("time", an_observation(case, times=times))
    assert found.status is Status.PASSED
    assert found.metrics["time_ratio"] == ratio
    if ratio == 3.0:
        assert found.metrics["time_ratio_least"] == pytest.approx(2 / 1.5)
        assert found.metrics["time_ratio_most"] == 4.0


def test_a_real_device_may_keep_the_workspace_of_its_libraries():
    grown = tiled_reading(live_after=110 + 32 * 2**20)
    on_cuda = an_observation(a_case(device="cuda"), reading=grown)
    assert check("live_bytes", on_cuda).status is Status.PASSED
    assert check("live_bytes", an_observation(reading=grown)).status is Status.FAILED


CLIP = a_case(family="qwen", height=4, width=10, tile=8, frames=9)


def from_frame(first: int, value: float) -> Callable[[Tensor], Tensor]:
    """Frames from one on are brighter."""

    def change(output: Tensor) -> Tensor:
        output[:, :, first:] += value
        return output

    return change


@pytest.mark.parametrize(
    ("change", "promised", "told"),
    [
        (None, "exact", ""),
        (from_frame(9, 1e-6), "exact", "frame 9"),
        (plus(0.01), "degraded", ""),
        (from_frame(9, 0.004), "degraded", "not cut in time"),
        (lambda y: from_frame(9, 0.1)(y + 0.01), "degraded", "between frames 8 and 9"),
    ],
)
def test_a_clip_is_alike_in_all_its_frames(
    change: Callable[[Tensor], Tensor] | None, promised: str, told: str
) -> None:
    finding = check("coherence", an_observation(CLIP, change=change, grade=promised))
    assert finding.status is (Status.FAILED if told else Status.PASSED)
    assert told in finding.message


def test_a_hook_that_claims_to_cut_in_time_may_have_frames_that_differ() -> None:
    seen = an_observation(CLIP, change=from_frame(9, 0.004), grade="degraded")
    allowed = replace(seen, promise=replace(seen.promise, temporal=True))
    assert check("coherence", allowed).status is Status.PASSED
    case = replace(CLIP, scale=Scale.PROBE, mechanism=Mechanism.CAUSAL_CACHE)
    for temporal, status in ((False, Status.FAILED), (True, Status.PASSED)):
        seen = an_observation(case, change=plus(0.004), grade="degraded")
        seen = replace(seen, promise=replace(seen.promise, temporal=temporal))
        assert check("mechanism", seen).status is status


@pytest.mark.parametrize("mechanism", Mechanism)
def test_every_mechanism_is_explained(mechanism: Mechanism):
    case = replace(PROBE, mechanism=mechanism)
    found = check("mechanism", an_observation(case, change=plus(0.1)))
    assert EXPLANATION[mechanism] in found.message


def test_numbers_are_measured_once_for_all_checks(monkeypatch: pytest.MonkeyPatch):
    import vae_compat.measure.distance as measuring

    counted = []
    whole = measuring.distance
    monkeypatch.setattr(measuring, "distance", lambda *args: counted.append(1) or whole(*args))
    seen = an_observation(TWO)
    for one in CHECKS:
        if one.applies(seen.case, seen.promise):
            one(seen)
    assert len(counted) == 1
