"""Results are stored whole, checked when read, and rendered so that nothing bad looks good."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from vae_compat.checks.wording import over
from vae_compat.contracts.caseid import parse_case_id
from vae_compat.contracts.cases import Case, Direction, Layout, Mechanism, Mode, Scale, Scenario
from vae_compat.errors import UsageError
from vae_compat.families import FAMILIES
from vae_compat.judge import Record, Verdict, gate
from vae_compat.reports import compare, digest, results, summary, table
from vae_compat.reports.html.page import page_of
from vae_compat.reports.html.rendering import to_html
from vae_compat.vocabulary import ExitCode

HEADER = results.Header(
    schema=results.SCHEMA,
    version="0.1.0",
    python="3.11.7",
    torch="2.13.0",
    diffusers="0.42.1",
    platform="Linux",
    cpu="some cpu, 2 cores",
    device="sim",
    hooks=(results.HookEntry("hook", "hook.py:Hook", "forward", "ldm"),),
    commit="0123456789ab",
    seed=0,
    selection="default",
    started="2026-01-01T00:00:00+00:00",
    finished="2026-01-01T00:01:00+00:00",
    command="vae-compat run",
)


def case_id(
    family: str = "sd",
    direction: str = "decode",
    mode: str = "exact",
    size: int = 40,
    **changes: Any,
) -> str:
    case = Case(
        family=family,
        scale=Scale.MOCK,
        layout=Layout.LDM,
        direction=Direction(direction),
        mode=Mode(mode),
        height=size,
        width=size,
        tile=16,
    )
    return dataclasses.replace(case, **changes).id


def record(case: str | None = None, status: str = "passed", **changes: Any) -> Record:
    plain = Record(
        case=case or case_id(), check="parity", tier="recommended", status=status, hook="hook"
    )
    return dataclasses.replace(plain, **changes)


def run(*records: Record, **changes: Any) -> results.Results:
    plain = results.Results(HEADER, records, gate(records))
    return dataclasses.replace(plain, **changes)


def row(text: str, family: str) -> str:
    """The line of a family. Fails if there is not exactly one."""
    (line,) = (line for line in text.splitlines() if line.split()[:1] == [family])
    return line


def test_case_ids_are_taken_apart_into_what_made_them() -> None:
    case = Case(
        family="wan22",
        scale=Scale.PROBE,
        layout=Layout.WAN,
        direction=Direction.ENCODE,
        mode=Mode.COLOR_FIX,
        height=39,
        width=41,
        tile=16,
        batch=2,
        frames=3,
        dtype="bfloat16",
        mechanism=Mechanism.CAUSAL_CACHE,
        scenario=Scenario.CLIP,
    )
    parts = parse_case_id(f"parity[{case.id}]")
    assert parts is not None
    told = dataclasses.asdict(case)
    assert told.pop("given") is None
    assert f"{told.pop('mechanism')}.{told.pop('scenario')}" == "causal_cache.clip"
    assert parts._asdict() == told | {"part": "causal_cache.clip"}


# Storing


def test_results_survive_being_written_and_read(tmp_path: Path) -> None:
    written = run(
        record(grade="exact", metrics={"psnr": math.inf, "vram_ratio": None, "peak_bytes": 7}),
        record(status="failed", message="ä | `b`\nc"),
        diagnosis=("sd decode exact (ldm): attention is computed per tile",),
    )
    path = results.write(written, tmp_path / "new" / "folder")
    assert results.read(path) == written
    assert results.read(path.parent) == written
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_results_are_json_that_any_reader_takes(tmp_path: Path) -> None:
    path = results.write(run(record(metrics={"psnr": math.inf})), tmp_path)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    document = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert document["records"][0]["metrics"] == {"psnr": "inf"}
    assert document["verdict"]["code"] == 0


def test_a_write_that_fails_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = results.write(run(record()), tmp_path)
    before = path.read_bytes()

    def full(file: Path, text: str, **_: object) -> None:
        file.write_bytes(text[: len(text) // 2].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UsageError, match="No space left on device"):
        results.write(run(record(status="failed")), tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def _without(key: str) -> str:
    document = json.loads(json.dumps(dataclasses.asdict(run(record()))))
    del document["records"][0][key]
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "cannot read"),
        ("{", "no JSON"),
        ("[]", "no results file"),
        ('{"records": []}', "no results file"),
        ('{"header": {"schema": 99}}', "schema 99"),
        ('{"header": {"schema": 1}}', "no valid results file"),
        (_without("status"), "status"),
    ],
)
def test_a_file_that_is_no_results_file_is_wrong_use(
    tmp_path: Path, text: str | None, match: str
) -> None:
    file = tmp_path / "some.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=match) as caught:
        results.read(file)
    assert "\n" not in str(caught.value)


def test_a_header_says_where_and_with_what() -> None:
    header = results.describe_run(
        hooks=HEADER.hooks,
        device="sim",
        seed=3,
        selection="full",
        started=results.now(),
        command="vae-compat run --full",
    )
    assert header.torch.startswith("2.")
    assert header.started <= results.now()
    assert header.finished == ""
    assert header.cpu


# The table


def test_a_cell_tells_outcome_worst_grade_and_highest_ratio() -> None:
    text = table.to_text(
        run(
            record(grade="exact", metrics={"vram_ratio": 0.1}),
            record(case_id(size=48), grade="lossless", metrics={"vram_ratio": 0.25}),
        )
    )
    assert row(text, "sd").split() == ["sd", "pass", "lossless", "0.25"]


def test_a_plane_that_needs_no_tiles_and_a_probe_give_no_ratio_and_no_grade() -> None:
    probe = case_id(scale=Scale.PROBE, mechanism=Mechanism.HALO)
    text = table.to_text(
        run(
            record(grade="exact", metrics={"vram_ratio": 0.1}),
            record(case_id(size=10), grade="exact", metrics={"vram_ratio": 1.0}),
            record(probe, grade="degraded", metrics={"vram_ratio": 0.9}),
        )
    )
    assert row(text, "sd").split() == ["sd", "pass", "exact", "0.10"]


@pytest.mark.parametrize(
    ("status", "mark"),
    [
        ("failed", "FAIL"),
        ("error", "ERROR"),
        ("xpassed", "XPASS"),
        ("xfailed", "known"),
        ("unheard-of", "UNHEARD-OF"),
    ],
)
def test_one_bad_record_among_passes_shows(status: str, mark: str) -> None:
    text = table.to_text(
        run(record(grade="exact"), record(case_id(size=48), status=status), record())
    )
    assert mark in row(text, "sd")
    assert "pass" not in row(text, "sd")


def test_an_error_shows_no_grade() -> None:
    text = table.to_text(run(record(grade="exact"), record(status="error", check="tiles_ran")))
    assert row(text, "sd").split() == ["sd", "ERROR"]


def test_not_claimed_not_run_and_not_measured_are_told_apart() -> None:
    text = table.to_text(
        run(
            record(case_id("sd"), claimed=False),
            record(case_id("sdxl"), grade="exact", metrics={"vram_ratio": None}),
            record(case_id("sdxl", "encode"), grade="exact", metrics={"vram_ratio": 0.5}),
            record(case_id("flux"), claimed=False, status="failed"),
        )
    )
    assert row(text, "sd").split() == ["sd", "-"]
    assert row(text, "sdxl").split() == ["sdxl", "pass", "exact", "0.50", "pass", "exact", "n/m"]
    assert row(text, "flux").split() == ["flux", "FAIL"]
    assert "not measured: vram_ratio (1 record)" in text


def test_a_cell_is_claimed_where_any_of_its_cases_is() -> None:
    text = table.to_text(run(record(claimed=False), record(case_id(size=48), grade="exact")))
    assert row(text, "sd").split() == ["sd", "pass", "exact"]


def test_a_root_failure_speaks_for_what_hangs_on_it() -> None:
    behind = record(
        status="error", message="the hook raised", metrics={"vram_ratio": None}, judged=False
    )
    found = run(record(check="call_contract", tier="minimum", status="failed"), behind)
    text = table.to_text(found)
    assert "FAIL" in row(text, "sd")
    assert "FAIL call_contract: sd decode (1 case)" in text
    assert "ERROR parity" not in text
    assert "1 further check was not judged behind these failures" in text
    assert "not measured: " not in text
    assert "n/m" not in row(text, "sd")
    # without the root it must stand for itself
    assert "ERROR parity" in table.to_text(run(behind))


def test_known_failures_are_told_and_what_they_leave_unjudged_is_put_down_to_them() -> None:
    known = record(
        check="call_contract", status="xfailed", reason="takes no feat_cache", tier="minimum"
    )
    behind = record(status="skipped", judged=False)
    other = case_id("flux")
    text = table.to_text(run(known, behind, record(other, "failed", check="completes")))
    assert "known call_contract: takes no feat_cache (1 case of sd)" in text.splitlines()
    assert "1 check was not judged behind known failures of call_contract" in text
    assert "behind these failures" not in text
    page = to_html(page_of(run(known, behind), Path("nowhere")))
    assert "1 check was not judged behind known failures of call_contract." in page


def test_failures_of_a_kind_are_one_line_with_a_count_and_the_command() -> None:
    repeat = "vae-compat run --profile hook --case " + case_id(size=48)
    message = f"decode got rms 1e-2; should be at most 1e-6; repeat: {repeat}"
    text = table.to_text(
        run(
            record(case_id(size=48), "failed", message=message, repeat=repeat),
            record(case_id(size=40), "failed", message="another"),
            record(case_id("flux"), "failed", message="flux fails"),
        )
    )
    assert "FAIL parity: sd decode (2 cases)" in text
    assert "another" not in text
    assert "flux fails" in text
    assert text.count(repeat) == 1
    assert f"  {repeat}" in text.splitlines()


def test_more_failures_than_fit_are_counted() -> None:
    count = table.SHOWN_FAILURES + 3
    records = [record(status="failed", check=f"check_{index}") for index in range(count)]
    assert "and 3 more groups of failures" in table.to_text(run(*records))


def test_each_hook_has_its_own_table() -> None:
    text = table.to_text(run(record(grade="exact"), record(hook="other", status="failed")))
    own, other = text.split("hook other")
    assert "pass exact" in own
    assert "FAIL" in other
    assert "[other] FAIL parity" in other


def test_the_last_line_is_the_gate() -> None:
    def last(found: results.Results) -> str:
        return table.to_text(found).splitlines()[-1]

    assert last(run(record())) == "gate holds (exit code 0)"
    assert last(run(record(status="failed"))).startswith("gate does not hold: 1 failed")
    assert last(run(record(status="failed"))).endswith("(exit code 1)")
    assert last(run()).startswith("gate does not hold: no case")
    broken = run(record(), verdict=Verdict(ExitCode.HARNESS, "a worker crashed"))
    assert last(broken) == "gate does not hold: a worker crashed (exit code 3)"


def test_counts_are_given_by_tier() -> None:
    text = table.to_text(
        run(record(), record(status="xfailed"), record(tier="minimum", status="error"))
    )
    assert "minimum: 1 error" in text
    assert "recommended: 1 passed, 1 known to fail" in text


def _widest() -> results.Results:
    """Records of every family, direction and mode, with the longest words that occur."""
    cells = [("encode", mode) for mode in Mode] + [
        ("decode", mode) for mode in Mode if mode is not Mode.COLOR_FIX
    ]
    return run(
        *(
            record(
                case_id(family, direction, mode),
                "xpassed",
                grade="degraded",
                metrics={"vram_ratio": 12.34},
            )
            for family in FAMILIES
            for direction, mode in cells
        ),
        diagnosis=("sd decode exact (ldm): " + "a long sentence " * 10,),
    )


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_report_fits_its_width_without_losing_a_cell(width: int) -> None:
    text = table.to_text(_widest(), width=width)
    copied = "  vae-compat "  # a command is not wrapped
    assert max(len(line) for line in text.splitlines() if not line.startswith(copied)) <= width
    assert text.count("degraded") == len(FAMILIES) * 7
    assert text.count("12.34") == len(FAMILIES) * 7
    assert "…" not in text


@pytest.mark.parametrize(("width", "tables", "lines"), [(80, 2, 2), (100, 1, 2), (190, 1, 1)])
def test_the_widest_arrangement_that_fits_is_taken(width: int, tables: int, lines: int) -> None:
    text = table.to_text(_widest(), width=width).splitlines()
    assert len([line for line in text if line.startswith("family")]) == tables
    rows = [index for index, line in enumerate(text) if line.split()[:1] in (["sd"], ["sdxl"])]
    assert rows[1] - rows[0] == lines


def test_colour_only_adds() -> None:
    plain = table.to_text(_widest())
    coloured = table.to_text(_widest(), colour=True)
    assert "\x1b[" not in plain
    assert "\x1b[" in coloured
    assert plain.isascii()
    bare = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in bare.splitlines()] == plain.splitlines()


def test_brackets_in_messages_are_text_and_no_markup() -> None:
    text = table.to_text(run(record(status="failed", message="at [0, 1] [red]x[/red] :bug:")))
    assert "at [0, 1] [red]x[/red] :bug:" in text


# The page


def test_the_page_holds_header_failures_known_failures_and_diagnosis(tmp_path: Path) -> None:
    found = run(
        record(status="failed", message="a | b\n  <c>", repeat="vae-compat run --case x"),
        record(
            case_id("qwen"), "xfailed", reason="blends | on purpose", link="https://example.org"
        ),
        record(case_id("flux"), grade="close", metrics={"psnr": 41.5, "seam": None}),
        record(case_id("flux", size=48), grade="exact", metrics={"psnr": math.inf}),
        diagnosis=("sd decode exact (ldm): attention is computed per tile",),
    )
    path = summary.write_summary(found, tmp_path)
    text = path.read_text(encoding="utf-8")
    assert path.name == "summary.md"
    assert text.startswith("# vae-compat: gate does not hold\n\n1 failed, exit code 1\n")
    assert "torch 2.13.0" in text
    assert "| sd | **FAIL** |" in text
    assert "    a | b\n      <c>\n" in text
    assert "    vae-compat run --case x\n" in text
    assert "blends \\| on purpose | https://example.org |" in text
    assert "- sd decode exact (ldm): attention is computed per tile" in text
    assert f"| hook | flux | close | `{case_id('flux')}` | psnr 41.5, seam not measured |" in text
    assert "- seam: 1 records" in text


def test_every_table_of_the_page_is_whole() -> None:
    lines = summary.to_markdown(_widest()).splitlines()
    for above, line in itertools.pairwise(lines):
        if line.startswith("|") and above.startswith("|"):
            assert line.count("|") == above.count("|"), line
    rows = [line for line in lines if line.startswith("| wan22 |")]
    assert rows
    assert "**XPASS** degraded 12.34" in rows[0]


def test_a_page_without_records_says_so() -> None:
    text = summary.to_markdown(run())
    assert "No case ran." in text
    assert "gate does not hold" in text


# Comparing


def worse(before: Record, after: Record) -> list[tuple[str, str, str]]:
    found = compare.compare(run(before), run(after)).regressions
    return [(one.what, one.before, one.after) for one in found]


def test_the_same_run_has_no_regressions() -> None:
    same = run(record(grade="exact", metrics={"peak_bytes": 100, "vram_ratio": 0.5}))
    found = compare.compare(same, same)
    assert (found.regressions, found.notes, found.compared) == ((), (), 1)


def test_a_worse_grade_is_a_regression_and_a_better_one_is_none() -> None:
    exact, close = record(grade="exact"), record(grade="close")
    assert worse(exact, close) == [("grade", "exact", "close")]
    assert worse(exact, record()) == [("grade", "exact", "not reached")]
    assert worse(close, exact) == []


@pytest.mark.parametrize("name", sorted(compare.COUNTERS))
def test_counters_regress_where_they_grow_beyond_the_allowance(name: str) -> None:
    before = record(metrics={name: 1000})
    assert worse(before, record(metrics={name: 1020})) == []
    assert worse(before, record(metrics={name: 1021})) == [(name, "1,000", "1,021 (+2.1 %)")]
    assert worse(before, record(metrics={name: 10})) == []
    assert worse(before, record(metrics={name: None})) == [(name, "1,000", "not measured")]
    assert worse(record(metrics={name: 0}), record(metrics={name: 1})) == [(name, "0", "1")]


def test_time_never_regresses() -> None:
    assert worse(record(metrics={"seconds": 1.0}), record(metrics={"seconds": 9.0})) == []


def test_a_worse_status_is_a_regression() -> None:
    assert worse(record(), record(status="xfailed")) == [("status", "passed", "xfailed")]
    assert worse(record(status="failed"), record()) == []


def test_vanished_records_count_where_the_selection_is_the_same() -> None:
    before, after = run(record(), record(case_id("flux"))), run(record())
    (gone,) = compare.compare(before, after).regressions
    assert (gone.what, gone.id) == ("record", f"parity[{case_id('flux')}]")
    narrowed = dataclasses.replace(after, header=dataclasses.replace(HEADER, selection="-k sd"))
    found = compare.compare(before, narrowed)
    assert found.regressions == ()
    assert "1 earlier records were not compared" in found.notes[0]


def test_runs_that_share_nothing_do_not_pass_as_no_worse() -> None:
    elsewhere = dataclasses.replace(HEADER, selection="-k flux")
    found = compare.compare(run(record()), run(record(case_id("flux")), header=elsewhere))
    assert (found.compared, found.regressions) == (0, ())
    (told,) = found.worse
    assert told == (
        "nothing to compare: the runs have no record in common (the selection was 'default', is"
        " '-k flux')"
    )
    held = compare.hold_against(run(record(case_id("flux"))), run(record()))
    assert (held.verdict.code, len(held.regressions)) == (ExitCode.FAILS, 1)
    assert "the earlier run is empty" in compare.compare(run(), run(record())).disjoint


def test_a_part_is_held_against_what_it_ran_of_the_whole() -> None:
    whole = run(record(), record(case_id("flux")))
    part = run(record(), header=dataclasses.replace(HEADER, shard="1/2"))
    found = compare.compare(whole, part)
    assert found.worse == ()
    assert "the selection was 'default', is 'default, shard 1/2'" in found.notes[0]


def test_one_cause_is_one_regression() -> None:
    before = record(grade="exact", metrics={"peak_bytes": 100, "vram_ratio": 0.5, "flops": 7})
    after = {"peak_bytes": 200, "vram_ratio": 0.9, "flops": 7}
    assert worse(before, dataclasses.replace(before, metrics=after)) == [
        ("peak_bytes", "100", "200 (+100.0 %)")
    ]
    dearer = dataclasses.replace(before, metrics={**before.metrics, "vram_ratio": 0.9})
    assert [what for what, *_ in worse(before, dearer)] == ["vram_ratio"]
    failed = dataclasses.replace(before, grade="close", status="failed")
    assert worse(before, failed) == [("grade", "exact", "close")]


def test_what_only_hangs_on_a_failure_is_no_regression_of_its_own() -> None:
    good = [record(check=name, grade="exact") for name in ("completes", "parity", "seams")]
    bad = [dataclasses.replace(good[0], status="failed", grade=None)]
    bad += [
        dataclasses.replace(each, status="error", grade=None, judged=False, blocked_by="completes")
        for each in good[1:]
    ]
    found = compare.compare(run(*good), run(*bad))
    assert [change.id.partition("[")[0] for change in found.regressions] == ["completes"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"version": "0.2.0"}, "vae-compat was 0.1.0, is 0.2.0"),
        ({"commit": None}, "vae-compat's commit was 0123456789ab, is not told"),
        ({"torch": "2.12.0"}, "torch was 2.13.0, is 2.12.0"),
        ({"diffusers": "0.41"}, "diffusers was 0.42.1, is 0.41"),
        ({"device": "cpu"}, "device was sim, is cpu"),
    ],
)
def test_another_machine_or_version_is_told_before_what_became_worse(
    changed: dict[str, Any], told: str
) -> None:
    header = dataclasses.replace(HEADER, **changed)
    after = run(record(grade="close", metrics={"flops": 3}), header=header)
    held = compare.hold_against(after, run(record(grade="exact", metrics={"flops": 3})))
    assert held.notes[0] == told
    for text in (table.to_text(held, width=200), summary.to_markdown(held)):
        assert text.index("note: ") < text.index("regression: ")


def test_numbers_that_differ_look_different() -> None:
    assert compare.grown(1_000_000_000, 1_000_000_001) == "1,000,000,001 (+0.0000001 %)"
    assert compare.grown(0.47130001, 0.47130002).startswith("0.47130002 (+0.000")
    assert compare.grown(100, 50) == "50 (-50.0 %)"
    assert over(8.0000001e-6, 1e-6, 8.0) == ", 8.0000001 x floor"
    assert over(1.0, 0.0, 8.0) == ""


def test_a_regression_turns_the_gate() -> None:
    before = run(record(grade="exact", metrics={"peak_bytes": 100}))
    after = run(record(grade="exact", metrics={"peak_bytes": 200}))
    held = compare.hold_against(after, before)
    assert held.verdict.code is ExitCode.FAILS
    assert "1 regression against" in held.verdict.reason
    line = f"hook parity[{case_id()}]: peak_bytes was 100, is 200 (+100.0 %)"
    assert held.regressions == (line,)
    assert "regression: hook parity" in table.to_text(held)
    assert line in summary.to_markdown(held)
    assert compare.hold_against(after, after).verdict.holds


def test_what_became_better_what_is_new_and_what_moved_is_told_as_well() -> None:
    numbers = {"peak_bytes": 1000, "vram_ratio": 0.1, "flops": 100}
    before = run(record(grade="close", metrics=numbers), record(case_id("flux"), metrics=numbers))
    moved = numbers | {"peak_bytes": 1001, "vram_ratio": 0.1001, "flops": 50}
    after = run(
        record(grade="exact", metrics=moved),
        record(case_id("flux"), metrics=numbers | {"peak_bytes": 1010}),
        record(case_id("sdxl"), "failed"),
    )
    held = compare.hold_against(after, before)
    assert held.verdict == after.verdict
    assert held.regressions == ()
    assert held.mended == (
        f"hook parity[{case_id()}]: grade was close, is exact",
        f"hook parity[{case_id()}]: flops was 100, is 50 (-50.0 %)",
    )
    assert held.new == (f"hook parity[{case_id('sdxl')}]: failed, was not there",)
    (told,) = held.drift  # one number has one name
    assert told == (
        f"hook: peak_bytes moved in 2 records, most in parity[{case_id('flux')}], where it was"
        " 1,000 and is 1,010 (+1.0 %)"
    )
    assert "2 better, 1 new failures, 1 moved" in table.to_text(held, width=200)
    for text in (summary.to_markdown(held), to_html(page_of(held, Path("nowhere")))):
        assert "flops was 100, is 50" in text
        assert "peak_bytes moved in 2 records" in text
    same = compare.hold_against(before, before)
    assert (same.mended, same.new, same.drift) == ((), (), ())
    assert HEADER.started in same.against


def test_grouping_keeps_errors_before_failures() -> None:
    found = digest.groups([record(status="failed"), record(case_id("flux"), "error")])
    assert [group.status for group in found] == ["error", "failed"]
