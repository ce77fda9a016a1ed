"""Threads started by code under test use the simulated accelerator, as their starter does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from vae_compat.device import Device, open_device
from vae_compat.device.meter import Product, Waits


@pytest.fixture
def device() -> Iterator[Device]:
    with open_device("sim") as opened:
        yield opened


class Worker(threading.Thread):
    """A thread with a ``run`` of its own."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self.work = work

    def run(self) -> None:
        self.work()


@pytest.mark.parametrize("kind", ["target", "subclass", "pool"])
def test_a_thread_creates_moves_and_computes(device: Device, kind: str) -> None:
    results: list[Tensor] = []

    def work() -> None:
        x = torch.ones(8, device="cuda")
        results.append((x + torch.ones(8).to("cuda", non_blocking=True)).cpu())
        assert not torch.is_grad_enabled()

    with device.metered() as reading:
        if kind == "pool":
            with ThreadPoolExecutor(1) as pool:
                pool.submit(work).result()
        else:
            thread = Worker(work) if kind == "subclass" else threading.Thread(target=work)
            thread.start()
            thread.join()
    assert torch.equal(results[0], torch.full((8,), 2.0))
    assert reading.live_after == 0
    assert (reading.kernels, reading.device_to_host) == (2, 32)
    assert reading.races == ()


@pytest.mark.parametrize("name", ["sim", "cpu"])
def test_work_given_to_a_pool_that_runs_already_is_counted(name: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        for _ in range(2):  # another device for each call
            with open_device(name) as device, device.metered() as reading:
                x = device.put(torch.ones(2, 1, 4, 4))
                pool.submit(torch.conv2d, x, x[:1]).result()
            assert reading.flops == 64


def test_products_are_counted_as_they_reach_the_device(device: Device) -> None:
    with device.metered() as reading:
        a, b = torch.ones(2, 3, device="cuda"), torch.ones(3, 4, device="cuda")
        torch.addmm(torch.ones(4, device="cuda"), a, b)
        torch.bmm(a[None], b[None])
    assert reading.products == {Product(1, 2, 3, 4): 2}


def test_counters_of_many_threads_add_up(device: Device) -> None:
    def work(part: Tensor) -> Tensor:
        for _ in range(50):
            part = part + 1
        return part.cpu()

    with device.metered() as reading:
        x = torch.zeros(4, 64, device="cuda")
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(work, x.unbind()))
        del x
    assert all(torch.equal(part, torch.full((64,), 50.0)) for part in done)
    assert reading.kernels == 1 + 4 * 50
    assert reading.waits == Waits(copy=4)
    assert reading.live_after == reading.live_before == 0


def test_each_thread_has_a_current_stream_of_its_own(device: Device) -> None:
    seen = []
    with device.metered(), torch.cuda.stream(torch.cuda.Stream()) as _:
        here = torch.cuda.current_stream()
        thread = threading.Thread(target=lambda: seen.append(torch.cuda.current_stream()))
        thread.start()
        thread.join()
    assert here != torch.cuda.default_stream()
    assert seen == [torch.cuda.default_stream()]


def test_a_thread_that_outlives_the_device_computes_on_the_host() -> None:
    go, done = threading.Event(), threading.Event()
    results = []

    def work() -> None:
        go.wait(10)
        results.append(torch.ones(3) + 1)
        done.set()

    with open_device("sim"):
        thread = threading.Thread(target=work)
        thread.start()
    go.set()
    assert done.wait(10)
    thread.join()
    assert torch.equal(results[0], torch.full((3,), 2.0))
    assert threading.Thread.start.__module__ == "threading"


@pytest.mark.usefixtures("device")
def test_compiled_code_runs_as_it_is() -> None:
    def double(x: Tensor) -> Tensor:
        return x * 2

    @torch.compile(fullgraph=True)
    def triple(x: Tensor) -> Tensor:
        return x * 3

    x = torch.ones(3, device="cuda")
    net = torch.nn.Linear(3, 3).to("cuda")
    net.compile()
    assert torch.compile(net) is net
    assert torch.equal(
        torch.compile(double, mode="reduce-overhead")(x).cpu(), torch.full((3,), 2.0)
    )
    assert torch.equal(triple(x).cpu(), torch.full((3,), 3.0))
    assert net(x).is_cuda


def test_what_was_compiled_before_runs_as_it_is() -> None:
    compiled = torch.compile(lambda x: x + 1, backend="eager")
    with open_device("sim") as device, device.metered() as reading:
        assert compiled(torch.ones(2, device="cuda")).sum().item() == 4
    assert reading.kernels == 3
