"""Run one case with the hook on, under meters, and let nothing that it does escape."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor, nn
from vae_compat.cases import Case, Direction
from vae_compat.device import Device
from vae_compat.device.meter import Reading
from vae_compat.device.tensor import SimTensor
from vae_compat.measure.failing import Interrupted, failure_of, kind_of, limited, returned_kind
from vae_compat.measure.observation import (
    Baseline,
    CoderCall,
    Convention,
    ConventionResult,
    Failure,
    LayoutVAE,
    Observation,
    Origin,
    Promise,
    coder_of,
)
from vae_compat.measure.placing import live_bytes, placed
from vae_compat.measure.process import ProcessState
from vae_compat.subject.state import Change, snapshot


class Fitting(AbstractContextManager[Any], Protocol):
    """A hook on a VAE; its context's value runs the VAE: ``run(direction, x)``."""

    phase: str
    residue: tuple[str, ...]
    beyond_repair: tuple[str, ...]

    @property
    def calls(self) -> tuple[CoderCall, ...]:
        """Calls that reached the coders."""
        ...


class Subject(Protocol):
    """The hook under test."""

    def put_on(self, view: LayoutVAE, case: Case, *, expected: Any = ()) -> Any:
        """A `Fitting` that is not entered yet."""
        ...


@dataclass
class Trial:
    """What one guarded stretch with the hook on left in our hands."""

    result: Any = None
    """Whatever ``act`` returned; ``None`` where something raised."""
    failure: Failure | None = None
    reading: Reading = field(default_factory=Reading)
    calls: tuple[CoderCall, ...] = ()
    residue: tuple[str, ...] = ()
    beyond_repair: tuple[str, ...] = ()
    fitting: Fitting | None = None
    """Keeps the hook alive as a program would that leaves it on, and so what the hook keeps."""


def observe(
    case: Case,
    promise: Promise,
    hook: Subject,
    view: LayoutVAE,
    x: Tensor,
    baseline: Baseline,
    device: Device,
    *,
    seconds: float,
) -> Observation:
    """One forward of the hook under meters; every exception of the hook becomes a `Failure`.

    ``x`` is on the plain CPU, in the dtype of the case; ``device`` is not entered yet. Raises
    ``KeyboardInterrupt`` only for a real Ctrl-C.
    """
    with torch.no_grad(), device, placed(view, device):
        given = device.put(x)
        place = given.device
        trial = attempt(
            case, hook, view, device, seconds, baseline, lambda run: run(case.direction, given)
        )
        returned = returned_kind(trial.result)
        output, where = kept(trial, device)
        trial.result = None
        changed = not _same(_host(device, given), x)
        _settle_live_bytes(device, trial.reading)
    return Observation(
        case=case,
        promise=promise,
        baseline=baseline,
        output=output,
        returned=returned,
        output_device=where,
        input_device=place,
        failure=trial.failure,
        reading=trial.reading,
        calls=trial.calls,
        residue=trial.residue,
        beyond_repair=trial.beyond_repair,
        input_changed=changed,
    )


def observe_conventions(
    case: Case, hook: Subject, view: LayoutVAE, x: Tensor, device: Device, *, seconds: float
) -> tuple[ConventionResult, ...]:
    """Call the hooked coder in every way in which the field calls it.

    Each result is compared with that of the bare coder called the same way. A strip of the input,
    one tile high, is enough: it is as long as ever, so that the hook has to tile. Only a hook of
    kind ``forward`` takes the place of the coder's forward; for others the result is empty.
    """
    if getattr(hook, "kind", "forward") != "forward":
        return ()
    case = replace(case, height=min(case.tile, case.height))
    encoding = case.direction is Direction.ENCODE
    rows = (case.image_shape if encoding else case.latent_shape)[-2]
    x = x[..., :rows, :].contiguous()
    with torch.no_grad(), device, placed(view, device):
        given = view.coder_input(case.direction, device.put(x))
        return tuple(
            _convention(case, hook, view, convention, given, device, seconds)
            for convention in view.conventions(case.direction)
        )


def _convention(
    case: Case,
    hook: Subject,
    view: LayoutVAE,
    convention: Convention,
    given: Tensor,
    device: Device,
    seconds: float,
) -> ConventionResult:
    bare: list[object] = []
    hooked: list[object] = []

    def coder(index: list[object]) -> nn.Module:
        return _Watched(coder_of(view, case.direction), index)

    untiled = convention.call(coder(bare), given)
    expected = tuple(untiled.shape)
    del untiled
    trial = attempt(
        case, hook, view, device, seconds, None, lambda _: convention.call(coder(hooked), given)
    )
    output, _ = kept(trial, device)
    failure = trial.failure
    if failure is None and output is None:
        kind = returned_kind(trial.result)
        failure = Failure("NoTensor", f"returned {kind}", "", "", "run", Origin.HARNESS)
    return ConventionResult(
        convention=convention.name,
        failure=failure,
        shape=None if output is None else tuple(output.shape),
        expected_shape=expected,
        finite=output is not None and bool(output.isfinite().all()),
        index=tuple(hooked),
        expected_index=tuple(bare),
    )


class _Watched(nn.Module):
    """Passes calls on to a coder and notes where they leave the cache index."""

    def __init__(self, coder: nn.Module, index: list[object]) -> None:
        super().__init__()
        self.coder = coder
        self.index = index

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        result = self.coder(*args, **kwargs)
        index = kwargs.get("feat_idx", args[2] if len(args) > 2 else None)
        self.index.append(tuple(index) if isinstance(index, list) else index)
        return result


def attempt(
    case: Case,
    hook: Subject,
    view: LayoutVAE,
    device: Device,
    seconds: float,
    baseline: Baseline | None,
    act: Callable[[Any], Any],
) -> Trial:
    """Put the hook on, act and take it off, with the process put back as it was."""
    trial = Trial()
    fitting: Fitting | None = None
    expected = tuple(Change(*leaves) for leaves in baseline.leaves) if baseline else ()
    whole = snapshot(view.vae, encoder=view.encoder, decoder=view.decoder)
    before = ProcessState()
    process: tuple[str, ...] = ()
    error: BaseException | None = None
    try:
        with limited(seconds), device.metered() as trial.reading:
            try:
                fitting = hook.put_on(view, case, expected=expected)
                with fitting as run:
                    trial.result = act(run)
            finally:  # inside: the meter's own context puts some switches back
                process = before.undo()
    except BaseException as caught:
        error = caught
    process += before.undo()  # what is left where the alarm cut the first time short
    if error is not None:
        if isinstance(error, Interrupted):
            raise KeyboardInterrupt from None
        phase = "put_on" if fitting is None else fitting.phase
        trial.failure = failure_of(error, phase, seconds, _file_of(hook))
        trial.result = error = None
        gc.collect()  # a failed attempt may hold tensors in cycles; the next case needs the room
    whole.restore()  # also what untiled leaves behind: caches, which would count as live bytes
    trial.fitting = fitting
    if fitting is not None:
        trial.calls = fitting.calls
        trial.beyond_repair = fitting.beyond_repair
        trial.residue = fitting.residue
    trial.residue = (*trial.residue, *process)
    return trial


def _file_of(hook: Subject) -> str:
    """File of the hook's entry; empty where it is a module of an installed package."""
    return str(getattr(getattr(hook, "source", None), "file", None) or "")


def is_plain(thing: object) -> bool:
    """Whether this is a tensor that is what it says, of real numbers in memory.

    A subclass could still compute when it is read, unmetered. Types are told apart by ``is``: a
    metaclass of the hook's may do anything when it is compared.
    """
    return _honest(thing) and _dense(thing)


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_REAL = {*_FLOATS, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
"""Dtypes that torch computes with; others are quantized, complex, or mere storage."""


def _honest(thing: object) -> TypeGuard[Tensor]:
    return any(type(thing) is plain for plain in (Tensor, nn.Parameter, SimTensor))


def _dense(tensor: Tensor) -> bool:
    """Whether it is made of real numbers in memory: no other can be compared with a result."""
    there = not tensor.is_nested and not tensor.is_meta
    return there and tensor.layout is torch.strided and tensor.dtype in _REAL


def kept(trial: Trial, device: Device) -> tuple[Tensor | None, torch.device | None]:
    """The output on the plain CPU, and where it was; reading it may be what fails."""
    # Not `isinstance`: it asks the object, which may lie.
    if not issubclass(type(trial.result), Tensor):
        return None, None
    if _honest(trial.result) and not _dense(trial.result):
        told = (
            f"returned a tensor of {trial.result.dtype} with layout {trial.result.layout} that is "
            "not dense or not of numbers that torch computes with: return a plain one"
        )
        trial.failure = Failure("NotPlainTensor", told, "", "", "run", Origin.HARNESS)
        return None, None
    if not is_plain(trial.result):
        told = (
            f"returned a {kind_of(trial.result)}, a subclass of torch.Tensor that may run code "
            "when it is read: return a plain torch.Tensor"
        )
        trial.failure = Failure("NotPlainTensor", told, "", "", "run", Origin.HARNESS)
        return None, None
    try:
        output = _host(device, trial.result)
        if not is_plain(output):
            raise TypeError(f"the tensor returned holds a {kind_of(output)} or is not dense")
        return output, trial.result.device
    except Exception as error:
        trial.failure = failure_of(error, "run", 0.0)
        return None, None


def _host(device: Device, tensor: Tensor) -> Tensor:
    return device.host(tensor).detach().clone()


def _same(now: Tensor, then: Tensor) -> bool:
    same = now.shape == then.shape and now.dtype == then.dtype
    return same and bool(((now == then) | (now.isnan() & then.isnan())).all())


def _settle_live_bytes(device: Device, reading: Reading) -> None:
    """Read again what is live, now that the output is dropped.

    Where it is more than before, cycles are collected first: a closure that refers to itself may
    hold a tensor for a while, and that is no leak.
    """
    if reading.live_after is None or reading.live_before is None:
        return
    reading.live_after = live_bytes(device)
    if reading.live_after != reading.live_before:
        gc.collect()
        reading.live_after = live_bytes(device)
