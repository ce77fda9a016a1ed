"""Makes what cases are compared with: VAEs, inputs and untiled results. It never runs a hook."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from torch import Tensor, nn

from vae_compat.contracts.cases import Case, Layout, Scale
from vae_compat.contracts.travelling import OnWire, Pairs
from vae_compat.device import open_device
from vae_compat.measure.baseline import measure_baseline, measure_truth
from vae_compat.measure.draws import draw_floors, in_doubt, with_draws
from vae_compat.measure.models import Models, Supplies, Weights, key_of, serialized
from vae_compat.measure.observation import Baseline, Floors, Noise, Observation
from vae_compat.measure.placing import running
from vae_compat.measure.plain_tiles import measure_plain_tiles
from vae_compat.measure.sealing import Seal
from vae_compat.measure.shelf import Shelf
from vae_compat.measure.store import BaselineStore

T = TypeVar("T")
RECENT = 12
"""Results of small VAEs that are kept beside those in files: the ways of some clips."""


@dataclass(frozen=True)
class _Draws:
    floors: Annotated[dict[tuple[int | None, int | None], Noise], Pairs()]


@dataclass(frozen=True)
class _Weights:
    content: Annotated[Tensor, OnWire()]
    """Bytes of safetensors."""


@dataclass(frozen=True)
class _Result:
    output: Annotated[Tensor, OnWire()]


class Bench(Models):
    """The VAEs of cases, and what they give untiled: made once, stored and shared by workers."""

    def __init__(
        self,
        supplies: Supplies,
        folder: Path,
        fingerprint: str = "",
        key: bytes = b"",
        lasting: Shelf | None = None,
    ) -> None:
        """Store baselines in ``folder``, and on the shelf ``lasting`` for later runs.

        ``fingerprint`` stands for whatever changes baselines without being part of a case: seed,
        weights, image; for later runs the `circumstances` as well. ``key`` is known only to the
        processes of the run: it tells their files from files that a hook wrote.
        """
        super().__init__(supplies)
        self._store = BaselineStore(
            folder / "baselines", fingerprint, seal=Seal(key), lasting=lasting
        )
        self._weights = Weights(self._serialized)
        self._recent: OrderedDict[Hashable, Any] = OrderedDict()

    def weights(self, cases: Iterable[Case]) -> Mapping[str, str]:
        """Where a runner reads the weights of the VAEs of cases, by ``models.key_of``."""
        return self._weights.of(cases)

    def _serialized(self, case: Case) -> bytes:
        if case.scale is Scale.REAL:  # made as fast as read, and gigabytes to keep
            return serialized(self._float32(case))

        def build() -> _Weights:
            content = bytearray(serialized(self._float32(case)))
            return _Weights(torch.frombuffer(content, dtype=torch.uint8))

        return self.kept(f"weights of {key_of(case)}", _Weights, build).content.numpy().tobytes()

    def _float32(self, case: Case) -> nn.Module:
        """The VAE of a case in float32; a large one that is not kept anyway is not kept here."""
        plain = replace(case, dtype="float32")
        known = (key_of(plain), plain.dtype) in self._vaes
        return self.vae(plain) if known or case.scale is not Scale.REAL else self._build(plain)

    def recent(self, case: Case, key: Hashable, make: Callable[[], T]) -> T:
        """What was made of a case under this key; it is made again if that was long ago."""
        if case.scale is Scale.REAL:  # too large to be kept
            return make()
        key = (case.baseline_id, key)
        found: T = self._recent.pop(key) if key in self._recent else make()
        self._recent[key] = found
        while len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        return found

    def kept(self, name: str, kind: type[T], compute: Callable[[], T]) -> T:
        """What untiled VAEs alone decide, from the store where it is known.

        See `BaselineStore.kept`: no hook may have had a part in it.
        """
        return self._store.kept(name, kind, compute)

    def baseline(self, case: Case) -> Baseline:
        """The untiled result of a case, from the store where it is known."""

        def truth() -> Tensor:
            view = self._supplies.views(self.truth(case), Layout.DIFFUSERS, case.facts)[0]
            return measure_truth(case, view, self.make_input(case), open_device(case.device))

        def baseline(known: Tensor) -> Baseline:
            x, device = self.make_input(case), open_device(case.device)
            return measure_baseline(case, self.view(case), known, x, device)

        return self._store.get(case, truth, baseline)

    def untiled(self, case: Case) -> Tensor:
        """The untiled result of a case of which nothing else is wanted, truth least of all."""

        def compute() -> _Result:
            x, view = self.make_input(case), self.view(case)
            with running(view, open_device(case.device)) as device:
                result = device.host(view.run(case.direction, device.put(x)))
            return _Result(result.contiguous())

        return self.kept(f"untiled result of {case.baseline_id}", _Result, compute).output

    def raised(self, case: Case) -> Baseline:
        """The same with the floors of several draws: for results that miss those of one."""
        first = self.baseline(case)

        def compute() -> _Draws:
            x, device = self.make_input(case), open_device(case.device)
            return _Draws(dict(draw_floors(case, self.view(case), x, first.truth, device)))

        name = f"further draws of {case.baseline_id}"
        further: Floors = self.kept(name, _Draws, compute).floors
        return with_draws(first, further)

    def beside_plain_tiles(self, observation: Observation) -> Observation:
        """The observation, with what plain tiles give where the promise asks for that."""
        case = observation.case
        if observation.output is None or not observation.promise.beside_plain_tiles(case):
            return observation

        time = observation.promise.time_tiles(case)

        def compute() -> _Result:
            view = self._supplies.views(self.vae(case), Layout.DIFFUSERS, case.facts)[0]
            x, device = self.make_input(case), open_device(case.device)
            return _Result(measure_plain_tiles(case, view, x, device, time).contiguous())

        name = case.tiles_id if time is None else f"{case.tiles_id}, {time}"
        made = self.kept(f"plain tiles of {name}", _Result, compute)
        return replace(observation, plain_tiles=made.output)

    def beyond_doubt(self, observation: Observation) -> Observation:
        """The observation, with the floors of several draws where one draw does not settle it."""
        if not in_doubt(observation):
            return observation
        plain = replace(observation.case, scenario=None)
        return replace(observation, baseline=self.raised(plain))
