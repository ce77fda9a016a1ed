"""After a device was opened, used and left, everything is as it was before."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from vae_compat.device import Device, open_device


def surroundings() -> dict[str, Any]:
    """Everything that the simulated accelerator may patch."""
    return {
        **{f"cuda.{name}": value for name, value in vars(torch.cuda).items()},
        **{f"memory.{name}": value for name, value in vars(torch.cuda.memory).items()},
        **{f"accelerator.{name}": value for name, value in vars(torch.accelerator).items()},
        **{f"C.{name}": value for name, value in vars(torch._C).items()},
        **{f"F.{name}": value for name, value in vars(F).items()},
        **{f"Tensor.{name}": value for name, value in vars(torch.Tensor).items()},
        "grad": torch.is_grad_enabled(),
        "modes": tuple(_get_current_dispatch_mode_stack()),
        "function modes": torch._C._len_torch_function_stack(),
    }


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        first[k] is second[k] for k in first if k != "modes"
    )


def test_leaving_undoes_every_patch() -> None:
    before = surroundings()
    with open_device("sim"):
        assert torch.cuda.is_available()
        assert not same(before, surroundings())
        torch.zeros(2, device="cuda")
    assert same(before, surroundings())
    assert before["modes"] == surroundings()["modes"]
    assert torch.cuda.is_available() is before["cuda.is_available"]()


def test_an_exception_undoes_every_patch() -> None:
    before = surroundings()
    with pytest.raises(ZeroDivisionError), open_device("sim") as device, device.metered():
        raise ZeroDivisionError
    assert same(before, surroundings())


def test_opening_patches_nothing_and_importing_is_light() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); v = dict(vars(torch.cuda));"
        "import vae_compat.device as d; d.open_device('sim'); d.available_devices();"
        "assert v == dict(vars(torch.cuda));"
        "new = {m for m in set(sys.modules) - before if m.startswith('torch')};"
        "heavy = {m for m in new if m.split('.')[1] in ('_dynamo', '_inductor', 'distributed')};"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_second_device_at_the_same_time_is_refused() -> None:
    before = surroundings()
    with open_device("sim") as device:
        inside = surroundings()
        with pytest.raises(RuntimeError, match="already open"), open_device("sim"):
            pass
        assert same(inside, surroundings())
        with pytest.raises(RuntimeError, match="entered once"), device:
            pass
        assert torch.zeros(1, device="cuda").is_cuda
    with pytest.raises(RuntimeError, match="entered once"), device:
        pass
    assert same(before, surroundings())


def test_queries_answer_as_those_of_a_gpu() -> None:
    with open_device("sim", capacity=2**30):
        x = torch.zeros(2**18, device="cuda")
        assert torch.cuda.device_count() == 1
        assert torch.cuda.current_device() == 0
        assert torch.cuda.get_device_properties("cuda").total_memory == 2**30
        assert torch.cuda.get_device_properties(x.device).name == torch.cuda.get_device_name(0)
        assert torch.cuda.get_device_capability() >= (7, 0)
        assert torch.cuda.mem_get_info() == (2**30 - 2**20, 2**30)
        assert torch.cuda.memory.mem_get_info(x.device) == (2**30 - 2**20, 2**30)
        assert torch.cuda.memory_allocated() == torch.cuda.memory_reserved() == 2**20
        stats = torch.cuda.memory_stats(x.device)
        assert stats["active_bytes.all.current"] == stats["reserved_bytes.all.current"] == 2**20
        del x
        assert torch.cuda.memory_allocated("cuda:0") == 0
        assert torch.cuda.max_memory_allocated() == 2**20
        assert torch.cuda.memory_stats()["allocated_bytes.all.peak"] == 2**20
        torch.cuda.reset_peak_memory_stats("cuda")
        assert torch.cuda.max_memory_allocated() == 0
        torch.cuda.empty_cache()
        torch.cuda.ipc_collect()
        torch.cuda.synchronize("cuda:0")
        torch.cuda.set_device(0)
        torch.manual_seed(0)
        assert torch.cuda.is_bf16_supported()
        assert torch.cuda.is_initialized()
        assert torch.accelerator.is_available()
        assert torch.accelerator.current_accelerator() == torch.device("cuda")
        assert "Simulated" in torch.cuda.memory_summary()


def test_streams_and_events_can_be_used() -> None:
    with open_device("sim"):
        stream, start = torch.cuda.Stream(), torch.cuda.Event(enable_timing=True)
        with torch.cuda.stream(stream), torch.cuda.device(0):
            start.record()
            x = torch.ones(2, device="cuda")
            x.record_stream(stream)
        end = stream.record_event(torch.cuda.Event(enable_timing=True))
        torch.cuda.current_stream().wait_stream(stream)
        stream.wait_event(end)
        end.synchronize()
        assert start.elapsed_time(end) >= 0
        assert x.sum().item() == 2


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3)).eval()


def test_placing_copies_nothing_and_withdrawing_gives_the_same_objects_back() -> None:
    module = net()
    before = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    addresses = {name: tensor.data_ptr() for name, tensor in before.items()}
    with open_device("sim") as device:
        with device.metered() as reading:
            device.place(module)
        rounded = sum(-(-t.nbytes // 512) * 512 for t in before.values())
        assert reading.live_after == rounded
        assert reading.host_to_device == 0
        placed = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        assert placed.keys() == before.keys()
        assert all(t.is_cuda for t in placed.values())
        assert {name: t.data_ptr() for name, t in placed.items()} == addresses
        assert all(isinstance(p, nn.Parameter) for p in module.parameters())
        assert [p.requires_grad for p in module.parameters()] == [True] * 6
        del placed
        device.withdraw(module)
        with device.metered() as reading:
            pass
        assert reading.live_before == 0
    after = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    assert all(after[name] is before[name] for name in before)
    assert [t._version for t in after.values()] == [t._version for t in before.values()]


def test_leaving_withdraws_what_was_placed_also_by_an_exception() -> None:
    module = net()
    before = list(module.parameters())

    def fail(device: Device) -> None:
        device.place(module)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), open_device("sim") as device:
        fail(device)
    assert all(a is b for a, b in zip(module.parameters(), before, strict=True))


def test_what_a_hook_did_to_the_module_is_undone() -> None:
    module = net()
    before = list(module.parameters())
    with open_device("sim") as device:
        device.place(module)
        module.half()
        module.cpu()
        assert not before[0].is_cuda
        module[0].weight = nn.Parameter(torch.zeros(4, 3, 3, 3))
        device.withdraw(module)
    assert all(a is b for a, b in zip(module.parameters(), before, strict=True))
    assert before[0].dtype == torch.float32


def test_tied_parameters_stay_tied_and_count_once() -> None:
    module = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False))
    module[1].weight = module[0].weight
    with open_device("sim") as device:
        device.place(module)
        assert module[0].weight is module[1].weight
        assert torch.cuda.memory_allocated() == 1024
    assert module[0].weight is module[1].weight


@pytest.mark.parametrize("inference", [False, True], ids=["no_grad", "inference"])
@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda w: w.mul_(2), id="mul_"),
        pytest.param(lambda w: w.view(-1).zero_(), id="view"),
        pytest.param(lambda w: w.data.add_(1), id="data"),
        pytest.param(lambda w: w.__setitem__(0, 1.0), id="setitem"),
        pytest.param(lambda w: w[0].fill_(2), id="part"),
        pytest.param(lambda w: w.copy_(torch.zeros(4, 3, 3, 3)), id="copy_"),
        pytest.param(lambda w: torch.add(w, 1, out=w), id="out"),
        pytest.param(lambda w: w.index_put_((torch.tensor([0]),), w[1:2].clone()), id="index_put_"),
    ],
)
def test_writing_into_a_placed_parameter_is_noticed(write: Any, inference: bool) -> None:
    module = net()
    weight = module[0].weight
    version, value = weight._version, weight.detach().clone()
    with open_device("sim") as device:
        device.place(module)
        with torch.inference_mode(inference):
            write(module[0].weight)
    assert weight._version > version
    assert not torch.equal(weight, value)


def test_reading_a_placed_parameter_is_no_write() -> None:
    module = net()
    versions = [p._version for p in module.parameters()]
    with open_device("sim") as device:
        device.place(module)
        module(device.put(torch.rand(1, 3, 8, 8)))
        module.state_dict()
        assert torch.isfinite(module[0].weight).all()
    assert [p._version for p in module.parameters()] == versions


def test_a_device_that_was_left_holds_nothing_alive() -> None:
    module = net()
    gc.disable()
    try:
        with open_device("sim") as device:
            device.place(module)
            y = module(device.put(torch.rand(1, 3, 8, 8)))
            ghost = weakref.ref(y)
            del y
            assert ghost() is None
        lost = weakref.ref(module[0])
        del module
        assert lost() is None
    finally:
        gc.enable()
