"""`parametrize_hook` makes tests of an adopter's repository, and is nothing to all others."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from vae_compat import check_hook
from vae_compat.errors import StoppedError, UsageError
from vae_compat.front import cli
from vae_compat.front.adopting import judge_process, parametrizing, session_report
from vae_compat.front.adopting.judging import Judge
from vae_compat.front.selection.options import Options
from vae_compat.measure import bench
from vae_compat.reports import results
from vae_compat.reports.log import read_log
from vae_compat.reports.results import jsonable
from vae_compat.suites.selftest.running import here, one_thread, profile, share_process_for_hooks
from vae_compat.suites.selftest.test_reports import HEADER, record
from vae_compat.vocabulary import ExitCode

pytest_plugins = ("pytester",)
WRONG = "vae_compat.fixtures.specimens.forward:PerTileStatistics"
CASE = "sd-mock-ldm-decode-exact-17x17t16-b1-f1-float32-sim"
QUIET = ("-p", "no:cacheprovider", "-p", "no:benchmark", "-p", "no:randomly")
TEST = """
from vae_compat import parametrize_hook

@parametrize_hook({arguments})
def test_gate(check):
    check()
"""

# In other repositories


def test_a_repository_that_does_not_ask_gets_nothing_imported_and_nothing_written(
    tmp_path: Path,
) -> None:
    heavy = {"torch", "numpy", "pydantic", "diffusers", "rich", "filelock", "psutil"}
    (tmp_path / "test_theirs.py").write_text(
        "import sys\n"
        "def test_theirs(request):\n"
        "    assert request.config.pluginmanager.has_plugin('vae-compat')\n"
        f"    assert not {heavy!r} & set(sys.modules)\n"
        "    ours = {name for name in sys.modules if name.startswith('vae_compat')}\n"
        "    assert ours == {'vae_compat', 'vae_compat.errors', 'vae_compat.front',\n"
        "                    'vae_compat.front.adopting',\n"
        "                    'vae_compat.front.adopting.parametrizing'}, ours\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", *QUIET, "--strict-markers"]
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, "-p", "vae-compat"],
        cwd=tmp_path,
        env=os.environ | alone,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["test_theirs.py"]


# With a judge that answers from a table


class Table:
    """Stands in for the judge's process."""

    tests: list[list[Any]]
    records: dict[str, dict[str, Any]]
    left_out: list[str]
    header: dict[str, Any] | None
    asked: list[dict[str, str]]

    def __init__(self, *_: object, **__: object) -> None: ...

    def ask(self, **request: str) -> dict[str, Any]:
        type(self).asked.append(request)
        if json.loads(request["options"])["families"] == ["sdx"]:
            raise UsageError("--families: 'sdx' is unknown")
        if "case" in request:
            return {"records": type(self).records}
        told = {"items": type(self).tests, "left_out": type(self).left_out}
        return told if type(self).header is None else told | {"header": type(self).header}

    def close(self) -> None: ...


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> type[Table]:
    """One case, by whose checks every outcome occurs."""
    outcomes = {
        "completes": ("passed", None),
        "parity": ("failed", None),
        "finite": ("error", None),
        "seams": ("xfailed", "halo too short"),
        "work": ("xpassed", "slow here"),
        "peak_vram": ("skipped", None),
    }
    Table.tests = [["hook", CASE, name, known] for name, (_, known) in outcomes.items()]
    Table.records = {
        name: {"record": jsonable(asdict(record(CASE, status, check=name, message=f"of {name}")))}
        for name, (status, _) in outcomes.items()
    }
    Table.records["broken"] = {"broken": "a traceback"}
    Table.left_out, Table.header = [], None
    Table.asked = []
    monkeypatch.setattr(judge_process, "JudgeProcess", Table)
    return Table


def outcomes(
    pytester: pytest.Pytester, arguments: str = "'t.py:Hook'", *options: str
) -> pytest.RunResult:
    pytester.makepyfile(TEST.format(arguments=arguments))
    return pytester.runpytest_inprocess(*QUIET, *options)


def test_each_check_of_each_case_is_a_test_with_its_outcome(
    pytester: pytest.Pytester, table: type[Table]
) -> None:
    result = outcomes(pytester, "'t.py:Hook'", "-v", "-rA")
    # A known failure that passed fails, and so does what could not be judged.
    result.assert_outcomes(passed=1, failed=3, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines_random(
        [
            f"*::test_gate[[]completes[[]{CASE}[]][]] PASSED*",
            f"XFAIL *::test_gate[[]seams[[]{CASE}[]][]] - halo too short",
            "*XPASS(strict)*slow here*",
            "SKIPPED*a known failure of this case leaves nothing to judge: of peak_vram*",
            "E *HookFailureError: of parity",
        ]
    )
    assert sum("case" in request for request in table.asked) == 1  # for all of its checks
    assert "parametrizing.py" not in result.stdout.str()  # no traceback but that of the test


@pytest.mark.parametrize(
    ("chosen", "expected", "cause"),
    [
        ("", {"failed": 3, "passed": 1, "skipped": 2}, "call_contract"),
        ("not call_contract", {"failed": 3, "passed": 1, "skipped": 1, "deselected": 1}, "complet"),
        ("seams", {"failed": 1, "deselected": 5}, ""),
    ],
)
def test_a_failure_is_told_once_where_its_test_is_run(
    pytester: pytest.Pytester,
    table: type[Table],
    chosen: str,
    expected: dict[str, int],
    cause: str,
) -> None:
    told = {
        "call_contract": ("failed", None),
        "completes": ("error", "call_contract"),
        "seams": ("error", "completes"),
        "work": ("error", None),
        "parity": ("failed", None),
        "finite": ("passed", None),
    }
    table.tests = [["hook", CASE, name, None] for name in told]
    table.records = {
        name: {"record": jsonable(asdict(record(CASE, status, check=name, blocked_by=blocker)))}
        for name, (status, blocker) in told.items()
    }
    result = outcomes(pytester, "'t.py:Hook'", "-rs", *(["-k", chosen] if chosen else []))
    result.assert_outcomes(**expected)
    if cause:
        result.stdout.fnmatch_lines([f"SKIPPED*not judged: {cause}*{CASE}[]] fails, and says why"])


def test_tests_are_chosen_as_any_are(pytester: pytest.Pytester, table: type[Table]) -> None:
    outcomes(pytester, "'t.py:Hook'", "-k", "parity and 17x17").assert_outcomes(
        failed=1, deselected=5
    )
    file = next(pytester.path.glob("test_*.py")).name
    chosen = pytester.runpytest_inprocess(*QUIET, f"{file}::test_gate[completes[{CASE}]]")
    chosen.assert_outcomes(passed=1)


def test_a_harness_that_fails_is_no_known_failure(
    pytester: pytest.Pytester, table: type[Table]
) -> None:
    table.tests = [["hook", CASE, "broken", "known"]]
    result = outcomes(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the harness failed, not the hook: a traceback*"])


def test_families_that_are_not_installed_are_skipped_in_sight(
    pytester: pytest.Pytester, table: type[Table]
) -> None:
    table.left_out = ["flux2 is left out: it needs diffusers 0.36 or later"]
    result = outcomes(pytester, "'t.py:Hook'", "-rs", "-k", "left_out")
    result.assert_outcomes(skipped=1, deselected=6)
    result.stdout.fnmatch_lines(["SKIPPED*flux2 is left out: it needs diffusers 0.36 or later"])


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (TEST.format(arguments="'a:b', families=['sdx']"), "test_gate: --families: 'sdx' is*"),
        (TEST.format(arguments="'a:b', profile='c.toml'"), "test_gate: hook and profile exclude*"),
        (TEST.format(arguments="profile='c.toml', kind='vae'"), "test_gate: kind describes a*"),
        (
            TEST.format(arguments="'a:b'").replace("(check)", "()").replace("check()", "pass"),
            "test_gate is decorated with parametrize_hook and takes no argument 'check'*",
        ),
    ],
)
def test_wrong_use_is_one_sentence(
    pytester: pytest.Pytester, table: type[Table], source: str, told: str
) -> None:
    pytester.makepyfile(source)
    result = pytester.runpytest_inprocess(*QUIET)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([told])
    assert "Traceback" not in result.stdout.str()
    assert "File " not in result.stdout.str()


def test_a_test_that_judges_nothing_fails(pytester: pytest.Pytester, table: type[Table]) -> None:
    pytester.makepyfile(TEST.format(arguments="'a:b'").replace("    check()", "    assert check"))
    result = pytester.runpytest_inprocess(*QUIET)
    result.assert_outcomes(failed=6)  # the known failures as well
    result.stdout.fnmatch_lines(["*the test never called check(), so nothing was judged*"])


def test_methods_of_a_class_and_other_fixtures_are_welcome(
    pytester: pytest.Pytester, table: type[Table]
) -> None:
    pytester.makepyfile(
        "from vae_compat import parametrize_hook\n"
        "@parametrize_hook('t.py:Hook')\n"
        "class TestGate:\n"
        "    def test_it(self, tmp_path, check):\n"
        "        assert check().status == 'passed'\n"
        "def test_theirs(tmp_path): pass\n"
    )
    result = pytester.runpytest_inprocess(*QUIET, "-k", "completes or theirs")
    result.assert_outcomes(passed=2, deselected=5)


# With a report


@pytest.fixture
def written(table: type[Table], monkeypatch: pytest.MonkeyPatch) -> type[Table]:
    """The judge knows the header of a report, and this process writes it."""

    def here(asked: list[dict[str, Any]]) -> list[str]:
        return [session_report._write(each) for each in asked]

    table.header = jsonable(asdict(HEADER))
    monkeypatch.setattr(session_report, "_written", here)
    return table


def test_a_report_is_written_where_it_is_wanted(
    pytester: pytest.Pytester, written: type[Table]
) -> None:
    result = outcomes(pytester, "'t.py:Hook'", "--vae-compat-report", "told", "--junitxml=j.xml")
    result.assert_outcomes(passed=1, failed=3, skipped=1, xfailed=1)
    (folder,) = (pytester.path / "told").iterdir()
    assert folder.name.endswith(".test_gate")
    found = results.read(folder)
    assert {each.check: each.status for each in found.records} == {
        "completes": "passed",
        "parity": "failed",
        "finite": "error",
        "seams": "xfailed",
        "work": "xpassed",
        "peak_vram": "skipped",
    }
    assert found.header.selection == HEADER.selection
    assert found.header.command.startswith("pytest ")
    assert read_log(folder).end is not None
    said = f"vae-compat: the gate does not hold ({found.verdict.reason}): {folder}/index.html"
    result.stdout.fnmatch_lines([said])
    tests = ET.parse(pytester.path / "j.xml").getroot().iter("testcase")
    told = [json.loads(each.get("value", "")) for test in tests for each in test.iter("property")]
    assert len(told) == len(found.records)
    assert json.loads(written.asked[0]["options"])["out"] == f"told/{folder.name}"


@pytest.mark.parametrize(
    ("options", "selection", "verdict"),
    [
        (("-k", "completes"), "default, 1 of 6 tests", "holds: "),
        (("-x",), "default", "does not hold (1 failed; stopped at the first failure, after 2 of 6"),
        (("-k", "parity", "-x"), "default, 1 of 6 tests", "does not hold (1 failed): "),
    ],
)
def test_a_report_says_how_much_of_the_gate_was_run(
    pytester: pytest.Pytester,
    written: type[Table],
    options: tuple[str, ...],
    selection: str,
    verdict: str,
) -> None:
    result = outcomes(pytester, "'t.py:Hook'", "--vae-compat-report", "told", *options)
    (folder,) = (pytester.path / "told").iterdir()
    assert results.read(folder).header.selection == selection
    assert f"vae-compat: the gate {verdict}" in result.stdout.str()


def test_what_the_harness_failed_in_is_no_verdict_on_the_hook(
    pytester: pytest.Pytester, written: type[Table]
) -> None:
    written.tests = [["hook", CASE, "completes", None]]
    written.records["completes"] |= {"broken": "a traceback"}
    result = outcomes(pytester, "'t.py:Hook'", "--vae-compat-report", "told")
    result.assert_outcomes(failed=1)
    (folder,) = (pytester.path / "told").iterdir()
    assert results.read(folder).verdict.code == ExitCode.HARNESS


def test_a_report_that_cannot_be_written_ends_the_session_badly(
    pytester: pytest.Pytester, written: type[Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> list[str]:
        raise UsageError("no room left")

    monkeypatch.setattr(session_report, "_written", refuse)
    result = outcomes(pytester, "'t.py:Hook'", "--vae-compat-report", "told", "-k", "completes")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["vae-compat: no report: no room left"])


def test_nothing_is_written_where_nothing_is_judged(
    pytester: pytest.Pytester, written: type[Table]
) -> None:
    outcomes(pytester, "'t.py:Hook'", "--vae-compat-report", "told", "--collect-only")
    pytester.runpytest_inprocess(*QUIET, "--vae-compat-report", "told", "-k", "absent")
    assert not (pytester.path / "told").exists()


# Paths


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"hook": "tiled.py:Hook"}, {"hook": "tests/tiled.py:Hook"}),
        ({"hook": "../tiled.py:Hook"}, {"hook": "tiled.py:Hook"}),
        ({"hook": "../../tiled.py:Hook"}, {"hook": "{above}/tiled.py:Hook"}),
        ({"hook": "nodes.tiled:Hook"}, {"hook": "nodes.tiled:Hook"}),
        ({"profile": ("p.toml",)}, {"profile": ("tests/p.toml",)}),
        ({"profile": ("reference",)}, {"profile": ("reference",)}),
        ({"comfyui": Path("../ComfyUI")}, {"comfyui": Path("ComfyUI")}),
        ({"cache": Path("kept")}, {"cache": Path("tests/kept")}),
    ],
)
def test_paths_lead_from_the_test_file_and_are_told_from_the_start(
    tmp_path: Path, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    placed = parametrizing.placed(Options(**given), tmp_path / "tests", tmp_path)
    wanted = {
        name: value.format(above=tmp_path.parent) if isinstance(value, str) else value
        for name, value in expected.items()
    }
    assert placed == Options(**wanted)


# With the judge


@pytest.mark.slow
def test_the_judge_says_what_a_run_says_and_runs_a_case_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = profile(tmp_path, "mine", WRONG, known=["parity[*"])
    ran = here(tmp_path / "out", "--profile", mine, "--case", CASE)
    share_process_for_hooks(monkeypatch)
    options = Options(profile=(str(mine),), case=CASE).to_json()
    key = b"0" * 32
    one, two = (Judge(tmp_path / "judge", key, os.getpid(), tmp_path / "scratch") for _ in "12")
    described = one.answer({"options": options})
    assert two.answer({"options": options}) == described
    known = {check: known for _, _, check, known in described["items"]}
    with one_thread():
        answer = one.answer({"options": options, "hook": "mine", "case": CASE})
    found = {check: each["record"] for check, each in answer["records"].items()}
    expected = {each["check"]: each for each in ran.records()}
    assert found.keys() == expected.keys() == known.keys()
    assert {check for check, reason in known.items() if reason == "known here"} == {"parity"}
    for check, each in found.items():
        assert (each["status"], each["message"]) == (
            expected[check]["status"],
            expected[check]["message"],
        )
    assert found["parity"]["status"] == "xfailed"
    two_runs = next(iter(two._runs.values())).run
    monkeypatch.setattr(two_runs, "judged", lambda _: pytest.fail("it ran twice"))
    assert two.answer({"options": options, "hook": "mine", "case": CASE}) == answer


@pytest.mark.slow
@pytest.mark.parametrize("began", ["before", "after"])
def test_the_judge_reads_from_a_cache_what_was_there_before_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, began: str
) -> None:
    mine, cache = profile(tmp_path, "mine", WRONG), tmp_path / "cache"
    share_process_for_hooks(monkeypatch)
    request = {"options": Options(profile=(str(mine),), case=CASE, cache=cache).to_json()}
    asked = {**request, "hook": "mine", "case": CASE}

    def judged(folder: str, at: float) -> dict[str, Any]:
        with one_thread():
            judge = Judge(tmp_path / folder, b"0" * 32, os.getpid(), tmp_path / "scratch", at)
            return judge.answer(asked)

    first = judged("first", 0.0)
    assert list(cache.iterdir())
    measured: list[object] = []
    original = bench.measure_truth
    monkeypatch.setattr(
        bench, "measure_truth", lambda *given: measured.append(given) or original(*given)
    )
    assert judged("second", 0.0 if began == "before" else time.time() + 1) == first
    assert bool(measured) is (began == "before")


def test_the_arguments_of_a_decorated_test_are_those_that_say_what_is_judged() -> None:
    asked = inspect.signature(check_hook).parameters.keys()
    taken = inspect.signature(parametrizing.parametrize_hook).parameters.keys()
    assert asked - taken == {"case", "expression", "workers", "out", "against"}
    assert taken - asked == {"profile"}


def test_the_judge_tells_wrong_use_and_its_own_failures_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge(tmp_path, b"", os.getpid(), tmp_path / "out")
    wrong = Options(families=("sdx",)).to_json()
    assert "did you mean" in judge.answer({"options": wrong})["refused"]
    assert "KeyError" in judge.answer({})["broken"]


def test_a_judge_that_dies_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import sys; print('last words', file=sys.stderr); sys.stdin.readline(); sys.exit(7)"
    monkeypatch.setattr(judge_process, "_PROGRAM", program)
    process = judge_process.JudgeProcess("sim", tmp_path, None, b"")
    for _ in range(2):  # it is started again
        with pytest.raises(StoppedError, match="status 7: last words"):
            process.ask(options="{}")
    process.close()


def test_an_interrupted_question_leaves_no_answer_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import sys, time\n"
        "sys.stdin.readline()\n"
        "if 'wait' in sys.stdin.readline(): time.sleep(60)\n"
        "print('{{}}')\n"
    )
    monkeypatch.setattr(judge_process, "_PROGRAM", program)
    process = judge_process.JudgeProcess("sim", tmp_path, None, b"")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            process.ask(options="wait")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert process.ask(options="") == {}
    process.close()


FAKE = """
from pathlib import Path

from vae_compat.front.adopting import judge_process


class Fake:
    def __init__(self, device, start, folder, key, began, pictured):
        self.folder, self.key = folder, f"{key.hex()}-{began}"

    def ask(self, **request):
        if "case" not in request:
            return {"items": [["hook", str(n), "parity", None] for n in range(8)], "left_out": []}
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / self.key).touch()
        Path("keys").open("a").write(f"{self.folder} {self.key}\\n")
        return {"records": {"parity": {"record": dict.fromkeys(
            ["case", "check", "grade", "hook", "repeat"], "") | {
            "status": "passed", "message": "", "metrics": {}}}}}

    def close(self): ...


judge_process.JudgeProcess = Fake
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["load", "loadgroup"])
def test_judges_of_xdist_workers_share_a_folder_and_a_key(tmp_path: Path, way: str) -> None:
    (tmp_path / "conftest.py").write_text(FAKE)
    (tmp_path / "test_gate.py").write_text(TEST.format(arguments="'a:b'"))
    done = _pytest(tmp_path, "-n", "2", "--dist", way)
    assert done.returncode == 0, done.stdout
    (shared,) = set((tmp_path / "keys").read_text().splitlines())
    folder, told = shared.split()
    key, _, began = told.partition("-")
    assert len(bytes.fromhex(key)) == 32
    assert time.time() - 600 < float(began) < time.time()
    assert not Path(folder).exists()  # it goes with the session


OURS = """
import torch


class Tiler:
    def __init__(self, net, tile_size, is_decoder):
        self.net, self.size, self.grown = net, tile_size, 8 if is_decoder else 1

    def __call__(self, x):
        run = self.net.original_forward
        rows = [
            torch.cat([run(tile) for tile in row.split(self.size, 3)], 3)
            for row in x.split(self.size, 2)
        ]
        return torch.cat(rows, 2)
"""
GATES = """
from vae_compat import parametrize_hook


@parametrize_hook(profile="vae-compat.toml", directions=["decode"], scales=["mock"])
def test_ours(check):
    check()


@parametrize_hook(
    profile="reference", families=["sd"], directions=["decode"], modes=["exact"], scales=["mock"]
)
def test_right(check):
    check()
"""


@pytest.mark.slow
def test_a_repository_of_its_own_is_red_for_a_wrong_hook_and_green_for_a_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the package and pytest alone: ``init``, ten lines, and a report of each hook."""
    share_process_for_hooks(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ours.py").write_text(OURS)
    assert cli.main(["init", "--hook", "ours.py:Tiler", "--families", "sd", "--no-workflow"]) == 0
    (tmp_path / "test_gate.py").write_text(GATES)
    chosen = ("-k", "44x20 and ldm and (parity or completes)")
    done = _pytest(tmp_path, *chosen, "--vae-compat-report", "told")
    assert done.returncode == 1, done.stdout
    assert "FAILED test_gate.py::test_ours[parity[sd-mock-ldm-decode-exact-44x20" in done.stdout
    wrong, right = (tmp_path / "told" / f"test_gate.test_{name}" for name in ("ours", "right"))
    assert f"vae-compat: the gate does not hold (1 failed): {wrong}/index.html" in done.stdout
    assert f"vae-compat: the gate holds: {right}/index.html" in done.stdout
    statuses = {
        folder: {each.check: each.status for each in results.read(folder).records}
        for folder in (wrong, right)
    }
    assert statuses[wrong] == {"completes": "passed", "parity": "failed"}
    assert set(statuses[right].values()) == {"passed"}
    assert 'alt="what the hook gives"' in (wrong / "index.html").read_text(encoding="utf-8")
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"ours.py", "vae-compat.toml", "test_gate.py", "told"}


def _pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *QUIET, *options],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
