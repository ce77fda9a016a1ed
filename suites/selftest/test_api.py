"""The Python API gives the verdict of the command as an object."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vae_compat
from vae_compat.fixtures.specimens.forward import PerTileStatistics
from vae_compat.fixtures.specimens.resting import RestingTiler
from vae_compat.front import api
from vae_compat.front.selection.options import Options
from vae_compat.judge import Verdict
from vae_compat.reports import results
from vae_compat.suites.selftest.test_reports import case_id, record, run
from vae_compat.vocabulary import ExitCode

pytestmark = pytest.mark.slow

CASE = "sd-mock-ldm-decode-exact-17x17t16-b1-f1-float32-sim"


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = (
        "import sys, time\n"
        "began = time.process_time()\n"
        "import vae_compat\n"
        "from vae_compat import tiled, VAEHook, check_hook\n"
        "took = time.process_time() - began\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'pytest', 'rich', 'diffusers'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_hook_that_is_imported_before_torch_is_itself_when_it_is_used() -> None:
    program = (
        "import inspect, sys\n"
        "from vae_compat import VAEHook, tiled\n"
        "assert 'torch' not in sys.modules\n"
        "class Mine(VAEHook):\n"
        "    pass\n"
        "import vae_compat, vae_compat.tiled_vae as real\n"
        "assert Mine.__mro__[1] is real.VAEHook is vae_compat.VAEHook\n"
        "assert isinstance(Mine.__new__(Mine), VAEHook) and not isinstance(1, VAEHook)\n"
        "assert issubclass(Mine, VAEHook)\n"
        "assert inspect.signature(tiled) == inspect.signature(real.tiled)\n"
        "import pydoc\n"
        "told = pydoc.render_doc(VAEHook, renderer=pydoc.plaintext)\n"
        "assert 'max_vram' in told, told\n"
        "try:\n"
        "    tiled(None, tile_size=0).__enter__()\n"
        "except real.TilingError:\n"
        "    sys.exit(0)\n"
        "sys.exit(1)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_the_package_offers_is_there() -> None:
    for name in vae_compat.__all__:
        assert getattr(vae_compat, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'check_hok'"):
        _ = vae_compat.check_hok


# What is handed over


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """The options that a call runs with. The run itself is replaced by one that holds."""
    found: list[Options] = []

    def fake(options: Options, _: object) -> tuple[int, str]:
        found.append(options)
        results.write(run(record(status="passed")), options.out)
        return 0, ""

    monkeypatch.setattr(api, "_run", fake)
    return found


@pytest.mark.parametrize(
    ("hook", "profile", "entry"),
    [
        (None, (), None),
        ("reference", ("reference",), None),
        (Path("some/profile.toml"), ("some/profile.toml",), None),
        ("tiled.py:Hook", (), "tiled.py:Hook"),
        (RestingTiler, (), f"{sys.modules[RestingTiler.__module__].__file__}:RestingTiler"),
    ],
)
def test_a_hook_is_given_as_text_path_or_object(
    asked: list[Options], hook: Any, profile: tuple[str, ...], entry: str | None
) -> None:
    assert vae_compat.check_hook(hook).holds
    assert (asked[0].profile, asked[0].hook) == (profile, entry)


def test_everything_that_can_be_asked_reaches_the_run(asked: list[Options], tmp_path: Path) -> None:
    vae_compat.check_hook(
        "a:b",
        claims={"families": ["sd"]},
        families=["sd"],
        tiers=["minimum"],
        workers=2,
        out=tmp_path,
    )
    (options,) = asked
    expected = Options(
        hook="a:b",
        claims={"families": ["sd"]},
        families=("sd",),
        tiers=("minimum",),
        workers=2,
        out=tmp_path,
    )
    assert options == expected
    assert Options.from_json(options.to_json()) == expected


def _local() -> Callable[[], None]:
    def inner() -> None: ...

    return inner


@pytest.mark.parametrize("hook", [_local(), lambda: None, print, len])
def test_an_object_that_no_other_process_can_load_is_wrong_use(hook: Any) -> None:
    with pytest.raises(vae_compat.UsageError, match="cannot be loaded in another process"):
        vae_compat.check_hook(hook)


def test_a_word_in_the_place_of_a_list_is_wrong_use() -> None:
    with pytest.raises(vae_compat.UsageError, match=r"families is 'sd': give a list, such as"):
        vae_compat.check_hook("reference", families="sd")


def test_a_profile_describes_itself() -> None:
    with pytest.raises(vae_compat.UsageError, match="claims describes a hook"):
        vae_compat.check_hook("reference", claims={"families": ["sd"]})


# What comes back


def _report(code: int, verdict: Verdict, tmp_path: Path, *statuses: str) -> vae_compat.Report:
    found = [record(case_id(size=40 + n), s, message="told") for n, s in enumerate(statuses)]
    results.write(dataclasses.replace(run(*found), verdict=verdict), tmp_path)
    return api._report(Options(out=tmp_path), code, "vae-compat: stopped")


def test_failures_are_raised_with_their_messages(tmp_path: Path) -> None:
    verdict = Verdict(ExitCode.FAILS, "12 failed")
    report = _report(1, verdict, tmp_path, "passed", "xfailed", *["failed"] * 11, "xpassed")
    assert not report.holds
    assert len(report.failures) == 12
    assert len(report.findings) == 14
    with pytest.raises(vae_compat.HookFailureError) as caught:
        report.raise_for_failures()
    lines = str(caught.value).splitlines()
    assert lines[0] == "the gate does not hold: 12 failed"
    assert lines[1] == f"{report.failures[0].id}: told"
    assert lines[-1] == "and 2 more"
    assert len(lines) == 12


def test_a_run_without_a_verdict_is_no_pass(tmp_path: Path) -> None:
    report = _report(3, Verdict(ExitCode.HARNESS, "cut"), tmp_path, "passed")
    assert not report.holds
    with pytest.raises(vae_compat.StoppedError, match="stopped"):
        report.raise_for_failures()


@pytest.mark.parametrize("code", [3, -9, 1])
def test_a_run_that_left_nothing_is_no_pass(tmp_path: Path, code: int) -> None:
    with pytest.raises(vae_compat.StoppedError):
        api._report(Options(out=tmp_path), code, "")


# From end to end


def test_a_hook_is_judged_in_processes_of_its_own(tmp_path: Path) -> None:
    claims = {"families": ["sd"], "directions": ["decode"], "modes": ["exact"]}
    report = vae_compat.check_hook(
        PerTileStatistics,
        claims=claims,
        case=CASE,
        expression="parity or finite",
        workers=0,
        out=tmp_path,
    )
    assert report.code is ExitCode.FAILS, report.reason
    assert {finding.check: finding.status for finding in report.findings} == {
        "parity": "failed",
        "finite": "passed",
    }
    (wrong,) = report.failures
    assert wrong.case == CASE
    assert wrong.grade != "exact"
    assert "hook forward.PerTileStatistics" in report.table()
    with pytest.raises(vae_compat.UsageError, match="did you mean 'sdxl'"):
        vae_compat.check_hook(PerTileStatistics, families=["sdx"])
