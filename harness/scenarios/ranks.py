"""A call of a hook whose work several processes share, each with a device and a meter of its own.

The processes are children of the runner, so that whatever ends the runner ends them as well. They
talk over gloo, as ranks of ``torch.distributed`` do without GPUs, and find in the environment what
``torchrun`` tells those of one machine.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vae_compat.contracts.cases import Case
from vae_compat.contracts.promise import Promise
from vae_compat.device.meter import Reading
from vae_compat.device.tensor import ORDINAL
from vae_compat.isolation import wire
from vae_compat.isolation.limiting import BEAT
from vae_compat.isolation.wire import Sort
from vae_compat.measure.failing import failure_of
from vae_compat.measure.observation import Failure, Origin
from vae_compat.scenarios.performed import Called
from vae_compat.scenarios.stage import Stage
from vae_compat.subject.settings import GROUP

PATIENCE = timedelta(hours=1)
"""How long a rank waits for another. On a busy machine one may be slow, and where all wait the
judge ends them: none uses the CPU."""

_LOST = "gloo/transport"
"""In what gloo says of a connection that is lost: the place in its source."""
_OUTSIDE = " (processes outside of `group` have left: does the hook talk to the default group?)"
"""A member that fails first has another reason than that."""


@dataclass(frozen=True)
class Ranks:
    """The processes that a case is for."""

    count: int
    spare: int
    """Processes before them that are no members of the group: then a rank of the group is another
    number in the world."""

    @property
    def world(self) -> int:
        """All processes."""
        return self.spare + self.count


@dataclass(frozen=True)
class Ranked:
    """What one rank did."""

    called: Called
    at: float
    """When it was done, on the clock of the machine: the first failure is the cause of others."""


def ranks_for(case: Case, promise: Promise) -> Ranks:
    """The numbers of ranks that are promised, in turn from size to size.

    Every second size has a process before them: two ranks of two processes and ranks 1 to 3 of
    four, by default. Heights of the matrix are multiples of neither, or of one.
    """
    turn = case.height // 4
    return Ranks(promise.ranks[turn % len(promise.ranks)], turn % 2)


def perform_in_ranks(stage: Stage, perform: Callable[[Stage], Called]) -> Called:
    """Let each rank ``perform`` the call; the result of all, and the meters of the worst."""
    ranks = ranks_for(stage.case, stage.promise)
    if "group" not in getattr(stage.hook, "accepted_settings", {"group"}):
        ranks = replace(ranks, spare=0)  # it talks to all processes
    with tempfile.TemporaryDirectory(prefix="vae-compat-") as folder:
        meeting = Path(folder) / "meeting"
        pipes = [
            _started(ranks, rank, meeting, stage, perform)
            for rank in range(ranks.spare, ranks.world)
        ]
        outsiders = [_forked(partial(_joined, ranks, n, meeting)) for n in range(ranks.spare)]
        made = [_received(pipe, rank) for rank, (_, pipe) in enumerate(pipes)]
        for child in (*outsiders, *(child for child, _ in pipes)):
            os.waitpid(child, 0)
    called = merged(made)
    failure = called.failure
    if failure is None or not ranks.spare or _LOST not in failure.message:
        return called
    return replace(called, failure=replace(failure, message=failure.message + _OUTSIDE))


def merged(made: list[Ranked]) -> Called:
    """One call out of those of all ranks.

    Where they differ, the result is one that differs from the first rank's: every rank has the
    whole. Peaks are those of the worst rank, and all convolutions count.
    """
    failed = [each for each in made if each.called.failure is not None]
    calls = [each.called for each in made]
    first = calls[0]
    told = min(failed, key=lambda each: each.at).called if failed else first
    shown = told if failed else next((one for one in calls if _differ(first, one)), first)
    residue = tuple(dict.fromkeys(word for one in calls for word in one.residue))
    return replace(
        shown,
        reading=_reading([one.reading for one in calls]),
        residue=residue,
        input_changed=any(one.input_changed for one in calls),
        held=next((one.held for one in calls if one.held), ()),
    )


def _differ(one: Called, other: Called) -> bool:
    if one.output is None or other.output is None:
        return other.output is not one.output
    same = one.output.shape == other.output.shape and one.output.dtype == other.output.dtype
    return not same or not torch.equal(one.output, other.output)


def _reading(readings: list[Reading]) -> Reading:
    def beyond(one: Reading) -> int:
        return (one.peak_bytes or 0) - (one.live_before or 0)

    convolutions, products = Counter[Any](), Counter[Any]()
    for one in readings:
        convolutions.update(one.convolutions)
        products.update(one.products)
    worst = max(readings, key=beyond)
    leak = max(readings, key=lambda one: (one.live_after or 0) - (one.live_before or 0))
    flops = [one.flops for one in readings if one.flops is not None]
    return replace(
        worst,
        live_before=leak.live_before,
        live_after=leak.live_after,
        flops=max(flops, default=None),
        convolutions=dict(convolutions),
        products=dict(products),
    )


def _started(
    ranks: Ranks, rank: int, meeting: Path, stage: Stage, perform: Callable[[Stage], Called]
) -> tuple[int, int]:
    """A process for one rank, and where to read what it did."""
    reading, writing = os.pipe()

    def act() -> None:
        os.close(reading)
        try:
            with _group(ranks, rank, meeting) as group:
                GROUP.set(group)
                dist.all_gather = _all_gather
                ORDINAL.set(rank)
                numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks.world}
                os.environ.update({name: str(number) for name, number in numbers.items()})
                called = perform(stage)
                at = time.monotonic()
                if called.failure is None:  # nobody leaves while others still talk to it
                    dist.barrier(group)
        except BaseException as error:
            called = Called(failure=failure_of(error, "run", stage.seconds))
            at = time.monotonic()
        frame = memoryview(wire.pack(Sort.ANSWER, Ranked(called, at)))
        while frame:
            frame = frame[os.write(writing, frame) :]

    child = _forked(act)
    os.close(writing)
    return child, reading


def _joined(ranks: Ranks, rank: int, meeting: Path) -> None:
    """A process of the world that is no member of the group."""
    with _group(ranks, rank, meeting):
        pass


def _forked(act: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    BEAT.set(lambda _seconds: None)  # the judge listens to the runner alone
    # Threads of the parent are not there after a fork, and work given to them would wait forever.
    torch.set_num_threads(1)
    leave = os._exit
    try:
        act()
    finally:
        leave(0)


@contextmanager
def _group(ranks: Ranks, rank: int, meeting: Path) -> Iterator[Any]:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=ranks.world,
        timeout=PATIENCE,
    )
    yield dist.new_group(range(ranks.spare, ranks.world), timeout=PATIENCE)


_gather_alike = dist.all_gather


def _all_gather(
    tensor_list: list[Tensor], tensor: Tensor, group: Any = None, async_op: bool = False
) -> Any:
    """``all_gather`` also of parts of different sizes, as over NCCL, which gloo refuses.

    NCCL's group broadcasts them one by one (torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp).
    """
    if len({part.shape for part in tensor_list}) == 1:
        return _gather_alike(tensor_list, tensor, group, async_op)
    own, works = dist.get_rank(group), []
    for rank, part in enumerate(tensor_list):
        if rank == own:
            part.copy_(tensor)
        source = rank if group is None else dist.get_global_rank(group, rank)
        works.append(dist.broadcast(part, source, group, async_op))
    return works[-1]


def _received(pipe: int, rank: int) -> Ranked:
    with os.fdopen(pipe, "rb") as read:
        told = read.read()
    try:
        found = wire.announced(told[: wire.HEADER.size])
        text = told[wire.HEADER.size :][: found.text]
        return wire.unpack(Ranked, text, told[wire.HEADER.size + found.text :])
    except wire.Garbled:
        died = Failure("ProcessDied", f"rank {rank} died", "", "", "run", Origin.DEATH, lost=True)
        return Ranked(Called(failure=died), 0.0)
