"""A single call of the whole VAE with the hook on, beside the untiled one."""

from __future__ import annotations

import gc
from dataclasses import replace

from torch import Tensor

from vae_compat.contracts.cases import Case
from vae_compat.contracts.promise import Promise
from vae_compat.device.meter import Reading
from vae_compat.measure.held import held_tensors
from vae_compat.measure.observation import Baseline, ConventionResult, Held, Observation
from vae_compat.measure.placing import arranged, live_bytes
from vae_compat.measure.plain import on_host
from vae_compat.scenarios.conventions import perform_conventions
from vae_compat.scenarios.performed import Called, WholePerformed
from vae_compat.scenarios.ranks import perform_in_ranks
from vae_compat.scenarios.stage import Player, Stage
from vae_compat.scenarios.timing import perform_timing


def perform_whole(stage: Stage, *, every_way: bool) -> WholePerformed:
    """Call the hook once under meters, and in every convention in use where that is asked for."""
    if stage.promise.in_ranks:
        return WholePerformed(whole=perform_in_ranks(stage, perform_call))
    whole = perform_call(stage)
    hung = whole.failure is not None and whole.failure.hung
    conventions = perform_conventions(stage) if every_way and not hung else None
    times = perform_timing(stage) if stage.case.is_timed and whole.failure is None else None
    return WholePerformed(whole=whole, conventions=conventions, times=times)


def perform_call(stage: Stage) -> Called:
    """One forward of the hook under meters; whatever it raises becomes a `Failure`."""
    x = stage.models.make_input(stage.case)
    with stage.play() as player:
        given = arranged(player.device.put(x), stage.case.given)
        made = player.attempt(lambda run: run(stage.case.direction, given))
        called = player.called(made, given)
        changed = not _same(on_host(player.device, given), x)
        held = _settle_live_bytes(player, called.reading, given)
    return replace(called, input_changed=changed, held=held)


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
        held=called.held,
        conventions=conventions,
    )


def _same(now: Tensor, then: Tensor) -> bool:
    same = now.shape == then.shape and now.dtype == then.dtype
    return same and bool(((now == then) | (now.isnan() & then.isnan())).all())


def _settle_live_bytes(player: Player, reading: Reading, given: Tensor) -> tuple[Held, ...]:
    """Read again what is live, now that the output is dropped; and what holds more than before.

    Where more is live than before, cycles are collected first: a closure that refers to itself may
    hold a tensor for a while, which is no leak.
    """
    if reading.live_after is None or reading.live_before is None:
        return ()
    reading.live_after = live_bytes(player.device)
    if reading.live_after == reading.live_before:
        return ()
    gc.collect()
    reading.live_after = live_bytes(player.device)
    if reading.live_after is None or reading.live_after <= reading.live_before:
        return ()
    view = player.view
    modules = (view.vae, view.encoder, view.decoder)
    weights = (tensor for part in modules for tensor in (*part.parameters(), *part.buffers()))
    return held_tensors(player.device.torch_device, (given, *weights))
