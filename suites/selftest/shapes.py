"""Count the memory and work of a run on tensors that have shapes but no data."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch._subclasses import FakeTensorMode

from vae_compat.contracts.cases import Case, Scale
from vae_compat.device import Reading, open_device
from vae_compat.fixtures.layouts import view
from vae_compat.fixtures.vaes.building import unseeded
from vae_compat.measure.placing import placed
from vae_compat.tiled_vae import tiled


def counted(
    case: Case, tile: int | None, under: AbstractContextManager[Any] | None = None
) -> Reading:
    """Counters of one run. With ``tile`` image pixels the reference hook tiles, else it is untiled.

    It stores planes on the host, so that the tile sets the peak.
    ``under`` is a mode to run under. By default tensors have no data.
    """
    facts = case.facts
    config = facts.real if case.scale is Scale.REAL else facts.mock
    with torch.no_grad(), under or FakeTensorMode():
        seen = view(unseeded(facts, config), case.layout, facts)
        with open_device("sim") as device, placed(seen, device):
            given = device.put(torch.zeros(case.input_shape))
            over_tiles = nullcontext() if tile is None else tiled(seen.vae, tile, residency="host")
            with over_tiles, device.metered() as reading:
                seen.run(case.direction, given)
    return reading


def over_weights(reading: Reading) -> int:
    """Peak bytes over what was live before: weights and input."""
    assert reading.peak_bytes is not None
    assert reading.live_before is not None
    return reading.peak_bytes - reading.live_before
