"""Scenario estimate: the published net without data, for what a GPU would pay.

Under a ``FakeTensorMode`` tensors have shapes and no numbers, so a picture of 1024 pixels through
the published configuration takes seconds on a CPU, and every counter of the simulated accelerator
is that of the real run. A hook that reads numbers of tensors cannot be run so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from vae_compat.contracts.cases import Case
from vae_compat.contracts.coders import LayoutVAE
from vae_compat.contracts.promise import Promise
from vae_compat.device import Device, open_device
from vae_compat.device.estimate import Estimate, estimate
from vae_compat.device.meter import Reading
from vae_compat.isolation.limiting import limited
from vae_compat.measure.failing import failure_of
from vae_compat.measure.models import Models
from vae_compat.measure.observation import Failure, Observed, untold
from vae_compat.measure.placing import placed
from vae_compat.measure.process import ProcessState
from vae_compat.scenarios.performed import Counted
from vae_compat.scenarios.scene import Scene
from vae_compat.scenarios.stage import Stage

if TYPE_CHECKING:
    from vae_compat.measure.bench import Bench  # the judge's alone


@dataclass(frozen=True, kw_only=True, eq=False)
class EstimateObserved(Observed):
    """What the run would take on a GPU, beside untiled."""

    ours: Estimate | None
    """``None`` where the hook failed."""
    untiled: Estimate
    reading: Reading
    untiled_reading: Reading


class EstimateScene(Scene):
    """One call of the hook, and one of the untiled VAE, on shapes alone."""

    performed = Counted

    def needs(self, case: Case) -> tuple[Case, ...]:
        """No weights."""
        del case
        return ()

    def perform(self, stage: Stage) -> Counted:
        """Run the hook without data; the VAE is thrown away, so nothing is restored in it."""
        before = ProcessState()
        try:
            return _perform(stage)
        finally:
            before.undo()

    def examine(
        self, case: Case, promise: Promise, performed: Counted, bench: Bench
    ) -> EstimateObserved:
        """Hold what the runner told against untiled, which is counted here."""
        failure, ours = performed.failure, performed.estimate
        if failure is None and (ours is None or not _tells(ours)):
            failure, ours = untold("the runner told no time"), None
        reading = bench.recent(case, "estimate", lambda: untiled_reading(case, bench))
        return EstimateObserved(
            case=case,
            promise=promise,
            failure=failure,
            ours=ours,
            untiled=estimate(reading, promise.gpu),
            reading=performed.reading,
            untiled_reading=reading,
        )


def untiled_reading(case: Case, models: Models) -> Reading:
    """What the simulated accelerator counts of an untiled run without data, its trace included."""
    with FakeTensorMode():
        view, x = models.shapes(case), _empty_input(case)
        with torch.no_grad(), open_device("sim") as device, placed(view, device):
            given = device.put(x)
            with device.metered() as reading:
                view.run(case.direction, given)
    return reading


def _perform(stage: Stage) -> Counted:
    with FakeTensorMode():
        view, x = stage.models.shapes(stage.case), _empty_input(stage.case)
        with stage.play(view) as player:
            failure, reading = _counted(stage, view, player.device.put(x), player.device)
    if failure is not None:
        return Counted(failure=failure, reading=Reading())
    return Counted(estimate=estimate(reading, stage.promise.gpu), reading=reading)


def _counted(
    stage: Stage, view: LayoutVAE, given: Tensor, device: Device
) -> tuple[Failure | None, Reading]:
    fitting, reading = None, Reading()
    try:
        with limited(stage.seconds), device.metered() as reading:
            fitting = stage.hook.put_on(view, stage.case)
            with fitting as run:
                run(stage.case.direction, given)
    except BaseException as error:  # whatever a hook raises is its failure
        phase = "put_on" if fitting is None else fitting.phase
        return failure_of(error, phase, stage.seconds), reading
    return None, reading


def _empty_input(case: Case) -> Tensor:
    """What the direction is given: shape and dtype. To be called under a ``FakeTensorMode``."""
    return torch.empty(case.input_shape, dtype=getattr(torch, case.dtype))


def _tells(told: Estimate) -> bool:
    return math.isfinite(told.seconds) and told.seconds > 0 and bool(told.shares)
