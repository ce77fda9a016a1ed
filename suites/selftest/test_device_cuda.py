"""The CUDA device, which here reads the ``torch.cuda`` of the simulated accelerator."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import pytest
import torch

from vae_compat.device import open_device
from vae_compat.device.cuda import CudaDevice
from vae_compat.device.gpu import switches, timed
from vae_compat.measure.process import ProcessState

KIB = 1024


@pytest.fixture
def device() -> Iterator[CudaDevice]:
    with open_device("sim"), open_device("cuda") as opened:
        assert isinstance(opened, CudaDevice)
        yield opened


def test_the_process_looks_unchanged_from_inside_a_reading(device: CudaDevice) -> None:
    before = ProcessState()
    with device.metered():
        torch.ones(8, device="cuda").add_(1)
        found = before.undo()
    assert not [words for words in found if "torch.cuda" in words]


def test_a_reset_by_code_under_test_does_not_hide_the_peak(device: CudaDevice) -> None:
    with device.metered() as outer:
        torch.zeros(16 * KIB, device="cuda")
        before = ProcessState()
        with device.metered() as inner:
            torch.zeros(4 * KIB, device="cuda")
            torch.cuda.reset_peak_memory_stats()
            before.undo()
            torch.cuda.memory.reset_peak_memory_stats()
            torch.zeros(KIB, device="cuda")
    assert (inner.peak_bytes, outer.peak_bytes) == (16 * KIB, 64 * KIB)
    assert (inner.peak_reserved, outer.peak_reserved) == (16 * KIB, 64 * KIB)


def test_switches_are_fixed_while_the_device_is_open_and_put_back() -> None:
    def standing() -> list[object]:
        return [get() for get, _, _ in switches().values()]

    before = standing()
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    changed = standing()
    try:
        with open_device("sim"), open_device("cuda"):
            assert standing() == [value for _, _, value in switches().values()]
            assert not torch.backends.cuda.matmul.allow_tf32
        assert standing() == changed
    finally:
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    assert standing() == before


@pytest.fixture
def mixed() -> Iterator[None]:
    """TF32 as PyTorch wants it set since 2.9; what the old names say is an exception then."""
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this PyTorch has the old names alone")
    before = matmul.allow_tf32
    matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        matmul.allow_tf32 = before


@pytest.mark.usefixtures("mixed")
def test_tf32_that_was_set_by_its_new_name_ends_no_run() -> None:
    with open_device("sim"), open_device("cuda"):
        assert not torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    assert ProcessState().undo() == ()


def test_a_hook_that_sets_tf32_by_its_new_name_is_told_and_undone(mixed: None) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    before = ProcessState()
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    assert any("cuda.matmul.allow_tf32 was changed" in words for words in before.undo())
    assert not torch.backends.cuda.matmul.allow_tf32


def test_the_gpu_is_described(device: CudaDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    facts = device.describe()
    assert facts.name == torch.cuda.get_device_name(0)
    assert facts.memory == torch.cuda.get_device_properties(0).total_memory
    assert facts.torch == torch.__version__
    assert "expandable_segments:True" in facts.allocator
    assert ("cudnn.benchmark", "False") in facts.switches
    assert json.loads(json.dumps(dataclasses.asdict(facts)))["capability"] == "8.0"


class Clock:
    """An event that reads a clock, which every run advances."""

    now = 0.0

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self) -> None:
        self.at = Clock.now

    def synchronize(self) -> None:
        """There is nothing to wait for."""

    def elapsed_time(self, end: Clock) -> float:
        return (end.at - self.at) * 1000


def test_a_run_is_timed_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Clock)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    durations = iter([100.0, 3.0, 1.0, 2.0])

    def run() -> None:
        Clock.now += next(durations)

    taken = timed(run, warm_up=1, repeats=3)
    assert taken.seconds == pytest.approx((3.0, 1.0, 2.0))
    assert taken.median == pytest.approx(2.0)
    assert taken.spread == pytest.approx(1.0)
    with pytest.raises(ValueError, match="once at least"):
        timed(run, repeats=0)
