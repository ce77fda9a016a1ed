"""Observations made by hand, and a VAE small enough to run in a test of the harness."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale
from vae_compat.contracts.coders import Convention, coder_of
from vae_compat.contracts.promise import Promise
from vae_compat.device.meter import Convolution, Reading
from vae_compat.measure.distance import noise
from vae_compat.measure.observation import Baseline, Failure, Noise, Observation, Origin

CASE = Case("sd", Scale.MOCK, Layout.LDM, Direction.DECODE, Mode.EXACT, 48, 48, 16)
FLOOR = 1e-7


def a_case(**changes: Any) -> Case:
    return replace(CASE, **changes)


def pixels(case: Case) -> tuple[int, ...]:
    """Shape of the compared output."""
    if case.direction is Direction.DECODE:
        return case.image_shape
    return (case.batch, 2 * case.facts.latent_channels, *case.latent_shape[2:])


def a_baseline(case: Case = CASE, *, seed: int = 0, truth: Tensor | None = None) -> Baseline:
    """A random picture within -0.9 to 0.9, with a floor of 1e-7."""
    generator = torch.Generator().manual_seed(seed)
    if truth is None:
        truth = torch.rand(pixels(case), generator=generator, dtype=torch.float64) * 1.8 - 0.9
    output = (truth + FLOOR * torch.randn(truth.shape, generator=generator)).float()
    return Baseline(
        output=output,
        truth=truth,
        floor=noise(output, truth),
        reading=Reading(
            peak_bytes=1100,
            live_before=100,
            live_after=100,
            host_to_device=0,
            device_to_host=0,
            allocations=10,
            flops=1000,
            convolutions={Convolution((8, 8, 3, 3), (384, 384)): 2},
        ),
        weight_bytes=100,
        input_bytes=10,
    )


def tiled_reading(**changes: Any) -> Reading:
    """Counters of a run of nine tiles, with half the peak of untiled over the weights."""
    reading = Reading(
        peak_bytes=600,
        live_before=110,
        live_after=110,
        host_to_device=20,
        device_to_host=30,
        allocations=90,
        flops=1500,
        convolutions={Convolution((8, 8, 3, 3), (150, 150)): 18},
    )
    for name, value in changes.items():
        setattr(reading, name, value)
    return reading


def an_observation(
    case: Case = CASE,
    *,
    change: Callable[[Tensor], Tensor] | None = None,
    grade: str = "exact",
    claimed: bool = True,
    cache: str = "none",
    **more: Any,
) -> Observation:
    """The observation of a sound hook; ``change`` alters its output."""
    baseline = more.pop("baseline", None) or a_baseline(case)
    output = baseline.output.clone()
    if change is not None:
        output = change(output)
    cuda = "cuda:0"
    given: dict[str, Any] = {
        "output": output,
        "output_device": cuda,
        "input_device": cuda,
        "reading": tiled_reading(),
        "repeat": "vae-compat run --case it",
    }
    promise = Promise(claimed=claimed, grade=grade, cache=cache)
    return Observation(case=case, promise=promise, baseline=baseline, **given | more)


def raised(
    message: str = "boom",
    *,
    kind: str = "ValueError",
    phase: str = "run",
    origin: Origin = Origin.HOOK,
    deliberate: bool = False,
    refuses_call: bool = False,
    case: Case = CASE,
    **more: Any,
) -> Observation:
    """A run that ended with an exception."""
    failure = Failure(
        kind,
        message,
        "/hook.py:3",
        f"Traceback:\n{kind}: {message}\n",
        phase,
        origin,
        deliberate=deliberate,
        refuses_call=refuses_call,
    )
    return an_observation(
        case, output=None, returned="None", output_device=None, failure=failure, **more
    )


class TinyVAE(nn.Module):
    """One convolution each way, at the ratio of the family ``sd``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = _Coder(3, 8, 1 / 8)
        self.decoder = _Coder(4, 3, 8)
        self.requires_grad_(False)


class _Coder(nn.Module):
    def __init__(self, ours: int, theirs: int, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(ours, theirs, 3, padding=1)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        x = nn.functional.interpolate(x, scale_factor=self.factor, recompute_scale_factor=True)
        return self.conv(x) * scale


class TinyView:
    """A ``LayoutVAE`` over a `TinyVAE`."""

    layout = "ldm"
    ratio = 8

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.vae = TinyVAE().to(dtype)
        self.encoder = self.vae.encoder
        self.decoder = self.vae.decoder

    def run(self, direction: Direction, x: Tensor) -> Tensor:
        result: Tensor = (self.decoder if direction is Direction.DECODE else self.encoder)(x)
        return result

    def conventions(self, direction: Direction) -> tuple[Convention, ...]:
        return (
            Convention("plain", lambda coder, x: coder(x)),
            Convention("by keyword", lambda coder, x: coder(x, scale=2.0)),
        )

    def coder_input(self, direction: Direction, x: Tensor) -> Tensor:
        return x


class TinyModels:
    """Gives a `TinyVAE` for every case, and the input ``x`` for cases of its shape."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.view = TinyView()

    def views(self, case: Case) -> tuple[TinyView, ...]:
        return (self.view,)

    def twins(self, case: Case) -> tuple[TinyView, ...]:
        return (TinyView(torch.float64),)

    def make_input(self, case: Case) -> Tensor:
        if case.latent_shape == tuple(self.x.shape):
            return self.x
        chance = torch.Generator().manual_seed(0)
        return torch.randn(case.latent_shape, generator=chance)


class _Meta(type):
    """The type of a class that raises when any attribute of it is read."""

    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError("asked for")

    def __eq__(cls, other: object) -> bool:
        raise RuntimeError("compared")

    __hash__ = type.__hash__


class Hostile(metaclass=_Meta):
    """An object whose type raises when it is inspected."""


def hostile() -> Hostile:
    return object.__new__(Hostile)


class FakeHook:
    """A hook of kind ``forward`` that is one function ``(original, x, ...) -> result``."""

    kind = "forward"

    def __init__(self, function: Callable[..., Any], *, fails_at: str = "") -> None:
        self.function = function
        self.fails_at = fails_at

    @contextmanager
    def _on(self, view: TinyView, case: Case, state: SimpleNamespace) -> Any:
        coder = coder_of(view, case.direction)
        original = coder.forward
        state.phase = "put_on"
        if self.fails_at == "put_on":
            raise ValueError("cannot be put on")
        coder.forward = lambda *args, **kwargs: self.function(original, *args, **kwargs)

        def run(direction: Direction, x: Tensor) -> Any:
            state.phase = "run"
            return view.run(direction, x)

        try:
            yield run
        finally:
            del coder.forward

    def put_on(self, view: TinyView, case: Case, **_: Any) -> Any:
        state = _Fitting(calls=(), residue=(), beyond_repair=(), phase="load", restored=False)
        state.context = self._on(view, case, state)
        return state


class _Fitting(SimpleNamespace):
    def __enter__(self) -> Any:
        return self.context.__enter__()

    def __exit__(self, *exc: Any) -> Any:
        return self.context.__exit__(*exc)


def by_tiles(original: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A tiling that is exact for the `TinyVAE` decoder: strips of 16 rows with a halo of one."""
    strips = []
    for top in range(0, x.shape[-2], 16):
        start, stop = max(top - 1, 0), min(top + 17, x.shape[-2])
        strip = original(x[..., start:stop, :], *args, **kwargs)
        rows = min(16, x.shape[-2] - top) * 8
        strips.append(strip[..., (top - start) * 8 : (top - start) * 8 + rows, :])
    return torch.cat(strips, dim=-2)


__all__ = [
    "CASE",
    "FLOOR",
    "FakeHook",
    "Noise",
    "TinyView",
    "a_baseline",
    "a_case",
    "an_observation",
    "by_tiles",
    "hostile",
    "pixels",
    "raised",
    "tiled_reading",
]
