"""A single call of the whole VAE with the hook on, and every way to call its bare coder."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vae_compat.cases import Case, Direction
from vae_compat.device import Device
from vae_compat.device.meter import Reading
from vae_compat.measure.failing import kind_of, returned_kind
from vae_compat.measure.observation import (
    Baseline,
    Convention,
    ConventionResult,
    Failure,
    LayoutVAE,
    Observation,
    Origin,
    Promise,
    coder_of,
    untold,
)
from vae_compat.measure.performed import Called, ConventionCalled, WholePerformed
from vae_compat.measure.placing import live_bytes, placed
from vae_compat.measure.plain import kept, on_host
from vae_compat.measure.stage import Models, Stage


def perform_whole(stage: Stage, *, every_way: bool) -> WholePerformed:
    """Call the hook once under meters, and in every way of the field where that is asked for."""
    whole = perform_call(stage)
    hung = whole.failure is not None and whole.failure.hung
    conventions = _perform_conventions(stage) if every_way and not hung else None
    return WholePerformed(whole=whole, conventions=conventions)


def perform_call(stage: Stage) -> Called:
    """One forward of the hook under meters; whatever it raises becomes a `Failure`."""
    x, view, device = stage.models.make_input(stage.case), stage.view, stage.device()
    with torch.no_grad(), device, placed(view, device):
        given = device.put(x)
        made = stage.attempt(view, device, lambda run: run(stage.case.direction, given))
        called = stage.called(made, device, given)
        changed = not _same(on_host(device, given), x)
        _settle_live_bytes(device, called.reading)
    return replace(called, input_changed=changed)


def seen(
    called: Called,
    case: Case,
    promise: Promise,
    baseline: Baseline,
    conventions: tuple[ConventionResult, ...] | None = None,
) -> Observation:
    """What checks look at: the hook's call beside the untiled one."""
    return Observation(
        case=case,
        promise=promise,
        baseline=baseline,
        output=called.output,
        returned=called.returned,
        output_device=called.output_device,
        input_device=called.input_device,
        failure=called.failure,
        reading=called.reading,
        calls=called.calls,
        residue=called.residue,
        input_changed=called.input_changed,
        conventions=conventions,
    )


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


# Every way to call the bare coder ----------------------------------------------------------------


def strip_of(case: Case) -> Case:
    """The case on which conventions are tried: one tile high, and long enough to need tiles."""
    frames = 2 if case.facts.frame_axis else 1
    return replace(case, height=4, width=12, tile=4, batch=1, frames=frames)


def _strip(case: Case, models: Models) -> Tensor:
    """Cut from the input of a square plane."""
    x = models.make_input(replace(case, height=case.width))
    encoding = case.direction is Direction.ENCODE
    rows = (case.image_shape if encoding else case.latent_shape)[-2]
    return x[..., :rows, :].contiguous()


def _perform_conventions(stage: Stage) -> tuple[ConventionCalled, ...]:
    """Call the hooked coder in every way in which the field calls it.

    Only a hook of kind ``forward`` takes the place of the coder's forward; for others the result
    is empty.
    """
    if stage.promise.kind != "forward":
        return ()
    case, device, found = strip_of(stage.case), stage.device(), []
    x = _strip(case, stage.models)
    for variant, view in enumerate(stage.models.views(stage.case)):
        device = stage.device()
        with torch.no_grad(), device, placed(view, device):
            given = view.coder_input(case.direction, device.put(x))
            for convention in view.conventions(case.direction):
                found.append(_convention(stage, case, view, variant, convention, given, device))
    return tuple(found)


def _convention(
    stage: Stage,
    case: Case,
    view: LayoutVAE,
    variant: int,
    convention: Convention,
    given: Tensor,
    device: Device,
) -> ConventionCalled:
    index: list[Any] = []
    coder = _Watched(coder_of(view, case.direction), index)
    made = stage.attempt(view, device, lambda _: convention.call(coder, given), case=case)
    output, _, unreadable = kept(made.result, device)
    failure = made.failure or unreadable
    if failure is None and output is None:
        told = f"returned {returned_kind(made.result)}"
        failure = Failure("NoTensor", told, "", "", "run", Origin.HARNESS)
    return ConventionCalled(
        variant=variant,
        convention=convention.name,
        failure=failure,
        shape=None if output is None else tuple(output.shape),
        finite=output is not None and bool(output.isfinite().all()),
        index=tuple(index),
    )


def untiled_conventions(
    case: Case, models: Models, device: Device
) -> dict[tuple[int, str], tuple[tuple[int, ...], tuple[Any, ...]]]:
    """Shape and cache index after each call, by variant and convention, of the bare coder."""
    case = strip_of(case)
    x, found = _strip(case, models), {}
    with torch.no_grad(), device:
        for variant, view in enumerate(models.views(case)):
            with placed(view, device):
                given = view.coder_input(case.direction, device.put(x))
                for convention in view.conventions(case.direction):
                    index: list[Any] = []
                    coder = _Watched(coder_of(view, case.direction), index)
                    shape = tuple(convention.call(coder, given).shape)
                    found[variant, convention.name] = (shape, tuple(index))
    return found


def beside_untiled(
    called: Sequence[ConventionCalled],
    untiled: dict[tuple[int, str], tuple[tuple[int, ...], tuple[Any, ...]]],
) -> tuple[ConventionResult, ...]:
    """The hook's results beside those of the bare coder.

    A convention that the runner does not answer for is a failure of the hook, which alone can have
    changed what it says; one that there is none of is left out.
    """
    by_name = {(each.variant, each.convention): each for each in called}
    found = []
    for place, (shape, index) in untiled.items():
        each = by_name.get(place)
        missing = untold("the runner told nothing of it")
        found.append(
            ConventionResult(
                convention=place[1],
                failure=missing if each is None else each.failure,
                shape=None if each is None else each.shape,
                expected_shape=shape,
                finite=each is not None and each.finite,
                index=() if each is None else each.index,
                expected_index=index,
            )
        )
    return tuple(found)


class _Watched(nn.Module):
    """Passes calls on to a coder and notes where they leave the cache index."""

    def __init__(self, coder: nn.Module, index: list[Any]) -> None:
        super().__init__()
        self.coder = coder
        self.index = index

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        result = self.coder(*args, **kwargs)
        index = kwargs.get("feat_idx", args[2] if len(args) > 2 else None)
        self.index.append(_told(index))
        return result


def _told(index: object) -> tuple[int, ...] | str | None:
    """An index list as it is, where it is one; whatever else by its type."""
    if index is None:
        return None
    if type(index) is list and all(type(entry) is int for entry in index):
        return tuple(index)
    return kind_of(index)
