"""Calibration compares a GPU with the simulated accelerator, which here stands in for the GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from vae_compat.contracts.cases import Scale
from vae_compat.device import open_device
from vae_compat.device.cuda import CudaDevice
from vae_compat.errors import UsageError
from vae_compat.suites.calibration import __main__ as command
from vae_compat.suites.calibration import comparing
from vae_compat.suites.calibration.comparing import Recorded
from vae_compat.suites.calibration.scenes import SCENES, Said, Scene, measured, simulated

pytestmark = pytest.mark.slow

SMALL = Scene("sd", 24, 24, tile=16, scale=Scale.MOCK, dtype="float32")
SAID = Said(peak=1000, peak_with_workspaces=1500, flops=10, seconds=0.1, spread=0.01)
KEPT = sorted((Path(__file__).parents[2] / command.FOLDER).glob("*.json"))


def test_both_devices_say_the_same_of_a_scene() -> None:
    peaks = []
    for subject in ("untiled", "diffusers"):
        scene = dataclasses.replace(SMALL, subject=subject)
        ours = simulated(scene, "h200")
        with open_device("sim"):
            theirs = measured(scene, CudaDevice(), repeats=1)
        assert ours.peak == theirs.peak == theirs.peak_with_workspaces
        assert ours.flops == theirs.flops
        assert ours.seconds is not None
        assert ours.seconds > 0
        peaks.append(ours.peak or 0)
    assert 0 < peaks[1] < peaks[0]


def recorded(**scenes: Said) -> Recorded:
    return Recorded("NVIDIA H200", "2.13.0", "a test", scenes)


def test_a_peak_that_differs_by_more_than_five_percent_is_told() -> None:
    near, far = (dataclasses.replace(SAID, peak=peak) for peak in (1049, 1051))
    good = comparing.rows(recorded(a=SAID), {"a": near})
    bad = comparing.rows(recorded(a=SAID), {"a": far, "b": SAID})
    assert all(row.holds for row in good)
    assert [row.what for row in bad if not row.holds] == ["peak"]
    assert "MORE THAN 5%" in comparing.told(bad)
    assert "2 peaks, 1 out of bounds" in comparing.told(bad)


def test_peaks_with_workspaces_have_a_wider_bound_and_flops_have_none() -> None:
    other = Said(peak=1000, peak_with_workspaces=1649, flops=99, seconds=0.1)
    found = comparing.rows(recorded(a=SAID), {"a": other})
    assert all(row.holds for row in found)
    assert len(found) == 4
    far = dataclasses.replace(other, peak_with_workspaces=1651)
    assert not all(row.holds for row in comparing.rows(recorded(a=SAID), {"a": far}))
    unknown = dataclasses.replace(SAID, peak=None, flops=None)
    assert len(comparing.rows(recorded(a=unknown), {"a": other})) == 2


UNTILED, TILED, OTHER = (
    f"sdxl decode 1024x1024 bfloat16 {subject}"
    for subject in ("untiled", "diffusers", "untiled channels last")
)


def timed(seconds: dict[str, float]) -> comparing.Agreement:
    """What times of scenes come to, each of which took the GPU as many tenths as there are."""
    theirs = {name: dataclasses.replace(SAID, seconds=0.1 * n) for n, name in enumerate(seconds, 1)}
    ours = {name: dataclasses.replace(SAID, seconds=taken) for name, taken in seconds.items()}
    return comparing.agreement(comparing.rows(recorded(**theirs), ours))


def test_most_times_are_near_and_contenders_in_their_order() -> None:
    good = timed({UNTILED: 0.15, TILED: 0.16, OTHER: 0.47})
    assert good.holds()
    assert (good.near_times, good.orders, good.wrong_orders) == (3, 1, ())
    far = timed({UNTILED: 0.17, TILED: 0.18, OTHER: 0.3})
    assert not far.holds()
    assert far.holds(times=False)
    assert "2 of 3 times within a factor of 1.6" in far.words
    turned = timed({UNTILED: 0.15, TILED: 0.14, OTHER: 0.3})
    assert not turned.holds()
    assert "right in 0 of 1 groups; wrong: sdxl decode 1024x1024 bfloat16" in turned.words


def test_untiled_runs_take_the_memory_and_about_the_time_that_an_h200_took() -> None:
    """A few of the scenes that the command holds against it; all of them take minutes."""
    kept = comparing.read(comparing.file_of(KEPT[0].parent, "NVIDIA H200"))
    layout = kept.channels_first_attention
    said = {
        name: simulated(SCENES[name], "h200", channels_first_attention=layout)
        for name in (UNTILED, OTHER, "qwen decode 1024x1024 bfloat16 untiled")
    }
    found = comparing.rows(kept, said)
    assert len(found) == 6
    assert comparing.agreement(found).holds(), comparing.told(found)


def test_what_a_gpu_said_is_kept_and_added_to(tmp_path: Path) -> None:
    file = comparing.write(recorded(a=SAID), tmp_path)
    assert file.name == "NVIDIA_H200.json"
    more = dataclasses.replace(SAID, peak=1)
    comparing.write(recorded(b=more), tmp_path)
    assert comparing.read(file).scenes == {"a": SAID, "b": more}
    comparing.write(dataclasses.replace(recorded(b=more), torch="3.0"), tmp_path)
    assert set(comparing.read(file).scenes) == {"b"}


@pytest.mark.parametrize("file", KEPT, ids=[file.stem for file in KEPT])
def test_what_the_repository_keeps_can_be_asked_for(file: Path) -> None:
    kept = comparing.read(file)
    assert kept.scenes.keys() <= SCENES.keys()
    assert kept.known_as is not None
    assert comparing.file_of(file.parent, kept.gpu) == file


def test_the_command_ends_as_the_peaks_deserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = comparing.write(recorded(**{UNTILED: SAID}), tmp_path)

    def ended(said: dict[str, Said]) -> int:
        monkeypatch.setattr(command, "in_another_process", lambda _: said)
        return command.main(["--recorded", str(file)])

    assert ended({UNTILED: SAID}) == 0
    assert ended({UNTILED: dataclasses.replace(SAID, peak=900)}) == 1
    assert ended({}) == 2
    assert command.main(["--recorded", str(tmp_path / "none.json")]) == 2
    assert "cannot read" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no scene is named like nothing"):
        command.chosen(["nothing"])


def test_the_command_asks_the_gpu_and_then_the_simulated_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(scene: Scene, _: Any) -> Said:
        if "flux" in scene.name:
            raise torch.OutOfMemoryError
        return SAID

    monkeypatch.setattr(command, "measured", asked)
    monkeypatch.setattr(command, "in_another_process", lambda told: told.scenes)
    with open_device("sim"):
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        assert command.main(["--out", str(tmp_path)]) == 0
    out = capsys.readouterr()
    assert "flux decode 2048x2048 bfloat16 untiled: does not fit" in out.err
    (file,) = tmp_path.glob("*.json")
    assert comparing.read(file).scenes.keys() == {n for n in SCENES if not n.startswith("flux")}
