"""Results of clips are reported by family and direction, and drawn chunk by chunk."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from vae_compat.contracts.cases import Scenario
from vae_compat.contracts.finding import Phase
from vae_compat.judge import Record
from vae_compat.reports import digest, plot, summary, table
from vae_compat.suites.selftest.test_reports import case_id, record, run


def phase(told: Phase | None, ratio: float | None = 0.2, **case: object) -> Record:
    clip = {"family": "qwen", "scenario": Scenario.CLIP} | case
    metrics = {"phase": told and str(told), "clip_vram_ratio": ratio}
    return record(case_id(**clip), check="cache_phase", tier="advanced", metrics=metrics)


def memory(chunks: int = 3, **case: object) -> Record:
    clip = {"family": "qwen", "scenario": Scenario.CLIP, "frames": chunks} | case
    mebibytes = " ".join(str(number * 2**20) for number in range(1, chunks + 1))
    metrics = dict.fromkeys(plot.SERIES, mebibytes)
    return record(case_id(**clip), check="memory_growth", tier="advanced", metrics=metrics)


def test_the_worst_clip_and_the_highest_peak_are_told():
    made = digest.phases(
        [
            phase(Phase.SPLIT, 0.3),
            phase(Phase.FALLBACK, 1.0, frames=2),
            phase(Phase.SPLIT, 0.2, direction="encode"),
            phase(Phase.CRASHES, 1.0, family="wan22"),
            phase(None, None, family="wan21"),
            record(),
        ]
    )
    assert made == {
        "qwen": {"encode": "splits 0.20", "decode": "falls back 1.00"},
        "wan22": {"decode": "crashes"},
    }


def test_the_phases_are_in_both_reports_and_nowhere_without_clips():
    clips, none = run(phase(Phase.INCOHERENT)), run(record())
    assert "breaks coherence 0.20" in table.to_text(clips)
    assert "| qwen | breaks coherence 0.20 |" in summary.to_markdown(clips)
    assert "| cache |" not in summary.to_markdown(none)
    assert "\ncache " not in table.to_text(none)


def test_the_longest_clip_of_each_place_is_drawn():
    records = [memory(3), memory(5), memory(4, direction="encode"), record()]
    drawn = plot.courses(records)
    assert [(c.direction, len(c.series["peak_bytes"])) for c in drawn] == [
        ("decode", 5),
        ("encode", 4),
    ]
    assert drawn[0].series["live_bytes"] == [1, 2, 3, 4, 5]


def test_the_plot_is_a_picture_that_is_the_same_for_the_same_numbers():
    drawn = plot.courses([memory(3), memory(3, family="wan22"), memory(3, direction="encode")])
    text = plot.to_svg(drawn)
    assert text == plot.to_svg(drawn)
    words = {node.text for node in ElementTree.fromstring(text).iter() if node.text}
    assert {"hook: qwen decode", "hook: wan22 decode", "hook: qwen encode"} <= words
    assert {"hook, peak", "untiled, between chunks", "MiB"} <= words


def test_the_summary_links_the_plot_that_lies_beside_it(tmp_path: Path):
    page = summary.write_summary(run(memory()), tmp_path)
    assert f"]({plot.FILE_NAME})" in page.read_text()
    assert (tmp_path / plot.FILE_NAME).is_file()


@pytest.mark.parametrize("without", [run(record()), run(phase(Phase.SPLIT))])
def test_a_run_without_long_clips_leaves_no_old_plot(tmp_path: Path, without):
    (tmp_path / plot.FILE_NAME).write_text("old")
    page = summary.write_summary(without, tmp_path)
    assert plot.FILE_NAME not in page.read_text()
    assert not (tmp_path / plot.FILE_NAME).exists()
