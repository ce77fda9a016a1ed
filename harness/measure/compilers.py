"""What ``torch.compile`` itself changes in a process: no hook that compiles can help it."""

from __future__ import annotations

import sys
from threading import Thread
from typing import Any

import torch

RECURSION = 2000
"""The compiler raises Python's recursion limit to this at least (torch/_inductor/compile_fx.py)."""
_COMPILERS = ("torch._dynamo", "torch._inductor")


def replaced_by_dynamo(function: Any) -> bool:
    """Whether a method of ``nn.Module`` is dynamo's, which counts modules from then on.

    Told by its code, which is part of the function that puts it there
    (``install_generation_tagging_init`` in torch/_dynamo/mutation_guard.py).
    """
    guard = sys.modules.get("torch._dynamo.mutation_guard")
    installs = getattr(guard, "install_generation_tagging_init", None)
    code = getattr(function, "__code__", None)
    return installs is not None and code is not None and code in installs.__code__.co_consts


def raised_by_inductor(now: int, then: int) -> bool:
    """Whether the compiler raised Python's recursion limit."""
    return now == max(then, RECURSION) and "torch._inductor.compile_fx" in sys.modules


def named_by_inductor(variable: str, value: str | None) -> bool:
    """Whether an environment variable holds the compiler's own cache folder, or its address.

    The compiler puts the folder there for its child processes
    (torch/_inductor/runtime/cache_dir_utils.py), and for code that it has compiled the address of
    a function of torch (torch/_inductor/codecache.py).
    """
    guards = getattr(getattr(torch._C, "_dynamo", None), "guards", None)
    address = getattr(guards, "_torchinductor_pyobject_tensor_data_ptr", None)
    if variable == "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR":
        return address is not None and value == str(address)
    found = sys.modules.get("torch._inductor.runtime.cache_dir_utils")
    if found is None or value is None:
        return False
    folder = str(found.default_cache_dir())
    if variable == "TORCHINDUCTOR_CACHE_DIR":
        return value == folder
    return variable == "TRITON_CACHE_DIR" and value.startswith(folder)


def serves_compiler(thread: Thread | None) -> bool:
    """Whether a thread waits for the compiler's child processes, for as long as the process runs.

    They compile for GPUs alone (torch/_inductor/async_compile.py).
    """
    target = getattr(thread, "_target", None)
    return str(getattr(target, "__module__", "")).startswith(_COMPILERS)
