"""How long a hook takes compared with untiled on a real GPU; informs, and decides nothing."""

from __future__ import annotations

from typing import Any

from vae_compat.device.cuda import CudaDevice
from vae_compat.device.gpu import Timing
from vae_compat.measure.observation import Times
from vae_compat.scenarios.stage import Stage
from vae_compat.subject.state import snapshot_of

WARM_UP = 1
"""Warm-up runs that do not count: libraries choose kernels, and the allocator fills."""
REPEATS = 5


def perform_timing(stage: Stage) -> Times | None:
    """Time untiled and the hook, one after the other in this process, with no meters on.

    ``None`` where the hook fails this time: it is judged by another call.
    """
    x, direction = stage.models.make_input(stage.case), stage.case.direction
    with stage.play() as player:
        device, view = player.device, player.view
        if not isinstance(device, CudaDevice):
            return None
        given = device.put(x)

        def timed(run: Any) -> Timing:
            return device.timed(lambda: run(direction, given), warm_up=WARM_UP, repeats=REPEATS)

        before = snapshot_of(view)
        untiled = timed(view.run)
        before.restore()
        made = player.attempt(timed, calls=WARM_UP + REPEATS, metered=False)
    if made.failure is not None:
        return None
    return Times(hook=made.result.seconds, untiled=untiled.seconds)
