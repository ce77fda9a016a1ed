"""``vae-compat run`` from end to end: verdicts, records, and the same ones however it is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from vae_compat.checks.registry import CHECKS
from vae_compat.contracts.cases import Case
from vae_compat.contracts.promise import Promise
from vae_compat.fixtures.supplies import Fixtures
from vae_compat.front.explaining.explain import parse_case
from vae_compat.judge import Outcome
from vae_compat.suites.selftest.mixed import in_one, in_two
from vae_compat.suites.selftest.running import Ran, here, once, outside, profile, shared
from vae_compat.vocabulary import DEFAULT_TIERS

pytestmark = pytest.mark.slow

NARROW = ("--directions", "decode", "--scale", "mock")
SD = "sd-mock-ldm-decode-exact-17x17t16-b1-f1-float32-sim"
HOOK = """
from vae_compat.fixtures.specimens.resting import RestingTiler


class Mine(RestingTiler):
    pass
"""
FIELDS = {
    "case", "check", "tier", "status", "grade", "metrics", "message", "repeat", "hook", "claimed",
    "reason", "link",
}  # fmt: skip


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A sound hook in a file of its own, one case, as a command."""

    def make(out: Path) -> Ran:
        (out.parent / "tiler.py").write_text(HOOK)
        file = profile(out.parent, "mine", "tiler.py:Mine")
        told = ("--junitxml", out.parent / "junit.xml")
        return outside(out, "--profile", file, "--case", SD, *told, "-n", 0)

    return once(shared(tmp_path_factory), "sound", make)


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The reported hook, a sound one and a hostile one, in two processes."""
    return in_two(shared(tmp_path_factory))


@pytest.fixture(scope="session")
def one(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The same in one process."""
    return in_one(shared(tmp_path_factory))


# A sound hook


def test_a_sound_hook_holds_the_gate(sound: Ran) -> None:
    assert sound.code == 0, sound.out + sound.err
    assert sound.results["verdict"] == {"code": 0, "reason": ""}
    assert {record["status"] for record in sound.records()} == {"passed"}
    assert "gate holds" in sound.out


def test_every_check_that_is_for_the_case_has_a_record(sound: Ran) -> None:
    case, promise = parse_case(SD), Promise()
    expected = {
        check.name
        for check in CHECKS
        if check.tier in DEFAULT_TIERS and check.applies(case, promise)
    }
    records = sound.records()
    assert {record["check"] for record in records} == expected
    assert len(records) == len(expected)
    assert {record["case"] for record in records} == {SD}


def test_records_are_as_the_contract_says(sound: Ran, one: Ran) -> None:
    tiers = {check.name: str(check.tier) for check in CHECKS}
    for record in sound.records() + one.records():
        assert set(record) >= FIELDS
        assert record["tier"] == tiers[record["check"]]
        assert record["status"] in set(Outcome)
        assert record["status"] == "passed" or record["message"]
        assert record["repeat"].endswith(f"--case {record['case']}")
    parity = sound.record(check="parity")
    assert parity["grade"] == "exact"
    assert parity["metrics"]["error_rms"] <= 2 * parity["metrics"]["floor_rms"]
    peak = sound.record(check="peak_vram")["metrics"]
    assert 0 < peak["peak_bytes"] < peak["untiled_peak_bytes"]


def test_the_header_says_what_was_run_and_with_what(sound: Ran) -> None:
    header = sound.results["header"]
    (hook,) = header["hooks"]
    assert (hook["name"], hook["entry"], hook["kind"]) == ("mine", "tiler.py:Mine", "forward")
    assert {"torch", "diffusers", "python", "device", "seed", "started"} <= set(header)
    assert f"--case {SD}" in header["command"]


def test_a_summary_and_junit_are_written_as_well(sound: Ran) -> None:
    folder = Path(sound.folder)
    assert "mine" in (folder / "summary.md").read_text()
    assert SD in (folder / "index.html").read_text()
    assert SD in (folder.parent / "junit.xml").read_text()
    assert sound.err == ""


# The reported failure


def test_the_reported_hook_breaks_the_call_contract_of_causal_coders(one: Ran) -> None:
    records = one.records(hook="reported", check="call_contract", case="qwen-mock-wan-")
    assert records
    for record in records:
        assert record["status"] == "failed"
        assert record["tier"] == "minimum"
        assert "TypeError" in record["message"]
        assert "'feat_cache'" in record["message"]
    assert one.code == 1


def test_nothing_that_hangs_on_the_failure_passes(one: Ran) -> None:
    judged = ("parity", "seams", "tiles_ran", "peak_vram", "output_shape", "finite", "work")
    for check in judged:
        records = one.records(hook="reported", check=check, case="qwen-")
        assert records
        assert {record["status"] for record in records} == {"error"}


def test_the_reported_hook_runs_on_image_coders_and_is_graded(one: Ran) -> None:
    records = one.records(hook="reported", check="parity", case="sd-mock-ldm-")
    assert records
    assert {record["status"] for record in records} == {"passed"}
    assert {record["grade"] for record in records} <= {"lossless", "close", "degraded"}
    completes = one.records(hook="reported", check="completes", case="sd-mock-ldm-")
    assert {record["status"] for record in completes} == {"passed"}


def test_one_hook_s_failure_is_not_the_other_s(one: Ran) -> None:
    records = one.records(hook="sound", claimed=True)
    assert {record["status"] for record in records} == {"passed"}
    assert {record["grade"] for record in records if record["check"] == "parity"} == {"exact"}


# However it is run


def _comparable(ran: Ran) -> list[dict[str, Any]]:
    return sorted(
        ran.records(), key=lambda record: (record["hook"], record["case"], record["check"])
    )


def test_one_process_and_two_find_the_same(one: Ran, two: Ran) -> None:
    first, second = _comparable(one), _comparable(two)
    assert one.code == two.code == 1
    assert one.err == two.err == ""
    assert one.results["verdict"] == two.results["verdict"]
    assert len(first) > 50
    assert [(r["hook"], r["case"], r["check"]) for r in first] == [
        (r["hook"], r["case"], r["check"]) for r in second
    ]
    assert first == second


def test_bytes_that_were_moved_and_held_are_the_same_to_the_byte(one: Ran, two: Ran) -> None:
    for check, names in (
        ("peak_vram", ("peak_bytes", "untiled_peak_bytes", "weight_bytes")),
        ("transfers", ("host_to_device", "device_to_host", "allocations")),
    ):
        told = [
            {
                (record["hook"], record["case"]): [record["metrics"][name] for name in names]
                for record in ran.records(check=check, status="passed")
            }
            for ran in (one, two)
        ]
        assert told[0] == told[1]
        assert any(all(isinstance(n, int) and n > 0 for n in some) for some in told[0].values())


def test_records_are_written_in_one_order(one: Ran, two: Ran) -> None:
    for ran in (one, two):
        keys = [(record["hook"], record["case"], record["check"]) for record in ran.records()]
        assert keys == sorted(keys)
        assert len(set(keys)) == len(keys)


def test_no_folder_of_a_run_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file = profile(tmp_path, "sound")
    ran = here(tmp_path / "out", "--profile", file, "--case", SD, "-k", "finite", "-n", 0)
    assert ran.code == 0, ran.out
    assert not list(tmp_path.glob("vae-compat-*"))


# Known failures


def test_known_failures_are_strict(tmp_path: Path) -> None:
    right = ["call_contract[qwen-*]", "completes[qwen-*]"]
    entry = "vae_compat.fixtures.specimens.as_reported:AsReported"
    options = {"families": ("sd", "qwen"), "grade": "degraded"}
    listed = profile(tmp_path, "listed", entry, known=right, **options)
    stale = profile(tmp_path, "stale", entry, known=[*right, "parity[sd-*]"], **options)
    narrow = (*NARROW, "--families", "sd,qwen", "-k", "17x17 and (contract or parity or finite)")
    ran = here(tmp_path / "out", "--profile", listed, "--profile", stale, *narrow, "-n", 0)

    assert ran.verdict("listed").holds
    known = ran.record(hook="listed", check="call_contract", case="qwen-")
    assert (known["status"], known["reason"], known["link"]) == ("xfailed", "known here", "a:b")
    assert "TypeError" in known["message"]
    assert ran.record(hook="listed", check="parity", case="qwen-")["status"] == "skipped"
    assert ran.record(hook="listed", check="parity", case="sd-")["status"] == "passed"

    assert ran.code == 1
    assert ran.record(hook="stale", check="parity", case="sd-")["status"] == "xpassed"
    assert "known failures passed" in ran.verdict("stale").reason
    # pytest's own report, and so the JUnit file, says the same.
    assert any(" xfailed" in line for line in ran.out.splitlines()), ran.out


# Wrong use, and our own failures


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("--families", "sd", "--modes", "quadtree"), "the selection leaves no case"),
        (("--families", "sdxl", "--scale", "real", "--modes", "exact"), "leaves no case"),
        (("-k", "nothing_like_this"), "-k 'nothing_like_this' leaves no check of any case"),
    ],
)
def test_a_run_of_nothing_is_wrong_use(
    tmp_path: Path, arguments: tuple[str, ...], match: str
) -> None:
    ran = here(tmp_path / "out", "--profile", profile(tmp_path, "sound"), *arguments, "-n", 0)
    assert ran.code == 2
    line = ran.err.strip()
    assert "\n" not in line
    assert match in line
    assert not (tmp_path / "out").exists()


def test_two_hooks_of_one_name_are_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    files = profile(tmp_path, "same"), profile(tmp_path / "other", "same")
    ran = here(tmp_path / "out", *(f"--profile={file}" for file in files), "-n", 0)
    assert ran.code == 2
    line = ran.err.strip()
    assert "\n" not in line
    assert "two hooks are named 'same'" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("broken", ["build", "truth", "views", "make_input"])
def test_a_failure_of_the_harness_is_not_the_hook_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no VAE today")

    monkeypatch.setattr(Fixtures, broken, fail)
    file = profile(tmp_path, "sound")
    narrow = ("--case", SD, "-k", "finite or completes or left_behind")
    ran = here(tmp_path / "out", "--profile", file, *narrow, "-n", 0)
    assert ran.code == 3, ran.out
    assert ran.results["verdict"]["code"] == 3
    assert "no VAE today" in ran.results["verdict"]["reason"]
    for record in ran.records():
        assert record["status"] == "error"
        assert "no VAE today" in record["message"]
        assert "died" not in record["message"]


def test_a_passing_failure_of_the_harness_leaves_no_mark_on_the_hook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_input = Fixtures.make_input
    failures = iter([RuntimeError("no input yet")])

    def fail_once(self: Fixtures, case: Case) -> Tensor:
        for failure in failures:
            raise failure
        return make_input(self, case)

    monkeypatch.setattr(Fixtures, "make_input", fail_once)
    narrow = ("--case", SD, "-k", "finite or completes or left_behind", "-n", 0)
    ran = here(tmp_path / "out", "--profile", profile(tmp_path, "sound"), *narrow)
    assert ran.code == 3
    statuses = sorted(record["status"] for record in ran.records())
    assert statuses == ["error", "passed", "passed"]


def test_an_earlier_run_that_was_better_fails_this_one(sound: Ran, tmp_path: Path) -> None:
    better = sound.results
    for record in better["records"]:
        record["hook"] = "as-before"
    file = tmp_path / "better.json"
    entry = "vae_compat.fixtures.specimens.forward:PerTileStatistics"
    hook = profile(tmp_path, "as-before", entry, grade="degraded")
    file.write_text(json.dumps(better))
    narrow = ("--profile", hook, "--case", SD, "-k", "parity", "-n", 0)
    assert here(tmp_path / "a", *narrow).code == 0
    ran = here(tmp_path / "b", *narrow, "--against", file)
    assert ran.code == 1, ran.out
    assert ran.results["regressions"]
