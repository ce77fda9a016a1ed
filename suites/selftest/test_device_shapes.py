"""Counting without computing: the simulated accelerator on tensors that have no data."""

from contextlib import nullcontext

import pytest
import torch
from torch._subclasses import FakeTensorMode

from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale
from vae_compat.device import open_device
from vae_compat.suites.selftest.shapes import counted

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("tile", [None, 64])
@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("family", ["sd", "qwen"])
def test_shapes_alone_give_every_counter_that_real_numbers_give(family, direction, tile):
    layout = Layout.DIFFUSERS
    case = Case(family, Scale.MOCK, layout, direction, Mode.EXACT, 12, 12, 8)
    real = counted(case, tile, nullcontext())
    alone = counted(case, tile)
    assert real.flops
    assert real.peak_bytes > real.live_before
    for counter in ("peak_bytes", "flops", "host_to_device", "device_to_host", "convolutions"):
        assert getattr(alone, counter) == getattr(real, counter), counter


def test_indexing_and_writing_without_data_count_alike():
    def moved(under):
        with under, open_device("sim") as device, device.metered() as reading:
            x = torch.zeros(3, 5, device="cuda")
            x[:, 1:3] = torch.ones(3, 2)
            y = x[torch.tensor([0, 2])].cpu()
            assert (y.shape, str(x[0].device)) == ((2, 5), "cuda:0")
            del x, y
        return reading

    real, alone = moved(nullcontext()), moved(FakeTensorMode())
    assert real.host_to_device
    assert (alone.peak_bytes, alone.host_to_device) == (real.peak_bytes, real.host_to_device)
    assert alone.device_to_host == real.device_to_host
