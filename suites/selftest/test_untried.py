"""A scenario in which the hook ended its process is reported, and never passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vae_compat.contracts.cases import Scenario
from vae_compat.contracts.finding import Status
from vae_compat.matrix import CLIPS
from vae_compat.suites.selftest.playing import Stand
from vae_compat.suites.selftest.running import Ran, here, once, profile, shared

pytestmark = pytest.mark.slow

DEATH = "the process that ran this case died"
DEADLY = """
import os


class Deadly:
    def __init__(self, net, tile_size, is_decoder):
        pass

    def __call__(self, *args, **kwargs):
        os._exit(1)
"""


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Stand:
    return Stand(tmp_path_factory.mktemp("untried"))


@pytest.fixture(scope="module")
def deadly(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run of one clip with a hook that ends its process."""

    def make(out: Path) -> Ran:
        (out.parent / "deadly.py").write_text(DEADLY)
        file = profile(
            out.parent, "deadly", "deadly.py:Deadly", families=("qwen",), cache="fallback"
        )
        frames, plane = CLIPS[1]
        size = f"{plane.height}x{plane.width}t{plane.tile}-b1-f{frames}"
        clip = f"qwen-mock.clip-wan-decode-exact-{size}-float32-sim"
        return here(out, f"--profile={file}", "--case", clip)

    return once(shared(tmp_path_factory), "deadly-clip", make)


def test_a_clip_that_ends_the_process_fails_the_hook_and_not_the_harness(deadly: Ran) -> None:
    assert deadly.code == 1
    told = deadly.record(check="clip_completes", status="failed")
    assert "its process ended with status 1" in told["message"]
    assert deadly.records(status="passed") == []


CLAIMING = {
    Scenario.OVERLAPS: "named-otherwise",
    Scenario.OFFLOADED: "calls-modules",
    Scenario.STATIC: "blends-any",
    Scenario.PATCHED: "blends-any",
    Scenario.PLENTY: "tiles-when-short",
    Scenario.TEMPORAL: "ignores-time-size",
}
"""Hooks that claim what a scenario is for."""


WIDE = {
    Scenario.OVERSIZE,
    Scenario.PARTITION,
    Scenario.SHIFT,
    Scenario.STRIP,
    Scenario.TILE_SIZE,
}
"""Scenarios whose checks are for planes of many tiles."""


@pytest.mark.parametrize("scenario", Scenario)
def test_no_check_of_a_scenario_passes_or_falls_over_what_nobody_saw(
    stand: Stand, scenario: Scenario
) -> None:
    size = {"width": 40 if scenario in WIDE else 16}
    if scenario is Scenario.CLIP:
        size = {"height": 1, "width": 2, "frames": 9}
    findings = stand.untried(CLAIMING.get(scenario, "caching"), scenario, **size)
    assert findings
    for finding in findings.values():
        assert finding.status is not Status.PASSED
        assert finding.message
    told = "clip_completes" if scenario is Scenario.CLIP else next(iter(findings))
    assert DEATH in findings[told].message
