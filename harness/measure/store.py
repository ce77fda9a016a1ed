"""Baselines, computed once and shared by the worker processes of a run, and by later runs."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

from filelock import FileLock, Timeout
from torch import Tensor

from vae_compat.contracts.cases import Case
from vae_compat.contracts.travelling import OnWire
from vae_compat.device.meter import Reading
from vae_compat.measure.observation import Baseline, Noise
from vae_compat.measure.sealing import Seal
from vae_compat.measure.shelf import Shelf, packed, unpacked

_VERSION = 5
T = TypeVar("T")


@dataclass(frozen=True)
class _Truth:
    truth: Annotated[Tensor, OnWire()]


@dataclass(frozen=True)
class _Untiled:
    """A baseline without its truth, which it shares with other layouts and devices."""

    output: Annotated[Tensor, OnWire()]
    floor: Noise
    reading: Reading
    weight_bytes: int
    input_bytes: int
    cpu_seconds: float
    leaves: tuple[tuple[str, str], ...]


class BaselineStore:
    """Baselines, truths and the like: a few in memory, all of them as files in a directory.

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
        lasting: Shelf | None = None,
        keep: int = 4,
        patience: float = 600.0,
    ) -> None:
        """Share files in ``directory``; ``fingerprint`` stands for all that is not in a case.

        What is on the shelf ``lasting`` is not computed, and what is computed is put there.
        ``keep`` baselines stay in memory. After ``patience`` seconds of waiting for another
        process, this one computes for itself.
        """
        self._own = Shelf(directory, seal or Seal())
        self._lasting = lasting
        self._fingerprint = fingerprint
        self._keep = keep
        self._patience = patience
        self._recent: OrderedDict[str, Baseline] = OrderedDict()

    def get(
        self, case: Case, truth: Callable[[], Tensor], compute: Callable[[Tensor], Baseline]
    ) -> Baseline:
        """The baseline of a case.

        ``compute`` makes it from the truth. Both are called only if no process has computed what
        they give.
        """
        name = case.baseline_id
        baseline = self._recent.pop(name, None)
        if baseline is None:
            known = self.truth(case, truth)
            untiled = self.kept(name, _Untiled, lambda: _without_truth(compute(known)))
            baseline = Baseline(truth=known, **_fields(untiled))
        self._recent[name] = baseline
        while len(self._recent) > self._keep:
            self._recent.popitem(last=False)
        return baseline

    def truth(self, case: Case, compute: Callable[[], Tensor]) -> Tensor:
        """The float64 truth of a case, which all its layouts and devices share."""
        name = f"truth of {case.truth_id}"
        return self.kept(name, _Truth, lambda: _Truth(compute().contiguous())).truth

    def key(self, name: str) -> str:
        """The name of the file of what has this name."""
        text = f"{_VERSION}\n{name}\n{self._fingerprint}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def kept(self, name: str, kind: type[T], compute: Callable[[], T]) -> T:
        """What has this name, computed if no process has done so.

        ``name`` tells all that it depends on, beside the fingerprint. ``kind`` is a dataclass that
        `packed` takes, without anything that a hook has given.
        """
        key = self.key(name)
        found = self._read(key, kind)
        if found is not None:
            return found
        self._own.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._own.folder / f"{key}.lock", timeout=self._patience)
        try:
            lock.acquire()
        except Timeout:
            return compute()
        try:
            found = self._read(key, kind)
            if found is None:
                found = compute()
                self._write(key, packed(key, found))
            return found
        finally:
            lock.release()

    def _read(self, key: str, kind: type[T]) -> T | None:
        for shelf in filter(None, (self._own, self._lasting)):
            content = shelf.read(key)
            found = None if content is None else unpacked(key, kind, content)
            if found is not None:
                return found
        return None

    def _write(self, key: str, content: bytes) -> None:
        self._own.write(key, content)
        if self._lasting is not None:
            with suppress(OSError):  # a full disk: later runs compute it themselves
                self._lasting.write(key, content)


def _without_truth(baseline: Baseline) -> _Untiled:
    given = {**_fields(baseline), "output": baseline.output.contiguous()}
    return _Untiled(**{each.name: given[each.name] for each in fields(_Untiled)})


def _fields(value: _Untiled | Baseline) -> dict[str, Any]:
    return {each.name: getattr(value, each.name) for each in fields(value)}
