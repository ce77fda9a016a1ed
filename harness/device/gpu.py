"""A real GPU: its description, its switches during a run, and timing on it."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vae_compat.machine import CudaDescription

Switch = tuple[Callable[[], Any], Callable[[Any], Any], Any]
"""How to read a switch, how to set it, and its value during a run."""

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG")
REDUCED = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
"""Whether products of half precision may be summed in half precision: as PyTorch has it."""
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_DRIVER_VERSION = re.compile(r"\b\d{3,}\.\d+(\.\d+)?\b")
"""The version in ``NVIDIA UNIX x86_64 Kernel Module  580.65.06``: no other number is as long."""


MIXED = "a mix of PyTorch's old and new flags"
"""What an older switch for TF32 tells where only ``fp32_precision`` was set."""


def told(get: Callable[[], Any]) -> Any:
    """The value of a switch. PyTorch refuses to tell some whose new names were used.

    See ``Context::allowTF32CuBLAS`` and ``Context::float32MatmulPrecision`` in pytorch's
    ``aten/src/ATen/Context.cpp``. Setting the old name makes them one again.
    """
    try:
        return get()
    except RuntimeError:
        return MIXED


def _attribute(owner: Any, name: str, value: Any) -> Switch:
    return (lambda: getattr(owner, name), lambda now: setattr(owner, name, now), value)


def switches() -> Mapping[str, Switch]:
    """The switches that decide about bits and kernels, as a run has them.

    TF32 is off, so that float32 means float32; cuDNN takes the algorithm its heuristics name and
    does not try them out by the clock; attention may use every kernel but cuDNN's.
    """
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    return {
        "cuda.matmul.allow_tf32": _attribute(cuda.matmul, "allow_tf32", False),
        "cudnn.allow_tf32": _attribute(cudnn, "allow_tf32", False),
        "cudnn.benchmark": _attribute(cudnn, "benchmark", False),
        "flash attention": (cuda.flash_sdp_enabled, cuda.enable_flash_sdp, True),
        "memory-efficient attention": (
            cuda.mem_efficient_sdp_enabled,
            cuda.enable_mem_efficient_sdp,
            True,
        ),
        "plain attention": (cuda.math_sdp_enabled, cuda.enable_math_sdp, True),
        "cuDNN's attention": (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp, False),
    }


def fixed_switches() -> ExitStack:
    """Set the switches until the stack is closed, which puts them back."""
    with ExitStack() as stack:
        for get, put, value in switches().values():
            if (before := told(get)) != MIXED:
                stack.callback(put, before)
            put(value)
        return stack.pop_all()


def describe_cuda() -> CudaDescription:
    """The first CUDA device and its software, as they stand now."""
    properties: Any = torch.cuda.get_device_properties(0)
    settings = [f"{name}={os.environ[name]}" for name in ALLOCATOR_VARIABLES if name in os.environ]
    standing = [(name, str(told(get))) for name, (get, _, _) in switches().items()]
    standing += [(name, str(getattr(torch.backends.cuda.matmul, name))) for name in REDUCED]
    standing.append(("cudnn.deterministic", str(torch.backends.cudnn.deterministic)))
    standing.append(("deterministic algorithms", str(torch.are_deterministic_algorithms_enabled())))
    return CudaDescription(
        name=str(properties.name),
        memory=int(properties.total_memory),
        capability=f"{properties.major}.{properties.minor}",
        driver=_driver(),
        cuda=str(torch.version.cuda or ""),
        cudnn=str(torch.backends.cudnn.version() or ""),  # type: ignore[no-untyped-call]
        torch=str(torch.__version__),
        allocator=" ".join([_backend(), *settings]),
        switches=tuple(standing),
    )


def _driver() -> str:
    """The version of the kernel's driver where Linux tells it, else the newest CUDA it knows."""
    try:
        told = _DRIVER_FILE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = ""
    found = _DRIVER_VERSION.search(told)
    if found is not None:
        return found[0]
    ask = getattr(torch._C, "_cuda_getDriverVersion", None)
    if ask is None:
        return ""
    version = int(ask())
    return f"CUDA {version // 1000}.{version % 1000 // 10}"


def _backend() -> str:
    ask = getattr(torch.cuda, "get_allocator_backend", None)
    try:
        return str(ask()) if ask is not None else "native"
    except (AttributeError, RuntimeError):  # a PyTorch without CUDA has none
        return "native"


@dataclass(frozen=True)
class Timing:
    """Times of several runs, in seconds."""

    median: float
    spread: float
    """Slowest less fastest time, as a share of the median."""
    seconds: tuple[float, ...]


def timed(run: Callable[[], object], *, warm_up: int = 1, repeats: int = 5) -> Timing:
    """Time a run by CUDA events, after warm-up runs that do not count.

    Raises:
        ValueError: for fewer than one repeat.
    """
    if repeats < 1:
        raise ValueError(f"a run is timed once at least, not {repeats} times")
    for _ in range(warm_up):
        run()
    taken = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end) / 1000)
    median = statistics.median(taken)
    spread = (max(taken) - min(taken)) / median if median else 0.0
    return Timing(median, spread, tuple(taken))
