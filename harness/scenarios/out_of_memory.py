"""Memory runs out once, at the point of highest use in a call; afterwards there is enough."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vae_compat.device.composites import compose, is_composite
from vae_compat.device.threads import following_threads
from vae_compat.scenarios.comparison import same
from vae_compat.scenarios.performed import Called, Memory
from vae_compat.scenarios.results import Results
from vae_compat.scenarios.stage import Player
from vae_compat.scenarios.usage import Usage, UsageObserved, call, observed, ran


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the live bytes at each convolution, and makes one of them run out of memory."""

    def __init__(self, at: int = -1, live: list[int] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.at = at
        self.live: list[int] = [] if live is None else live

    def on_thread(self) -> Watch:
        """The same for another thread."""
        return Watch(self.at, self.live)

    @property
    def done(self) -> bool:
        """Whether that convolution was reached."""
        return 0 <= self.at < len(self.live)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_composite(func):
            return compose(self, func, args, kwargs or {})
        if func.overloadpacket is torch.ops.aten.convolution:
            self.live.append(torch.cuda.memory_allocated())
            if len(self.live) == self.at + 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Once, to see what happens.")
        return func(*args, **(kwargs or {}))


def _play(player: Player) -> None:
    direction, x = player.case.direction, player.x()

    def watched(what: str, watch: Watch) -> Called:
        def act(run: Any) -> Any:
            with following_threads(watch.on_thread), watch:
                return run(direction, x)

        return call(player, what, x=x, act=act)

    calm = Watch()
    first = watched("an undisturbed call", calm)
    if first.output is None or not calm.live:
        return
    before = torch.cuda.memory_allocated()
    stormy = Watch(at=max(range(len(calm.live)), key=calm.live.__getitem__))
    watched("the call in which memory runs out once", stormy)
    left = torch.cuda.memory_allocated() - before
    watched("a call after that", Watch())
    player.memory = Memory(
        first=calm.live[0],
        most=max(calm.live),
        after=min(stormy.live[stormy.at + 1 :], default=None) if stormy.done else None,
        left=left,
    )
    player.empty = "" if stormy.done else "the call did not come so far again"


def _compare(results: Results) -> UsageObserved:
    first, memory = ran(results, 0), results.played.memory
    if first.seen.output is None or memory is None:
        return observed(results, ran=(first,))
    third, base = results.call(2), first.seen.baseline
    return observed(
        results,
        ran=(first, ran(results, 1)),
        comparisons=(same(third.what, first.seen.output, third.output, third.failure),),
        memory=memory,
        held=base.output.nbytes + base.input_bytes,
        empty=results.played.empty,
    )


OUT_OF_MEMORY = Usage(_play, _compare)
