"""Scenarios of use: each misuse is reported, and no sound hook fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vae_compat.checks.registry import CHECKS
from vae_compat.checks.usage import (
    check_on_host,
    check_out_of_memory,
    check_overlaps,
    check_settings,
    check_switches,
    check_temporal_tiles,
    check_tiny_tiles,
)
from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale, Scenario
from vae_compat.contracts.finding import Finding, Status
from vae_compat.contracts.promise import Promise
from vae_compat.device.meter import Convolution, Reading
from vae_compat.fixtures.specimens import SPECIMENS
from vae_compat.measure.observation import Failure, Observation, Observed
from vae_compat.scenarios.comparison import same
from vae_compat.scenarios.performed import Called, Memory, Played
from vae_compat.scenarios.settings import (
    APART,
    SETTINGS,
    SHORTER,
    STEPLESS,
    SWITCHES,
    USUAL,
)
from vae_compat.scenarios.usage import Ran, UsageObserved
from vae_compat.suites.mutation.trial import prepared, profile_of
from vae_compat.suites.selftest.measure_fakes import (
    CASE,
    a_baseline,
    a_case,
    an_observation,
    tiled_reading,
)

pytestmark = pytest.mark.slow

USAGE = {
    "settings": ("sticky-settings", "blending", "its own defaults"),
    "switches": ("encode-reads-decode-flag", "one-direction", "encode, with the hook on to decode"),
    "on_host": ("vae-on-cpu", "resting", "torch.cuda.FloatTensor"),
    "tiny_tiles": ("div0-tile-le-overlap", "blending", "ZeroDivisionError"),
    "out_of_memory": ("fallback-exception-refs", "retries-smaller", "still live"),
}
"""Check: the hook that fails it, one that passes in the same case, and words of the message."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("baselines")


def found(name: str, check: str, case_id: str, folder: Path, *, every_way: bool = False) -> Finding:
    """The finding of a check about a specimen, in one case of its matrix."""
    run = prepared([profile_of(SPECIMENS[name])], folder)
    case = next(case for case in run.cases[name] if case.id == case_id)
    observed = run.case_runner.observation(name, case, every_way=every_way)
    return next(each for each in CHECKS if each.name == check)(observed)


@pytest.mark.parametrize("check", USAGE)
def test_misuse_is_told_and_a_sound_hook_is_not(check: str, folder: Path) -> None:
    broken, sound, told = USAGE[check]
    case = SPECIMENS[broken].shows_on
    finding = found(broken, check, case, folder)
    assert finding.status is Status.FAILED
    assert told in finding.message
    passed = found(sound, check, case, folder)
    assert (passed.status, passed.message) == (Status.PASSED, "")


def test_a_default_that_fits_no_tile_that_must_be_given_is_not_left_to_a_hook(folder: Path) -> None:
    case = "sd-mock.settings-diffusers-decode-exact-6x32t8-b1-f1-float32-sim"
    assert found("strided", "settings", case, folder).status is Status.PASSED


def test_calls_of_the_bare_coder_are_for_hooks_on_its_forward_alone(folder: Path) -> None:
    case = "sd-mock-diffusers-encode-exact-44x12t16-b1-f1-float32-sim"
    passed = found("blending", "call_contract", case, folder, every_way=True)
    assert (passed.status, passed.metrics) == (Status.PASSED, {"conventions": 0, "refused": 0})


def test_switch_that_nobody_looks_at_is_told(folder: Path) -> None:
    specimen = SPECIMENS["always-on"]
    finding = found(specimen.name, "switches", specimen.shows_on, folder)
    assert finding.status is Status.FAILED
    assert "after the hook was taken off" in finding.message


def observed(scenario: Scenario, **more: object) -> UsageObserved:
    case = Case(
        "sd", Scale.MOCK, Layout.LDM, Direction.DECODE, Mode.EXACT, 6, 32, 8, scenario=scenario
    )
    return UsageObserved(case=case, promise=Promise(), **more)  # type: ignore[arg-type]


SMALLER = {Convolution((8, 8, 3, 3), (80, 80)): 72}
PAIR = same("a call", torch.ones(2), torch.ones(2), None)


def test_nothing_run_is_no_pass() -> None:
    assert check_settings(observed(Scenario.SETTINGS)).status is Status.NOT_JUDGED


@pytest.mark.parametrize(("count", "status"), [(18, Status.PASSED), (19, Status.FAILED)])
def test_same_result_by_other_work_is_no_same(count: int, status: Status) -> None:
    case = a_case(scenario=Scenario.SETTINGS)
    base = a_baseline(case)
    bench = SimpleNamespace(baseline=lambda _: base, beyond_doubt=lambda found: found)
    devices = {"output_device": "cuda:0", "input_device": "cuda:0"}
    call = Called(output=base.output, reading=tiled_reading(), **devices)
    work = dict.fromkeys(call.reading.convolutions, count)
    again = replace(call, reading=tiled_reading(convolutions=work))
    smaller = replace(call, reading=tiled_reading(convolutions=SMALLER))
    played = Played(calls=(call, smaller, again))
    finding = check_settings(SETTINGS.examine(case, Promise(), played, bench))
    assert finding.status is status
    assert status is Status.PASSED or "by other convolutions" in finding.message


def test_a_size_without_effect_is_told_where_tiles_must_run() -> None:
    base = a_baseline()
    for case, status in ((CASE, Status.FAILED), (a_case(height=30, width=30), Status.PASSED)):
        usual = an_observation(case, baseline=base)
        between = replace(usual, reading=tiled_reading(convolutions=SMALLER))
        for second, wanted in ((usual, status), (between, Status.PASSED)):
            calls = (Ran("by default", usual), Ran("smaller tiles", second))
            finding = check_settings(observed(Scenario.SETTINGS, ran=calls, comparisons=(PAIR,)))
            assert finding.status is wanted
            assert wanted is Status.PASSED or "takes effect" in finding.message


def calls_of(*what: str, changes: dict[str, object] | None = None) -> tuple[Ran, ...]:
    """Right results, each by other work; ``changes`` are of the observations of some calls."""
    made = []
    for number, name in enumerate(what):
        work = {Convolution((8, 8, 3, 3), (80, 80)): 18 + number}
        seen = an_observation(CASE, reading=tiled_reading(convolutions=work))
        made.append(Ran(name, replace(seen, **(changes or {}).get(name, {}))))
    return tuple(made)


REFUSED = {"failure": Failure("ValueError", "no", "", "", "run", deliberate=True), "output": None}
CRASHED = {"failure": Failure("KeyError", "no", "", "", "run"), "output": None}
SAME, LIKE_SHORTER = (
    {"reading": tiled_reading(convolutions={Convolution((8, 8, 3, 3), (80, 80)): count})}
    for count in (18, 19)
)
WRONG = {"output": torch.zeros(1)}
IN_TIME = (USUAL, SHORTER, APART, STEPLESS)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({APART: REFUSED, STEPLESS: REFUSED}, ""),
        ({STEPLESS: SAME}, ""),
        ({SHORTER: SAME}, "the same convolutions"),
        ({APART: LIKE_SHORTER}, "the same convolutions"),
        ({SHORTER: REFUSED}, "ValueError"),
        ({APART: CRASHED}, "KeyError"),
        ({STEPLESS: CRASHED}, "or a clear refusal"),
        ({STEPLESS: WRONG}, "the output is"),
    ],
)
def test_lengths_of_time_tiles_take_effect_or_are_refused(
    changes: dict[str, dict[str, object]], told: str
) -> None:
    ran = calls_of(*IN_TIME, changes=changes)
    finding = check_temporal_tiles(observed(Scenario.TEMPORAL, ran=ran))
    assert finding.status is (Status.FAILED if told else Status.PASSED)
    assert told in finding.message


def test_a_step_that_is_none_is_right_or_refused() -> None:
    for change, status in ((REFUSED, Status.PASSED), ({}, Status.PASSED), (WRONG, Status.FAILED)):
        ran = calls_of("none", "half", "no step", changes={"no step": change})
        assert check_overlaps(observed(Scenario.OVERLAPS, ran=ran)).status is status
    ran = calls_of("none", "half", "no step", changes={"half": REFUSED})
    assert check_overlaps(observed(Scenario.OVERLAPS, ran=ran)).status is Status.FAILED


def test_calls_that_the_runner_did_not_tell_of_are_no_pass() -> None:
    case = a_case(scenario=Scenario.SWITCHES)
    found = SWITCHES.examine(case, Promise(), Played(), SimpleNamespace())
    assert "told nothing of some of the calls" in found.failure.message
    assert check_switches(found).status is Status.NOT_JUDGED


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, Status.PASSED),
        ({"after": None}, Status.PASSED),
        ({"after": 151}, Status.FAILED),
        ({"left": 51}, Status.FAILED),
    ],
)
def test_memory_of_a_failed_attempt(change: dict[str, int | None], status: Status) -> None:
    memory = replace(Memory(first=100, most=300, after=150, left=50), **change)
    seen = observed(Scenario.OUT_OF_MEMORY, comparisons=(PAIR,), memory=memory, held=50)
    assert check_out_of_memory(seen).status is status


def test_memory_that_never_ran_out_is_no_pass() -> None:
    memory = Memory(first=100, most=300, after=None, left=0)
    told = {"memory": memory, "held": 50, "empty": "not so far"}
    seen = observed(Scenario.OUT_OF_MEMORY, comparisons=(PAIR,), **told)
    assert check_out_of_memory(seen).status is Status.NOT_JUDGED


@pytest.mark.parametrize(
    ("scenario", "check", "tile", "status"),
    [
        (Scenario.SETTINGS, check_settings, 8, Status.FAILED),
        (Scenario.ON_HOST, check_on_host, 16, Status.FAILED),
        (Scenario.OUT_OF_MEMORY, check_out_of_memory, 16, Status.FAILED),
        (Scenario.TINY_TILES, check_tiny_tiles, 8, Status.FAILED),
        (Scenario.TINY_TILES, check_tiny_tiles, 3, Status.PASSED),
    ],
)
def test_a_constant_is_no_picture_however_little_is_promised(
    scenario: Scenario, check: Callable[[Observed], Finding], tile: int, status: Status
) -> None:
    blank = an_observation(a_case(tile=tile), change=lambda out: 0 * out + 0.1, grade="degraded")
    finding = check(observed(scenario, ran=(Ran("a call", blank),)))
    assert finding.status is status
    assert status is Status.PASSED or "a correlation of 0.00" in finding.message


@pytest.mark.parametrize(("tile", "status"), [(8, Status.PASSED), (16, Status.FAILED)])
def test_only_tiles_smaller_than_the_plane_may_be_refused(tile: int, status: Status) -> None:
    seen = observed(Scenario.TINY_TILES)
    case = replace(seen.case, height=9, width=13, tile=tile, scenario=None)
    baseline = SimpleNamespace(reading=Reading())
    refusal = Failure("ValueError", "no tiles like that", "", "", "put_on", deliberate=True)
    refused = Observation(
        case=case, promise=seen.promise, baseline=baseline, output=None, failure=refusal
    )
    finding = check_tiny_tiles(replace(seen, ran=(Ran("tiles", refused),)))
    assert finding.status is status
