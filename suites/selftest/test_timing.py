"""A hook is timed beside untiled on a real GPU, for which the simulated one stands in here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vae_compat.checks.registry import CHECKS
from vae_compat.contracts.cases import Case, Scale
from vae_compat.contracts.promise import Promise
from vae_compat.device import open_device
from vae_compat.isolation.wire import Garbled, Sort, pack, unpack
from vae_compat.measure.baseline import measure_baseline, measure_truth
from vae_compat.measure.observation import Times
from vae_compat.reports import digest, summary, table
from vae_compat.scenarios.performed import Called, WholePerformed
from vae_compat.scenarios.single import perform_whole, seen
from vae_compat.scenarios.stage import Stage
from vae_compat.scenarios.timing import REPEATS, WARM_UP, perform_timing
from vae_compat.suites.selftest.measure_fakes import (
    FakeHook,
    TinyModels,
    TinyView,
    a_case,
    by_tiles,
)
from vae_compat.suites.selftest.test_history import GPU
from vae_compat.suites.selftest.test_reports import HEADER, case_id, record, row, run

CASE = a_case(device="cuda", scale=Scale.REAL, height=40, width=8)


@pytest.fixture
def gpu() -> Iterator[None]:
    """A CUDA device as far as ``torch.cuda`` can tell."""
    with open_device("sim"):
        yield


def stage(function: Any, case: Case = CASE) -> Stage:
    x = torch.randn(case.latent_shape, generator=torch.Generator().manual_seed(0))
    return Stage(case, Promise(), FakeHook(function), TinyModels(x), 20)


@pytest.mark.usefixtures("gpu")
def test_a_hook_and_untiled_are_timed_after_a_warm_up() -> None:
    calls = []

    def counted(original: Any, x: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return by_tiles(original, x)

    times = perform_timing(stage(counted))
    assert times is not None
    assert calls == [False] * (WARM_UP + REPEATS)
    assert len(times.hook) == len(times.untiled) == REPEATS
    assert times.tell


@pytest.mark.usefixtures("gpu")
def test_no_meter_runs_while_a_hook_is_timed() -> None:
    modes = []

    def watched(original: Any, x: Tensor) -> Tensor:
        stack = torch.utils._python_dispatch._get_current_dispatch_mode_stack()
        modes.append([type(mode).__name__ for mode in stack])
        return by_tiles(original, x)

    made = stage(watched)
    perform_whole(made, every_way=False)
    assert "CountingMode" in modes[0]
    assert not any("CountingMode" in names for names in modes[1:])


@pytest.mark.usefixtures("gpu")
def test_a_hook_that_fails_while_it_is_timed_has_no_time_and_is_not_accused() -> None:
    calls = []

    def once(original: Any, x: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("only once")
        return by_tiles(original, x)

    whole = perform_whole(stage(once), every_way=False)
    assert whole.whole.failure is None
    assert whole.times is None


@pytest.mark.usefixtures("gpu")
def test_small_nets_are_not_timed() -> None:
    case = replace(CASE, scale=Scale.MOCK)
    assert perform_whole(stage(by_tiles, case), every_way=False).times is None


def test_times_travel_as_numbers_alone() -> None:
    whole = WholePerformed(whole=Called(), times=Times((1.0, 2.0), (0.5,)))
    frame = pack(Sort.ANSWER, whole)
    text = frame[frame.index(b"{") :]
    assert unpack(WholePerformed, text, b"").times == whole.times
    with pytest.raises(Garbled):
        unpack(WholePerformed, text.replace(b"[0.5]", b'["x"]'), b"")


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("scale", [Scale.MOCK, Scale.REAL])
def test_a_sound_hook_is_accused_of_nothing_on_a_real_gpu(scale: Scale) -> None:
    case = replace(CASE, scale=scale)
    made = stage(by_tiles, case)
    x = made.models.make_input(case)
    truth = measure_truth(case, TinyView(torch.float64), x, open_device(case.device))
    baseline = measure_baseline(case, TinyView(), truth, x, open_device(case.device))
    # cuDNN's workspaces, which belong to the small planes of neither.
    whole = perform_whole(made, every_way=False)
    assert whole.whole.reading.peak_bytes is not None
    whole.whole.reading.peak_bytes += 70 * 2**20
    observed = replace(seen(whole.whole, case, Promise(), baseline), times=whole.times)
    wrong = [
        (finding.check, finding.message)
        for one in CHECKS
        if one.applies(case, Promise())
        for finding in [one(observed)]
        if finding.status != "passed" and finding.check not in ("tiles_ran", "work")
    ]
    assert wrong == []  # a net of one convolution has no tiles that checks of work could count
    assert whole.whole.residue == ()


@pytest.mark.usefixtures("gpu")
def test_a_truth_that_does_not_fit_the_gpu_is_made_on_the_cpu() -> None:
    class Short(TinyView):
        def run(self, direction: Any, x: Tensor) -> Tensor:
            if x.device.type == "cuda":
                raise torch.OutOfMemoryError("full")
            return super().run(direction, x)

    made = stage(by_tiles)
    x = made.models.make_input(CASE)
    right = measure_truth(CASE, TinyView(torch.float64), x, open_device("cpu"))
    assert torch.equal(
        measure_truth(CASE, Short(torch.float64), x, open_device(CASE.device)), right
    )


# In the reports


def timed(family: str, ratio: float, **changes: Any) -> Any:
    numbers = {"time_ratio": ratio, "time_ratio_least": ratio - 0.1, "time_ratio_most": ratio + 0.1}
    return record(case_id(family, device="cuda", **changes), check="time", metrics=numbers)


def test_times_stand_in_the_table_and_on_the_page() -> None:
    some = [timed("sd", 0.5), timed("sd", 0.7, size=48), timed("sd", 0.9, size=80)]
    results = run(*some, record(case_id("qwen")))
    (cell,) = digest.times(results.records).values()
    assert cell.text == "0.70 (0.40 to 1.00)"
    text = table.to_text(results)
    assert "x time" in text
    assert "0.70 (0.40 to 1.00)" in text
    assert "0.70 (0.40 to 1.00)" in summary.to_markdown(results)
    assert "x time" not in table.to_text(run(record())).replace("x time:", "")


def test_the_table_says_of_which_families_vram_was_not_judged() -> None:
    header = replace(HEADER, device="cuda", gpu=GPU)
    judged = record(case_id("sd", device="cuda"), metrics={"vram_ratio": 0.5})
    results = run(judged, record(case_id("flux", device="cuda")), header=header)
    for text in (table.to_text(results), summary.to_markdown(results)):
        assert "VRAM was not judged of: flux" in text
        assert "384 x 640" in text
    assert row(table.to_text(results), "flux").split() == ["flux", "pass"]
    assert "not judged of" not in table.to_text(run(record()))
