"""Memory used by two streams without order is always found, and sound overlap never fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vae_compat.device import Reading, open_device

KIB = 1024


def run(work: Callable[[], object]) -> Reading:
    with open_device("sim") as device, device.metered() as reading:
        work()
    return reading


def read_early() -> Tensor:
    side = torch.cuda.Stream()
    x = torch.ones(KIB, device="cuda")
    with torch.cuda.stream(side):
        return x + 1


def host_reads_early() -> object:
    x = torch.ones(KIB, device="cuda")
    return x.to("cpu", non_blocking=True).numpy().sum()


def host_computes_early() -> object:
    return torch.ones(KIB, device="cuda").to("cpu", non_blocking=True) + 1


def host_writes_early() -> None:
    staging = torch.ones(KIB, pin_memory=True)
    for i in range(3):
        staging.fill_(i)
        staging.to("cuda", non_blocking=True)


def copy_engine_buffer_reused() -> None:
    """Two buffers take turns, and nothing waits for the copy that still reads one."""
    out, plane = torch.cuda.Stream(), torch.empty(4, KIB, pin_memory=True)
    buffers = torch.empty(2, KIB, device="cuda")
    for i in range(4):
        buffer = buffers[i % 2]
        buffer.copy_(torch.full((KIB,), float(i), device="cuda"))
        out.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(out):
            plane[i].copy_(buffer, non_blocking=True)
    torch.cuda.synchronize()


def memory_given_out_again() -> None:
    """The allocator of the default stream gives out memory that the side stream still reads."""
    side = torch.cuda.Stream()
    for _ in range(2):
        x = torch.ones(KIB, device="cuda")
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            x.sum()
        del x
    torch.cuda.synchronize()


def filled_while_its_last_owner_is_at_work(waits: bool = False) -> Tensor:
    """A side stream fills memory that the default stream has freed, and still works in."""
    side, source = torch.cuda.Stream(), torch.ones(KIB, pin_memory=True)
    x = torch.ones(KIB, device="cuda")
    y = x + 1
    del x
    buffer = torch.empty(KIB, device="cuda")
    if waits:
        side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        buffer.copy_(source, non_blocking=True)
    torch.cuda.synchronize()
    return y


def filled_once_its_last_owner_is_done() -> Tensor:
    return filled_while_its_last_owner_is_at_work(waits=True)


def event_of_the_wrong_moment() -> Tensor:
    side, ready = torch.cuda.Stream(), torch.cuda.Event()
    x = torch.zeros(KIB, device="cuda")
    ready.record()
    x.add_(1)
    side.wait_event(ready)
    with torch.cuda.stream(side):
        return x * 2


RACES = [
    read_early,
    host_reads_early,
    host_computes_early,
    host_writes_early,
    copy_engine_buffer_reused,
    memory_given_out_again,
    filled_while_its_last_owner_is_at_work,
    event_of_the_wrong_moment,
]


@pytest.mark.parametrize("work", RACES, ids=lambda work: work.__name__)
def test_a_race_is_found_and_put_into_words(work: Callable[[], object]) -> None:
    reading = run(work)
    assert reading.races
    assert all("no event or wait puts one after the other" in words for words in reading.races)
    assert any("test_device_races.py, line" in words for words in reading.races)
    assert run(work).races == reading.races


def one_stream() -> None:
    x = torch.ones(KIB, device="cuda")
    for _ in range(3):
        x = (x + 1).to("cpu").to("cuda")


def waited_for() -> Tensor:
    side = torch.cuda.Stream()
    x = torch.ones(KIB, device="cuda")
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        y = x + 1
    torch.cuda.current_stream().wait_stream(side)
    return y.mul_(2)


def host_waits() -> object:
    y = torch.ones(KIB, device="cuda").to("cpu", non_blocking=True)
    torch.cuda.current_stream().synchronize()
    return y.numpy().sum() + (y + 1).sum()


def host_waits_for_an_event() -> object:
    staging, done = torch.ones(KIB, pin_memory=True), torch.cuda.Event()
    for i in range(3):
        done.synchronize()
        staging.fill_(i)
        staging.to("cuda", non_blocking=True)
        done.record()
    return None


def double_buffers() -> None:
    """A copy engine fetches band i + 1 and another stores band i - 1 while i is computed."""
    into, out = torch.cuda.Stream(), torch.cuda.Stream()
    source, plane = torch.ones(6, KIB).pin_memory(), torch.empty(6, KIB, pin_memory=True)
    buffers, results = torch.empty(2, KIB, device="cuda"), torch.empty(2, KIB, device="cuda")
    free = [torch.cuda.Event(), torch.cuda.Event()]
    sent = [torch.cuda.Event(), torch.cuda.Event()]
    main = torch.cuda.current_stream()
    into.wait_stream(main)
    for i in range(6):
        k = i % 2
        with torch.cuda.stream(into):
            into.wait_event(free[k])
            buffers[k].copy_(source[i], non_blocking=True)
            here = into.record_event()
        main.wait_event(here)
        main.wait_event(sent[k])
        torch.add(buffers[k], 1, out=results[k])
        free[k].record()
        with torch.cuda.stream(out):
            out.wait_stream(main)
            plane[i].copy_(results[k], non_blocking=True)
            sent[k].record()
    for event in sent:
        main.wait_event(event)
    torch.cuda.synchronize()
    assert plane.sum().item() == 6 * KIB * 2


def two_columns() -> None:
    """Two streams on interleaved columns of one plane share no byte."""
    side = torch.cuda.Stream()
    plane = torch.zeros(8, 64, device="cuda")
    side.wait_stream(torch.cuda.current_stream())
    plane[:, :32].add_(1)
    with torch.cuda.stream(side):
        plane[:, 32:].add_(1)
    torch.cuda.synchronize()


def recorded() -> None:
    side = torch.cuda.Stream()
    for _ in range(3):
        x = torch.ones(KIB, device="cuda")
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            x.sum()
        x.record_stream(side)
        del x
    torch.cuda.synchronize()


def weights_from_before() -> None:
    """Memory that was written before the run needs no wait."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        WEIGHT[0].sum()
    torch.cuda.synchronize()


def many_readers() -> None:
    streams = [torch.cuda.Stream() for _ in range(3)]
    x = torch.ones(KIB, device="cuda")
    torch.cuda.synchronize()
    for stream in streams:
        with torch.cuda.stream(stream):
            x.sum()
    torch.cuda.synchronize()
    x.zero_()


WEIGHT: list[Tensor] = []
SOUND = [
    *(one_stream, waited_for, host_waits, host_waits_for_an_event, double_buffers, two_columns),
    *(recorded, weights_from_before, many_readers, filled_once_its_last_owner_is_done),
]


@pytest.mark.parametrize("work", SOUND, ids=lambda work: work.__name__)
def test_sound_overlap_is_not_accused(work: Callable[[], object]) -> None:
    with open_device("sim") as device:
        WEIGHT[:] = [device.put(torch.ones(KIB))]
        with device.metered() as reading:
            work()
        WEIGHT.clear()
    assert reading.races == ()


def test_a_result_that_a_side_stream_still_computes_is_a_race() -> None:
    with open_device("sim") as device:
        with device.metered() as reading:
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                y = torch.ones(KIB, device="cuda")
        assert reading.races == ()
        device.host(y)
        assert len(reading.races) == 1
