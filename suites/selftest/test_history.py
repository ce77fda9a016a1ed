"""A history chooses the run to compare with, and never one that has a regression."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from vae_compat.errors import UsageError
from vae_compat.front import cli
from vae_compat.front.run import running
from vae_compat.front.selection.options import Options
from vae_compat.judge import Verdict
from vae_compat.machine import CudaDescription
from vae_compat.reports import compare, history, nights, results, summary
from vae_compat.suites.selftest.test_reports import HEADER, case_id, record, run
from vae_compat.vocabulary import ExitCode

GPU = CudaDescription(
    name="NVIDIA H200",
    memory=2**37,
    capability="9.0",
    driver="580.65.06",
    cuda="13.0",
    cudnn="91002",
    torch="2.13.0+cu130",
    allocator="native",
    switches=(("cudnn.allow_tf32", "False"), ("cudnn.benchmark", "False")),
)
HOLDS, FAILS, HARNESS = (
    Verdict(code) for code in (ExitCode.HOLDS, ExitCode.FAILS, ExitCode.HARNESS)
)


@pytest.fixture
def keep(tmp_path: Path) -> Callable[..., history.Night]:
    """Keeps a run of some records as a night of the history in ``tmp_path``."""

    def kept(name: str, *records: Any, verdict: Verdict = HOLDS, **header: Any) -> history.Night:
        told = dataclasses.replace(HEADER, **header)
        found = run(*(records or (record(),)), header=told, verdict=verdict)
        results.write(found, history.folder_of(tmp_path, name))
        night = history.Night(name, told, verdict)
        history.append(tmp_path, night)
        return night

    return kept


Keep = Callable[..., history.Night]


def bar(folder: Path, but: str = "", **header: Any) -> str | None:
    """The run with which a run of this header is compared."""
    found = history.baseline(folder, dataclasses.replace(HEADER, **header), but)
    return None if found is None else found.run


# What a run is held against


def test_a_run_is_held_against_the_last_that_held(tmp_path: Path, keep: Keep) -> None:
    assert bar(tmp_path) is None
    keep("one")
    keep("two")
    keep("worse", verdict=FAILS)
    keep("cut off", verdict=HARNESS)
    assert bar(tmp_path) == "two"
    assert bar(tmp_path, but="two") == "one"


@pytest.mark.parametrize(
    "other",
    [
        {"device": "cpu"},
        {"device": "cuda", "gpu": GPU},
        {"selection": "full"},
        {"seed": 1},
        {"hooks": (results.HookEntry("other", "o.py:Hook", "forward", "ldm"),)},
    ],
)
def test_a_run_of_something_else_is_no_bar(
    tmp_path: Path, keep: Keep, other: dict[str, Any]
) -> None:
    keep("other", **other)
    assert bar(tmp_path) is None
    assert bar(tmp_path, **other) == "other"


def test_the_same_torch_comes_before_a_later_run_with_another(tmp_path: Path, keep: Keep) -> None:
    keep("old torch", torch="2.11.0")
    keep("new torch", torch="2.13.0")
    assert bar(tmp_path, torch="2.11.0") == "old torch"
    assert bar(tmp_path, torch="2.14.0") == "new torch"


def test_a_run_that_was_accepted_is_a_bar_though_it_did_not_hold(
    tmp_path: Path, keep: Keep
) -> None:
    keep("one")
    keep("dearer", verdict=FAILS)
    keep("cut off", verdict=HARNESS)
    history.accept(tmp_path, "dearer")
    assert bar(tmp_path) == "dearer"
    with pytest.raises(UsageError, match="no verdict"):
        history.accept(tmp_path, "cut off")
    with pytest.raises(UsageError, match="no run 'nothing'"):
        history.accept(tmp_path, "nothing")


def test_a_run_whose_folder_was_removed_is_passed_over(tmp_path: Path, keep: Keep) -> None:
    keep("one")
    keep("two")
    (history.folder_of(tmp_path, "two") / results.FILE_NAME).unlink()
    assert bar(tmp_path) == "one"


# The list of runs


def test_a_torn_last_line_loses_nothing_else(tmp_path: Path, keep: Keep) -> None:
    keep("one")
    file = tmp_path / history.FILE_NAME
    whole = file.read_bytes()
    file.write_bytes(whole + whole[: len(whole) // 2])
    assert [night.run for night in history.read_history(tmp_path)] == ["one"]
    keep("two")
    assert [night.run for night in history.read_history(tmp_path)] == ["one", "two"]
    assert [list(json.loads(line)) for line in file.read_text().splitlines()] == [["night"]] * 2


def test_lines_of_many_runs_at_once_are_all_kept(tmp_path: Path) -> None:
    names = [f"run {number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda name: history.append(tmp_path, history.Night(name, HEADER, HOLDS)), names
            )
        )
    assert sorted(night.run for night in history.read_history(tmp_path)) == sorted(names)


def test_two_runs_of_one_second_get_two_folders(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(lambda _: history.fresh_folder(tmp_path, HEADER).name, range(8)))
    assert len(made) == 8
    hook = dataclasses.replace(HEADER.hooks[0], commit="0123456789ab+")
    header = dataclasses.replace(HEADER, hooks=(hook,))
    assert history.fresh_folder(tmp_path, header).name == "20260101T000000Z-0123456789ab+"


def test_a_line_that_is_none_is_named(tmp_path: Path, keep: Keep) -> None:
    keep("one")
    file = tmp_path / history.FILE_NAME
    file.write_bytes(b"[]\n" + file.read_bytes())
    with pytest.raises(UsageError, match="line 1 of"):
        history.read_history(tmp_path)


# What changed


def test_what_is_new_and_what_is_mended_is_told_against_the_night_before(
    tmp_path: Path, keep: Keep
) -> None:
    keep("one", record(grade="exact"), record(case_id("flux"), "failed"))
    keep("two", record(grade="close"), record(case_id("flux")), record(case_id("sd3"), "failed"))
    (last,) = history.groups(history.read_history(tmp_path))
    text = nights.told(tmp_path, last).text()
    new, mended = text.split("\nnew: ")[1].split("\nmended: ")
    assert new.startswith("2\n")
    assert f"parity[{case_id()}]: grade was exact, is close" in new
    assert f"parity[{case_id('sd3')}]: failed, was not there" in new
    assert mended.startswith("1\n")
    assert f"parity[{case_id('flux')}]: status was failed, is passed" in mended


def test_the_first_run_is_held_against_nothing(tmp_path: Path, keep: Keep) -> None:
    text = nights.told(tmp_path, keep("one")).text()
    assert "held against nothing" in text
    assert "mended" not in text


def counted(size: int, **more: Any) -> results.Results:
    return run(record(metrics={"peak_bytes": size, "flops": 10, **more}))


def test_a_single_byte_of_drift_is_named() -> None:
    assert nights.drifts([counted(1000), counted(1000)]) == ()
    (drift,) = nights.drifts([counted(1000), counted(1001), counted(1001)])
    assert drift.message == (
        f"hook parity[{case_id()}]: peak_bytes was 1,000, 1,001, is 1,001 (+0.1 %)"
    )
    (back,) = nights.drifts([counted(1000), counted(1001), counted(1000)])
    assert back.message.endswith("was 1,000, 1,001, is 1,000 (+0.0 %)")
    (lost,) = nights.drifts([counted(1000), run(record(metrics={"peak_bytes": None, "flops": 10}))])
    assert lost.message.endswith("was 1,000, is not measured")


def test_creeping_growth_that_passes_every_night_is_told(tmp_path: Path, keep: Keep) -> None:
    size = 100_000
    for number in range(4):
        night = keep(f"night {number}", record(metrics={"peak_bytes": size}))
        size = int(size * 1.015)
    text = nights.told(tmp_path, night, last=4).text()
    assert "new: nothing" in text
    assert "drift over 4 runs: 1\n" in text
    assert "is 104,566 (+4.6 %)" in text
    assert "drift over 2 runs" in nights.told(tmp_path, night, last=2).text()


def test_runs_with_another_torch_are_no_part_of_a_drift(tmp_path: Path, keep: Keep) -> None:
    keep("old", record(metrics={"peak_bytes": 1}), torch="2.11.0")
    night = keep("new", record(metrics={"peak_bytes": 2}))
    assert "drift" not in nights.told(tmp_path, night).text()


def test_time_is_told_by_its_median_and_spread_and_is_no_drift() -> None:
    runs = [counted(1, time_ratio=ratio) for ratio in (0.5, 0.7, 0.6)]
    assert nights.drifts(runs) == ()
    (line,) = nights.times(runs)
    assert line == (
        "hook sd decode exact: 0.60 x the time of untiled; over 3 runs 0.60 (0.50 to 0.70)"
    )


# Runs that cannot be compared in everything


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"torch": "2.11.0"}, "torch"),
        ({"gpu": dataclasses.replace(GPU, name="NVIDIA H100")}, "GPU"),
        ({"gpu": dataclasses.replace(GPU, cudnn="90000")}, "cuDNN"),
        ({"gpu": dataclasses.replace(GPU, switches=(("cudnn.allow_tf32", "True"),))}, "allow_tf32"),
        ({"gpu": None}, "GPU"),
    ],
)
def test_bytes_are_compared_between_equal_machines_alone(change: dict[str, Any], why: str) -> None:
    header = dataclasses.replace(HEADER, device="cuda", gpu=GPU)
    before = run(record(grade="exact", metrics={"peak_bytes": 100}), header=header)
    dearer = record(grade="exact", metrics={"peak_bytes": 200})
    (grown,) = compare.compare(before, run(dearer, header=header)).regressions
    assert grown.what == "peak_bytes"
    elsewhere = dataclasses.replace(header, **change)
    found = compare.compare(before, run(dearer, header=elsewhere))
    assert found.regressions == ()
    assert any("of 1 records were not compared" in note and why in note for note in found.notes)
    worse = dataclasses.replace(dearer, grade="close")
    (grade,) = compare.compare(before, run(worse, header=elsewhere)).regressions
    assert grade.what == "grade"


def test_a_newer_driver_changes_no_byte() -> None:
    header = dataclasses.replace(HEADER, device="cuda", gpu=GPU)
    newer = dataclasses.replace(header, gpu=dataclasses.replace(GPU, driver="590.1"))
    assert compare.apart(header, newer) == ()


def test_grades_are_compared_across_devices() -> None:
    on_cuda = dataclasses.replace(HEADER, device="cuda", gpu=GPU)
    before = run(record(grade="exact", metrics={"peak_bytes": 1}), record(case_id("flux")))
    there = record(case_id(device="cuda"), grade="close", metrics={"peak_bytes": 9})
    found = compare.compare(before, run(there, header=on_cuda))
    assert found.compared == 1
    assert [each.what for each in found.regressions] == ["grade"]
    assert any("1 earlier records were not compared: the device" in note for note in found.notes)


def test_what_became_better_is_told_as_well() -> None:
    before = run(record(status="failed", grade="close", metrics={"peak_bytes": 200, "flops": 100}))
    after = run(record(grade="exact", metrics={"peak_bytes": 100, "flops": 99}))
    found = compare.compare(before, after)
    assert found.regressions == ()
    assert [(each.what, each.before, each.after) for each in found.mended] == [
        ("grade", "close", "exact"),
        ("peak_bytes", "200", "100 (-50.0 %)"),
    ]


def test_a_page_tells_the_gpu_and_its_switches() -> None:
    header = dataclasses.replace(HEADER, device="cuda", gpu=GPU)
    page = summary.to_markdown(run(record(), header=header))
    assert "NVIDIA H200, 128.0 GiB, capability 9.0, driver 580.65.06, CUDA 13.0" in page
    assert "cudnn.allow_tf32 False" in page.replace("\\_", "_")


def test_a_hook_that_git_does_not_know_is_no_part_of_a_commit(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    hook, beside = tmp_path / "hook.py", tmp_path / "beside.py"
    hook.touch()
    beside.touch()
    git("init")
    git("add", "hook.py")
    git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-m", "one")
    commit = results.commit_of(tmp_path, hook)
    assert commit is not None
    assert results.commit_of(tmp_path, beside) == commit + "+"
    hook.write_text("changed")
    assert results.commit_of(tmp_path, hook) == commit + "+"


# The commands


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = cli.main(list(map(str, arguments)))
    told = capsys.readouterr()
    return code, told.out + told.err


def test_compare_ends_as_the_later_run_deserves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    results.write(run(record(grade="exact")), good)
    results.write(run(record(status="failed", grade="close")), bad)
    code, told = said(capsys, "compare", good, bad / results.FILE_NAME)
    assert code == 1
    assert "worse: hook parity" in told
    assert "1 records compared: 1 changes for the worse, 0 for the better" in told
    code, told = said(capsys, "compare", bad, good)
    assert code == 0
    assert "better: hook parity" in told
    results.write(run(record(grade="exact"), verdict=HARNESS), bad)
    assert said(capsys, "compare", good, bad)[0] == 3
    assert said(capsys, "compare", good, tmp_path / "none")[0] == 2


def test_history_lists_runs_and_accepts_one(
    tmp_path: Path, keep: Keep, capsys: pytest.CaptureFixture[str]
) -> None:
    keep("one")
    keep("dearer", verdict=FAILS)
    cut = history.folder_of(tmp_path, "cut")
    cut.mkdir()
    (cut / "records.jsonl").touch()
    code, told = said(capsys, "history", tmp_path)
    assert code == 0
    assert "cut: goes on, or was cut off" in told
    code, told = said(capsys, "history", tmp_path, "--accept", "dearer")
    assert "did not hold, accepted all the same" in told
    assert bar(tmp_path) == "dearer"
    assert said(capsys, "history", tmp_path / "none")[0] == 2


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """A night of ``vae-compat nightly`` that finds given records; returns its exit code."""

    def judged(options: Options, *_: object) -> results.Results:
        found = run(*records)
        before = None if options.against is None else results.read(options.against)
        return found if before is None else compare.hold_against(found, before)

    records: list[Any] = []
    monkeypatch.setattr(running, "set_environment", lambda _: None)
    monkeypatch.setattr(running, "validate", lambda _: ())
    monkeypatch.setattr(running, "header_of", lambda *_: HEADER)
    monkeypatch.setattr(running, "judged", judged)

    def ran(*found: Any) -> int:
        records[:] = found
        return cli.main(["nightly", "--device", "sim", "--history", str(tmp_path)])

    return ran


def test_a_regression_stays_one_until_it_is_mended(
    tmp_path: Path, night: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = record(grade="exact"), record(grade="close")
    assert night(good) == ExitCode.HOLDS
    assert night(bad) == ExitCode.FAILS
    assert "grade was exact, is close" in capsys.readouterr().out.split("\nnew: 1")[1]
    assert night(bad) == ExitCode.FAILS
    assert "\nnew: nothing" in capsys.readouterr().out  # it was there the night before
    assert night(good) == ExitCode.HOLDS
    assert "\nmended: 1" in capsys.readouterr().out
    first, *later = history.read_history(tmp_path)
    assert [each.against for each in later] == [first.run] * 3
    assert [each.regressions for each in later] == [1, 1, 0]
    assert (history.folder_of(tmp_path, first.run) / nights.FILE_NAME).is_file()


def test_a_night_that_was_cut_off_goes_on_in_its_history(
    tmp_path: Path, night: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    night(record())
    (one,) = history.read_history(tmp_path)
    room, elsewhere = history.folder_of(tmp_path, one.run), tmp_path / "elsewhere"
    assert cli.main(["run", "--history", str(tmp_path), "--resume", str(room)]) == ExitCode.HOLDS
    assert [each.run for each in history.read_history(tmp_path)] == [one.run]
    elsewhere.mkdir()
    told = cli.main(["run", "--history", str(tmp_path), "--resume", str(elsewhere)])
    assert told == ExitCode.USAGE
    assert "is no run of --history" in capsys.readouterr().err


def test_a_nightly_run_takes_everything_on_the_best_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Options] = []
    monkeypatch.setattr(running, "run", lambda options: asked.append(options) or 0)
    for there, device in (("sim", "cpu"), "sim"), (("sim", "cuda", "cpu"), "cuda"):
        monkeypatch.setattr("vae_compat.device.available_devices", lambda there=there: there)
        assert cli.main(["nightly", "--profile", "diffusers"]) == 0
        assert asked[-1].device == device
        assert asked[-1].full
        assert set(asked[-1].tiers) == {"minimum", "recommended", "advanced"}
        assert asked[-1].history == cli.HISTORY
    assert cli.main(["nightly", "--out", "here"]) == ExitCode.USAGE
    assert cli.main(["run", "--history", "a", "--against", "b"]) == ExitCode.USAGE
