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
    assert "1 peaks without workspaces, 1 differ" in comparing.told(bad)


def test_what_is_no_peak_of_live_bytes_is_only_told() -> None:
    other = Said(peak=1000, peak_with_workspaces=9, flops=99, seconds=9.0)
    found = comparing.rows(recorded(a=SAID), {"a": other})
    assert all(row.holds for row in found)
    assert len(found) == 4
    unknown = dataclasses.replace(SAID, peak=None, flops=None)
    assert len(comparing.rows(recorded(a=unknown), {"a": other})) == 2


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
    file = comparing.write(recorded(a=SAID), tmp_path)

    def ended(said: dict[str, Said]) -> int:
        monkeypatch.setattr(command, "in_another_process", lambda *_: said)
        return command.main(["--recorded", str(file)])

    assert ended({"a": SAID}) == 0
    assert ended({"a": dataclasses.replace(SAID, peak=900)}) == 1
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
    monkeypatch.setattr(command, "in_another_process", lambda told, _: told.scenes)
    with open_device("sim"):
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        assert command.main(["--out", str(tmp_path)]) == 0
    out = capsys.readouterr()
    assert "flux decode 2048x2048 bfloat16 untiled: does not fit" in out.err
    (file,) = tmp_path.glob("*.json")
    assert comparing.read(file).scenes.keys() == {n for n in SCENES if not n.startswith("flux")}
