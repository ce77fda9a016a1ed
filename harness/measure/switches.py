"""Settings of the process that code may change for everybody: how to read and to set each."""

from __future__ import annotations

import gc
import locale
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

Switch = tuple[Callable[[], Any], Callable[[Any], Any]]
"""How to read a setting, and how to set it."""

_enter_inference_mode = torch._C._InferenceMode
"""Taken now: the simulated accelerator has one of its own."""
_KEPT: list[object] = []
"""Guards of inference mode that must never be freed: each would bring back how the thread called
PyTorch when it was made, accelerators and modes that are long gone included."""


def _set_inference_mode(enabled: bool) -> None:
    """Leave the mode that somebody else has entered, whose guard may be freed at any time."""
    contexts = (known for known in gc.get_objects() if type(known) is torch.inference_mode)
    _KEPT.extend(vars(context).get("_inference_mode_context") for context in contexts)
    gradients = torch.is_grad_enabled()
    guard = _enter_inference_mode(enabled)
    guard.__enter__()  # type: ignore[no-untyped-call]
    _KEPT.append(guard)
    with torch._C.DisableTorchFunction():  # the simulated accelerator switches none
        torch._C._set_grad_enabled(gradients)  # which the guard has switched as well


def device_context() -> Any:
    """The mode that ``torch.set_default_device`` leaves on, below all others; or ``None``."""
    return getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)


def _no_alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)


def _umask() -> int:
    """The umask can only be read by setting it."""
    now = os.umask(0o077)
    os.umask(now)
    return now


def _flag(owner: Any, name: str) -> Switch:
    return (lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


_FLAGS = (
    ("cudnn", "benchmark"),
    ("cudnn", "benchmark_limit"),
    ("cudnn", "deterministic"),
    ("cudnn", "enabled"),
    ("cudnn", "allow_tf32"),
    ("cuda", "matmul.allow_tf32"),
    ("cuda", "matmul.allow_fp16_reduced_precision_reduction"),
    ("cuda", "matmul.allow_bf16_reduced_precision_reduction"),
    ("cuda", "matmul.allow_fp16_accumulation"),
    ("mkldnn", "enabled"),
    ("mkldnn", "deterministic"),
    ("mkldnn", "conv.fp32_precision"),
    ("quantized", "engine"),
)
"""Attributes of ``torch.backends``. Some came with later releases of PyTorch."""


def _flags() -> Iterator[tuple[str, Switch]]:
    """Those flags that this PyTorch has, by their names."""
    for package, path in _FLAGS:
        owner: Any = getattr(torch.backends, package)
        *places, name = path.split(".")
        for place in places:
            owner = getattr(owner, place, None)
        try:
            here = owner is not None and hasattr(owner, name)
        except RuntimeError:  # it is there, and may not be told at this moment
            here = True
        except AssertionError:  # how ``cuda.matmul`` refuses a name that it does not know
            here = False
        if here:
            yield f"{package}.{path}", _flag(owner, name)


def _autocast(device: str) -> tuple[Switch, Switch]:
    """Whether autocast is on, and its dtype."""
    return (
        (
            lambda: torch.is_autocast_enabled(device),
            lambda value: torch.set_autocast_enabled(device, value),
        ),
        (
            lambda: torch.get_autocast_dtype(device),
            lambda value: torch.set_autocast_dtype(device, value),
        ),
    )


_ON_CPU, _CPU_DTYPE = _autocast("cpu")
_ON_CUDA, _CUDA_DTYPE = _autocast("cuda")

SWITCHES: Mapping[str, Switch] = {
    "inference mode": (torch.is_inference_mode_enabled, _set_inference_mode),
    "global grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "global default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (
        lambda: getattr(device_context(), "device", None),
        torch.set_default_device,
    ),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "fill_uninitialized_memory": _flag(torch.utils.deterministic, "fill_uninitialized_memory"),
    "float32 matmul precision": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "autocast of the CPU": _ON_CPU,
    "dtype of autocast on the CPU": _CPU_DTYPE,
    "autocast of CUDA": _ON_CUDA,
    "dtype of autocast on CUDA": _CUDA_DTYPE,
    "cache of autocast": (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    **dict(_flags()),
    "flash attention": (
        torch.backends.cuda.flash_sdp_enabled,
        torch.backends.cuda.enable_flash_sdp,
    ),
    "memory-efficient attention": (
        torch.backends.cuda.mem_efficient_sdp_enabled,
        torch.backends.cuda.enable_mem_efficient_sdp,
    ),
    "plain attention": (
        torch.backends.cuda.math_sdp_enabled,
        torch.backends.cuda.enable_math_sdp,
    ),
    "cuDNN's attention": (
        torch.backends.cuda.cudnn_sdp_enabled,
        torch.backends.cuda.enable_cudnn_sdp,
    ),
    "fast path of attention layers": (
        torch.backends.mha.get_fastpath_enabled,
        torch.backends.mha.set_fastpath_enabled,
    ),
    "numpy's handling of errors": (np.geterr, lambda value: np.seterr(**value)),
    "recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "garbage collection": (gc.isenabled, lambda value: gc.enable() if value else gc.disable()),
    "thresholds of garbage collection": (gc.get_threshold, lambda value: gc.set_threshold(*value)),
    "locale": (
        lambda: locale.setlocale(locale.LC_ALL),
        lambda value: locale.setlocale(locale.LC_ALL, value),
    ),
    "umask": (_umask, os.umask),
    "blocked signals": (
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        lambda value: signal.pthread_sigmask(signal.SIG_SETMASK, value),
    ),
    "alarm": (
        lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        lambda running: None if running else _no_alarm(),
    ),
    "CPUs to run on": (
        lambda: os.sched_getaffinity(0),
        lambda value: os.sched_setaffinity(0, value),
    ),
}
"""How to read and to set each switch."""
