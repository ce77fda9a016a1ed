"""Records, known failures, the gate and its exit codes, and the diagnosis."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from vae_compat.contracts.cases import Mechanism, Scale
from vae_compat.contracts.finding import Finding, Grade, Status, Tier
from vae_compat.judge import Outcome, Record, causes, diagnose, gate, judge, tell
from vae_compat.subject.profile import KnownFailure
from vae_compat.suites.selftest.measure_fakes import a_case
from vae_compat.vocabulary import ExitCode

CASE = a_case().id


def finding(check: str = "parity", status: Status = Status.PASSED, message: str = "") -> Finding:
    metrics = {"ratio": 1.5, "peak": None}
    return Finding(check, Tier.RECOMMENDED, status, message, Grade.EXACT, metrics)


def known(pattern: str) -> KnownFailure:
    return KnownFailure(pattern, "upstream", "https://example.org/1")


def statuses(findings: list[Finding], *patterns: str) -> list[str]:
    records = judge(CASE, findings, [known(pattern) for pattern in patterns])
    return [record.status for record in records]


@pytest.mark.parametrize("status", Status)
def test_without_known_failures_a_record_has_the_findings_status(status: Status):
    outcome = "error" if status is Status.NOT_JUDGED else status.value
    assert statuses([finding(status=status)]) == [outcome]


def test_a_record_says_what_kept_its_check_from_judging():
    blocked = replace(finding(status=Status.NOT_JUDGED), blocked_by="completes")
    told, behind = judge(CASE, [finding(), blocked])
    assert (told.judged, told.blocked_by) == (True, None)
    assert (behind.judged, behind.blocked_by) == (False, "completes")


def test_records_carry_everything_and_are_json():
    (record,) = judge(CASE, [finding()], hook="mine", claimed=False, repeat="again")
    assert record.id == f"parity[{CASE}]"
    stored = json.loads(json.dumps(asdict(record)))
    assert stored["metrics"] == {"ratio": 1.5, "peak": None}
    assert (stored["grade"], stored["tier"]) == ("exact", "recommended")
    assert (stored["hook"], stored["claimed"], stored["repeat"]) == ("mine", False, "again")


@pytest.mark.parametrize("status", [Status.FAILED, Status.NOT_JUDGED])
@pytest.mark.parametrize("pattern", ["parity[sd-*-decode-*]", f"parity[{CASE}]", "*[sd-*]"])
def test_a_known_failure_is_expected(status: Status, pattern: str):
    (record,) = judge(CASE, [finding(status=status)], [known(pattern)])
    assert record.status == Outcome.XFAILED
    assert (record.reason, record.link) == ("upstream", "https://example.org/1")


@pytest.mark.parametrize("pattern", ["parity[qwen-*]", "seams[sd-*]", "parity", "p[arity]*"])
def test_other_failures_are_not(pattern: str):
    assert statuses([finding(status=Status.FAILED)], pattern) == ["failed"]


def test_a_known_failure_that_passes_is_told():
    assert statuses([finding()], "parity[*]") == ["xpassed"]


def test_what_hangs_on_a_known_root_is_skipped():
    findings = [
        finding("call_contract", Status.FAILED),
        finding("parity", Status.NOT_JUDGED),
        finding("live_bytes", Status.FAILED, "not judged: words decide nothing"),
        finding("left_behind"),
    ]
    told = statuses(findings, "call_contract[*]")
    assert told == ["xfailed", "skipped", "failed", "passed"]
    assert statuses(findings) == ["failed", "error", "failed", "passed"]


def record(status: str = "passed", check: str = "parity", **case: Any) -> Record:
    return Record(a_case(**case).id, check, "recommended", status, hook="mine")


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (["passed"], ExitCode.HOLDS),
        (["passed", "xfailed", "skipped"], ExitCode.HOLDS),
        (["xfailed", "skipped"], ExitCode.FAILS),
        (["passed", "failed"], ExitCode.FAILS),
        (["passed", "error"], ExitCode.FAILS),
        (["passed", "xpassed"], ExitCode.FAILS),
        (["passed", "mystery"], ExitCode.FAILS),
        ([], ExitCode.USAGE),
    ],
)
def test_the_gate(seen: list[str], code: ExitCode):
    verdict = gate([record(status) for status in seen])
    assert verdict.code == code
    assert verdict.holds == (code == 0)
    assert bool(verdict.reason) != verdict.holds


def test_a_hook_that_is_known_to_fail_everywhere_shows_nothing():
    known_everywhere = [record("xfailed", "completes"), record("xfailed", "completes", batch=2)]
    verdict = gate([*known_everywhere, record("passed", "left_behind")])
    assert (verdict.code, verdict.reason) == (1, "mine completed none of its cases")
    assert gate([*known_everywhere, record("passed", "completes", batch=2)]).holds


def test_a_failure_of_the_harness_outranks_all():
    assert gate([record("failed")], harness_failure="disk full").code == 3


def probe(mechanism: Mechanism, status: str, **more: Any) -> Record:
    made = record(status, "mechanism", scale=Scale.PROBE, mechanism=mechanism, **more)
    return replace(made, grade="exact" if status == "passed" else "degraded")


def degraded(status: str = "failed", **more: Any) -> Record:
    return replace(record(status, **more), grade="degraded")


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ([Mechanism.ATTENTION], Mechanism.ATTENTION),
        ([Mechanism.GROUP_NORM, Mechanism.HALO], Mechanism.HALO),
        ([Mechanism.ATTENTION, Mechanism.UPSAMPLE], Mechanism.UPSAMPLE),
        (list(Mechanism), Mechanism.STUB),
        ([], None),
    ],
)
def test_the_first_mechanism_that_explains_is_named(broken: list[Mechanism], named: Any):
    records = [degraded(), record("failed", "seams"), degraded(batch=2)]
    records += [probe(one, "failed" if one in broken else "passed") for one in Mechanism]
    (found,) = diagnose(records)
    assert found.mechanism is named
    named_too = {} if named is Mechanism.STUB else set(broken) - {named}
    assert set(found.further) == set(named_too)
    assert found.cases == 2
    assert (found.family, found.layout, found.direction) == ("sd", "ldm", "decode")


@pytest.mark.parametrize(
    ("psnr", "statistics", "named"),
    [
        (103.0, "failed", Mechanism.GROUP_NORM),
        (30.0, "failed", Mechanism.ATTENTION),
        (103.0, "passed", Mechanism.ATTENTION),
    ],
)
def test_what_wrong_statistics_leak_into_other_probes_explains_nothing(
    psnr: float, statistics: str, named: Mechanism
):
    attention = with_psnr(Mechanism.ATTENTION, psnr)
    norm = replace(probe(Mechanism.GROUP_NORM, statistics), metrics={"psnr": 42.0})
    (found,) = diagnose([degraded(), attention, norm])
    assert found.mechanism is named


@pytest.mark.parametrize(
    ("statistics", "halo", "further"),
    [(85.7, 78.7, ()), (49.5, 73.4, ()), (49.5, 62.0, (Mechanism.HALO,))],
)
def test_a_wrong_gain_of_every_norm_is_no_missing_halo(
    statistics: float, halo: float, further: tuple[Mechanism, ...]
):
    records = [with_psnr(Mechanism.GROUP_NORM, statistics), with_psnr(Mechanism.HALO, halo)]
    (found,) = diagnose([degraded(), *records])
    assert (found.mechanism, found.further) == (Mechanism.GROUP_NORM, further)


def with_psnr(mechanism: Mechanism, psnr: float) -> Record:
    return replace(probe(mechanism, "failed"), metrics={"psnr": psnr})


@pytest.mark.parametrize(
    ("halo", "upsample", "attention", "named"),
    [
        (74.0, 75.0, 33.0, Mechanism.ATTENTION),
        (30.0, 28.0, 33.0, Mechanism.HALO),  # without a halo upsampling is wrong as well
        (50.0, 20.0, 33.0, Mechanism.HALO),
    ],
)
def test_what_explains_most_is_named_first(
    halo: float, upsample: float, attention: float, named: Mechanism
):
    records = [
        degraded(),
        with_psnr(Mechanism.HALO, halo),
        with_psnr(Mechanism.UPSAMPLE, upsample),
        with_psnr(Mechanism.ATTENTION, attention),
    ]
    (found,) = diagnose(records)
    assert found.mechanism is named
    assert len(found.further) == 2


@pytest.mark.parametrize(
    ("size", "grade", "told"),
    [(10, "degraded", True), (40, "broken", True), (40, "degraded", False)],
)
def test_what_is_wrong_without_tiles_is_told_in_the_words_of_the_check(
    size: int, grade: str, told: bool
):
    whole = replace(
        degraded(height=size, width=size),
        grade=grade,
        message="decode got dtype float16 instead of float32; should be exact; at y 3",
    )
    probes = [probe(one, "failed") for one in Mechanism]
    (found,) = diagnose([whole, *probes])
    assert ("dtype float16 instead of float32" in found.reason) is told
    assert ("placed or blended wrongly" in found.reason) is not told
    (found,) = diagnose([whole, *(p for p in probes if "stub" not in p.case)])
    assert "tiles are not the cause" not in found.reason
    sound = probe(Mechanism.STUB, "passed")
    (found,) = diagnose([whole, sound, probe(Mechanism.HALO, "failed")])
    assert "tiles are not the cause" not in found.reason


def test_probes_that_were_not_judged_are_told_and_count_as_nothing():
    stub, halo = probe(Mechanism.STUB, "passed"), probe(Mechanism.HALO, "passed")
    (found,) = diagnose([degraded(), stub, halo, probe(Mechanism.ATTENTION, "passed")])
    assert found.reason == "no probe differs, so the mechanism is unknown"
    crashed = replace(probe(Mechanism.ATTENTION, "error"), judged=False)
    (found,) = diagnose([degraded(), stub, crashed])
    assert found.reason == "no probe that was judged differs; those of halo, attention were not"
    assert diagnose([degraded(), crashed]) == []


def test_what_is_exact_needs_no_diagnosis():
    assert diagnose([record(), probe(Mechanism.HALO, "failed")]) == []
    crashed = replace(degraded("error"), judged=False)
    assert diagnose([crashed, probe(Mechanism.HALO, "failed")]) == []


def test_a_difference_that_was_promised_is_explained_too():
    promised = degraded("passed")
    broken = replace(probe(Mechanism.HALO, "passed"), grade="degraded")
    (found,) = diagnose([promised, broken])
    assert found.mechanism is Mechanism.HALO


def test_a_probe_of_the_same_build_explains_and_of_another_does_not():
    (found,) = diagnose([degraded(), probe(Mechanism.HALO, "failed", family="flux")])
    assert found.mechanism is Mechanism.HALO
    assert diagnose([degraded(), probe(Mechanism.HALO, "failed", family="qwen")]) == []


def test_probes_of_mode_exact_stand_in_for_other_modes():
    (found,) = diagnose([degraded("xfailed", mode="fast"), probe(Mechanism.HALO, "failed")])
    assert found.mechanism is Mechanism.HALO
    flux = replace(found, family="flux")
    assert tell([found, flux]) == (
        "mine: tiles are cut without the neighbourhood their convolutions read: sd, flux decode"
        " fast (ldm)",
    )


def far_off(mechanism: Mechanism, psnr: float) -> Record:
    return replace(probe(mechanism, "failed"), metrics={"psnr": psnr})


def test_each_mechanism_is_told_by_itself_and_the_farthest_off_first():
    found = diagnose(
        [degraded(), far_off(Mechanism.HALO, 40.0), far_off(Mechanism.GROUP_NORM, 12.34)]
    )
    told = causes(found)
    assert [cause.psnr for cause in told] == [12.34, 40.0]
    assert told[0].sentence == (
        "mine: GroupNorm statistics are not those of the whole plane (its probe: 12.3 dB): sd"
        " decode exact (ldm)"
    )
    assert tell(found) == tuple(cause.sentence for cause in told)


def test_a_consequence_is_told_after_its_cause():
    found = diagnose([degraded(), far_off(Mechanism.HALO, 40.0), far_off(Mechanism.UPSAMPLE, 20.0)])
    assert [cause.psnr for cause in causes(found)] == [40.0, 20.0]


def test_records_that_are_about_no_case_are_passed_over():
    assert diagnose([Record("whole run", "parity", "minimum", "failed")]) == []
