"""Shards that are merged are the run in one piece, and no fewer than all of them are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vae_compat.checks.registry import BY_NAME
from vae_compat.contracts.cases import Direction
from vae_compat.errors import UsageError
from vae_compat.front import cli
from vae_compat.front.kept_runs import merging
from vae_compat.front.run import workers
from vae_compat.front.run.session import Run
from vae_compat.front.selection import subjects
from vae_compat.front.selection.options import Options
from vae_compat.front.selection.sharding import Shard, costs, shared_out
from vae_compat.judge import gate
from vae_compat.reports.log import End, Entry, Log, concluded, read_log, write_log
from vae_compat.reports.results import HookEntry
from vae_compat.suites.selftest.measure_fakes import a_case
from vae_compat.suites.selftest.running import here, profile
from vae_compat.suites.selftest.test_reports import HEADER, case_id, record
from vae_compat.vocabulary import DEFAULT_TIERS, ExitCode

DONE = End(finished="2026-01-01T00:01:00+00:00")


@pytest.mark.parametrize("text", ["1", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2", "1/1001", ""])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give K/N"):
        Shard.of(text)


def test_every_truth_is_in_one_shard_and_shards_cost_alike() -> None:
    total = {f"truth {number}": float(1 + number % 7) for number in range(40)}
    for count in (1, 2, 3, 7, 40):
        shares = shared_out(total, count)
        assert shares.keys() == total.keys()
        assert set(shares.values()) == set(range(1, count + 1))
        loads = [
            sum(total[name] for name in shares if shares[name] == number + 1)
            for number in range(count)
        ]
        assert max(loads) - min(loads) <= 7


def test_the_split_does_not_depend_on_the_order_of_cases() -> None:
    total = costs([a_case(height=size) for size in (16, 24, 32, 48, 64)])
    turned = costs([a_case(height=size) for size in (64, 48, 32, 24, 16)])
    assert shared_out(total, 3) == shared_out(turned, 3)


def prepared(folder: Path, **more: Any) -> Run:
    options = Options(profile=("reference",), families=("sd", "qwen"), **more)
    (told,) = subjects.profiles(options)
    found = (subjects.HookUnderTest(*told, subjects.Looked(("exact",), None, None)),)
    return workers.prepared(options, found, folder, frozenset())


def test_shards_have_all_tests_of_the_whole_once_and_judge_them_alike(tmp_path: Path) -> None:
    whole = prepared(tmp_path)
    parts = [prepared(tmp_path, shard=f"{number}/3") for number in (1, 2, 3)]
    for check in (name for name in BY_NAME if BY_NAME[name].tier in DEFAULT_TIERS):
        items = [item for part in parts for item in part.items(check)]
        assert sorted(item.id for item in items) == sorted(item.id for item in whole.items(check))
    for part in parts:
        assert part.called_in_every_way == whole.called_in_every_way
    ways = {(case.family, case.direction, case.mode) for _, case in whole.called_in_every_way}
    assert ways >= {(f, d, "exact") for f in ("sd", "qwen") for d in Direction}
    assert all(case.scenario is case.given is None for _, case in whole.called_in_every_way)


def test_what_an_earlier_run_has_done_does_not_change_the_split(tmp_path: Path) -> None:
    part = prepared(tmp_path, shard="1/2")
    first, *left = part.items("parity")
    part.finished = frozenset({(first.subject, first.case.id, "parity")})
    assert list(part.items("parity")) == left


# Merging ----------------------------------------------------------------------------------------


Keep = Callable[..., Path]


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    """Writes the log of a shard; sizes of its cases, and their status."""

    def write(name: str, shard: str | None, *sizes: int, **more: Any) -> Path:
        given = {"status": "passed", "selected": None, "end": DONE, "header": {}} | more
        records = [record(case_id(size=size), given["status"], message="why") for size in sizes]
        log = Log(
            header=replace(HEADER, shard=shard, **given["header"]),
            selected=len(sizes) if given["selected"] is None else given["selected"],
            entries={entry.key: entry for entry in map(Entry, records)},
            end=given["end"],
        )
        write_log(log, tmp_path / name)
        return tmp_path / name

    return write


def test_shards_in_any_order_make_the_whole(keep: Keep, tmp_path: Path) -> None:
    second, first = keep("b", "2/2", 48), keep("a", "1/2", 32, 40)
    assert cli.main(["merge", str(second), str(first), "--out", str(tmp_path / "whole")]) == 0
    log = read_log(tmp_path / "whole")
    assert (log.header.shard, log.selected, len(log.entries), log.end) == (None, 3, 3, DONE)
    assert {path.name for path in (tmp_path / "whole").iterdir()} == {
        "index.html",
        "records.jsonl",
        "results.json",
        "summary.md",
    }


def test_one_bad_shard_fails_the_whole(keep: Keep, tmp_path: Path) -> None:
    folders = [keep("a", "1/2", 32), keep("b", "2/2", 48, status="failed")]
    assert concluded(merging.whole(folders), tmp_path).verdict.code is ExitCode.FAILS


def test_that_a_hook_completes_nothing_is_told_by_the_whole_alone(
    keep: Keep, tmp_path: Path
) -> None:
    known = [keep("a", "1/2", 32, status="xfailed"), keep("b", "2/2", 40, status="xfailed")]
    assert concluded(read_log(known[0]), known[0]).verdict.holds
    assert not concluded(merging.whole(known), tmp_path).verdict.holds
    assert not gate([record(status="failed")], shard="1/2").holds


def test_machines_that_differ_are_all_told(keep: Keep) -> None:
    folders = [keep("a", "1/2", 32), keep("b", "2/2", 40, header={"cpu": "another"})]
    assert merging.whole(folders).header.cpu == "some cpu, 2 cores; another"


OTHER = (HookEntry("hook", "hook.py:Hook", "forward", "ldm", sha256="b" * 64),)


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ({"shard": None}, "was run without --shard"),
        ({"shard": "1/2"}, "are both shard 1/2"),
        ({"shard": "2/3"}, "the shards of one split"),
        ({"header": {"torch": "2.12.0"}}, "torch is '2.13.0' in the one and '2.12.0'"),
        ({"header": {"seed": 1}}, "the seed is 0 in the one and 1"),
        ({"header": {"version": "0.2.0"}}, "vae-compat is '0.1.0' in the one"),
        ({"header": {"selection": "full"}}, "the selection is"),
        ({"header": {"hooks": OTHER}}, "the code of hook hook is"),
        ({"end": None}, "was cut off after 1 of 1 records: go on with --resume"),
        ({"end": End(finished="x", stopped="interrupted")}, "interrupted after 1 of 1"),
        ({"selected": 2}, "ended after 1 of 2"),
        ({"sizes": (32,)}, "another shard has parity"),
    ],
)
def test_what_makes_no_whole_is_told_in_one_sentence(
    keep: Keep,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    second: dict[str, Any],
    told: str,
) -> None:
    shard, sizes = second.pop("shard", "2/2"), second.pop("sizes", (40,))
    folders = [keep("a", "1/2", 32), keep("b", shard, *sizes, **second)]
    assert cli.main(["merge", *map(str, folders), "--out", str(tmp_path / "whole")]) == 2
    complaint = capsys.readouterr().err
    assert told in complaint
    assert complaint.count("\n") == 1
    assert not (tmp_path / "whole").exists()


def test_a_missing_shard_is_named(keep: Keep) -> None:
    with pytest.raises(UsageError, match="shard 2/3, 3/3 is missing"):
        merging.whole([keep("a", "1/3", 32)])


def test_a_shard_is_not_written_over(keep: Keep, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = keep("a", "1/2", 32), keep("b", "2/2", 40)
    before = (first / "records.jsonl").read_bytes()
    assert cli.main(["merge", str(first), str(second), "--out", str(first)]) == 2
    assert "is a shard itself" in capsys.readouterr().err
    assert (first / "records.jsonl").read_bytes() == before


@pytest.mark.slow
def test_sharded_and_merged_equals_unsharded_record_by_record(tmp_path: Path) -> None:
    some = "(10x10 and (finite or parity)) or tiny_tiles or repeat or settings"
    chosen = ("--scale=mock", "-k", some)
    hook = (f"--profile={profile(tmp_path, 'sound')}", *chosen)
    whole = here(tmp_path / "whole", *hook)
    shards = [here(tmp_path / f"{n}", *hook, "--shard", f"{n}/2") for n in (1, 2)]
    assert [ran.code for ran in shards] == [whole.code, whole.code] == [0, 0], whole.out
    assert shards[0].results["header"]["shard"] == "1/2"
    assert "shard 1/2 alone" in shards[0].out
    folders = [ran.folder for ran in shards]
    assert cli.main(["merge", *folders, "--out", str(tmp_path / "merged")]) == 0
    merged = replace(whole, folder=str(tmp_path / "merged"))
    assert merged.results["records"] == whole.results["records"]
    assert merged.results["verdict"] == whole.results["verdict"]
    assert all(len(ran.results["records"]) < len(whole.results["records"]) for ran in shards)


@pytest.mark.slow
def test_more_shards_than_baselines_are_wrong_use(tmp_path: Path) -> None:
    file = profile(tmp_path, "sound")
    ran = here(tmp_path / "out", f"--profile={file}", "--scale", "real", "--shard", "1/9")
    assert ran.code == 2
    assert "split it into" in ran.err
