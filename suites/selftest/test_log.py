"""Records are kept as they are found, and everything is rendered from them again."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vae_compat.errors import UsageError
from vae_compat.front import cli
from vae_compat.front.kept_runs.resuming import finished, resumed
from vae_compat.front.run import running
from vae_compat.judge import ExitCode
from vae_compat.reports.log import FILE_NAME, End, Entry, Log, LogError, Writer, concluded, read_log
from vae_compat.suites.selftest.running import Ran, here, once, profile, shared
from vae_compat.suites.selftest.test_reports import HEADER, case_id, record

pytestmark = pytest.mark.slow

DONE = End(finished="2026-01-01T00:01:00+00:00")
CASE = "sd-mock-ldm-decode-exact-17x17t16-b1-f1-float32-sim"
NARROW = ("--case", CASE, "-k", "finite or completes or output_shape", "-n", 0)


def entries(*statuses: str, harness: int = 0) -> list[Entry]:
    """Records of as many cases, the first ones failures of the harness."""
    return [
        Entry(record(case_id(size=40 + n), status, message="why"), harness=n < harness)
        for n, status in enumerate(statuses)
    ]


def written(folder: Path, *found: Entry, selected: int = 3, end: End | None = DONE) -> Log:
    writer = Writer(folder, HEADER, selected, None)
    for entry in found:
        writer.append(entry)
    if end is not None:
        writer.finish(end)
    writer.close()
    return read_log(folder)


def test_a_log_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    found = entries("passed", "failed", "error", harness=0)
    log = written(tmp_path / "new" / "folder", *found)
    assert list(log.entries.values()) == found
    assert (log.header, log.selected, log.end) == (HEADER, 3, DONE)


def test_every_record_is_there_as_soon_as_it_was_found(tmp_path: Path) -> None:
    writer = Writer(tmp_path, HEADER, 2, None)
    for number, entry in enumerate(entries("passed", "failed"), 1):
        writer.append(entry)
        assert len(read_log(tmp_path).entries) == number
    writer.close()


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_line_is_left_out_and_written_over(tmp_path: Path, cut: int) -> None:
    found = entries("passed", "passed")
    written(tmp_path, *found, end=None)
    file = tmp_path / FILE_NAME
    file.write_bytes(file.read_bytes()[:-cut])
    log = read_log(tmp_path)
    assert list(log.entries.values()) == found[:1]
    writer = Writer(tmp_path, HEADER, 2, log)
    writer.append(found[1])
    writer.close()
    assert list(read_log(tmp_path).entries.values()) == found
    assert all(json.loads(line) for line in file.read_text().splitlines())


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "does not begin with"),
        ('{"record": {}}\n', "does not begin with"),
        ("[" * 100_000 + "\n{}\n", "no JSON object"),
        ('{"header": {"schema": 99}}\n', "schema 99"),
        ('{"header": {"schema": 1}}\n', "no valid results file"),
    ],
)
def test_a_file_that_is_no_log_is_wrong_use(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(UsageError, match=match):
        read_log(tmp_path)


def test_a_broken_line_in_the_middle_is_wrong_use(tmp_path: Path) -> None:
    written(tmp_path, *entries("passed"))
    file = tmp_path / FILE_NAME
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[0], "oops\n", *lines[1:]]))
    with pytest.raises(UsageError, match="line 2 of"):
        read_log(tmp_path)


def test_two_runs_cannot_write_to_one_log(tmp_path: Path) -> None:
    writer = Writer(tmp_path, HEADER, 2, None)
    writer.append(entries("passed")[0])
    with pytest.raises(LogError, match="another run is writing"):
        Writer(tmp_path, HEADER, 2, None)
    assert len(read_log(tmp_path).entries) == 1
    writer.close()


def emptied(file: Path) -> None:
    os.truncate(file, 0)


def overwritten(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"failed", b"passed"))


def replaced(file: Path) -> None:
    file.unlink()
    file.symlink_to(os.devnull)


@pytest.mark.parametrize("change", [emptied, overwritten, replaced, os.unlink])
def test_a_log_that_something_else_has_changed_is_written_again(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    found = entries("passed", "failed")
    writer = Writer(tmp_path, HEADER, 2, None)
    writer.append(found[0])
    change(tmp_path / FILE_NAME)
    writer.append(found[1])
    writer.finish(DONE)
    writer.close()
    log = read_log(tmp_path)
    assert (list(log.entries.values()), log.end) == (found, DONE)


def test_a_full_disk_is_told_and_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path, HEADER, 2, None)
    before = (tmp_path / FILE_NAME).read_bytes()
    write, room = os.write, [20]

    def full(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written, room[0] = write(descriptor, data[: room[0]]), 0
        return written

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(LogError, match="No space left on device"):
        writer.append(entries("passed")[0])
    assert (tmp_path / FILE_NAME).read_bytes() == before
    writer.close()


# The verdict of a log


@pytest.mark.parametrize(
    ("found", "end", "code", "words"),
    [
        (entries("passed", "passed", "xfailed"), DONE, 0, ""),
        (entries("passed", "passed", "failed"), DONE, 1, "1 failed"),
        (entries("passed", "failed"), None, 3, "cut off after 2 of 3 records; go on with --resume"),
        (entries("passed", "failed"), DONE, 3, "ended after 2 of 3 records"),
        (
            entries("passed"),
            replace(DONE, stopped="interrupted"),
            3,
            "interrupted after 1 of 3 records; go on with --resume",
        ),
        (
            entries("error", "error", "failed", harness=2),
            DONE,
            3,
            "the harness failed in parity[sd-mock-ldm-decode-exact-40x40",
        ),
        (
            entries("passed", "failed"),
            replace(DONE, by_failure=True),
            1,
            "1 failed; stopped at the first failure, after 2 of 3 records",
        ),
        (entries("passed", "passed"), replace(DONE, by_failure=True), 3, "ended after 2 of 3"),
        (entries("error", harness=1), replace(DONE, by_failure=True), 3, "harness failed"),
    ],
)
def test_only_a_whole_run_has_a_verdict(
    tmp_path: Path, found: list[Entry], end: End | None, code: int, words: str
) -> None:
    verdict = concluded(written(tmp_path, *found, end=end), tmp_path).verdict
    assert int(verdict.code) == code
    assert words in verdict.reason


def test_a_record_that_comes_again_counts_instead_of_the_first(tmp_path: Path) -> None:
    (failed,) = entries("error", harness=1)
    (passed,) = entries("passed")
    log = written(tmp_path, failed, passed, selected=1)
    assert concluded(log, tmp_path).verdict.code == ExitCode.HOLDS
    assert finished(log) == {passed.key}


# Going on


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 5}, "the seed was 0 and is 5"),
        ({"selection": "full"}, "the selection was 'default' and is 'full'"),
        ({"torch": "9"}, "torch was '2.13.0' and is '9'"),
        ({"inputs": "others"}, "the weights or the picture was"),
        ({"hooks": ()}, "the hook was hook and is"),
        ({"hooks": (replace(HEADER.hooks[0], sha256="0" * 64),)}, "the code of hook hook was not"),
        ({"hooks": (replace(HEADER.hooks[0], claims="x"),)}, "the profile of hook hook was"),
    ],
)
def test_only_the_same_run_is_gone_on_with(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    log = written(tmp_path, *entries("passed"))
    assert resumed(tmp_path, HEADER) == log
    with pytest.raises(UsageError) as caught:
        resumed(tmp_path, replace(HEADER, **change))
    assert words in str(caught.value)


def test_harness_failures_are_run_again_and_nothing_else(tmp_path: Path) -> None:
    log = written(tmp_path, *entries("error", "error", "failed", harness=1))
    assert {case for _, case, _ in finished(log)} == {case_id(size=41), case_id(size=42)}


# From end to end


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run of three records."""

    def make(out: Path) -> Ran:
        return here(out, "--profile", profile(out.parent, "sound"), *NARROW)

    return once(shared(tmp_path_factory), "logged", make)


def test_a_report_is_rendered_from_the_log_alone(
    whole: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path(whole.folder)
    shutil.copy(before / FILE_NAME, tmp_path)
    code = cli.main(["report", str(tmp_path), "--junitxml", str(tmp_path / "junit.xml")])
    assert code == whole.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    gate, where = out.splitlines()[-2:]
    assert gate == whole.out.splitlines()[-2] == "gate holds (exit code 0)"
    assert where == f"report: {tmp_path / 'index.html'}"
    for name in ("results.json", "summary.md"):
        assert (tmp_path / name).read_text() == (before / name).read_text()
    assert (tmp_path / "junit.xml").read_text().count("<testcase ") == 3


def test_going_on_runs_what_is_missing_and_ends_as_an_undisturbed_run(
    whole: Ran, tmp_path: Path
) -> None:
    shutil.copytree(Path(whole.folder).parent, tmp_path, dirs_exist_ok=True)
    out = tmp_path / "out"
    lines = (out / FILE_NAME).read_text().splitlines(keepends=True)
    (out / FILE_NAME).write_text("".join(lines[:2]) + lines[2][:30])
    ran = here(out, "--profile", tmp_path / "sound.toml", *NARROW, "--resume", out)
    assert ran.code == 0, ran.out + ran.err
    assert "2 passed" in ran.out

    def plain(found: Ran) -> list[dict[str, object]]:
        return [{**told, "repeat": None} for told in found.results["records"]]

    assert plain(ran) == plain(whole)
    again = here(out, "--profile", tmp_path / "sound.toml", *NARROW, "--resume", out)
    assert again.code == 0, again.out + again.err
    assert plain(again) == plain(whole)
    other = profile(tmp_path, "sound", grade="close")
    refused = here(out, "--profile", other, *NARROW, "--resume", out)
    assert refused.code == 2
    assert "the profile of hook sound was" in refused.err


def test_a_disk_that_is_full_in_the_middle_costs_nothing_that_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, room = os.write, [4000]

    def full(descriptor: int, data: bytes) -> int:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name != FILE_NAME:
            return write(descriptor, data)
        if room[0] < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= len(data)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    narrow = ("--case", CASE, "--tier", "minimum,recommended", "-n", 0)
    ran = here(tmp_path / "out", "--profile", profile(tmp_path, "sound"), *narrow)
    assert ran.code == 3
    assert "hook sound" in ran.out
    (line,) = ran.err.splitlines()
    assert "No space left on device) after " in line
    assert "go on with --resume" in line
    assert 0 < len(read_log(tmp_path / "out").entries) < len(ran.results["records"]) + 1


def test_the_first_failure_ends_a_run_that_was_told_so(tmp_path: Path) -> None:
    entry = "vae_compat.fixtures.specimens.forward:PerTileStatistics"
    hook = profile(tmp_path, "wrong", entry)
    ran = here(tmp_path / "out", "--profile", hook, "--case", CASE, "-n", 0, "-x")
    assert ran.code == 1, ran.out
    statuses = [found["status"] for found in ran.records()]
    assert statuses.count("failed") == 1
    assert "stopped at the first failure, after" in ran.results["verdict"]["reason"]
    shown = [line for line in ran.out.splitlines() if line.startswith("FAIL ")]
    assert f"parity[{CASE}]: " in shown[0]  # a log is not cut at the width of a terminal
    assert len(shown[0]) < 700


def test_names_of_folders_do_not_select(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suites, installed = running.suites_folder(), tmp_path / "zebra" / "package" / "suites"
    for tier in ("minimum", "recommended"):
        shutil.copytree(suites / tier, installed / tier)
    monkeypatch.setattr(running, "suites_folder", lambda: installed)
    narrow = ("--case", CASE, "--tier", "minimum,recommended", "-k", "zebra")
    ran = here(tmp_path / "out", "--profile", profile(tmp_path, "sound"), *narrow)
    assert ran.code == 2
    assert "-k 'zebra' leaves no check of any case" in ran.err
