"""CUDA graphs on the simulated accelerator: captured once, run again on the same memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from vae_compat.device import Device, open_device


@pytest.fixture
def device() -> Iterator[Device]:
    with open_device("sim") as opened:
        yield opened


def test_a_replay_computes_with_what_its_input_holds_now(device: Device) -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    net = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
    net.weight.data.copy_(weight)
    device.place(net)
    given = torch.zeros(1, 3, 6, 6, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = F.silu(net(given) + 1)
        parts = y.view(1, 2, 2, 6, 6).unbind(1)
        result = torch.empty_like(parts[0])
        result.copy_(parts[0] * parts[1])
    for seed in (1, 2):
        x = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
        given.copy_(x)
        graph.replay()
        there = F.silu(F.conv2d(x, weight, padding=1) + 1)
        expected = there[:, :2] * there[:, 2:]
        assert torch.equal(device.host(result), expected)


def test_a_replay_counts_its_work_and_takes_no_memory(device: Device) -> None:
    x, w = torch.ones(64, 64, device="cuda"), torch.ones(64, 64, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), device.metered() as captured:
        y = (x @ w) + 1
    with device.metered() as replayed:
        graph.replay()
        graph.replay()
    assert replayed.flops == 2 * captured.flops > 0  # type: ignore[operator]
    assert replayed.kernels == 2 * captured.kernels  # type: ignore[operator]
    assert replayed.peak_bytes == replayed.live_before == replayed.live_after
    assert captured.live_after - captured.live_before == y.nbytes  # type: ignore[operator]


def test_the_host_cannot_wait_while_a_graph_is_captured(device: Device) -> None:
    x = torch.ones(3, device="cuda")
    assert not torch.cuda.is_current_stream_capturing()
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        assert torch.cuda.is_current_stream_capturing()
        with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
            x.sum().item()
    assert x.sum().item() == 3


@pytest.mark.usefixtures("device")
def test_a_graph_that_was_not_captured_is_refused() -> None:
    with pytest.raises(RuntimeError, match="without a preceding successful capture"):
        torch.cuda.CUDAGraph().replay()
