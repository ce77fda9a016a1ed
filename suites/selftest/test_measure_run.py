"""One forward under meters: whatever a hook does is contained and reported."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn, overrides
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from vae_compat.contracts.promise import Promise
from vae_compat.device import open_device
from vae_compat.isolation.limiting import BEAT, limited
from vae_compat.measure.baseline import measure_baseline, measure_truth
from vae_compat.measure.draws import draw_floors
from vae_compat.measure.observation import Observation, Origin
from vae_compat.measure.plain import is_plain
from vae_compat.measure.plain_tiles import measure_plain_tiles
from vae_compat.scenarios.conventions import beside_untiled, untiled_conventions
from vae_compat.scenarios.single import perform_call, perform_whole
from vae_compat.scenarios.single import seen as beside
from vae_compat.scenarios.stage import Stage
from vae_compat.suites.selftest.measure_fakes import (
    FakeHook,
    TinyModels,
    TinyView,
    a_case,
    by_tiles,
    hostile,
)

CASE = a_case(height=40, width=8)


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(CASE.latent_shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def baseline(x: torch.Tensor):
    truth = measure_truth(CASE, TinyView(torch.float64), x, open_device("sim"))
    return measure_baseline(CASE, TinyView(), truth, x, open_device("sim"))


@pytest.fixture
def watch(x: torch.Tensor, baseline):
    def run(function: Any, *, seconds: float = 20, device: str = "sim", **more: Any) -> Observation:
        case = replace(CASE, device=device)
        models = TinyModels(x)
        stage = Stage(case, Promise(), FakeHook(function, **more), models, seconds)
        return beside(perform_call(stage), case, Promise(), baseline)

    return run


def test_baseline_has_output_truth_floor_and_reading(baseline):
    assert baseline.output.dtype == torch.float32
    assert baseline.truth.dtype == torch.float64
    assert baseline.output.shape == baseline.truth.shape == CASE.image_shape
    assert 0 < baseline.floor.rms < 1e-6
    assert baseline.reading.peak_bytes > baseline.weight_bytes > 0
    assert baseline.input_bytes == 4 * 40 * 8 * 4
    assert baseline.reading.flops > 0


class LeavesCaches(TinyView):
    """Keeps a list on its VAE, as causal VAEs do."""

    def run(self, direction: Any, x: torch.Tensor) -> torch.Tensor:
        self.vae._feat_map = [x]
        return super().run(direction, x)


def test_what_untiled_leaves_behind_does_not_hang_on_what_ran_before(x: torch.Tensor):
    view, truth = LeavesCaches(), torch.zeros(CASE.image_shape)
    draw_floors(CASE, view, x, truth, open_device("sim"))
    measure_plain_tiles(CASE, view, x, open_device("sim"))
    for _ in range(2):
        made = measure_baseline(CASE, view, truth, x, open_device("sim"))
        assert made.leaves == (("", "_feat_map"),)
        assert not hasattr(view.vae, "_feat_map")


def test_a_sound_hook_is_observed_whole(watch, baseline):
    seen = watch(by_tiles)
    assert seen.failure is None
    assert torch.allclose(seen.output, baseline.output, atol=1e-6)
    assert type(seen.output) is torch.Tensor
    assert seen.output_device == seen.input_device == "cuda:0"
    assert sum(seen.reading.convolutions.values()) == 3
    assert seen.reading.live_after == seen.reading.live_before
    assert not seen.input_changed
    assert seen.residue == ()


def boom(*_: Any) -> None:
    raise RuntimeError("boom")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("boom"), "RuntimeError"),
        (SystemExit(3), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (MemoryError("none left"), "MemoryError"),
        (torch.OutOfMemoryError("none left"), "OutOfMemoryError"),
        (GeneratorExit(), "GeneratorExit"),
    ],
)
def test_every_exception_becomes_a_failure(watch, error: BaseException, kind: str):
    def hook(original: Any, x: Any) -> None:
        raise error

    seen = watch(hook)
    assert seen.output is None
    assert seen.failure.kind == kind
    assert seen.failure.phase == "run"
    assert "test_measure_run.py:" in seen.failure.where
    assert kind in seen.failure.traceback


def test_an_exception_while_put_on_names_the_phase(watch):
    assert watch(by_tiles, fails_at="put_on").failure.phase == "put_on"


def test_endless_recursion_is_a_short_failure(watch):
    def hook(original: Any, x: Any) -> Any:
        return hook(original, x)

    failure = watch(hook).failure
    assert failure.kind == "RecursionError"
    assert len(failure.traceback) <= 8000


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_an_exception_whose_message_cannot_be_read(watch, error: type[BaseException]):
    class NastyError(Exception):
        def __str__(self) -> str:
            raise error

    def hook(original: Any, x: Any) -> None:
        raise NastyError

    assert "cannot be read" in watch(hook).failure.message


def test_a_hang_is_stopped_even_if_it_catches_everything(watch):
    def hook(original: Any, x: Any) -> Any:
        while True:
            try:
                while True:
                    pass
            except Exception:
                return original(x)

    failure = watch(hook, seconds=0.3).failure
    assert failure.origin is Origin.LIMIT
    assert "0.3 s of CPU time" in failure.message


def test_a_timeout_of_the_hooks_own_is_no_limit(watch):
    def hook(original: Any, x: Any) -> Any:
        raise TimeoutError("the server does not answer")

    failure = watch(hook).failure
    assert failure.kind == "TimeoutError"
    assert failure.origin is Origin.HOOK


def test_no_limit_outside_the_main_thread(watch):
    seen: list[Observation] = []
    thread = threading.Thread(target=lambda: seen.append(watch(by_tiles, seconds=0.001)))
    thread.start()
    thread.join()
    assert seen[0].failure is None


def test_an_older_timer_is_set_again():
    fired = []
    old = signal.signal(signal.SIGPROF, lambda *_: fired.append(1))
    try:
        signal.setitimer(signal.ITIMER_PROF, 0.15)
        with limited(5):
            pass
        until = time.process_time() + 5
        while not fired and time.process_time() < until:
            pass
        assert fired
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def test_stretches_of_the_hook_are_told_to_whoever_watches():
    told: list[float] = []
    before = BEAT.set(told.append)
    try:
        with limited(60), limited(30):
            pass
    finally:
        BEAT.reset(before)
    outer, inner, left, ended = told
    assert (outer, inner, ended) == (60, 30, 0)
    assert 58 < left < 61


def test_a_failure_keeps_no_tensor_alive(watch):
    alive: list[Any] = []

    def hook(original: Any, x: Any) -> Any:
        work = torch.zeros(1000)
        alive.append(weakref.ref(work))
        try:
            raise ValueError("first")
        except ValueError as error:
            kept = error  # a cycle: the frame holds the error, the error holds the frame
            raise RuntimeError("second") from kept

    seen = watch(hook)
    assert seen.failure.kind == "RuntimeError"
    gc.collect()
    assert alive[0]() is None


def test_a_failure_that_the_hook_remembers_keeps_no_tensor_alive(watch):
    alive: list[Any] = []
    remembered: list[Exception] = []

    def hook(original: Any, x: Any) -> Any:
        work = torch.zeros(1000)
        alive.append(weakref.ref(work))
        error = ValueError("boom")
        remembered.append(error)
        raise error

    watch(hook)
    assert remembered
    assert alive[0]() is None


@pytest.mark.parametrize(
    ("make", "returned"),
    [
        (lambda y: None, "None"),
        (lambda y: [y, y], "list of 2 "),
        (lambda y: {"sample": y}, "dict with keys sample"),
        (lambda y: y.cpu().numpy(), "ndarray"),
    ],
)
def test_what_is_no_tensor_is_named(watch, make: Any, returned: str):
    seen = watch(lambda original, x: make(original(x)))
    assert seen.output is None
    assert seen.failure is None
    assert seen.returned.startswith(returned)


class Unspeakable:
    """Inspecting it runs its own code, which raises ``SystemExit``."""

    def leave(self, *_: Any) -> Any:
        raise SystemExit(0)

    __str__ = __repr__ = __len__ = __iter__ = __getitem__ = leave
    __class__ = property(leave)  # type: ignore[assignment]


class UnspeakableList(Unspeakable, list):
    pass


@pytest.mark.parametrize(
    ("make", "returned"),
    [
        (Unspeakable, "Unspeakable"),
        (hostile, "Hostile"),
        (lambda: {Unspeakable(): 1}, "dict with keys Unspeakable"),
        (lambda: [Unspeakable()], "list of 1 Unspeakable"),
        (UnspeakableList, "UnspeakableList of 0 nothing"),
    ],
)
def test_what_is_returned_is_named_without_running_its_code(watch, make: Any, returned: str):
    seen = watch(lambda original, x: make())
    assert seen.returned == returned
    assert seen.failure is None
    assert seen.output is None


class Late(torch.Tensor):
    """A tensor that may compute only when it is read, after the meters are closed."""


def test_a_tensor_that_may_compute_when_it_is_read_is_no_result(watch):
    seen = watch(lambda original, x: torch.zeros(CASE.image_shape).as_subclass(Late))
    assert seen.output is None
    assert seen.failure.kind == "NotPlainTensor"
    assert "Late" in seen.failure.message
    parameter = watch(lambda original, x: nn.Parameter(original(x), requires_grad=False))
    assert parameter.failure is None
    assert parameter.output is not None


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda y: torch.quantize_per_tensor(y, 0.1, 0, torch.qint8), id="quantized"),
        pytest.param(lambda y: torch.complex(y, y), id="complex"),
        pytest.param(lambda y: y.to_mkldnn(), id="mkldnn"),
        pytest.param(lambda y: y.to(torch.float8_e4m3fn), id="float8"),
        pytest.param(lambda y: torch.nested.nested_tensor([torch.ones(2)]), id="nested"),
    ],
)
def test_a_tensor_that_is_no_block_of_real_numbers_is_no_result(watch, change: Any):
    seen = watch(lambda original, x: change(original(x)))
    assert seen.output is None
    assert "dense" in seen.failure.message
    assert seen.failure.phase == "run"


def test_a_tensor_without_memory_is_not_plain():
    assert not is_plain(torch.empty(2, device="meta"))
    assert is_plain(torch.empty(2))


def test_a_result_left_elsewhere_is_told(watch):
    seen = watch(lambda original, x: original(x).cpu().half())
    assert seen.output_device == "cpu"
    assert seen.output.dtype == torch.float16


def test_a_changed_input_is_noticed(watch):
    assert watch(lambda original, x: original(x.mul_(2))).input_changed


def test_leaked_bytes_are_counted(watch):
    kept = []

    def hook(original: Any, x: Any) -> Any:
        kept.append(x + 1)
        return original(x)

    reading = watch(hook).reading
    assert reading.live_after - reading.live_before >= 4 * 40 * 8 * 4


def test_a_closure_that_refers_to_itself_is_no_leak(watch):
    def hook(original: Any, x: Any) -> Any:
        work = x + 1

        def again(n: int) -> Any:
            return original(work - 1) if n == 0 else again(n - 1)

        return again(2)

    reading = watch(hook).reading
    assert reading.live_after == reading.live_before


HOSTILE = {
    "global default dtype was changed from float32 to float64": lambda: torch.set_default_dtype(
        torch.float64
    ),
    "number of threads was changed": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "deterministic algorithms was changed": lambda: torch.use_deterministic_algorithms(True),
    "autocast of CUDA was changed": lambda: torch.set_autocast_enabled("cuda", True),
    "float32 matmul precision was changed": lambda: torch.set_float32_matmul_precision("high"),
    "cudnn.benchmark was changed": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "torch's random number generator": lambda: torch.manual_seed(1),
    "Python's random number generator": random.random,
    "torch.nn.functional.silu was replaced": lambda: setattr(nn.functional, "silu", boom),
    "torch.nn.GroupNorm.forward was replaced": lambda: setattr(nn.GroupNorm, "forward", boom),
    "torch.zeros was replaced": lambda: setattr(torch, "zeros", boom),
    "torch.nn.LayerNorm.forward was replaced": lambda: setattr(nn.LayerNorm, "forward", boom),
    "torch.nn.AvgPool1d.forward was replaced": lambda: setattr(nn.AvgPool1d, "forward", boom),
    "hooks of every module changed: torch.nn.modules.module._global_forward_pre_hooks": lambda: (
        nn.modules.module.register_module_forward_pre_hook(boom)
    ),
    "hooks of every module changed: torch.nn.modules.module._global_forward_hooks": lambda: (
        nn.modules.module.register_module_forward_hook(boom, always_call=True)
    ),
    "cudnn.allow_tf32 was changed": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "cuda.matmul.allow_tf32 was changed": lambda: setattr(
        torch.backends.cuda.matmul, "allow_tf32", True
    ),
    "flash attention was changed": lambda: torch.backends.cuda.enable_flash_sdp(False),
    "memory-efficient attention was changed": lambda: torch.backends.cuda.enable_mem_efficient_sdp(
        False
    ),
    "plain attention was changed": lambda: torch.backends.cuda.enable_math_sdp(False),
    "default device was changed from None to meta": lambda: torch.set_default_device("meta"),
    "garbage collection was changed from True to False": gc.disable,
    "umask was changed": lambda: os.umask(0o123),
    "environment variable VAE_COMPAT_A_NEW_ONE was set": lambda: os.environ.update(
        VAE_COMPAT_A_NEW_ONE="1"
    ),
    "environment variable PATH was changed": lambda: os.environ.update(PATH="/"),
    "environment variable PATH was removed": lambda: os.environ.pop("PATH"),
    "working directory was changed to /": lambda: os.chdir("/"),
    "handler of SIGUSR1 was replaced": lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
    "handler of SIGTERM was replaced": lambda: signal.signal(signal.SIGTERM, boom),
    "blocked signals was changed": lambda: signal.pthread_sigmask(
        signal.SIG_BLOCK, [signal.SIGUSR2]
    ),
    "alarm was changed from False to True": lambda: signal.alarm(600),
    "anomaly detection was changed": lambda: torch.autograd.set_detect_anomaly(True),
    "dtype of autocast on the CPU was changed": lambda: torch.set_autocast_dtype(
        "cpu", torch.float16
    ),
    "cache of autocast was changed": lambda: torch.set_autocast_cache_enabled(False),
    "mkldnn.enabled was changed": lambda: torch.backends.mkldnn.set_flags(False),
    "cuda.matmul.allow_bf16_reduced_precision_reduction was changed": lambda: setattr(
        torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False
    ),
    "fast path of attention layers was changed": lambda: torch.backends.mha.set_fastpath_enabled(
        False
    ),
    "numpy's handling of errors was changed": lambda: np.seterr(all="raise"),
    "thresholds of garbage collection was changed": lambda: gc.set_threshold(7),
    "CPUs to run on was changed": lambda: os.sched_setaffinity(
        0, {min(os.sched_getaffinity(0))} if len(os.sched_getaffinity(0)) > 1 else {0}
    ),
    "inference mode was changed from False to True": lambda: entered(torch.inference_mode()),
    "function mode Listening was left on": lambda: entered(Listening()),
    "dispatch mode Counting was left on": lambda: entered(Counting()),
    "a context of torch.device('meta') was left on": lambda: entered(torch.device("meta")),
}
LEFT: list[Any] = []
"""Contexts that are never left."""


def entered(context: Any) -> None:
    context.__enter__()
    LEFT.append(context)


class Listening(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **kwargs or {})


class Counting(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("device", ["sim", "cpu"])
@pytest.mark.parametrize("words", HOSTILE)
def test_changes_of_the_process_are_named_and_undone(watch, words: str, device: str):
    if words.startswith("CPUs") and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("there is one CPU alone")

    def hook(original: Any, x: Any) -> Any:
        result = original(x)
        HOSTILE[words]()
        return result

    seen = watch(hook, device=device)
    assert any(line.startswith(words) for line in seen.residue)
    assert watch(by_tiles, device=device).residue == ()
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def test_threads_left_running_are_named_once_and_others_are_not(watch):
    done = threading.Event()

    def hook(original: Any, x: Any) -> Any:
        threading.Thread(target=done.wait, name="poll", daemon=True).start()
        threading.Thread(target=time.sleep, args=(0.05,), name="brief").start()
        return original(x)

    try:
        assert watch(hook).residue == ("thread poll was left running",)
        assert watch(by_tiles).residue == ()
    finally:
        done.set()


def test_a_grad_mode_left_on_is_named_and_undone(watch):
    def hook(original: Any, x: Any) -> Any:
        torch.set_grad_enabled(True)
        return original(x)

    # The simulated device knows no gradients, whatever is switched.
    seen = watch(hook, device="cpu")
    assert seen.residue == ("global grad mode was changed from False to True",)


def test_changes_are_undone_after_an_exception_too(watch):
    def hook(original: Any, x: Any) -> Any:
        torch.set_default_dtype(torch.float16)
        raise ValueError("boom")

    seen = watch(hook)
    assert seen.failure.kind == "ValueError"
    assert seen.residue == ("global default dtype was changed from float32 to float16",)


def test_modes_of_others_stay_on_and_come_back(watch: Any) -> None:
    def takes_away(original: Any, x: Any) -> Any:
        result = original(x)
        overrides._pop_mode()
        return result

    with torch.device("cpu"), Listening() as outer:
        assert watch(by_tiles, device="cpu").residue == ()
        assert watch(takes_away, device="cpu").residue == (
            "function mode Listening was switched off",
        )
        assert outer in overrides._get_current_function_mode_stack()


@pytest.mark.parametrize("device", ["sim", "cpu"])
def test_an_inference_mode_that_is_freed_late_changes_nothing(watch: Any, device: str) -> None:
    kept = []

    def hook(original: Any, x: Any) -> Any:
        kept.append(torch.inference_mode())
        kept[0].__enter__()
        return original(x)

    assert any("inference mode" in line for line in watch(hook, device=device).residue)
    kept.clear()
    gc.collect()
    assert (torch.ones(2) + 1).tolist() == [2, 2]
    assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == (True, False)


def test_the_generators_of_real_gpus_are_looked_at(
    watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(5)
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))

    def draws(original: Any, x: Any) -> Any:
        torch.rand(3, generator=generator)
        return original(x)

    (told,) = watch(draws).residue
    assert told.startswith("the random number generator of CUDA was moved on")
    assert watch(by_tiles).residue == ()


def conventions(x: torch.Tensor, function: Any, **promise: Any) -> Any:
    models = TinyModels(x)
    stage = Stage(CASE, Promise(**promise), FakeHook(function), models, 20)
    performed = perform_whole(stage, every_way=True)
    assert performed.conventions is not None
    return beside_untiled(performed.conventions, untiled_conventions(CASE, models))


def test_conventions_show_a_swallowed_argument(x: torch.Tensor):
    def narrow(original: Any, x: Any) -> Any:
        return original(x)

    plain, keyword = conventions(x, narrow)
    assert plain.failure is None
    assert plain.shape == plain.expected_shape == (1, 3, 32, 96)
    assert keyword.failure.kind == "TypeError"
    assert all(result.failure is None and result.finite for result in conventions(x, by_tiles))
    none = conventions(x, lambda *a, **k: None)
    assert all(result.failure.kind == "NoTensor" for result in none)
    nan = conventions(x, lambda original, x, **k: original(x) * torch.nan)
    assert not any(result.finite for result in nan)


def test_conventions_are_for_hooks_on_the_forward(x: torch.Tensor):
    stage = Stage(CASE, Promise(kind="vae"), FakeHook(boom), TinyModels(x), 20)
    assert perform_whole(stage, every_way=True).conventions == ()


def test_a_coder_that_is_called_in_one_way_alone_is_not_called_again(
    x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = TinyView.conventions
    monkeypatch.setattr(TinyView, "conventions", lambda *given: both(*given)[:1])
    assert conventions(x, boom) == ()


def test_a_convention_of_which_nothing_is_told_is_a_failure(x: torch.Tensor):
    untiled = untiled_conventions(CASE, TinyModels(x))
    found = beside_untiled((), untiled)
    assert len(found) == 2
    assert all(result.failure is not None for result in found)


def test_a_pool_that_waits_for_work_is_no_thread_left_running(watch: Any) -> None:
    pools = []

    def pooled(original: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        pools.append(ThreadPoolExecutor(1))
        return pools[0].submit(by_tiles, original, x, *args, **kwargs).result()

    with closing_all(pools):
        seen = watch(pooled)
    assert (seen.failure, seen.residue) == (None, ())


@contextmanager
def closing_all(pools: list[ThreadPoolExecutor]) -> Iterator[None]:
    try:
        yield
    finally:
        for pool in pools:
            pool.shutdown()


def test_what_a_hook_still_holds_is_told_and_its_last_input_is_allowed(watch: Any) -> None:
    class Keeper:
        last: torch.Tensor

    keeper = Keeper()

    def keeps(original: Any, x: torch.Tensor) -> torch.Tensor:
        result = by_tiles(original, x)
        keeper.last = result + 1
        return result

    seen = watch(keeps)
    # Other tests of this process may have left tensors on such a device, too.
    ours = [(held.shape, held.name) for held in seen.held if held.name.startswith("Keeper")]
    assert ours == [((1, 3, 320, 64), "Keeper.last")]
