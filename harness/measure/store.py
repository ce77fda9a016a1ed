"""Baselines, computed once and shared by the worker processes of a run."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from vae_compat.contracts.cases import Case
from vae_compat.device.meter import Convolution, Product, Reading
from vae_compat.measure.observation import Baseline, Floors, Noise
from vae_compat.measure.sealing import Seal

_VERSION = 3


class BaselineStore:
    """Baselines and truths of a run: a few in memory, all of them as files in a directory.

    The first process that needs a baseline computes it under a lock, which the operating system
    releases if the process dies; the next process then computes it. A file appears whole or
    not at all; one that cannot be read is computed again.
    """

    def __init__(
        self,
        directory: Path,
        fingerprint: str,
        *,
        seal: Seal | None = None,
        keep: int = 4,
        patience: float = 600.0,
    ) -> None:
        """Share files in ``directory``; ``fingerprint`` stands for all that is not in a case.

        ``keep`` baselines stay in memory. After ``patience`` seconds of waiting for another
        process, this one computes for itself.
        """
        self._directory = directory
        self._seal = seal or Seal()
        self._fingerprint = fingerprint
        self._keep = keep
        self._patience = patience
        self._recent: OrderedDict[str, Baseline] = OrderedDict()

    def get(self, case: Case, compute: Callable[[], Baseline]) -> Baseline:
        """The baseline of a case; ``compute`` is called only if no process has computed it yet."""
        key = self._key(case.baseline_id)
        baseline = self._recent.pop(key, None)
        if baseline is None:
            baseline = _restored(self._shared(key, lambda: _plain(compute())))
        self._recent[key] = baseline
        while len(self._recent) > self._keep:
            self._recent.popitem(last=False)
        return baseline

    def truth(self, case: Case, compute: Callable[[], Tensor]) -> Tensor:
        """The float64 truth of a case, which all its layouts and devices share."""
        found: Tensor = self._shared(
            self._key(f"truth of {case.truth_id}"), lambda: {"truth": compute().contiguous()}
        )["truth"]
        return found

    def further(self, case: Case, compute: Callable[[], Floors]) -> Floors:
        """The noise of further draws of a case."""
        parts: list[tuple[int | None, int | None, float, float]] = self._shared(
            self._key(f"further draws of {case.baseline_id}"),
            lambda: {
                "parts": [(*part, noise.rms, noise.worst) for part, noise in compute().items()]
            },
        )["parts"]
        return {(item, frame): Noise(rms, worst) for item, frame, rms, worst in parts}

    def _key(self, name: str) -> str:
        text = f"{_VERSION}\n{name}\n{self._fingerprint}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _shared(self, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        file = self._directory / f"{key}.pt"
        found = self._read(file)
        if found is not None:
            return found
        self._directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._directory / f"{key}.lock", timeout=self._patience)
        try:
            lock.acquire()
        except Timeout:
            return compute()
        try:
            found = self._read(file)
            if found is None:
                found = compute()
                self._write(file, found)
            return found
        finally:
            lock.release()

    def _write(self, file: Path, plain: dict[str, Any]) -> None:
        content = io.BytesIO()
        torch.save(plain, content)
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            draft.write_bytes(self._seal.on(content.getvalue()))
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)

    def _read(self, file: Path) -> dict[str, Any] | None:
        """What is in a file; ``None`` where it is not there, broken, or not of this run."""
        try:
            content = self._seal.opened(file.read_bytes())
            if content is None:
                return None
            found: dict[str, Any] = torch.load(
                io.BytesIO(content), map_location="cpu", weights_only=True
            )
            return found
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError):
            return None  # half a file of a broken disk, or of another version: computed anew


def _plain(baseline: Baseline) -> dict[str, Any]:
    """Tensors, numbers and containers only: what ``weights_only`` loading admits."""
    reading = {
        entry.name: getattr(baseline.reading, entry.name)
        for entry in fields(Reading)
        if entry.name not in ("convolutions", "products")
    }
    return {
        "output": baseline.output.contiguous(),
        "truth": baseline.truth.contiguous(),
        "floor": asdict(baseline.floor),
        "reading": reading,
        "convolutions": [
            (tuple(ran.weight), tuple(ran.plane), count)
            for ran, count in baseline.reading.convolutions.items()
        ],
        "products": [(*ran, count) for ran, count in baseline.reading.products.items()],
        "weight_bytes": baseline.weight_bytes,
        "input_bytes": baseline.input_bytes,
        "cpu_seconds": baseline.cpu_seconds,
        "leaves": list(baseline.leaves),
    }


def _restored(plain: dict[str, Any]) -> Baseline:
    convolutions = {
        Convolution(weight, plane): count for weight, plane, count in plain["convolutions"]
    }
    products = {Product(*shape): count for *shape, count in plain["products"]}
    return Baseline(
        output=plain["output"],
        truth=plain["truth"],
        floor=Noise(**plain["floor"]),
        reading=Reading(**plain["reading"], convolutions=convolutions, products=products),
        weight_bytes=plain["weight_bytes"],
        input_bytes=plain["input_bytes"],
        cpu_seconds=plain["cpu_seconds"],
        leaves=tuple((path, attribute) for path, attribute in plain["leaves"]),
    )
