"""How long a hook takes beside the untiled VAE, on a real GPU; for people, and in no verdict."""

from __future__ import annotations

import torch

from vae_compat.device.cuda import CudaDevice
from vae_compat.measure.observation import Times
from vae_compat.measure.placing import placed
from vae_compat.measure.stage import Stage
from vae_compat.subject.state import snapshot

WARM_UP = 1
"""Runs that do not count: libraries choose kernels, the allocator fills."""
REPEATS = 5


def perform_timing(stage: Stage) -> Times | None:
    """Time untiled and the hook, one after the other in this process, with no meters on.

    ``None`` where the hook fails this time: what it does of a case is judged by another call.
    """
    device = stage.device()
    if not isinstance(device, CudaDevice):
        return None
    x, view, direction = stage.models.make_input(stage.case), stage.view, stage.case.direction
    with torch.no_grad(), device, placed(view, device):
        given = device.put(x)
        before = snapshot(view.vae, encoder=view.encoder, decoder=view.decoder)
        untiled = device.timed(lambda: view.run(direction, given), warm_up=WARM_UP, repeats=REPEATS)
        before.restore()
        made = stage.attempt(
            view,
            device,
            lambda run: device.timed(
                lambda: run(direction, given), warm_up=WARM_UP, repeats=REPEATS
            ),
            calls=WARM_UP + REPEATS,
            metered=False,
        )
    if made.failure is not None:
        return None
    return Times(hook=made.result.seconds, untiled=untiled.seconds)
