"""The faster way to compute the truth gives the result of torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vae_compat.measure import float64
from vae_compat.measure.float64 import QuickFloat64

CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 5, 9, 11), (7, 5, 3, 3), {"padding": 1}),
    "strided": ((1, 4, 9, 12), (3, 4, 3, 3), {"stride": 2}),
    "uneven": ((1, 4, 9, 12), (3, 4, 1, 3), {"stride": (1, 2), "padding": (0, 1)}),
    "points": ((2, 4, 6, 5), (8, 4, 1, 1), {}),
    "clip": ((2, 3, 5, 6, 7), (4, 3, 3, 3, 3), {"padding": (0, 1, 1)}),
    "times": ((1, 3, 5, 6, 7), (4, 3, 3, 1, 1), {"stride": (2, 1, 1)}),
    "grouped": ((1, 4, 6, 5), (4, 2, 3, 3), {"groups": 2}),
    "dilated": ((1, 4, 9, 9), (4, 4, 3, 3), {"dilation": 2}),
    "in words": ((1, 4, 9, 9), (4, 4, 3, 3), {"padding": "same"}),
    "one item alone": ((4, 9, 9), (4, 4, 3, 3), {"padding": 1}),
}


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_float64_convolutions_are_those_of_torch(name: str, biased: bool) -> None:
    size, kernel, more = CASES[name]
    seeded = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=seeded, dtype=torch.float64)
    weight = torch.randn(kernel, generator=seeded, dtype=torch.float64)
    bias = torch.randn(kernel[0], generator=seeded, dtype=torch.float64) if biased else None
    convolve = torch.conv3d if len(kernel) == 5 else torch.conv2d
    should = convolve(x, weight, bias, **more)
    with QuickFloat64():
        torch.testing.assert_close(convolve(x, weight, bias, **more), should, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_planes_of_several_stretches_of_rows_have_no_seam(
    monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    monkeypatch.setattr(float64, "CACHED", 1)
    monkeypatch.setattr(float64, "LEAST_ROWS", 2)
    seeded = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 4, 41, 6, generator=seeded, dtype=torch.float64)
    weight = torch.randn(2, 3, 3, 3, 3, generator=seeded, dtype=torch.float64)
    should = torch.conv3d(x, weight, stride=stride, padding=1)
    with QuickFloat64():
        found = torch.conv3d(x, weight, stride=stride, padding=1)
    torch.testing.assert_close(found, should, rtol=0, atol=1e-12)


def test_other_dtypes_and_gradients_are_left_to_torch() -> None:
    x, weight = torch.randn(1, 3, 8, 8), torch.randn(3, 3, 3, 3)
    should = torch.conv2d(x, weight)
    learnt = weight.double().requires_grad_()
    with QuickFloat64():
        assert torch.equal(torch.conv2d(x, weight), should)
        torch.conv2d(x.double(), learnt).sum().backward()
    assert learnt.grad is not None
