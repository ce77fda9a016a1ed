"""A reader of a failing record finds the check, and the numbers that it judges by."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from vae_compat.checks.declaring import Check
from vae_compat.checks.registry import CHECKS
from vae_compat.front.explaining.explain import explain
from vae_compat.front.explaining.thresholds import declared
from vae_compat.measure import distance
from vae_compat.scenarios import shift


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_tier_and_place_are_those_of_the_check(check: Check) -> None:
    first = declared(check.name).splitlines()[0]
    assert first.startswith(f"Tier {check.tier}, declared in ")
    file, line = first.rstrip(".").rpartition(" ")[2].rsplit(":", 1)
    assert Path(file).samefile(inspect.getfile(check.answer))
    lines, start = inspect.getsourcelines(check.answer)
    assert f"def check_{check.name}(" in lines[int(line) - start]


def test_numbers_are_found_through_calls_and_imports() -> None:
    told = explain("parity")
    assert f"\nFLOOR_RATIO = {distance.FLOOR_RATIO} (" in told
    assert "\n  An exact result is as accurate as the VAE itself" in told
    assert "\nCLOSE_PSNR = 40.0 (" in told


def test_numbers_of_a_grade_stand_under_its_name_and_each_once() -> None:
    told = explain("inference_mode")
    parts = re.split(r"^(For .*|Further numbers):$", told, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(found)[:4] == [
        "For any grade", "For grade exact", "For grade close", "For grade degraded",
    ]  # fmt: skip
    for grade, name in {
        "For any grade": "MISSING",
        "For grade exact": "FLOOR_RATIO",
        "For grade close": "CLOSE_PSNR",
        "For grade degraded": "LIKENESS",
        "Further numbers": "TINY",
    }.items():
        assert f"\n{name} = " in found[grade]
        assert told.count(f"\n{name} = ") == 1


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_no_two_numbers_of_a_check_have_one_name(check: Check) -> None:
    names = re.findall(r"^(\w+) = ", declared(check.name), flags=re.MULTILINE)
    assert len(names) == len(set(names))


def test_numbers_of_the_scenario_that_a_check_is_for_are_found() -> None:
    told = declared("shift")
    assert "\nIts scenario: " in told
    assert f"\nLEAK = {shift.LEAK} (" in told


def test_a_place_outside_the_current_folder_is_a_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "declared in /" in declared("shift")


def test_a_record_is_explained_by_its_check_and_its_case() -> None:
    case = "sd-mock-ldm-decode-exact-40x40t16-b1-f1-float32-sim"
    assert explain(f"parity[{case}]") == f"{explain('parity')}\n\n{explain(case)}"


def test_what_is_no_check_is_declared_nowhere() -> None:
    assert declared("no_such_check") == ""
