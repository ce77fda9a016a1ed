"""Everything beside a case that its truth and baseline depend on.

Results that are kept from run to run are found by it: under other circumstances there are none.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from vae_compat import fixtures
from vae_compat.machine import CudaDescription

PACKAGES = ("torch", "diffusers", "numpy", "pillow", "scikit-image")
"""What computes VAEs and makes pictures."""
APART = frozenset({"checks", "front", "reports", "specimens", "suites", "tiled_vae", "hosts"})
"""Folders of this package whose code no untiled result runs through."""
SUFFIXES = (".py", ".toml", ".safetensors")
"""Code, the rates of GPUs, and trained weights."""
_VARIABLES = ("ATEN_", "CUBLAS_", "DNNL_", "KMP_", "MKL_", "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS")
"""How the names of variables begin that choose kernels, or the order of additions."""


def circumstances(inputs: str, gpu: CudaDescription | None = None) -> str:
    """A text that is the same where results are the same.

    ``inputs`` stands for seed, weights and picture.
    """
    told = {
        "inputs": inputs,
        "gpu": None if gpu is None else asdict(gpu),
        "packages": {name: _release(name) for name in PACKAGES},
        "code": _code(),
        "cpu": _cpu(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "switches": [
            torch.backends.mkldnn.enabled,
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
            torch.get_default_dtype(),
        ],
        "environment": {
            name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)
        },
    }
    return json.dumps(told, sort_keys=True, default=str)


@cache
def _release(package: str) -> tuple[str, str] | None:
    """Version, and a digest of the list of installed files, which has a digest of each."""
    try:
        found = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return None
    listed = found.read_text("RECORD") or found.read_text("direct_url.json") or ""
    return found.version, hashlib.sha256(listed.encode()).hexdigest()


@cache
def _code() -> str:
    """A digest of the code of this package that untiled results run through."""
    whole = hashlib.sha256()
    for file in code_files():
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def code_files() -> list[Path]:
    """The files of that code and what it reads, in a fixed order."""
    found = {
        file.resolve()
        for root in _roots()
        for file in root.rglob("*")
        if file.suffix in SUFFIXES and not APART & set(file.relative_to(root).parts)
    }
    return sorted(found)


def _roots() -> Iterable[Path]:
    """The folder of the engine, and that of the fixtures, which may lie elsewhere."""
    return Path(__file__).parents[1], *map(Path, fixtures.__path__)


@cache
def _cpu() -> str:
    """Model and instruction sets of the first processor, as Linux tells them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    first = text.partition("\n\n")[0].splitlines()
    kept = [line for line in first if line.startswith(("vendor_id", "model", "stepping", "flags"))]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()
