"""Upsampling and the convolution after it as four small convolutions."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vae_compat.families import FAMILIES
from vae_compat.fixtures.vaes.precision import truth
from vae_compat.suites.selftest.coders import latent, shared, tiling
from vae_compat.tiled_vae.nets.folding import convolve_phases, folded, folds
from vae_compat.tiled_vae.program.steps import Conv
from vae_compat.tiled_vae.program.window import Span, Window

UP = Window(3, 1, 1, 1, up=2)


def a_step(**changes: object) -> Conv:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    return replace(Conv((0,), 1, conv, UP, UP, 4, plain=True), **changes)


@pytest.mark.parametrize("groups", [1, 2])
def test_phases_give_every_part_of_the_convolved_upsampled_plane(groups):
    height, width = 4, 5
    conv = nn.Conv2d(4, 6, 3, padding=1, groups=groups).double()
    x = torch.randn(2, 4, height, width, dtype=torch.float64)
    with torch.no_grad():
        want = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        weights = folded(conv.weight)
        for top, bottom in itertools.combinations(range(2 * height + 1), 2):
            rows = UP.reach(Span(top, bottom), height)
            for left, right in itertools.combinations(range(2 * width + 1), 2):
                cols = UP.reach(Span(left, right), width)
                tile = x[..., slice(*rows.source), slice(*cols.source)]
                got = convolve_phases(tile, weights, conv.bias, groups, rows, cols)
                torch.testing.assert_close(
                    got, want[..., top:bottom, left:right], rtol=0, atol=1e-12
                )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_phases_keep_the_layout_of_a_tile(layout):
    rows = cols = UP.reach(Span(0, 8), 4)
    x = torch.randn(1, 4, 4, 4).contiguous(memory_format=layout)
    got = convolve_phases(x, folded(torch.randn(6, 4, 3, 3)), None, 1, rows, cols)
    assert got.is_contiguous(memory_format=layout)


def test_sums_of_weights_are_rounded_once():
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1:, 1:] = torch.tensor([[1.0, 2**-24], [2**-24, 0.0]])
    assert folded(weight)[0, 0, 0, 0, 1, 1] == 1 + 2**-23  # 1 if each sum were rounded


def test_a_bare_step_folds_in_float32_and_float64():
    assert folds(a_step(), torch.zeros(1, 4, 2, 2))
    step = a_step(module=nn.Conv2d(4, 4, 3, padding=1).double())
    assert folds(step, torch.zeros(1, 4, 2, 2, dtype=torch.float64))


OTHER = {
    "not plain": {"plain": False},
    "no upsampling": {"window_rows": replace(UP, up=1)},
    "another kernel": {"window_cols": replace(UP, kernel=1)},
    "a stride": {"window_rows": replace(UP, stride=2)},
    "circular": {"window_cols": replace(UP, wrap=True)},
}


@pytest.mark.parametrize("changes", OTHER.values(), ids=OTHER)
def test_other_steps_are_not_folded(changes):
    assert not folds(a_step(**changes), torch.zeros(1, 4, 2, 2))


def test_half_precision_other_devices_and_autocast_are_not_folded():
    x = torch.zeros(1, 4, 2, 2)
    half = a_step(module=nn.Conv2d(4, 4, 3, padding=1).bfloat16())
    assert not folds(half, x.bfloat16())
    assert not folds(half, x)
    assert not folds(a_step(), x.to("meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not folds(a_step(), x)


def flops(run) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoder_on_the_cpu_takes_fewer_flops_and_no_more_error(family):
    vae, x = shared(family), latent(family, 9, 7)
    net = vae.decoder
    call = {"first_chunk": True} if family == "wan22" else {}
    with torch.no_grad():
        exact = truth(vae).decoder(x.double(), **call)
        plain, without = net(x, **call), flops(lambda: net(x, **call))
        with tiling(net, 4) as hook:
            got, taken = net(x, **call), flops(lambda: net(x, **call))
    assert not hook.reasons
    assert taken < without
    errors = [float((each.double() - exact).square().mean().sqrt()) for each in (plain, got)]
    assert errors[1] <= 1.1 * errors[0]
