"""The memory of the reference hook depends on its tiles and hardly on the picture."""

from dataclasses import replace

import pytest
import torch

from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale
from vae_compat.device import open_device
from vae_compat.fixtures.vaes import build
from vae_compat.suites.selftest.shapes import counted, over_weights
from vae_compat.tiled_vae import VAEHook

pytestmark = pytest.mark.slow

BOUND = 0.05


@pytest.mark.parametrize(("family", "small", "large"), [("sd", 32, 48), ("qwen", 24, 40)])
def test_at_fixed_tiles_the_peak_grows_by_a_small_part_of_what_untiled_grows_by(
    family, small, large
):
    """Real configs without data, because a mock's pictures are large beside its activations."""
    case = Case(family, Scale.REAL, Layout.DIFFUSERS, Direction.DECODE, Mode.EXACT, 1, 1, 16)

    def grown(tile):
        sizes = (replace(case, height=side, width=side) for side in (small, large))
        first, last = (over_weights(counted(sized, tile)) for sized in sizes)
        return last - first

    assert grown(128) <= BOUND * grown(None)


@pytest.mark.parametrize("family", ["sd", "qwen"])
def test_a_further_item_of_a_batch_takes_its_input_and_output(family):
    def peak(batch):
        net = build(family, "mock").decoder
        with open_device("sim") as device, torch.no_grad():
            net.to(device.torch_device)
            channels = net.conv_in.in_channels
            size = (batch, channels, 12, 36) if family == "sd" else (batch, channels, 1, 12, 36)
            x = device.put(torch.zeros(size))
            with device.metered() as reading:
                out = VAEHook(net, tile_size=8, is_decoder=True)(x)
            return reading.peak_bytes, (out.nbytes + x.nbytes) // batch

    (one, _), (three, item) = peak(1), peak(3)
    assert three <= one + 2 * item + one // 20
