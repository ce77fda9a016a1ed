"""A GPU's time is estimated of the published net without data; it gates where it is claimed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vae_compat.checks.estimated import check_estimated_time
from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale, Scenario
from vae_compat.contracts.finding import Status
from vae_compat.contracts.promise import Promise
from vae_compat.device.estimate import gpus
from vae_compat.device.meter import Copies, Estimate, Reading, Waits
from vae_compat.errors import UsageError
from vae_compat.families import FAMILIES
from vae_compat.fixtures.specimens import SPECIMENS
from vae_compat.judge import Record
from vae_compat.matrix import generate
from vae_compat.measure.observation import Failure, Origin
from vae_compat.reports import digest
from vae_compat.scenarios.estimate import EstimateObserved
from vae_compat.subject.profile import Profile
from vae_compat.subject.schema import parse_profile
from vae_compat.suites.mutation.trial import judged, prepared, profile_of, reference
from vae_compat.vocabulary import Gpu

CASE = Case(
    family="sd",
    scale=Scale.REAL,
    layout=Layout.LDM,
    direction=Direction.DECODE,
    mode=Mode.EXACT,
    height=128,
    width=128,
    tile=64,
    dtype="bfloat16",
    scenario=Scenario.ESTIMATE,
)
UNTILED = Estimate("NVIDIA H200", 0.1, {"statistics": 1.0})
FAILURE = Failure("ValueError", "no shapes alone", "", "", "run", Origin.HOOK)


def observed(seconds: float | None, **promised: Any) -> EstimateObserved:
    shares = {"pageable copies": 0.71, "statistics": 0.29}
    ours = None if seconds is None else Estimate("NVIDIA H200", seconds, shares)
    copies = (Copies("host_to_device", False, True, True, 3, 600),)
    return EstimateObserved(
        case=CASE,
        promise=Promise(**promised),
        failure=FAILURE if seconds is None else None,
        ours=ours,
        untiled=UNTILED,
        reading=Reading(
            kernels=30, bytes_read=60, bytes_written=40, copies=copies, waits=Waits(read=2, copy=3)
        ),
        untiled_reading=Reading(kernels=10, bytes_read=30, bytes_written=20),
    )


def test_a_time_that_is_not_claimed_is_recorded_alone() -> None:
    found = check_estimated_time(observed(3.5))
    assert found.status == Status.PASSED
    assert found.metrics == {
        "gpu": "NVIDIA H200",
        "estimated_time_ratio": pytest.approx(35),
        "estimated_seconds": 3.5,
        "untiled_estimated_seconds": 0.1,
        "first_cause": "pageable copies",
        "first_cause_share": 0.71,
        "launches_ratio": 3.0,
        "kernel_bytes_ratio": 2.0,
        "host_waits": 5,
        "pageable_bytes": 600,
    }


def test_a_claimed_time_gates_and_the_message_names_the_first_cause() -> None:
    found = check_estimated_time(observed(3.5, time_ratio=2.0))
    assert found.status == Status.FAILED
    assert "an estimated 35.00 x the time of untiled on an NVIDIA H200" in found.message
    assert "71% of it for pageable copies; should be at most 2.00 x, as claimed" in found.message
    assert check_estimated_time(observed(0.2, time_ratio=2.0)).status == Status.PASSED


def test_a_hook_that_cannot_run_without_data_is_an_error_only_where_a_time_is_claimed() -> None:
    assert check_estimated_time(observed(None)).status == Status.PASSED
    found = check_estimated_time(observed(None, time_ratio=2.0))
    assert found.status == Status.NOT_JUDGED
    assert "no time can be estimated: ValueError: " in found.message


def test_every_known_gpu_has_a_name_and_the_other_way_round() -> None:
    assert set(gpus()) == set(map(str, Gpu))


def test_one_case_for_every_lineage_that_decodes() -> None:
    profile = reference()
    cases = generate(profile.claims, Layout.LDM, "sim", ("float32", "bfloat16"))
    found = [case for case in cases if case.scenario is Scenario.ESTIMATE]
    assert {case.direction for case in found} == {Direction.DECODE}
    assert {FAMILIES[case.family].build for case in found} == {
        FAMILIES[case.family].build for case in cases
    }
    assert {case.dtype for case in found} == {"bfloat16"}
    others = generate(profile.claims, Layout.LDM, "cpu", ("float32",))
    assert not [case for case in others if case.scenario is Scenario.ESTIMATE]


TOML = """
[hook]
name = "x"
entry = "x.py:X"
kind = "forward"
layout = "ldm"
[claims.cost]
"""


def claimed(line: str) -> Profile:
    return parse_profile(TOML + line, source="the profile", folder=Path())


def test_a_profile_claims_a_time_on_a_gpu() -> None:
    promise = claimed('time_ratio = 2\ngpu = "rtx4090"').promise(CASE)
    assert (promise.time_ratio, promise.gpu) == (2.0, "rtx4090")
    assert claimed("").promise(CASE).time_ratio is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("time_ratio = 0", "a number above 0"),
        ("time_ratio = inf", "a finite number"),
        ('gpu = "h20"', "did you mean 'h200'?"),
        ("ratio = 2", "[claims.cost] takes time_ratio, gpu"),
    ],
)
def test_a_claim_that_means_nothing_is_one_sentence(line: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        claimed(line)
    assert told in str(caught.value)


@pytest.mark.slow
def test_a_plain_tiler_takes_about_what_was_measured(tmp_path: Path) -> None:
    """On an H200 diffusers' tiling of SDXL took 2.1 x the time of untiled."""
    specimen = replace(SPECIMENS["crossfading"], families=("sd",), directions=("decode",))
    run = prepared([profile_of(specimen)], tmp_path)
    (case,) = (each for each in run.cases["crossfading"] if each.scenario is Scenario.ESTIMATE)
    ((record,), _) = judged(run, "crossfading", case)
    assert record.metrics["first_cause"] == "statistics"
    assert record.metrics["estimated_time_ratio"] == pytest.approx(2.1, rel=0.2)


def test_reports_tell_the_estimate_and_its_first_cause() -> None:
    found = check_estimated_time(observed(3.5))
    record = Record(
        CASE.id, found.check, "recommended", "passed", metrics=found.metrics, hook="hook"
    )
    assert digest.estimates([record]) == [
        "hook: estimated on an NVIDIA H200, sd decode exact: 35.00 x the time of untiled, 71% of "
        "it for pageable copies"
    ]
    unknown = check_estimated_time(observed(None))
    assert digest.estimates([replace(record, metrics=unknown.metrics)]) == []
