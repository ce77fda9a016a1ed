"""Unmodified code takes its GPU path on the simulated accelerator, with the CPU's numbers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_compat.device import Device, open_device
from vae_compat.suites.selftest.quicker import Quicker

CUDA = torch.device("cuda", 0)

INDEX = [2, 0]
MASK = torch.rand(6, 6, generator=torch.Generator().manual_seed(1)) > 0.5

# Called with an input (1 4 6 6) and a function that moves a tensor to the input's device. What
# comes back on the accelerator must be on cuda:0, and equal the CPU's result bit for bit.
COMPUTATIONS: dict[str, Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]] = {
    "slice": lambda x, _: x[:, 1:3, ::2],
    "integer": lambda x, _: x[0, -1],
    "ellipsis and none": lambda x, _: x[None, ..., 0],
    "list": lambda x, _: x[:, INDEX],
    "array": lambda x, _: x[:, np.array(INDEX)],
    "host index": lambda x, _: x[:, torch.tensor(INDEX)],
    "device index": lambda x, dev: x[:, dev(torch.tensor(INDEX))],
    "0-dim index": lambda x, dev: x[:, dev(torch.tensor(1))],
    "bound": lambda x, dev: x[:, : dev(torch.tensor(1))],
    "mask": lambda x, _: x[x > 0.5],
    "host mask": lambda x, _: x[..., MASK],
    "index_select": lambda x, dev: x.index_select(1, dev(torch.tensor(INDEX))),
    "scalar on the host": lambda x, _: x * torch.tensor(2.0) + 1,
    "einsum": lambda x, _: torch.einsum("bchw,bdhw->bcd", x, x),
    "matmul": lambda x, _: x @ x.transpose(-1, -2),
    "linear": lambda x, _: F.linear(x, x[0, 0], x[0, 0, 0]),
    "conv2d": lambda x, dev: F.conv2d(x, dev(weight(5, 4, 3, 3)), padding=1),
    "conv2d same": lambda x, dev: F.conv2d(x, dev(weight(5, 4, 3, 3)), padding="same"),
    "conv3d": lambda x, dev: F.conv3d(x[None], dev(weight(5, 1, 3, 3, 3))),
    "conv_transpose2d": lambda x, dev: F.conv_transpose2d(x, dev(weight(4, 2, 3, 3)), stride=2),
    "group_norm": lambda x, dev: F.group_norm(x, 2, dev(torch.rand(4)), dev(torch.ones(4))),
    "layer_norm": lambda x, _: F.layer_norm(x, (6,)),
    "batch_norm": lambda x, dev: F.batch_norm(x, dev(weight(4)), dev(weight(4).abs())),
    "instance_norm": lambda x, _: F.instance_norm(x),
    "rms_norm": lambda x, _: F.rms_norm(x, (6,)),
    "normalize": lambda x, _: F.normalize(x, dim=1),
    "silu": lambda x, _: F.silu(x),
    "pad": lambda x, _: F.pad(x, (0, 1, 0, 1)),
    "reflect": lambda x, _: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "nearest": lambda x, _: F.interpolate(x, scale_factor=2.0),
    "nearest-exact": lambda x, _: F.interpolate(x, size=(9, 13), mode="nearest-exact"),
    "bilinear": lambda x, _: F.interpolate(x, size=(9, 13), mode="bilinear"),
    "antialias": lambda x, _: F.interpolate(x, size=(3, 4), mode="bicubic", antialias=True),
    "avg_pool2d": lambda x, _: F.avg_pool2d(x, 2),
    "pixel_shuffle": lambda x, _: F.pixel_shuffle(x, 2),
    "grid_sample": lambda x, _: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=False),
    "attention": lambda x, _: F.scaled_dot_product_attention(x, x, x),
    "attention of three": lambda x, _: F.scaled_dot_product_attention(x[0], x[0], x[0]),
    "masked attention": lambda x, dev: F.scaled_dot_product_attention(x, x, x, dev(MASK)),
    "causal attention": lambda x, _: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "scaled attention": lambda x, _: F.scaled_dot_product_attention(x, x, x, scale=0.3),
    "multi-head": lambda x, dev: heads(dev)(x[0], x[0], x[0])[0],
    "softmax": lambda x, _: torch.softmax(x, -1),
    "var": lambda x, _: torch.var_mean(x, dim=(2, 3))[0],
    "mean": lambda x, _: torch.var_mean(x, dim=(2, 3), correction=0)[1],
    "quantile": lambda x, _: torch.quantile(x, 0.3),
    "cat": lambda x, _: torch.cat([x, x * 2], 1),
    "stack": lambda x, _: torch.stack([x, x]),
    "where": lambda x, _: torch.where(x > 0.5, x, 0.0),
    "nonzero": lambda x, _: torch.nonzero(x > 0.5),
    "sort": lambda x, _: x.flatten().sort().values,
    "max": lambda x, _: x.max(1).values,
    "cumsum": lambda x, _: x.cumsum(1),
    "unfold": lambda x, _: x.unfold(2, 3, 2),
    "repeat": lambda x, _: x.repeat(2, 1, 1, 1),
    "unique": lambda x, _: x.round().unique(),
    "new_zeros": lambda x, _: x.new_zeros(3) + x.new_full((3,), 2.0),
    "new_tensor": lambda x, _: x.new_tensor([1.0, 2.0]),
    "empty_like": lambda x, _: torch.empty_like(x).fill_(3),
    "zeros": lambda x, _: torch.zeros(2, 3, device=x.device, dtype=x.dtype),
    "arange": lambda x, _: torch.arange(5, device=x.device),
    "linspace": lambda x, _: torch.linspace(0, 1, 7, device=x.device),
    "meshgrid": lambda x, _: torch.meshgrid(x[0, 0, 0], x[0, 1, 0], indexing="ij")[0],
    "tensor": lambda x, _: torch.tensor([1.0, 2.0], device=x.device),
    "tensor of parts": lambda x, _: torch.tensor([x.sum(), x.mean()], device=x.device),
    "one_hot": lambda _, dev: F.one_hot(dev(torch.tensor(INDEX))),
    "half": lambda x, _: x.half() * 2,
    "bfloat16": lambda x, dev: F.conv2d(x.bfloat16(), dev(weight(5, 4, 3, 3)).bfloat16()),
    "float16": lambda x, dev: F.group_norm(F.conv2d(x.half(), dev(weight(4, 4, 3, 3)).half()), 2),
    "deepcopy": lambda x, _: copy.deepcopy(x),
    "tril": lambda x, _: torch.tril(x[0, 0]),
    "invert": lambda x, _: ~(x > 0.5),
    "bits": lambda x, _: x.view(torch.int32),
    "foreach": lambda x, _: torch._foreach_add([x, x], 1.0)[1],
    "iteration": lambda x, _: list(x[0])[2],
    "to another": lambda x, dev: dev(torch.ones(2).double()).to(x) + torch.ones(2).to(x),
}  # fmt: skip


def weight(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def heads(dev: Callable[[Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(5)
    module = nn.MultiheadAttention(6, 2)
    return module.to(dev(torch.zeros(1)).device)


def x_on_host() -> Tensor:
    return torch.rand(1, 4, 6, 6, generator=torch.Generator().manual_seed(11))


@pytest.fixture
def device() -> Iterator[Device]:
    with open_device("sim") as opened:
        yield opened


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference"]
)
@pytest.mark.parametrize("compute", COMPUTATIONS.values(), ids=COMPUTATIONS.keys())
def test_a_computation_stays_on_the_device_and_changes_no_bit(
    compute: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor],
    mode: Callable[[], AbstractContextManager[None]],
) -> None:
    torch.manual_seed(0)
    with mode(), Quicker():
        expected = compute(x_on_host(), lambda t: t)
    torch.manual_seed(0)
    with open_device("sim") as device:
        x = device.put(x_on_host())
        with mode():
            got = compute(x, lambda t: t.cuda())
        assert got.device == CUDA
        assert got.is_cuda
        assert got.stride() == expected.stride()
        result = device.host(got)
    assert result.dtype == expected.dtype
    assert torch.equal(result, expected)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("where", ["cuda", "cuda:0", 0, CUDA, torch.device("cuda")], ids=repr)
def test_every_name_of_the_device_leads_there(where: object) -> None:
    host = torch.rand(3)
    for moved in (
        host.to(where),  # type: ignore[call-overload]
        host.to(device=where),  # type: ignore[call-overload]
        host.to(where, torch.float64, non_blocking=True),  # type: ignore[call-overload]
        host.cuda(where),  # type: ignore[arg-type]
        torch.zeros(3, device=where),  # type: ignore[call-overload]
        torch.tensor([1.0], device=where),  # type: ignore[arg-type]
        torch.as_tensor([1.0], device=where),  # type: ignore[arg-type]
        nn.Linear(2, 2).to(where).weight,  # type: ignore[arg-type]
        nn.Linear(2, 2, device=where).weight,
    ):
        assert moved.device == CUDA
        assert moved.device.type == "cuda"
        assert moved.cpu().device.type == "cpu"
    with torch.device(where):  # type: ignore[arg-type]
        assert torch.zeros(2).is_cuda
        assert torch.tensor([1]).is_cuda


def test_a_tensor_that_is_there_already_is_not_copied(device: Device) -> None:
    x = torch.rand(3, device="cuda")
    with device.metered() as reading:
        assert x.to("cuda") is x
        assert x.cuda(non_blocking=True) is x
        assert x.to(x) is x
        assert x.contiguous() is x
    assert (reading.allocations, reading.host_to_device) == (0, 0)


@pytest.mark.usefixtures("device")
def test_a_number_alone_is_the_device_as_comfyui_asks_for_it() -> None:
    assert torch.device(torch.cuda.current_device()) == CUDA
    assert torch.device("cuda", 0) == torch.device(type="cuda", index=0) == CUDA
    assert torch.device("cpu") == torch.zeros(1).device


@pytest.mark.usefixtures("device")
def test_a_second_device_does_not_exist() -> None:
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(1, device="cuda:1")
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(1).to("cuda:1")


@pytest.mark.usefixtures("device")
def test_tensors_of_two_devices_do_not_meet() -> None:
    host, there = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4, device="cuda")
    words = "Expected all tensors to be on the same device, but found at least two devices, "
    for first, second, order in (
        (there, host, "cuda:0 and cpu!"),
        (host, there, "cpu and cuda:0!"),
    ):
        for meet in (torch.add, torch.matmul, torch.maximum, lambda a, b: torch.cat([a, b])):
            with pytest.raises(RuntimeError, match=words + order):
                meet(first, second)
    with pytest.raises(RuntimeError, match=words):
        there.add_(host)
    with pytest.raises(RuntimeError, match=words):
        torch.add(there, there, out=host)
    with pytest.raises(RuntimeError, match=words):
        torch.zeros(()).add_(there.sum())
    with pytest.raises(RuntimeError, match=words):
        F.group_norm(there, 3, torch.ones(3))
    with pytest.raises(RuntimeError, match=words):
        F.scaled_dot_product_attention(there, host, there)
    with pytest.raises(RuntimeError, match=words):
        there[there > 0.5] = torch.rand(5)
    with pytest.raises(
        RuntimeError, match=r"Input type \(torch.cuda.FloatTensor\) and weight type"
    ):
        F.conv2d(there, torch.rand(1, 3, 1, 1))
    with pytest.raises(RuntimeError, match="indices should be either on cpu or on the same device"):
        host[torch.tensor([0], device="cuda")]


def test_shapes_alone_stay_on_the_meta_device(device: Device) -> None:
    here = device.put(torch.ones(2, 3))
    before = torch.get_rng_state()
    layer = nn.Conv2d(3, 4, 2, device="meta")
    made = [torch.rand(2, 3, device="meta"), here.to("meta"), torch.ones(2, 3).to("meta")]
    made += [torch.empty_like(here, device="meta"), made[0] * 2]
    assert torch.equal(torch.get_rng_state(), before)
    assert {each.device.type for each in (layer.weight, *made)} == {"meta"}
    layer.to_empty(device="cuda")
    assert layer.weight.is_cuda
    with pytest.raises(RuntimeError):
        here + made[0]


@pytest.mark.usefixtures("device")
def test_the_host_cannot_read_memory_of_the_device() -> None:
    x = torch.rand(2, device="cuda")
    for read in (lambda: x.numpy(), lambda: np.asarray(x), lambda: x.detach().numpy()):
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            read()
    assert np.array_equal(x.cpu().numpy(), np.array(x.tolist(), dtype=np.float32))
    with pytest.raises(RuntimeError, match=r"cannot pin 'torch.cuda.FloatTensor'"):
        x.pin_memory()


def test_numbers_can_be_read_one_by_one(device: Device) -> None:
    x = torch.tensor([2.5, 3.0], device="cuda")
    count = torch.tensor(2, device="cuda")
    with device.metered() as reading:
        assert x[0].item() == float(x[0]) == 2.5
        assert int(count) == 2
        assert list(range(count)) == [0, 1]  # type: ignore[call-overload]
        assert f"{x.sum():.2f}" == "5.50"
        assert bool(count)
        assert torch.equal(x, x)
    assert reading.device_to_host == 2 * 4 + 8 + 8 + 4 + 8 + 1


@pytest.mark.usefixtures("device")
def test_it_prints_as_a_cuda_tensor() -> None:
    x = torch.tensor([1.0, 2.0], device="cuda")
    assert repr(x) == "tensor([1., 2.], device='cuda:0')"
    assert repr(nn.Parameter(x)).startswith("Parameter containing:\ntensor([1., 2.], device='cuda")


@pytest.mark.usefixtures("device")
def test_pinned_memory_says_it_is_pinned() -> None:
    host = torch.rand(3)
    pinned = host.pin_memory()
    assert pinned.is_pinned()
    assert not host.is_pinned()
    assert torch.equal(pinned, host)
    assert torch.empty(3, pin_memory=True).is_pinned()
    assert torch.equal(pinned.to("cuda", non_blocking=True).cpu(), host)


@pytest.mark.usefixtures("device")
def test_memory_format_is_kept() -> None:
    x = torch.rand(1, 4, 6, 6).to("cuda", memory_format=torch.channels_last)
    kernel = torch.rand(4, 4, 3, 3, device="cuda").to(memory_format=torch.channels_last)
    for y in (x, x + 1, F.silu(x), F.conv2d(x, kernel), x.cpu(), x.cpu().cuda(), x.clone()):
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert not y.is_contiguous()
    assert x.contiguous().is_contiguous()


@pytest.mark.usefixtures("device")
def test_autocast_casts() -> None:
    x, kernel = torch.rand(1, 4, 6, 6, device="cuda"), torch.rand(4, 4, 3, 3, device="cuda")
    with torch.autocast("cuda"):
        assert F.conv2d(x, kernel).dtype == torch.float16
        with torch.autocast("cuda", enabled=False):
            assert F.conv2d(x, kernel).dtype == torch.float32
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert F.conv2d(x, kernel).dtype == torch.bfloat16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        with torch.cuda.amp.autocast():
            assert F.conv2d(x, kernel).dtype == torch.float16


@pytest.mark.usefixtures("device")
def test_a_module_moves_there_and_back_and_keeps_its_parameters() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    weight = net[0].weight
    net.to("cuda")
    assert net[0].weight is weight
    assert all(t.is_cuda for t in net.state_dict().values())
    assert isinstance(weight, nn.Parameter)
    assert weight.requires_grad
    assert net(torch.rand(2, 3, device="cuda")).is_cuda
    twin = copy.deepcopy(net)
    net.cpu()
    assert net[0].weight is weight
    assert type(weight) is nn.Parameter
    assert all(torch.equal(before[k], t) for k, t in net.state_dict().items())
    assert all(torch.equal(before[k], t.cpu()) for k, t in twin.state_dict().items())
    assert all(isinstance(p, nn.Parameter) and p.is_cuda for p in twin.parameters())
    twin.load_state_dict({k: t * 0 for k, t in before.items()})
    assert not any(t.any() for t in twin.state_dict().values())


@pytest.mark.usefixtures("device")
def test_gradients_are_never_recorded() -> None:
    net = nn.Linear(3, 3).to("cuda")
    with torch.enable_grad():
        assert not net(torch.rand(2, 3, device="cuda", requires_grad=True)).requires_grad
    with torch.inference_mode(False):
        assert not torch.is_grad_enabled()
        assert net(torch.rand(2, 3, device="cuda")).grad_fn is None
    assert nn.Linear(3, 3).weight.to("cuda").grad_fn is None


def test_a_tensor_outlives_its_device_but_does_nothing_more() -> None:
    with open_device("sim") as device:
        x = torch.ones(2, device="cuda")
    assert repr(x) == "tensor([1., 1.], device='cuda:0')"
    assert torch.equal(device.host(x), torch.ones(2))
    with pytest.raises(RuntimeError, match="simulated accelerator that has been left"):
        x + 1
