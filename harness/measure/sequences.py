"""Scenarios of several calls: what a hook carries over from one call to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, cycle, repeat
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from vae_compat.cases import Case, Scenario
from vae_compat.device import open_device
from vae_compat.device.meter import largest_plane
from vae_compat.measure.baseline import measure_baseline, measure_truth
from vae_compat.measure.draws import draw_floors
from vae_compat.measure.observation import WHOLE, Baseline, Noise, Observed, Promise
from vae_compat.measure.placing import placed
from vae_compat.measure.player import (
    CLIP_A,
    CLIP_B,
    Call,
    Clip,
    Player,
    Right,
    Step,
    Stopped,
)
from vae_compat.measure.stage import Bench, Stage


@dataclass(frozen=True, kw_only=True)
class SequenceObserved(Observed):
    """What came of a sequence of calls."""

    steps: tuple[Step, ...] = ()
    """As far as the hook came."""
    doing: str = ""
    """The call under way when the hook failed, if it did."""
    plane: int = 0
    """Area of the largest plane that a convolution wrote while the hook was on."""
    untiled_plane: int = 0
    """The same without the hook."""
    empty: str = ""
    """Why the sequence shows nothing; empty where it does."""


@dataclass(frozen=True)
class Sequence:
    """One sequence: over the whole VAE, over the bare coder chunk by chunk, or in either way."""

    calls: Callable[..., None] | None = None
    """Given a player and the calls of ``cases``."""
    chunks: Callable[[Player], None] | None = None
    """Taken where hook and family allow it: there is a cache to get wrong."""
    cases: Callable[[Case], tuple[Case, ...]] = lambda case: (case,)
    """Those that the calls are made for."""
    mirrored: bool = False
    """Whether one more call is made, on the mirrored input of the first."""

    def applies(self, case: Case, promise: Promise) -> bool:
        """Whether there is a way to play it."""
        return self.calls is not None or self.by_chunks(case, promise)

    def by_chunks(self, case: Case, promise: Promise) -> bool:
        """Whether it is played on the bare coder: only hooks of kind ``forward`` meet that."""
        return self.chunks is not None and promise.kind == "forward" and case.facts.causal


def observe_sequence(stage: Stage) -> SequenceObserved:
    """Play the sequence of a case."""
    case, bench = stage.case, stage.bench
    assert case.scenario is not None
    sequence = SEQUENCES[case.scenario]
    by_chunks = sequence.by_chunks(case, stage.promise)
    calls = [] if by_chunks else _calls(stage, sequence)
    view = bench.view(case)
    player = Player(stage, view, bench.twin(case) if by_chunks else None)
    with torch.no_grad(), stage.device, placed(view, stage.device):
        try:
            if by_chunks:
                assert sequence.chunks is not None
                sequence.chunks(player)
            else:
                assert sequence.calls is not None
                sequence.calls(player, *map(player.prepared, calls))
        except Stopped:
            pass
    return SequenceObserved(
        case=case,
        promise=stage.promise,
        failure=player.failure,
        steps=player.steps,
        doing=player.doing,
        plane=player.plane,
        untiled_plane=player.untiled_plane,
        empty=player.empty,
        beyond_repair=player.beyond_repair,
    )


def _calls(stage: Stage, sequence: Sequence) -> list[Call]:
    """To be called before the view is placed on the device."""
    bench, calls = stage.bench, []
    for case in sequence.cases(stage.case):
        case = replace(case, scenario=None)
        further = partial(_further, bench, case)
        calls.append(_call(case, bench.make_input(case), bench.baseline(case), further))
    if sequence.mirrored:
        case, x = calls[0].case, calls[0].x.flip(-1)
        truth = measure_truth(case, bench.twin(case), x, open_device(case.device))
        base = measure_baseline(case, bench.view(case), truth, x, open_device(case.device))
        calls.append(_call(case, x, base, cache(partial(_drawn, bench, case, x, truth))))
    return calls


def _further(bench: Bench, case: Case) -> Noise | None:
    return bench.raised(case).further.get(WHOLE)


def _drawn(bench: Bench, case: Case, x: Tensor, truth: Tensor) -> Noise | None:
    view, device = bench.anew(case)[0], open_device(case.device)
    return draw_floors(case, view, x, truth, device).get(WHOLE)


def _call(case: Case, x: Tensor, base: Baseline, further: Callable[[], Noise | None]) -> Call:
    plane = largest_plane(base.reading.convolutions)
    return Call(case, x, Right(base.output, base.truth, further=further), math.prod(plane))


# Whole VAEs --------------------------------------------------------------------------------------


def _twice(player: Player, call: Call) -> None:
    def act(run: Any) -> None:
        player.call("call 1", run, call)
        player.call("call 2, the same again", run, call)

    player.hooked(act)


def _sizes(player: Player, call: Call, other: Call) -> None:
    size = f"{other.case.height}x{other.case.width}"

    def act(run: Any) -> None:
        player.call("call 1", run, call)
        player.call(f"call 2, of {size} latent pixels", run, other)
        player.call("call 3, of the first size again", run, call)

    player.hooked(act)


def _off_and_on(player: Player, call: Call) -> None:
    player.hooked(lambda run: player.call("call 1", run, call))
    bare = replace(call, right=replace(call.right, alone=None))
    player.bare(lambda run: player.call("call 2, with the hook taken off", run, bare))
    player.hooked(lambda run: player.call("call 3, with the hook on again", run, call))


def _interrupted(player: Player, call: Call, other: Call) -> None:
    def act(run: Any) -> None:
        with Interrupting() as counted:
            player.call("call 1", run, call)
        with Interrupting(counted.count // 2) as interrupting:
            try:
                player.call("call 2, interrupted in the middle", run, call)
            except Exception:
                if not interrupting.done:
                    raise
        if not interrupting.done:
            player.empty = "call 2 ended before it could be interrupted"
        player.call("call 3, another input after the interruption", run, other)

    player.hooked(act)


def _both_calls(player: Player, one: Call, other: Call) -> None:
    def act(run: Any) -> None:
        for number, call in enumerate((one, other, one, other), 1):
            player.call(f"call {number}, {call.case.direction}", run, call)

    _with_both(player, act, other.case)


# Bare coders, chunk by chunk ---------------------------------------------------------------------


def _streams(player: Player) -> None:
    one, other = player.clip(CLIP_A), player.clip(CLIP_B)

    def act(_: Any) -> None:
        ours, theirs = player.stream(one), player.stream(other)
        while ours.left:
            player.send(one, ours)
            player.send(other, theirs)

    player.hooked(act)


def _cleared(player: Player) -> None:
    one, other = player.clip(CLIP_A), player.clip(CLIP_B)

    def act(_: Any) -> None:
        begun, fresh = player.stream(one), player.stream(other)
        while len(begun.left) > 1:
            player.send(one, begun)
        begun.cache[:] = [None] * len(begun.cache)
        fresh.cache = begun.cache
        while fresh.left:
            player.send(other, fresh, ", in the cleared list")

    player.hooked(act)


def _turns(player: Player) -> None:
    clip = player.clip(CLIP_A, mixed=True)
    _alternate(player, clip, cycle((True, False)))
    _alternate(player, clip, cycle((False, True)))


def _off_midway(player: Player) -> None:
    _alternate(player, player.clip(CLIP_A, mixed=True), chain((True, True), repeat(False)))


def _alternate(player: Player, clip: Clip, tiled: Iterator[bool]) -> None:
    """Send a clip, the hook on for some chunks: put on and taken off anew each time."""
    stream = player.stream(clip)
    before = ""
    while stream.left:
        on = next(tiled)
        word = "tiled" if on else "untiled"
        send = partial(player.send, clip, stream, f", {word}{before}")
        if on:
            player.hooked(_ignoring(send))
        else:
            player.bare(_ignoring(send))
        before = f", after a {word} one"


def _ignoring(send: Callable[[], None]) -> Callable[[Any], None]:
    return lambda _: send()


def _both_chunks(player: Player) -> None:
    other = player.stage.case.turned
    clips = player.clip(CLIP_A), player.clip(CLIP_B, other)

    def act(_: Any) -> None:
        streams = [player.stream(clip) for clip in clips]
        while streams[0].left:
            for clip, stream in zip(clips, streams, strict=True):
                player.send(clip, stream, f", {clip.case.direction}")

    _with_both(player, act, other)


def _with_both(player: Player, act: Callable[[Any], Any], other: Case) -> None:
    """``act`` with both directions hooked: some hooks are put on for each."""
    if getattr(player.stage.hook, "apart", player.stage.promise.kind == "forward"):
        player.hooked(lambda _: player.hooked(act, other))
    else:
        player.hooked(act)


def _directions(case: Case) -> tuple[Case, ...]:
    """The case, and that of the other direction."""
    return case, case.turned


def _two_sizes(case: Case) -> tuple[Case, ...]:
    """The case, and one of another size and shape that also has to be tiled."""
    return case, replace(case, height=case.width + 2, width=case.height + 1)


class Interrupting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, and raises `Interruption` in the place of one of them."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.at = at
        self.count = 0

    @property
    def done(self) -> bool:
        """Whether it came so far."""
        return self.at is not None and 0 < self.at <= self.count

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        if self.count == self.at:
            raise Interruption("the work was interrupted")
        return func(*args, **(kwargs or {}))


class Interruption(RuntimeError):  # noqa: N818 (no error: somebody wants it to stop)
    """What a hook meets in the middle of its work, as when a user stops a job."""


SEQUENCES: Mapping[Scenario, Sequence] = MappingProxyType(
    {
        Scenario.TWICE: Sequence(_twice),
        Scenario.SIZES: Sequence(_sizes, cases=_two_sizes),
        Scenario.STREAMS: Sequence(chunks=_streams),
        Scenario.CLEARED: Sequence(chunks=_cleared),
        Scenario.TURNS: Sequence(chunks=_turns),
        Scenario.TAKEN_OFF: Sequence(_off_and_on, _off_midway),
        Scenario.INTERRUPTED: Sequence(_interrupted, mirrored=True),
        Scenario.BOTH_WAYS: Sequence(_both_calls, _both_chunks, _directions),
    }
)
"""How each sequence is played."""
