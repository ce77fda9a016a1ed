"""What only a real GPU can show. Quick, for a GPU is dear: `nox -s cuda`.

Everything else about the device ``cuda`` is tested on the simulated one, see `test_device_cuda`,
`test_timing` and `test_calibration`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vae_compat.device.cuda import CudaDevice
from vae_compat.device.gpu import switches
from vae_compat.front import cli
from vae_compat.suites.calibration import __main__ as calibration
from vae_compat.suites.cuda import elementwise

QUICK = ("--families", "sd", "--directions", "decode", "-n", "1")


def test_the_gpu_its_driver_and_its_libraries_are_described() -> None:
    with CudaDevice() as device:
        told = device.describe()
        assert all(get() == value for get, _, value in switches().values())
    assert told.name == torch.cuda.get_device_name(0)
    assert told.memory > 2**30
    assert all((told.driver, told.cuda, told.cudnn, told.allocator, told.torch))


def test_the_peak_of_elementwise_operations_is_that_of_the_simulated_device() -> None:
    # The simulated device would hide the real one, so it answers from another process.
    done = subprocess.run(
        [sys.executable, "-m", elementwise.__name__],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert elementwise.rise("cuda") == int(done.stdout)


def test_peaks_of_a_real_decoder_are_within_five_percent(tmp_path: Path) -> None:
    scene = ["--scene", "qwen decode 1024x1024 bfloat16 untiled"]
    assert calibration.main([*scene, "--out", str(tmp_path)]) == 0


def ran(out: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    told = ["run", "--device", "cuda", *QUICK, *arguments, "--out", str(out)]
    code = cli.main(told)
    return code, json.loads((out / "results.json").read_text())


def test_the_reference_hook_holds_with_its_vram_and_time(tmp_path: Path) -> None:
    code, results = ran(tmp_path, "--scale", "mock,real", "--modes", "exact")
    wrong = [r["message"] for r in results["records"] if r["status"] != "passed"]
    assert (code, wrong) == (0, [])
    assert results["header"]["gpu"]["name"] == torch.cuda.get_device_name(0)
    numbers = {
        name: [r["metrics"][name] for r in results["records"] if name in r["metrics"]]
        for name in ("vram_ratio", "time_ratio", "peak_allocated", "peak_reserved")
    }
    for name, values in numbers.items():
        assert values, name
        assert all(isinstance(value, float | int) for value in values), name


@pytest.mark.parametrize("profile", ["as-reported"])
def test_a_hook_that_is_broken_is_told(tmp_path: Path, profile: str) -> None:
    narrow = ("--scale", "mock", "-k", "40x40 and parity")
    code, results = ran(tmp_path, "--profile", profile, *narrow)
    assert code == 1
    assert any(record["check"] == "parity" for record in results["records"])
