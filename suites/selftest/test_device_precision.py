"""Half precision on the simulated accelerator: sums in float32, rounded once, no more memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vae_compat.device import open_device

KIB = 1024

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])

Compute = Callable[[Tensor, Tensor], Tensor]
SUMMING: dict[str, Compute] = {
    "conv2d": lambda x, w: F.conv2d(x, w, w[:, 0, 0, 0], padding=1),
    "strided conv2d": lambda x, w: F.conv2d(x, w, stride=2),
    "conv3d": lambda x, w: F.conv3d(x[:, :, None], w[:, :, None]),
    "conv_transpose2d": lambda x, w: F.conv_transpose2d(x, w, stride=2),
    "matmul": lambda x, _: x @ x.transpose(-1, -2),
    "linear": lambda x, w: F.linear(x, w[0, 0].repeat(2, 2), w[0, 0].flatten()[:6]),
    "baddbmm": lambda x, _: torch.baddbmm(x[0], x[0], x[0], beta=0.5, alpha=2.0),
    "addmm_": lambda x, _: x[0, 0].clone().addmm_(x[0, 1], x[0, 2]),
    "group_norm": lambda x, w: F.group_norm(x, 2, w[:, 0, 0, 0], w[:, 0, 0, 1]),
    "layer_norm": lambda x, _: F.layer_norm(x, (6,)),
    "batch_norm": lambda x, w: F.batch_norm(x, w[:, 0, 0, 0], w[:, 0, 0, 1].abs()),
    "attention": lambda x, _: F.scaled_dot_product_attention(x, x, x),
    "attention of three": lambda x, _: F.scaled_dot_product_attention(x[0], x[0], x[0]),
    "softmax": lambda x, _: x.softmax(-1),
    "sum": lambda x, _: x.sum((2, 3)),
    "mean": lambda x, _: x.mean((2, 3)),
    "mean of all": lambda x, _: x.mean(),
    "var": lambda x, _: x.var((2, 3)),
    "var_mean": lambda x, _: torch.cat(torch.var_mean(x, (2, 3))),
    "norm": lambda x, _: x.norm(dim=1),
    "avg_pool2d": lambda x, _: F.avg_pool2d(x, 2),
    "bilinear": lambda x, _: F.interpolate(x, size=(9, 11), mode="bilinear"),
}


def given(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 4, 6, 6, generator=generator)
    return x.to(dtype), torch.randn(4, 4, 3, 3, generator=generator).to(dtype)


@HALVES
@pytest.mark.parametrize("compute", SUMMING.values(), ids=SUMMING.keys())
def test_a_sum_is_rounded_once(compute: Compute, dtype: torch.dtype) -> None:
    x, w = given(dtype)
    exact = compute(x.float(), w.float())
    with open_device("sim") as device:
        got = device.host(compute(device.put(x), device.put(w)))
    assert got.dtype == dtype
    assert got.stride() == exact.stride()
    assert torch.equal(got, exact.to(dtype))


@HALVES
@pytest.mark.parametrize("name", [name for name in SUMMING if name != "attention of three"])
def test_the_books_do_not_see_the_float32_scratch(name: str, dtype: torch.dtype) -> None:
    """Apart from statistics, a run in float32 takes twice the bytes of one in half precision."""

    def peak(kind: torch.dtype) -> tuple[int, int | None]:
        x, w = given(kind)
        big = x.repeat(1, 1, 32, 32 if name in ("baddbmm", "addmm_") else 1)
        with open_device("sim") as device:
            there, weight = device.put(big), device.put(w)
            with device.metered() as reading:
                SUMMING[name](there, weight)
        assert reading.peak_bytes is not None
        assert reading.live_before is not None
        return reading.peak_bytes - reading.live_before, reading.flops

    (half, flops), (single, flops_of_single) = peak(dtype), peak(torch.float32)
    assert flops == flops_of_single
    assert single / 2 <= half + 8 * KIB
    assert half <= single / 2 + 8 * KIB


def test_parameters_of_float32_stay_with_an_input_of_half() -> None:
    x, w = given(torch.bfloat16)
    scale = w[:, 0, 0, 0].float()
    with open_device("sim") as device:
        there, weight = device.put(x), device.put(scale)
        got = device.host(F.group_norm(there, 2, weight, weight))
        y, mean, _ = torch.ops.aten.native_group_norm(there, weight, weight, 1, 4, 36, 2, 1e-5)
        assert (y.dtype, mean.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(got, F.group_norm(x.float(), 2, scale, scale).bfloat16())


@pytest.mark.usefixtures("device")
def test_two_dtypes_do_not_meet_in_a_convolution() -> None:
    x, w = given(torch.bfloat16)
    with pytest.raises(RuntimeError):
        F.conv2d(x.cuda(), w.float().cuda())
    with pytest.raises(RuntimeError):
        x.cuda() @ x.half().cuda()


@pytest.fixture(name="device")
def opened():
    with open_device("sim") as device:
        yield device


@pytest.mark.usefixtures("device")
def test_what_is_asked_for_in_float32_is_not_rounded() -> None:
    x, _ = given(torch.float16)
    there = x.cuda()
    assert torch.equal(there.sum(1, dtype=torch.float32).cpu(), x.float().sum(1))
    assert torch.equal(there.softmax(-1, dtype=torch.float32).cpu(), x.float().softmax(-1))
    assert there.mean(1, dtype=torch.float16).dtype == torch.float16


@pytest.mark.usefixtures("device")
def test_a_result_can_be_written_where_it_is_wanted() -> None:
    x, _ = given(torch.bfloat16)
    there, out = x.cuda(), torch.empty(0, dtype=torch.bfloat16, device="cuda")
    assert torch.sum(there, 1, out=out) is out
    assert torch.equal(out.cpu(), x.float().sum(1).bfloat16())
    torch.mm(there[0, 0], there[0, 1], out=there[0, 2])
    assert torch.equal(there[0, 2].cpu(), (x[0, 0].float() @ x[0, 1].float()).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "arguments",
    [
        {"dim": 1},
        {"dim": 1, "keepdim": True},
        {"dim": (1,), "dtype": torch.float64},
        {"dim": -1},
        {"dim": (1, 2)},
        {"dim": None},
        {"ord": 1, "dim": 1},
        {"ord": float("inf"), "dim": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", ["planes", "innermost", "view"])
def test_lengths_are_those_of_the_cpu(layout: str, arguments: Any, dtype: torch.dtype) -> None:
    x = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(3)).to(dtype)
    with open_device("sim") as device:
        got = device.host(torch.linalg.vector_norm(arranged(device.put(x), layout), **arguments))
    expected = torch.linalg.vector_norm(arranged(x, layout), **arguments)
    assert (got.shape, got.dtype, got.stride()) == (
        expected.shape,
        expected.dtype,
        expected.stride(),
    )
    torch.testing.assert_close(got, expected)


def arranged(x: Tensor, layout: str) -> Tensor:
    if layout == "view":
        return x[..., 1:4, 2:6]
    return x.contiguous(memory_format=torch.channels_last) if layout == "innermost" else x


def test_lengths_of_nothing_and_of_what_is_no_number() -> None:
    x = torch.tensor([[[0.0, float("inf"), float("nan"), 1e20]]] * 3).permute(1, 0, 2)
    with open_device("sim") as device:
        got = device.host(torch.linalg.vector_norm(device.put(x), dim=1))
    torch.testing.assert_close(got, torch.linalg.vector_norm(x, dim=1), equal_nan=True)


@pytest.mark.usefixtures("device")
def test_channels_last_comes_out_of_a_convolution_in_half_as_in_float32() -> None:
    x, w = given(torch.bfloat16)
    y = F.conv2d(x.cuda().to(memory_format=torch.channels_last), w.cuda(), padding=1)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("dims", [4, 5])
def test_statistics_per_channel_that_only_cuda_has(dims: int, dtype: torch.dtype) -> None:
    shape = (2, 4, 3, 6, 5)[:dims]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    with open_device("sim") as device:
        there = device.put(x)
        mean, invstd = torch.batch_norm_stats(there, 1e-5)
        assert mean.dtype == invstd.dtype == torch.float32
        whole = torch.batch_norm_elemt(there, None, None, mean, invstd, 1e-5)
        assert whole.dtype == dtype
        pieces = [torch.batch_norm_stats(piece, 1e-5) for piece in there.chunk(2)]
        merged = torch.batch_norm_gather_stats_with_counts(
            there,
            torch.stack([m for m, _ in pieces]),
            torch.stack([i for _, i in pieces]),
            None,
            None,
            0.1,
            1e-5,
            torch.tensor([1.0, 1.0], device="cuda"),
        )
        got = [device.host(part) for part in (whole, mean, *merged)]
    expected = F.batch_norm(x.float(), None, None, training=True)
    torch.testing.assert_close(got[0], expected.to(dtype))
    torch.testing.assert_close(got[2], got[1])
    torch.testing.assert_close(
        got[3], x.float().var([d for d in range(dims) if d != 1], correction=0).add(1e-5).rsqrt()
    )


def test_a_plane_without_variance_has_an_inverse_deviation_of_nothing() -> None:
    with open_device("sim") as device:
        _, invstd = torch.batch_norm_stats(torch.ones(1, 2, 3, 3, device="cuda"), 0.0)
        assert torch.equal(device.host(invstd), torch.zeros(2))
