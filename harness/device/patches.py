"""Stand-ins for ``torch.cuda`` that report from the accounts of a simulated accelerator."""

# ruff: noqa: ARG001, ARG002, ARG005 - the signatures are those of torch.cuda
from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from vae_compat.device.graphs import graph_answers
from vae_compat.device.ledger import Ledger
from vae_compat.device.streams import Streams, stream_answers
from vae_compat.device.tensor import ORDINAL, with_index
from vae_compat.device.trace import CacheCleared, Collected

NAME = "Simulated accelerator"
SWITCH = "TORCH_COMPILE_DISABLE"
"""Environment variable by which ``torch._dynamo`` is switched off (torch/_dynamo/config.py)."""
MARK = "simulated_accelerator"
"""Attribute of the stand-in for ``torch.cuda.is_available``, by which an open device is known."""


@dataclass(frozen=True)
class Properties:
    """What ``torch.cuda.get_device_properties`` says."""

    total_memory: int
    name: str = NAME
    major: int = 8
    minor: int = 0
    multi_processor_count: int = 108
    max_threads_per_multi_processor: int = 2048
    warp_size: int = 32
    is_integrated: bool = False
    is_multi_gpu_board: bool = False
    gcnArchName: str = ""  # noqa: N815 - the name PyTorch gives it


class _DeviceContext(contextlib.nullcontext[None]):
    """``torch.cuda.device(...)``: there is only one."""

    def __init__(self, device: Any = None) -> None:
        super().__init__()


class _DeviceOfContext(_DeviceContext):
    """``torch.cuda.device_of(tensor)``."""


class _InferenceGuard:
    """``torch._C._InferenceMode`` that does not switch gradients on when it is left.

    ``torch.inference_mode(False)`` records again, and recording ends the process here (see
    ``SimTensor``).
    """

    def __init__(self, guard: type[Any], enabled: bool) -> None:
        self._guard = guard(enabled)

    def __enter__(self) -> None:
        self._guard.__enter__()
        if torch.is_grad_enabled():
            with torch._C.DisableTorchFunction():
                torch._C._set_grad_enabled(False)

    def __exit__(self, *exc: Any) -> None:
        self._guard.__exit__(*exc)


def out_of_memory(ledger: Ledger, wanted: int) -> torch.OutOfMemoryError:
    """The error of the CUDA caching allocator, in its words."""
    free = max(ledger.total - ledger.live, 0)
    return torch.OutOfMemoryError(
        f"CUDA out of memory. Tried to allocate {_size(wanted)}. GPU 0 has a total capacity of "
        f"{_size(ledger.total)} of which {_size(free)} is free. Including non-PyTorch memory, "
        f"this process has {_size(ledger.live)} memory in use. Of the allocated memory "
        f"{_size(ledger.live)} is allocated by PyTorch, and 0 bytes is reserved by PyTorch but "
        "unallocated."
    )


def _size(nbytes: int) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if nbytes >= unit:
            return f"{nbytes / unit:.2f} {name}"
    return f"{nbytes} bytes"


def _memory_stats(ledger: Ledger) -> dict[str, int]:
    stats = {"num_alloc_retries": 0, "num_ooms": ledger.out_of_memory}
    stats["allocation.all.allocated"] = ledger.allocations
    for kind in ("allocated_bytes", "active_bytes", "reserved_bytes", "requested_bytes"):
        for pool in ("all", "large_pool", "small_pool"):
            is_whole = pool == "all"
            stats[f"{kind}.{pool}.current"] = ledger.live if is_whole else 0
            stats[f"{kind}.{pool}.peak"] = ledger.client_peak() if is_whole else 0
    stats["inactive_split_bytes.all.current"] = 0
    stats["inactive_split_bytes.all.peak"] = 0
    return stats


def _answers(ledger: Ledger, streams: Streams) -> dict[str, Any]:
    def constant(value: Any) -> Callable[..., Any]:
        return lambda *_, **__: value

    def live(device: Any = None) -> int:
        return ledger.live

    def peak(device: Any = None) -> int:
        return ledger.client_peak()

    def empty_cache() -> None:
        ledger.trace.note(CacheCleared())

    def free_and_total(device: Any = None) -> tuple[int, int]:
        return max(ledger.total - ledger.live, 0), ledger.total

    def is_available() -> bool:
        return True

    setattr(is_available, MARK, True)
    # Each stand-in is an object of its own: torch._dynamo keeps a table of them by identity.
    answers = {
        "is_available": is_available,
        "is_initialized": constant(True),
        "init": constant(None),
        "_lazy_init": constant(None),
        "_lazy_call": lambda callable_, **_: None,
        "device_count": lambda: ORDINAL.get() + 1,
        "current_device": constant(0),
        "set_device": constant(None),
        "_exchange_device": constant(0),
        "_maybe_exchange_device": constant(0),
        "get_device_name": constant(NAME),
        "get_device_capability": constant((8, 0)),
        "get_device_properties": constant(Properties(ledger.total)),
        "get_arch_list": constant(["sm_80"]),
        "is_bf16_supported": constant(True),
        "mem_get_info": free_and_total,
        "memory_allocated": live,
        "max_memory_allocated": peak,
        "memory_reserved": lambda device=None: ledger.live,
        "max_memory_reserved": lambda device=None: ledger.client_peak(),
        "memory_stats": lambda device=None: _memory_stats(ledger),
        "memory_summary": lambda *_, **__: f"{NAME}: {ledger.live} bytes live",
        "reset_peak_memory_stats": lambda device=None: ledger.reset_client_peak(),
        "reset_max_memory_allocated": lambda device=None: ledger.reset_client_peak(),
        "reset_accumulated_memory_stats": constant(None),
        "set_per_process_memory_fraction": constant(None),
        "empty_cache": empty_cache,
        "ipc_collect": constant(None),
        "manual_seed": constant(None),
        "manual_seed_all": constant(None),
        "utilization": constant(0),
        "device": _DeviceContext,
        "device_of": _DeviceOfContext,
    }
    return answers | stream_answers(streams) | graph_answers(ledger)


def _accelerator_answers(answers: dict[str, Any]) -> dict[str, Any]:
    """The same for ``torch.accelerator``, under its names."""
    same = [
        "is_available",
        "device_count",
        "synchronize",
        "empty_cache",
        "memory_allocated",
        "max_memory_allocated",
        "memory_reserved",
        "max_memory_reserved",
        "memory_stats",
        "reset_peak_memory_stats",
        "current_stream",
        "set_stream",
    ]
    other = {
        "current_device_index": "current_device",
        "current_device_idx": "current_device",
        "get_memory_info": "mem_get_info",
    }
    names = {name: name for name in same} | other
    return {
        "current_accelerator": lambda *_, **__: torch.device("cuda"),
        **{name: partial(answers[of]) for name, of in names.items()},
    }


def _parser(parse: Callable[..., Any]) -> Callable[..., Any]:
    """``torch._C._nn._parse_to``, which reads the arguments of ``nn.Module.to``."""

    def parse_to(*args: Any, **kwargs: Any) -> Any:
        if args:
            args = (with_index(args[0]), *args[1:])
        if kwargs.get("device") is not None:
            kwargs["device"] = with_index(kwargs["device"])
        return parse(*args, **kwargs)

    return parse_to


def is_simulated() -> bool:
    """Whether a simulated accelerator is open in this process."""
    return bool(getattr(torch.cuda.is_available, MARK, False))


def _collector(ledger: Ledger) -> Callable[..., int]:
    """``gc.collect``, counted."""
    collect = gc.collect

    def counted(generation: int = 2) -> int:
        ledger.trace.note(Collected())
        return collect(generation)

    return counted


def _trace(func: Any, *_: Any, **__: Any) -> Any:
    """``torch.jit.trace``: the code runs as it is; the tracer does not see simulated tensors."""
    return func


def _compile(model: Any = None, **_: Any) -> Any:
    """``torch.compile``: the code runs as it is; a compiler sees no GPU here to compile for."""
    return (lambda function: function) if model is None else model


def _stance(stack: ExitStack) -> None:
    """Let what was compiled before run as it is, and what reaches the compiler another way."""
    if "torch._dynamo" in sys.modules:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        return

    if SWITCH not in os.environ:  # it is read once, by an import that takes seconds
        os.environ[SWITCH] = "1"
        stack.callback(_enable)
        stack.callback(os.environ.pop, SWITCH, None)


def _enable() -> None:
    """The compiler again, if it was imported meanwhile."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.config.disable = False


def patched(ledger: Ledger, streams: Streams, attention: Callable[..., Any]) -> ExitStack:
    """Install every stand-in; closing the stack removes them all."""
    answers = _answers(ledger, streams)
    guard = torch._C._InferenceMode
    functional = torch.nn.functional
    with ExitStack() as stack:
        for name, value in answers.items():
            replace_in(stack, torch.cuda, name, value)
            if hasattr(torch.cuda.memory, name):
                replace_in(stack, torch.cuda.memory, name, value)
        for name, value in _accelerator_answers(answers).items():
            if hasattr(torch.accelerator, name):
                replace_in(stack, torch.accelerator, name, value)
        replace_in(stack, torch._C, "_InferenceMode", lambda on=True: _InferenceGuard(guard, on))
        replace_in(stack, torch._C._nn, "_parse_to", _parser(torch._C._nn._parse_to))
        replace_in(stack, functional, "scaled_dot_product_attention", attention)
        replace_in(stack, gc, "collect", _collector(ledger))
        replace_in(stack, torch, "compile", _compile)
        replace_in(stack, torch.jit, "trace", _trace)
        replace_in(stack, torch.nn.Module, "compile", lambda module, *_, **__: None)
        _stance(stack)
        return stack.pop_all()


def replace_in(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set an attribute until the stack is closed."""
    missing = object()
    before = vars(owner).get(name, missing)
    if before is missing:
        stack.callback(delattr, owner, name)
    else:
        stack.callback(setattr, owner, name, before)
    setattr(owner, name, value)
