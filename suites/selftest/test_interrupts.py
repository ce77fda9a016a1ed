"""However a run is ended, its findings are kept and none of its processes is left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from vae_compat.front.run.interrupts import Interrupts
from vae_compat.front.run.janitor import VARIABLE
from vae_compat.front.run.run_folder import RunFolder
from vae_compat.front.run.scheduling import BaselineScheduling
from vae_compat.isolation.processes import children_resumed
from vae_compat.suites.selftest.running import here

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc"),
]
HOOK = """
import time
from pathlib import Path
from vae_compat.fixtures.specimens.resting import RestingTiler


class Slow(RestingTiler):
    def __call__(self, x):
        if x.shape[-2:] == (10, 10):
            time.sleep(float(Path(__file__).with_name("seconds").read_text()))
        return super().__call__(x)
"""
PROFILE = """
[hook]
name = "slow"
entry = "slow.py:Slow"
kind = "forward"
layout = "ldm"
[claims]
families = ["sd"]
directions = ["decode"]
modes = ["exact"]
"""
NARROW = ("--families=sd", "--directions=decode", "--scale=mock", "-k")
SOME = "float32 and (44x12 or 10x10) and (finite or completes)"


class Started:
    """The command in a session of its own, on a hook that halts in the middle of a run."""

    def __init__(self, folder: Path, workers: int):
        (folder / "slow.py").write_text(HOOK)
        (folder / "seconds").write_text("600")
        self.profile = folder / "slow.toml"
        self.profile.write_text(PROFILE)
        (folder / "tmp").mkdir(exist_ok=True)
        self.folder, self.out = folder, folder / "out"
        more = ("-n", str(workers), "--out", "out", "--profile", str(self.profile))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vae_compat", "run", *NARROW, SOME, *more],
            cwd=folder,
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell has its background jobs ignore interrupts, and what they start inherits that.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )

    def lines(self) -> list[dict[str, Any]]:
        """What the log says so far."""
        file = self.out / "records.jsonl"
        whole = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in whole if line.endswith("\n")]

    def records(self) -> dict[tuple[str, str], str]:
        """Statuses by case and check."""
        found = (line["record"] for line in self.lines() if "record" in line)
        return {(record["case"], record["check"]): record["status"] for record in found}

    def wait_for(self, number: int) -> None:
        """Wait until this many records are written."""
        _until(lambda: len(self.records()) >= number, self.process)

    def ended(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=900)
        return self.process.returncode, out, err

    def left(self) -> tuple[list[int], list[str]]:
        """Processes of the run that are alive, and what is in its folder for temporary files."""
        mark = f"TMPDIR={self.folder / 'tmp'}".encode()
        found = [pid for pid in _pids() if mark in _environ(pid)]
        return found, [path.name for path in (self.folder / "tmp").glob("vae-compat-*")]

    def workers(self) -> list[int]:
        return [pid for pid in _pids() if _parent(pid) == self.process.pid and _has_token(pid)]


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _has_token(pid: int) -> bool:
    return any(entry.startswith(f"{VARIABLE}=".encode()) for entry in _environ(pid))


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _until(holds: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    until = time.monotonic() + 900
    while not holds():
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate())
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    made: list[Started] = []

    def begin(workers: int) -> Started:
        made.append(Started(tmp_path, workers))
        return made[-1]

    yield begin
    for each in made:
        if each.process.poll() is None:
            each.process.kill()
            each.process.communicate()


def test_a_run_that_is_interrupted_tells_what_it_found(start: Callable[..., Started]) -> None:
    run = start(1)
    run.wait_for(2)
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does
    code, out, err = run.ended()
    assert code == 3, out + err
    found = run.records()
    selected = run.lines()[0]["selected"]
    assert 2 <= len(found) < selected
    (line,) = err.splitlines()
    assert f"after {len(found)} of {selected} records; go on with --resume out" in line
    assert "hook slow" in out
    results = json.loads((run.out / "results.json").read_text())
    assert len(results["records"]) == len(found)
    assert results["verdict"]["code"] == 3
    assert run.left() == ([], [])


def test_a_run_whose_worker_and_then_itself_was_killed_keeps_its_records_and_goes_on(
    start: Callable[..., Started],
) -> None:
    run = start(1)
    run.wait_for(2)
    (worker,) = run.workers()
    os.kill(worker, signal.SIGINT)  # which alone stops nothing
    time.sleep(0.5)
    assert run.workers() == [worker]
    os.kill(worker, signal.SIGKILL)
    _until(lambda: "error" in run.records().values(), run.process)
    before = run.records()
    assert list(before.values()).count("error") == 1  # the check that it was at
    assert set(before.values()) == {"passed", "error"}
    assert "the worker process that ran this case died" in (run.out / "records.jsonl").read_text()

    assert run.left()[1]
    run.process.kill()
    run.process.communicate()
    _until(lambda: run.left() == ([], []))
    kept = {key for key, status in run.records().items() if status == "passed"}

    (run.folder / "seconds").write_text("0")
    again = here(run.out, *NARROW, SOME, "--profile", run.profile, "--resume", run.out)
    assert again.code == 0, again.out + again.err
    lines = run.lines()
    places = [n for n, line in enumerate(lines) if "resumed" in line]
    assert len(places) == 1
    told = [line["record"] for line in lines[places[0] :] if "record" in line]
    assert not {(record["case"], record["check"]) for record in told} & kept
    assert len(run.records()) == lines[0]["selected"]
    assert set(run.records().values()) == {"passed"}  # what the worker had lost included


def test_a_stop_before_anything_ran_says_so(start: Callable[..., Started]) -> None:
    run = start(1)
    _until(lambda: bool(run.left()[1]), run.process)
    run.process.terminate()
    code, out, err = run.ended()
    assert code == 3
    assert err == "vae-compat: stopped by SIGTERM before any case ran\n", out
    assert not run.out.exists()
    assert run.left() == ([], [])


# Requests to stop


def test_a_request_is_raised_once_and_after_what_must_not_be_cut_in_two() -> None:
    done = []

    def write(interrupts: Interrupts) -> None:
        with interrupts.held():
            signal.raise_signal(signal.SIGTERM)
            done.append("all of it")

    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            write(interrupts)
        signal.raise_signal(signal.SIGTERM)  # whoever cleans up is not interrupted
        with interrupts.held():
            pass
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()  # but what swallowed the first is
    assert done == ["all of it"]
    assert interrupts.reason == "stopped by SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_requests_at_the_end_only_count() -> None:
    # A shell has its background jobs ignore interrupts, and these tests may run in one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interrupts() as interrupts:
            interrupts.close()
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert interrupts.reason == "interrupted"


def test_a_request_while_the_process_ends_changes_no_exit_code() -> None:
    program = (
        "import atexit, os, signal, sys\n"
        "from vae_compat.front.cli import console\n"
        "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):\n"
        "    atexit.register(os.kill, os.getpid(), number)\n"
        "sys.argv = ['vae-compat', 'explain', 'ratio']\n"
        "sys.exit(console())\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("word", ["ratio", "nothing"])
def test_streams_that_are_closed_change_no_exit_code(word: str, closed: tuple[int, ...]) -> None:
    program = [sys.executable, "-m", "vae_compat", "explain", word]

    def close() -> None:
        for number in closed:
            os.close(number)

    ended = subprocess.run(program, preexec_fn=close)
    assert ended.returncode == (0 if word == "ratio" else 2)


@pytest.mark.parametrize("word", ["ratio", "nothing"])
def test_streams_that_cannot_be_written_are_a_sentence(word: str) -> None:
    program = [sys.executable, "-m", "vae_compat", "explain", word]
    with Path("/dev/full").open("w") as full:
        printed = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True)
        complained = subprocess.run(program, stdout=subprocess.DEVNULL, stderr=full)
    assert complained.returncode == (0 if word == "ratio" else 2)
    assert printed.returncode == (3 if word == "ratio" else 2)
    if word == "ratio":
        assert printed.stderr == (
            "vae-compat: what is printed cannot be written (No space left on device)\n"
        )


def test_a_run_goes_on_to_its_verdict_where_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    case = "sd-mock-ldm-decode-exact-10x10t16-b1-f1-float32-sim"
    run = ["run", "--case", case, "-k", "finite", "--out", str(tmp_path / "out"), "-n", "1"]
    unread, printed = os.pipe()
    os.close(unread)
    with os.fdopen(printed, "w") as stdout:
        program = [sys.executable, "-m", "vae_compat", *run]
        ended = subprocess.run(program, stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 0
    assert ended.stderr == ""
    verdict = json.loads((tmp_path / "out" / "results.json").read_text())["verdict"]
    assert verdict["code"] == 0
    assert (tmp_path / "out" / "index.html").is_file()


def test_a_child_that_is_stopped_goes_on() -> None:
    with children_resumed(0.01), subprocess.Popen(["sleep", "0.1"]) as child:
        child.send_signal(signal.SIGSTOP)
        assert child.wait(60) == 0


def test_what_was_ignored_when_the_process_started_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGHUP)
        assert interrupts.reason is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_who_asks_three_times_need_not_wait() -> None:
    program = (
        "import signal\n"
        "from vae_compat.front.run.interrupts import Interrupts\n"
        "with Interrupts() as interrupts:\n"
        "    interrupts.close()\n"
        "    for _ in range(3):\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "raise SystemExit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 3


# The test that a worker died in


class Node:
    """A worker as a scheduler sees it."""

    shutting_down = False

    def __init__(self) -> None:
        self.sent: list[int] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        self.sent += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def test_a_test_that_took_its_process_down_is_not_run_again(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pytestconfig.option, "tx", ["popen"], raising=False)
    monkeypatch.setattr(pytestconfig.option, "loadscopereorder", True, raising=False)
    monkeypatch.setattr(pytestconfig.option, "debug", None)
    tests = [f"group{n}::test{m}" for n in range(2) for m in range(4)]
    scheduling = BaselineScheduling(pytestconfig, None, lambda name: name.partition("::")[0])
    first, second = Node(), Node()
    scheduling.add_node(first)
    scheduling.add_node_collection(first, tests)
    scheduling.schedule()
    scheduling.mark_test_complete(first, 0)
    assert scheduling.remove_node(first) == tests[1]
    scheduling.add_node(second)
    scheduling.add_node_collection(second, tests)
    scheduling.schedule()
    for index in second.sent:  # which grows
        scheduling.mark_test_complete(second, index)
    assert sorted(second.sent) == [2, 3, 4, 5, 6, 7]
    assert second.shutting_down
    assert scheduling.remove_node(second) is None
    assert scheduling.tests_finished


# The janitor


def test_the_janitor_kills_what_carries_the_token_and_removes_the_folder() -> None:
    with RunFolder() as folder:
        (folder.path / "file").touch()
        # In a session of its own, and deaf to requests.
        program = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
        stray = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
        stranger = subprocess.Popen(
            ["sleep", "600"], env={k: v for k, v in os.environ.items() if k != VARIABLE}
        )
    try:
        assert stray.wait(timeout=120) == -signal.SIGKILL
        assert not folder.path.exists()
        assert stranger.poll() is None
        assert folder.token not in os.environ.get(VARIABLE, "")
    finally:
        stranger.kill()
        stranger.wait()


def test_a_run_within_a_run_belongs_to_both() -> None:
    with RunFolder() as outer:
        with RunFolder() as inner:
            assert os.environ[VARIABLE].split(":")[-2:] == [outer.token, inner.token]
            stray = subprocess.Popen(["sleep", "600"])
        assert stray.wait(timeout=120) == -signal.SIGKILL
        stray = subprocess.Popen(["sleep", "600"])
        assert stray.poll() is None
    assert stray.wait(timeout=120) == -signal.SIGKILL


def test_a_run_beside_other_work_owns_only_what_it_starts() -> None:
    with RunFolder(inherited=False) as folder:
        stranger = subprocess.Popen(["sleep", "600"])
        own = subprocess.Popen(["sleep", "600"], env=os.environ | folder.environment)
        assert folder.token not in os.environ.get(VARIABLE, "")
    assert own.wait(timeout=120) == -signal.SIGKILL
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
